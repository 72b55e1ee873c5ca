// Groups of several instances on one database, which meet at locks and at keys.

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Code } from "@connectrpc/connect";
import { block, journalsWaiting, lockUser } from "../harness/blocker.ts";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { checkDatabase } from "../harness/inspect.ts";
import { patient } from "../harness/patience.ts";
import { describeFailure, newKey, serve, type TestService } from "../harness/service.ts";
import { until } from "../harness/until.ts";

let database: TestDatabase;
let one: TestService;
let two: TestService;
let lastUser = 0n;

beforeAll(async () => {
  database = await createDatabase();
  const settings = { LEDGERD_LANES: "1", LEDGERD_SWEEP_INTERVAL: "1h" };
  [one, two] = await Promise.all([serve(database.url, settings), serve(database.url, settings)]);
});

afterAll(async () => {
  await Promise.all([one.close(), two.close()]);
  await checkDatabase(database);
  await database[Symbol.asyncDispose]();
});

const rub = (amount: string) => ({ currency: "RUB", amount });
const usd = (amount: string) => ({ currency: "USD", amount });

async function userWith(amount: string): Promise<bigint> {
  const userId = (lastUser += 1n);
  await one.ledger.topUp({ userId, amount: rub(amount), idempotencyKey: newKey() });
  return userId;
}

/** How calls failed, each in some way that its caller is told. */
function failuresOf(settled: readonly PromiseSettledResult<unknown>[]) {
  return settled.flatMap((result) => (result.status === "rejected" ? [describeFailure(result.reason)] : []));
}

describe("two instances", () => {
  test("spend from one account at the same time: every call is applied or refused for lack of money, none fails", async () => {
    const userId = await userWith("150");
    // The first calls of both meet at the account.
    const operator = await lockUser(database, userId);
    const calls = Promise.allSettled(
      Array.from({ length: 200 }, (_, index) => (index % 2 === 0 ? one : two).ledger.deduct({ userId, amount: rub("1"), idempotencyKey: newKey() }, patient)),
    );
    await until(async () => (await journalsWaiting(database, "lock")) === 2);
    await operator.release();
    const failures = failuresOf(await calls);
    expect(new Set(failures.map(({ reason }) => reason))).toEqual(new Set(["INSUFFICIENT_FUNDS"]));
    expect(failures).toHaveLength(50);
    expect((await one.ledger.getBalance({ userId })).balance).toMatchObject({ balance: rub("0.00"), sequence: 151n });
  });

  test("lock accounts in one order, so that neither waits for the other", async () => {
    const [smaller, larger] = [await userWith("10"), await userWith("10")];
    const operator = await lockUser(database, smaller);
    const calls = Promise.all([
      one.ledger.transfer({ userId: smaller, toUserId: larger, amount: rub("1"), idempotencyKey: newKey() }, patient),
      two.ledger.transfer({ userId: larger, toUserId: smaller, amount: rub("2"), idempotencyKey: newKey() }, patient),
    ]);
    await until(async () => (await journalsWaiting(database, "lock")) === 2);
    const free = await database.query(`SELECT FROM ledgerd.user_balances WHERE user_id = ${larger} FOR UPDATE SKIP LOCKED`);
    await operator.release();
    await calls;
    expect(free, "the larger account, while both waited for the smaller one").toHaveLength(1);
  });

  test("use one key under two currencies at the same moment: one effect", async () => {
    const userId = await userWith("1");
    const idempotencyKey = newKey();
    // Both look for the key and find nothing, since this row is never committed; then both wait for it at the primary key.
    const never = await block(
      database,
      `INSERT INTO ledgerd.idempotency_keys (user_id, key, fingerprint, refusal, created_at) VALUES (${userId}, '${idempotencyKey}', '', '{}', now())`,
    );
    const calls = Promise.allSettled([
      one.ledger.topUp({ userId, amount: rub("1"), idempotencyKey }, patient),
      two.ledger.topUp({ userId, amount: usd("1"), idempotencyKey }, patient),
    ]);
    await until(async () => (await journalsWaiting(database, "lock")) === 2);
    await never.release();
    expect(failuresOf(await calls)).toMatchObject([{ code: Code.AlreadyExists, reason: "IDEMPOTENCY_KEY_REUSED" }]);
  });

  test("use one unique reference under two currencies at the same moment: one effect", async () => {
    const userId = await userWith("1");
    const never = await block(database, `INSERT INTO ledgerd.unique_references (user_id, type, reference) VALUES (${userId}, 'topup', 'invoice 7')`);
    const topUp = { userId, reference: "invoice 7", uniqueReference: true };
    const calls = Promise.allSettled([
      one.ledger.topUp({ ...topUp, amount: rub("1"), idempotencyKey: newKey() }, patient),
      two.ledger.topUp({ ...topUp, amount: usd("1"), idempotencyKey: newKey() }, patient),
    ]);
    await until(async () => (await journalsWaiting(database, "lock")) === 2);
    await never.release();
    expect(failuresOf(await calls)).toMatchObject([{ code: Code.FailedPrecondition, reason: "REFERENCE_ALREADY_USED", metadata: { stored: "true" } }]);
  });
});
