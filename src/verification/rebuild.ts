// Rebuilds what hangs on the log, while it is served: balance rows and holds. Only accounts that differ are changed, each in a short transaction
// under its row's lock.
//
// The log is proved on the way, account by account. One whose own rows are wrong is left as it is and named: what its balance should be is then
// for people to decide. With `trustLog` nothing is proved: each balance row becomes what its account's last row says, as fast as that goes.

import type { DatabasePool } from "slonik";
import { inLockOrder, type AccountName } from "../domain/money/account.ts";
import { START } from "./sql/log-pages.ts";
import { differingAccounts, repairBalances, repairHolds, restoreBalances, type BalanceColumns, type LeftBalance, type RepairedBalance, type RepairedHold } from "./sql/repair.ts";
import { ProofSession } from "./sql/session.ts";
import { logEnd } from "../postgres/feed/settled.ts";
import type { Finding } from "./finding.ts";
import { PageSize } from "./page-size.ts";
import type { Counts } from "./events.ts";
import type { VerifyOptions } from "./verify.ts";
import { verifyAccounts } from "./verify-accounts.ts";

/** What to rebuild. */
export interface RebuildOptions extends Pick<VerifyOptions, "url" | "role" | "pool" | "currencies" | "connectTimeoutMs" | "signal"> {
  readonly trustLog: boolean;
}

/** One thing that was changed, or that must be and wasn't. */
export type Repair = AccountName & {
  readonly holdId?: bigint;
  readonly columns: readonly { readonly what: string; readonly before: string; readonly after: string }[];
};

/** The end of a rebuild. */
export interface RebuildSummary {
  readonly rows: number;
  readonly accounts: number;
  readonly repairedBalances: number;
  readonly repairedHolds: number;
  /** Differences that were left, each of them told. */
  readonly left: number;
  readonly seconds: number;
  readonly rowsPerSecond: number;
}

/** What a rebuild tells as it goes. */
export type RebuildEvent =
  | { readonly kind: "repaired"; readonly repair: Repair }
  /** It is left: the account's own rows are wrong, or only a superuser can mend it. */
  | { readonly kind: "left"; readonly finding: Finding }
  | { readonly kind: "progress"; readonly phase: "accounts" | "missing" | "balances"; readonly done: number; readonly total: number | undefined }
  | { readonly kind: "summary"; readonly summary: RebuildSummary };

/** Accounts in one transaction: their writes wait for it. */
const ACCOUNTS_AT_A_TIME = 500;
const HOLDS_AT_A_TIME = 1000;
/** Rows, or accounts, that are looked at at a time. */
const LOOK_SIZE = 20_000;

/** Rebuilds. The last event is the summary. */
export async function* rebuildLedger(options: RebuildOptions): AsyncGenerator<RebuildEvent, void> {
  const start = performance.now();
  const counts: Counts = { rows: 0, accounts: 0, holds: 0, jobs: 0, keys: 0, heads: 0 };
  let [repairedBalances, repairedHolds, left] = [0, 0, 0];
  for await (const event of options.trustLog ? takeLastRows(options, counts) : proveAndRepair(options, counts)) {
    if (event.kind === "repaired" && event.repair.holdId === undefined) repairedBalances += 1;
    else if (event.kind === "repaired") repairedHolds += 1;
    else if (event.kind === "left") left += 1;
    yield event;
  }
  const seconds = (performance.now() - start) / 1000;
  const { rows, accounts } = counts;
  yield { kind: "summary", summary: { rows, accounts, repairedBalances, repairedHolds, left, seconds: Math.round(seconds * 1000) / 1000, rowsPerSecond: Math.round(rows / Math.max(0.001, seconds)) } };
}

async function* proveAndRepair({ url, role, pool, currencies, connectTimeoutMs, signal }: RebuildOptions, counts: Counts): AsyncGenerator<RebuildEvent, void> {
  const session = await ProofSession.open(url, connectTimeoutMs, role);
  try {
    const { last } = await logEnd(pool);
    const rest = (): Promise<void> => {
      signal.throwIfAborted();
      return Promise.resolve();
    };
    const context = { session, currencies, counts, size: new PageSize(), lastId: last, settledBy: last, rest };
    const repairs = new Repairs(pool);
    for await (const event of verifyAccounts(context, { rows: 0 }, () => undefined)) {
      if (event.kind === "finding") yield* repairs.take(event.finding);
      if (event.kind !== "progress") continue;
      yield* repairs.flush();
      yield { kind: "progress", phase: "accounts", done: event.done, total: event.total };
    }
    yield* repairs.flush();
  } finally {
    await session.close();
  }
}

/** Differences that can be repaired by writing what the log says. */
const repairable = new Set(["balance_missing", "balance_wrong", "hold_missing", "hold_wrong"]);
/** What of a hold never changes; the role of the service can't change it either. */
const fixedColumns = new Set(["user_id", "currency", "amount", "job_id", "expires_at", "created_at"]);

