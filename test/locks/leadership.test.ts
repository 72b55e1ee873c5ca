// Background work that one instance does for all.

import { afterAll, beforeAll, expect, test } from "vitest";
import { ownLocks } from "../../src/domain/lock.ts";
import { Leadership } from "../../src/upkeep/leadership.ts";
import { locksOf, type Locks } from "../../src/postgres/locks/locks.ts";
import { openPool, RUNTIME_ROLE } from "../../src/postgres/connection/pool.ts";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { until } from "../harness/until.ts";

let database: TestDatabase;
let locks: Locks;
let close: () => Promise<void>;

beforeAll(async () => {
  database = await createDatabase();
  const limits = { connectTimeoutMs: 10_000, queryTimeoutMs: 10_000, idleTimeoutMs: 10_000 };
  const pool = await openPool({ url: database.url, settings: { role: RUNTIME_ROLE }, min: 0, max: 2, ...limits, onError: () => undefined });
  locks = locksOf(pool);
  close = () => pool.end();
});

afterAll(async () => {
  await close();
  await database[Symbol.asyncDispose]();
});

test("a leader keeps its lease through a round that takes longer than the lease, and no other instance does that work meanwhile", async () => {
  const key = ownLocks.backUp;
  const leader = new Leadership(locks, key, "one", 0);
  const other = new Leadership(locks, key, "two", 0);
  let done = 0;
  await leader.lead(async () => {
    const [first] = await locks.read([key]);
    const expiry = first?.expiresAt ?? 0n;
    // By the database's clock, beyond the end of the lease that the round began with.
    await until(async () => (await database.query("SELECT WHERE extract(epoch FROM clock_timestamp()) * 1000000 > $1", [expiry])).length > 0);
    await other.lead(() => Promise.resolve((done += 1)));
  });
  expect(done).toBe(0);
  await leader.resign();
  await other.lead(() => Promise.resolve((done += 1)));
  expect(done).toBe(1);
});
