// A session that stands in the way, as an operator's at psql would, and a look at who waits.

import type { TestDatabase } from "./database.ts";
import { patient } from "./patience.ts";
import { newKey, type Clients } from "./service.ts";
import { until } from "./until.ts";

/** A transaction that is kept open. */
export interface Blocker {
  /** Rolls it back. */
  readonly release: () => Promise<void>;
}

/** Runs a statement in a transaction of its own, and keeps the locks that it took. */
export async function block({ connect }: Pick<TestDatabase, "connect">, statement: string): Promise<Blocker> {
  const session = await connect();
  await session.query("BEGIN");
  await session.query(statement);
  return {
    release: async () => {
      await session.query("ROLLBACK");
      await session.end();
    },
  };
}

/** Keeps a user's accounts locked. */
export function lockUser(database: Pick<TestDatabase, "connect">, userId: bigint): Promise<Blocker> {
  return block(database, `SELECT FROM ledgerd.user_balances WHERE user_id = ${userId} FOR UPDATE`);
}

/** How many of the journals' sessions wait: for a lock, or in their commit for a standby. */
export async function journalsWaiting({ query }: Pick<TestDatabase, "query">, what: "lock" | "standby"): Promise<number> {
  const condition = { lock: "wait_event_type = 'Lock'", standby: "wait_event = 'SyncRep'" }[what];
  const [found] = await query<{ waiting: number }>(`
    SELECT count(*)::int AS waiting
    FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'ledgerd journal' AND ${condition}`);
  return found?.waiting ?? 0;
}

/** A lane that commits nothing until it is released. */
export interface BusyLane extends Blocker {
  /** Returns once this many writes wait for it. */
  readonly queued: (count: number) => Promise<void>;
}

/**
 * Keeps an instance's only lane, or the last idle one of so many, busy with a write of a user who has an account: what is queued until it is
 * released makes up the next group. The journal gives up on the lock after some seconds.
 */
export async function keepLaneBusy(database: Pick<TestDatabase, "connect" | "query">, { ledger, admin }: Clients, userId: bigint, lanes = 1): Promise<BusyLane> {
  const locked = await lockUser(database, userId);
  const write = ledger.topUp({ userId, amount: { amount: "1" }, idempotencyKey: newKey() }, patient);
  await until(async () => (await journalsWaiting(database, "lock")) === lanes);
  return {
    queued: (count) => until(async () => (await admin.getServiceStatus({})).writeQueue?.queued === count),
    release: async () => {
      await locked.release();
      await write;
    },
  };
}
