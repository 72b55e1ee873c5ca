// A ledger with something of everything: each kind of transaction, keys with outcomes of each kind, jobs in each state, locks, odd texts.

import { newKey, type Clients } from "./service.ts";

const rub = (amount: string) => ({ currency: "RUB", amount });

/** Texts that a format by lines, columns and escapes may stumble over. */
const oddTexts: readonly string[] = ["tab\there", "two\nlines\r\n", "back\\slash \\N \\.", "\\.", '"quoted", \'quoted\'', "наличные €  ", " ", "\u0001\u007F", "x".repeat(500)];

/** Names that a plain object has, or takes for something else. */
export const oddNames = { ["__proto__"]: "p", constructor: "c", hasOwnProperty: "h", toString: "t" };

/** A top-up with one of the odd texts in it. */
export function oddTopUp(index: number, idempotencyKey: string) {
  const text = oddTexts[index] ?? "";
  return { userId: 1n, amount: rub("100"), idempotencyKey, description: text, reference: `reference ${index}`, metadata: { text, plain: "x", ...oddNames } };
}

/** Writes it; answers the keys of the odd top-ups in their order, each with the id of its transaction. */
export async function writeVariedLedger({ ledger, admin, jobs, locks }: Clients): Promise<ReadonlyMap<string, bigint>> {
  const answers = new Map<string, bigint>();
  for (const index of oddTexts.keys()) {
    const idempotencyKey = newKey();
    const { transaction } = await ledger.topUp(oddTopUp(index, idempotencyKey));
    answers.set(idempotencyKey, transaction?.id ?? 0n);
  }
  const { transaction } = await ledger.deduct({ userId: 1n, amount: rub("10"), idempotencyKey: newKey() });
  await ledger.refund({ userId: 1n, transactionId: transaction?.id ?? 0n, amount: rub("4"), idempotencyKey: newKey() });
  await ledger.transfer({ userId: 1n, toUserId: 2n, amount: rub("5"), idempotencyKey: newKey() });
  const { hold } = await ledger.placeHold({ userId: 1n, amount: rub("20"), idempotencyKey: newKey() });
  await ledger.captureHold({ userId: 1n, holdId: hold?.id ?? 0n, amount: rub("8"), idempotencyKey: newKey() });
  await ledger.placeHold({ userId: 1n, amount: rub("3"), idempotencyKey: newKey() });
  await ledger.adjust({ userId: 1n, amount: rub("-1"), reason: "a test", idempotencyKey: newKey() });
  await ledger.topUp({ userId: 1n, amount: { currency: "JPY", amount: "999999999999999998" }, idempotencyKey: newKey() });
  await admin.setCreditLimit({ userId: 1n, creditLimit: rub("50"), idempotencyKey: newKey() });
  await ledger.topUp({ userId: 2n, amount: rub("1"), idempotencyKey: newKey(), reference: "only once", uniqueReference: true });
  await ledger.deduct({ userId: 3n, amount: rub("1"), idempotencyKey: "refused" }).catch(() => undefined);
  for (const prompt of oddTexts) await jobs.createJob({ userId: 1n, modelId: "m", prompt, parameters: { text: prompt, n: 1.5, list: [null, true], names: oddNames }, cost: rub("1"), idempotencyKey: newKey() });
  const claimed = await jobs.claimJobs({ workerId: "w", modelIds: ["m"], maxJobs: 3, leaseDuration: { seconds: 600n } });
  const [first, second] = claimed.jobs;
  await jobs.completeJob({ jobId: first?.job?.id ?? 0n, fencingToken: first?.fencingToken ?? 0n, resultUrl: "https://results/1" });
  await jobs.failJob({ jobId: second?.job?.id ?? 0n, fencingToken: second?.fencingToken ?? 0n, errorMessage: "it\nfailed" });
  await locks.acquireLock({ lockKey: 5n, instanceId: "a", ttl: { seconds: 600n } });
  return answers;
}
