// A call that has been taken and is not answered yet: it waits for an account that another session keeps locked.

import { journalsWaiting, lockUser, type Blocker } from "./blocker.ts";
import type { TestDatabase } from "./database.ts";
import { patient } from "./patience.ts";
import { describeFailure, newKey, type Clients } from "./service.ts";
import { until } from "./until.ts";

const APPLIED = "9.00";

/**
 * All that it may be told: the balance after it, or that the journal has given up waiting. The journal does so after
 * some seconds, which on a slow machine may be before the account is let go.
 */
export const LAWFUL_ANSWERS: readonly string[] = [APPLIED, "TRANSACTION_CONFLICT"];

/** The call, from when it waits. */
export interface WaitingCall extends Blocker {
  readonly userId: bigint;
  /** The user's balance then, or the reason of the failure; rejects where the service gave none. */
  readonly answer: Promise<string>;
}

/** Has one of a user wait who was never heard of before. */
export async function waitingCall(
  database: Pick<TestDatabase, "connect" | "query">,
  { ledger }: Clients,
  userId: bigint,
): Promise<WaitingCall> {
  await ledger.topUp({ userId, amount: { amount: "10" }, idempotencyKey: newKey() }, patient);
  const { release } = await lockUser(database, userId);
  const answer = ledger.deduct({ userId, amount: { amount: "1" }, idempotencyKey: newKey() }, patient).then(
    ({ balance }) => balance?.balance?.amount ?? "",
    (error: unknown) => describeFailure(error).reason,
  );
  await until(async () => (await journalsWaiting(database, "lock")) > 0);
  return { userId, answer, release };
}

/** The user's balance, after an answer. */
export function balanceAfter(answer: string): string {
  return answer === APPLIED ? APPLIED : "10.00";
}
