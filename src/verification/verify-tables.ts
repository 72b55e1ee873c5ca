// Verifies table by table what isn't reached by account.

import { readHoldPage, readIdPage, readJobPage, readKeyPage, readTransfers, type BadRefund, type HoldName, type JobMoney, type StoredKey, type TransferPart } from "./sql/sweeps.ts";
import { minorText } from "./account-fold.ts";
import type { Finding } from "./finding.ts";
import type { Context, VerifyEvent } from "./events.ts";

/** The log in the order of ids: how many rows it has, which must be `rowsByAccount`, and what goes over accounts. */
export async function* verifyIds(context: Context, rowsByAccount: number): AsyncGenerator<VerifyEvent, void> {
  const { session, size, lastId } = context;
  const transfers = new OpenTransfers();
  let rows = 0;
  for (let after = 0n; ; ) {
    const startedAt = performance.now();
    const page = await size.measure((limit) => readIdPage(session, after, lastId, limit));
    if (page.end === undefined) break;
    rows += page.rows;
    after = page.end;
    page.transfers.forEach((part) => transfers.add(part));
    for (const { id: transactionId, userId, currency, sequence, key } of page.keyless) {
      yield found({ kind: "key_missing", userId, currency, transactionId, sequence, key, what: "idempotency_keys", expected: `the key of transaction ${transactionId}`, actual: "none" });
    }
    for (const refund of page.refunds) yield found(badRefund(refund, context));
    yield { kind: "progress", phase: "log", done: rows, total: rowsByAccount };
    await context.rest(page.rows, startedAt);
  }
  if (transfers.groupIds.length > 0) (await readTransfers(session, lastId, context.settledBy, transfers.groupIds)).forEach((part) => transfers.add(part));
  for (const { groupId, currency, firstId: transactionId, sum } of transfers.left) {
    yield found({ kind: "transfer_unbalanced", currency, transactionId, what: `group ${groupId}`, expected: "two sides that come to zero", actual: sum });
  }
  if (rows !== rowsByAccount) yield found({ kind: "count_wrong", what: `rows up to id ${lastId}`, expected: `${rowsByAccount}, by account`, actual: `${rows}, by id` });
}

/** Transfers of which not all sides were seen yet. A group's rows lie near each other, so these are few. */
class OpenTransfers {
  readonly #open = new Map<string, TransferPart>();

  add(part: TransferPart): void {
    const id = `${part.groupId} ${part.currency}`;
    const before = this.#open.get(id);
    const whole = before === undefined ? part : { ...before, sum: addDecimals(before.sum, part.sum), sides: before.sides + part.sides };
    if (whole.sides === 0n && /^-?[0.]+$/.test(whole.sum)) this.#open.delete(id);
    else this.#open.set(id, whole);
  }