/** The repairs of a walk through accounts: of each page at its end. */
class Repairs {
  readonly #pool: DatabasePool;
  /** The account whose rows were last found to be wrong. */
  #broken = "";
  #balances = new Map<string, AccountName>();
  #holds = new Map<string, { readonly account: AccountName; readonly ids: Set<bigint> }>();

  constructor(pool: DatabasePool) {
    this.#pool = pool;
  }

  *take(finding: Finding): Generator<RebuildEvent, void> {
    const { kind, userId, currency, holdId, what } = finding;
    if (userId === undefined || currency === undefined) return;
    const id = `${currency}${userId}`;
    if (!repairable.has(kind)) {
      if (kind !== "hold_unfounded") this.#broken = id;
      yield { kind: "left", finding };
    } else if (this.#broken === id || (holdId !== undefined && fixedColumns.has(what))) {
      yield { kind: "left", finding };
    } else if (holdId !== undefined) {
      const of = this.#holds.get(id) ?? { account: { userId, currency }, ids: new Set<bigint>() };
      of.ids.add(holdId);
      this.#holds.set(id, of);
    } else if (kind !== "hold_missing") {
      // The count of missing holds: each of them is named by itself.
      this.#balances.set(id, { userId, currency });
    }
  }

  async *flush(): AsyncGenerator<RebuildEvent, void> {
    const [balances, holds] = [[...this.#balances.values()], [...this.#holds.values()]];
    this.#balances.clear();
    this.#holds.clear();
    yield* repairAll(this.#pool, balances, false);
    for (const { account, ids } of holds) {
      for (const some of partsOf([...ids], HOLDS_AT_A_TIME)) {
        const { repaired, left } = await repairHolds(this.#pool, account, some);
        for (const hold of repaired) yield { kind: "repaired", repair: holdRepair(account, hold) };
        for (const holdId of left) yield { kind: "left", finding: { kind: "hold_unfounded", ...account, holdId, what: "hold_id", expected: "a row that places it", actual: "none" } };
      }
    }
  }
}

/** Makes all balance rows what the last rows of their accounts say. */
async function* takeLastRows({ pool, signal }: RebuildOptions, counts: Counts): AsyncGenerator<RebuildEvent, void> {
  const rows = Number((await logEnd(pool)).last);
  for (let after = 0n; ; ) {
    signal.throwIfAborted();
    const { restored, rows: done, next } = await restoreBalances(pool, after, LOOK_SIZE);
    if (next === undefined) break;
    for (const balance of restored) yield { kind: "repaired", repair: balanceRepair({ before: undefined, after: balance }) };
    counts.rows += done;
    after = next;
    yield { kind: "progress", phase: "missing", done: counts.rows, total: rows };
  }
  for (let from: AccountName = START; ; ) {
    signal.throwIfAborted();
    const { accounts, done, next } = await differingAccounts(pool, from, LOOK_SIZE);
    if (next === undefined) return;
    yield* repairAll(pool, accounts, true);
    counts.accounts += done;
    from = next;
    yield { kind: "progress", phase: "balances", done: counts.accounts, total: undefined };
  }
}

async function* repairAll(pool: DatabasePool, accounts: readonly AccountName[], truncated: boolean): AsyncGenerator<RebuildEvent, void> {
  for (const some of partsOf(accounts.toSorted(inLockOrder), ACCOUNTS_AT_A_TIME)) {
    const { repaired, left } = await repairBalances(pool, some, truncated);
    for (const balance of repaired) yield { kind: "repaired", repair: balanceRepair(balance) };
    for (const balance of left) yield { kind: "left", finding: truncatedOf(balance) };
  }
}

function truncatedOf({ userId, currency, sequence, logSequence }: LeftBalance): Finding {
  return { kind: "log_truncated", userId, currency, sequence: logSequence + 1n, what: "sequence", expected: `rows up to ${sequence}, as the balance row has it`, actual: `${logSequence}` };
}

function balanceRepair({ before, after }: RepairedBalance): Repair {
  const columns = ["balance", "held", "creditLimit", "sequence", "updatedAt", "chainHead"] as const;
  const text = (row: BalanceColumns | undefined, column: (typeof columns)[number]): string => String(row?.[column] ?? "");
  return {
    userId: after.userId,
    currency: after.currency,
    columns: columns.map((what) => ({ what, before: text(before, what), after: text(after, what) })).filter((column) => column.before !== column.after),
  };
}

function holdRepair({ userId, currency }: AccountName, { id, captured, state }: RepairedHold): Repair {
  return { userId, currency, holdId: id, columns: [{ what: "captured", before: "", after: captured }, { what: "state", before: "", after: state }] };
}

function partsOf<T>(items: readonly T[], size: number): readonly (readonly T[])[] {
  return Array.from({ length: Math.ceil(items.length / size) }, (_, index) => items.slice(index * size, (index + 1) * size));
}
