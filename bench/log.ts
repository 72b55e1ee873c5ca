// The proof in the end: a ledger's log holds what was answered, each call once, and its balances are the sums of their rows.

import type pg from "pg";
import { inSession } from "./database.ts";

/** Every call of a load takes 0.01. */
const HUNDREDTHS = 1n;

/** What a log says of money that was taken: how often, and how many hundredths. */
export interface Taken {
  readonly rows: bigint;
  readonly hundredths: bigint;
}

/** How many calls were answered as applied, and how many failed: each of the latter may be in the log or not. */
export interface Answered {
  readonly applied: bigint;
  readonly failed: bigint;
}

/** What a log says now. */
export async function takenIn(url: string): Promise<Taken> {
  const [found] = await ask<{ rows: string; hundredths: string }>(
    url,
    "SELECT count(*) AS rows, coalesce(-sum(amount * 100), 0)::bigint AS hundredths FROM ledgerd.transactions WHERE type IN ('deduction', 'capture')",
  );
  return { rows: BigInt(found?.rows ?? 0), hundredths: BigInt(found?.hundredths ?? 0) };
}

/** Throws if the log has other rows beside those from before than were answered, or a balance isn't the sum of its rows. */
export async function checkLog(url: string, before: Taken, { applied, failed }: Answered): Promise<void> {
  const after = await takenIn(url);
  const rows = after.rows - before.rows;
  const hundredths = after.hundredths - before.hundredths;
  if (rows < applied || rows > applied + failed || hundredths !== rows * HUNDREDTHS) {
    throw new Error(`${applied} calls took 0.01 each (and ${failed} failed), but the log has ${rows} more rows that took ${hundredths} hundredths`);
  }
  const [found] = await ask<{ drifted: number }>(
    url,
    `SELECT count(*)::int AS drifted
     FROM (SELECT user_id, currency, balance, held FROM ledgerd.user_balances WHERE sequence > 0) b
     FULL JOIN (SELECT user_id, currency, sum(amount) AS balance, sum(held_change) AS held FROM ledgerd.transactions GROUP BY 1, 2) t
       USING (user_id, currency)
     WHERE (t.balance, t.held) IS DISTINCT FROM (b.balance, b.held)`,
  );
  if (found?.drifted !== 0) throw new Error(`${found?.drifted} balances are not the sums of their transactions`);
}

async function ask<R extends pg.QueryResultRow>(url: string, text: string): Promise<R[]> {
  return inSession(url, async (client) => (await client.query<R>(text)).rows);
}