  get groupIds(): readonly string[] {
    return [...new Set([...this.#open.values()].map(({ groupId }) => groupId))];
  }

  get left(): Iterable<TransferPart> {
    return this.#open.values();
  }
}

/** The exact sum of two decimal numbers. */
function addDecimals(a: string, b: string): string {
  const digits = Math.max(...[a, b].map((text) => text.split(".")[1]?.length ?? 0));
  const scaled = (text: string): bigint => {
    const [whole = "", fraction = ""] = text.split(".");
    return BigInt(whole + fraction.padEnd(digits, "0"));
  };
  const sum = scaled(a) + scaled(b);
  const figures = (sum < 0n ? -sum : sum).toString().padStart(digits + 1, "0");
  return `${sum < 0n ? "-" : ""}${figures.slice(0, figures.length - digits)}${digits === 0 ? "" : `.${figures.slice(-digits)}`}`;
}

function badRefund({ id: transactionId, userId, currency, originalId, original, refunded }: BadRefund, { currencies }: Context): Finding {
  const about = { kind: "refund_wrong", userId, currency, transactionId } as const;
  if (original === undefined) return { ...about, what: "refunded_transaction_id", expected: "a transaction", actual: `${originalId}, which isn't there` };
  const digits = currencies.get(currency)?.digits ?? 0;
  const isOwn = original.userId === userId && original.currency === currency;
  if (!isOwn) return { ...about, what: "refunded_transaction_id", expected: "one of the same account", actual: `${originalId} of user ${original.userId} in ${original.currency}` };
  if (!["deduction", "capture"].includes(original.type)) return { ...about, what: "refunded_transaction_id", expected: "a deduction or a capture", actual: `${originalId}, a ${original.type}` };
  return { ...about, what: `refunds of ${originalId}`, expected: `at most ${minorText(original.refundable, digits)} minor units`, actual: minorText(refunded, digits) };
}

/** Holds: that the log knows their accounts, and their jobs. What the log says of each was compared by account. */
export async function* verifyHolds(context: Context): AsyncGenerator<VerifyEvent, void> {
  const { session, size, counts } = context;
  for (let after = -(2n ** 63n); ; ) {
    const startedAt = performance.now();
    const page = await size.measure((limit) => readHoldPage(session, after, limit));
    const last = page.at(-1);
    if (last === undefined) return;
    after = last.id;
    counts.holds += page.length;
    for (const hold of page) for (const finding of holdFindings(hold)) yield found(finding);
    yield { kind: "progress", phase: "holds", done: counts.holds, total: undefined };
    await context.rest(page.length, startedAt);
  }
}

function holdFindings({ id: holdId, userId, currency, state, captured, jobId, founded, job }: HoldName): readonly Finding[] {
  const about = { userId, currency, holdId } as const;
  const findings: Finding[] = [];
  if (!founded) findings.push({ kind: "hold_unfounded", ...about, what: "its account", expected: "rows in the log", actual: "none" });
  if (jobId === undefined) return findings;
  if (job === undefined) findings.push({ kind: "job_missing", ...about, jobId, what: "job_id", expected: "a job", actual: `${jobId}, which isn't there` });
  else if (job.userId !== userId) findings.push({ kind: "hold_wrong", ...about, jobId, what: "job_id", expected: `a job of user ${userId}`, actual: `one of user ${job.userId}` });
  else if (job.holdId !== holdId && (state !== "released" || !/^[0.]+$/.test(captured))) {
    findings.push({ kind: "hold_wrong", ...about, jobId, what: "state", expected: `released: its job has hold ${job.holdId ?? "none"} now`, actual: `${state}, ${captured} captured` });
  }
  return findings;
}

/** Jobs, against their holds. */
export async function* verifyJobs(context: Context): AsyncGenerator<VerifyEvent, void> {
  const { session, size, counts, currencies } = context;
  for (let after = -(2n ** 63n); ; ) {
    const startedAt = performance.now();
    const page = await size.measure((limit) => readJobPage(session, after, limit));
    const last = page.at(-1);
    if (last === undefined) return;
    after = last.id;
    counts.jobs += page.length;
    for (const job of page) for (const finding of jobFindings(job, currencies.get(job.currency)?.digits ?? 0)) yield found(finding);
    yield { kind: "progress", phase: "jobs", done: counts.jobs, total: undefined };
    await context.rest(page.length, startedAt);
  }
}

function jobFindings({ id: jobId, userId, currency, status, cost, finalCost, ended, holdId, hold }: JobMoney, digits: number): readonly Finding[] {
  const findings: Finding[] = [];
  const check = (what: string, expected: string, actual: string): void => {
    if (expected !== actual) findings.push({ kind: "job_wrong", userId, currency, jobId, ...(holdId === undefined ? {} : { holdId }), what, expected, actual });
  };
  const money = (stored: string): string => minorText(stored, digits);
  const isFinal = ["completed", "failed", "cancelled"].includes(status);
  const charged = money(finalCost ?? "0");
  if (!isFinal && !["pending", "processing"].includes(status)) check("status", "a state of jobs", status);
  check("completed_at", isFinal ? "a time" : "none", ended ? "a time" : "none");
  check("final_cost", status === "completed" ? "an amount" : "none", finalCost === undefined ? "none" : "an amount");
  if (holdId === undefined) {
    check("hold_id", money(cost) === "0" ? "none" : "a hold for its cost", "none");
    return findings;
  }
  if (hold === undefined) {
    check("hold_id", "a hold", `${holdId}, which isn't there`);
    return findings;
  }
  check("the hold's account", `user ${userId} in ${currency}`, `user ${hold.userId} in ${hold.currency}`);
  check("the hold's job_id", `${jobId}`, `${hold.jobId ?? "none"}`);
  check("the hold's amount", money(cost), money(hold.amount));
  check("the hold's state", !isFinal ? "open" : charged === "0" ? "released" : "captured", hold.state);
  check("the hold's captured", charged, money(hold.captured));
  return findings;
}

/** Keys: that what they name is there, and theirs. */
export async function* verifyKeys(context: Context): AsyncGenerator<VerifyEvent, void> {
  const { session, size, counts } = context;
  for (let after = { userId: -(2n ** 63n), key: "" }; ; ) {
    const startedAt = performance.now();
    const page = await size.measure((limit) => readKeyPage(session, after, limit));
    const last = page.at(-1);
    if (last === undefined) return;
    after = last;
    counts.keys += page.length;
    for (const stored of page) for (const finding of keyFindings(stored)) yield found(finding);
    yield { kind: "progress", phase: "keys", done: counts.keys, total: undefined };
    await context.rest(page.length, startedAt);
  }
}

function keyFindings({ userId, key, transactionId = 0n, row, missingRows, jobId, jobMissing }: StoredKey): readonly Finding[] {
  const about = { userId, key } as const;
  const findings: Finding[] = [];
  // 0: no money moved.
  if (transactionId !== 0n && row === undefined) findings.push({ kind: "key_wrong", ...about, transactionId, what: "transaction_id", expected: "a transaction", actual: `${transactionId}, which isn't there` });
  // The rows of an atomic batch don't name its key.
  if (row?.key !== undefined && (row.key !== key || row.userId !== userId)) {
    findings.push({ kind: "key_wrong", ...about, transactionId, what: "transaction_id", expected: "a transaction under this key", actual: `${transactionId}, under key ${JSON.stringify(row.key)} of user ${row.userId}` });
  }
  if (missingRows > 0n) findings.push({ kind: "key_wrong", ...about, what: "further_transaction_ids", expected: "transactions", actual: `${missingRows} that aren't there` });
  if (jobId !== undefined && jobMissing) findings.push({ kind: "job_missing", ...about, jobId, what: "job_id", expected: "a job", actual: `${jobId}, which isn't there` });
  return findings;
}

function found(finding: Finding): VerifyEvent {
  return { kind: "finding", finding };
}
