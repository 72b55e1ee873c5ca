// The sweep of expired holds, by instances as operators run them: processes of their own.

import { expect, test } from "vitest";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { checkDatabase } from "../harness/inspect.ts";
import { startInstance } from "../harness/instance.ts";
import { serve } from "../harness/service.ts";
import { until } from "../harness/until.ts";

const rub = (amount: string) => ({ currency: "RUB", amount });

/** Gives users, from 1 on, a hold each, whose time is over once nobody is served here any more. */
async function placeHolds(database: TestDatabase, users: number): Promise<void> {
  await using service = await serve(database.url, { LEDGERD_SWEEP_INTERVAL: "1h" });
  const writes = Array.from({ length: users }, (_, index) => BigInt(index + 1)).flatMap((userId) => [
    { write: { case: "topUp" as const, value: { userId, amount: rub("2"), idempotencyKey: "money" } } },
    { write: { case: "placeHold" as const, value: { userId, amount: rub("1"), expiresIn: { seconds: 0n, nanos: 1_000_000 }, idempotencyKey: "hold" } } },
  ]);
  await service.ledger.batchWrite({ writes });
}

/** Returns once all holds are swept; checks that each was freed once. */
async function swept(database: TestDatabase, count: number): Promise<void> {
  await until(async () => (await database.query("SELECT FROM ledgerd.holds WHERE state = 'open'")).length === 0);
  const { log, holds } = await checkDatabase(database);
  expect(holds.map(({ state }) => state)).toEqual(Array.from({ length: count }, () => "expired"));
  expect(log.filter(({ type }) => type === "expiry")).toHaveLength(count);
}

test("two instances at once free each hold once", async () => {
  await using database = await createDatabase();
  await placeHolds(database, 400);
  await using instances = new AsyncDisposableStack();
  const settings = { LEDGERD_SWEEP_INTERVAL: "10ms" };
  await Promise.all([startInstance(database.url, settings), startInstance(database.url, settings)].map(async (instance) => instances.use(await instance)));
  await swept(database, 400);
});

test("an instance survives rounds that fail, even with a queue too short for them, and makes up for them", async () => {
  await using database = await createDatabase();
  await placeHolds(database, 5);
  await database.query("ALTER TABLE ledgerd.transactions ADD CONSTRAINT no_expiry CHECK (type <> 'expiry')");
  await using instance = await startInstance(database.url, { LEDGERD_SWEEP_INTERVAL: "10ms", LEDGERD_LANES: "1", LEDGERD_QUEUE_LIMIT: "1" });
  const lastId = async () => (await database.query<{ id: bigint }>("SELECT last_value AS id FROM ledgerd.transactions_id_seq"))[0]?.id ?? 0n;
  const before = await lastId();
  // Each attempt draws an id.
  await until(async () => instance.process.exitCode !== null || (await lastId()) >= before + 5n);
  expect(instance.process.exitCode, "it still runs").toBeNull();
  await database.query("ALTER TABLE ledgerd.transactions DROP CONSTRAINT no_expiry");
  await swept(database, 5);
});
