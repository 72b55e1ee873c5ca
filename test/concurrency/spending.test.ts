// Spending at the same moment, through two instances: no more than there is, and no call fails for another reason.

import { afterAll, beforeAll, expect, test } from "vitest";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { checkDatabase } from "../harness/inspect.ts";
import { patient } from "../harness/patience.ts";
import { describeFailure, newKey, type Clients } from "../harness/service.ts";
import { connectToTwo } from "./instances.ts";

const CONNECTIONS = 8;

const opened = new AsyncDisposableStack();
let database: TestDatabase;
let connections: readonly Clients[];
let lastUser = 0n;

beforeAll(async () => {
  database = opened.use(await createDatabase());
  connections = await connectToTwo(database.url, opened, CONNECTIONS);
});

afterAll(() => opened.disposeAsync());

const rub = (amount: string) => ({ currency: "RUB", amount });
const clients = (index: number): Clients => connections[index % CONNECTIONS] as Clients;

async function userWith(amount: string): Promise<bigint> {
  const userId = (lastUser += 1n);
  await clients(0).ledger.topUp({ userId, amount: rub(amount), idempotencyKey: newKey() });
  return userId;
}

/** The balance of a user, which all instances tell alike. */
async function balanceOf(userId: bigint) {
  const answers = await Promise.all(connections.map(({ ledger }) => ledger.getBalance({ userId })));
  for (const answer of answers) expect(answer).toEqual(answers[0]);
  return answers[0]?.balance;
}

const spend = {
  deductions: (userId: bigint, index: number, idempotencyKey: string) =>
    clients(index).ledger.deduct({ userId, amount: rub("1.00"), idempotencyKey }, patient),
  holds: (userId: bigint, index: number, idempotencyKey: string) =>
    clients(index).ledger.placeHold({ userId, amount: rub("1.00"), idempotencyKey }, patient),
  transfers: (userId: bigint, index: number, idempotencyKey: string) =>
    clients(index).ledger.transfer({ userId, toUserId: userId + 1_000_000n, amount: rub("1.00"), idempotencyKey }, patient),
} as const;

test.each(Object.entries(spend))("of a hundred %s of 1.00 against 50.00, exactly fifty are applied, and the others are refused for good", async (kind, call) => {
  const userId = await userWith("50.00");
  const keys = Array.from({ length: 100 }, newKey);
  const settled = await Promise.allSettled(keys.map((key, index) => call(userId, index, key)));
  const refused = settled.flatMap((result, index) => (result.status === "rejected" ? [{ index, failure: describeFailure(result.reason) }] : []));
  expect(refused).toHaveLength(50);
  for (const { failure } of refused) {
    expect(failure).toMatchObject({ reason: "INSUFFICIENT_FUNDS", metadata: { stored: "true", available: "0.00", requested: "1.00" } });
  }
  expect(await balanceOf(userId)).toMatchObject({ available: rub("0.00"), balance: rub(kind === "holds" ? "50.00" : "0.00"), sequence: 51n });

  await clients(0).ledger.topUp({ userId, amount: rub("1000"), idempotencyKey: newKey() });
  const again = await Promise.allSettled(refused.map(({ index }) => call(userId, index + 1, keys[index] ?? "")));
  const outcomes = again.map((result) => (result.status === "rejected" ? describeFailure(result.reason) : result.value));
  expect(outcomes).toEqual(refused.map(({ failure }) => failure));
  await checkDatabase(database);
});

test("transfers in both directions around a ring conserve what there is, and none fails but for lack of money", async () => {
  const users = await Promise.all(Array.from({ length: 5 }, () => userWith("10.00")));
  const user = (place: number): bigint => users[place % users.length] as bigint;
  const settled = await Promise.allSettled(
    Array.from({ length: 400 }, (_, index) => {
      // Four or one steps on are neighbours in either direction; the amounts are large enough to run out.
      const [userId, toUserId] = [user(index), user(index + (index % 3 === 0 ? 4 : 1))];
      return clients(index * 3).ledger.transfer({ userId, toUserId, amount: rub(`${1 + (index % 8)}`), idempotencyKey: newKey() }, patient);
    }),
  );
  const failures = settled.flatMap((result) => (result.status === "rejected" ? [describeFailure(result.reason)] : []));
  expect(new Set(failures.map(({ reason }) => reason))).toEqual(new Set(["INSUFFICIENT_FUNDS"]));
  const balances = await Promise.all(users.map(balanceOf));
  expect(balances.reduce((sum, balance) => sum + Number(balance?.balance?.amount), 0)).toBe(50);
  await checkDatabase(database);
});
