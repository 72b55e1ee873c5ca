// Reads holds, and finds those whose time is over.

import { sql, type DatabasePool } from "slonik";
import { z } from "zod";
import type { Hold, HoldState } from "../../domain/money/account.ts";
import { holdColumns, type Rows } from "../rows/rows.ts";

const accountRow = z.object({ user_id: z.bigint(), currency: z.string() }).transform((row) => ({ userId: row.user_id, currency: row.currency }));

/** Reads holds. */
export interface Holds {
  readonly byId: (id: bigint) => Promise<Hold | undefined>;
  /** Up to `limit` of a user's holds with an id below `before`, the newest first. */
  readonly list: (
    userId: bigint,
    state: HoldState | undefined,
    before: bigint,
    limit: number,
  ) => Promise<readonly Hold[]>;
  /** The accounts of the `limit` open holds that are longest due; none if no hold is due. */
  readonly dueAccounts: (limit: number) => Promise<readonly { readonly userId: bigint; readonly currency: string }[]>;
}

/** The reads of holds, over a pool. */
export function holdsOf(pool: DatabasePool, rows: Rows): Holds {
  return { byId, list, dueAccounts };

  async function byId(id: bigint): Promise<Hold | undefined> {
    const found = await pool.maybeOne(sql.type(rows.hold)`SELECT ${holdColumns} FROM ledgerd.holds h WHERE h.id = ${id}`);
    return found ?? undefined;
  }

  async function list(userId: bigint, state: HoldState | undefined, before: bigint, limit: number): Promise<readonly Hold[]> {
    const filter = state === undefined ? sql.fragment`TRUE` : sql.fragment`h.state = ${state}`;
    return pool.any(sql.type(rows.hold)`
      SELECT ${holdColumns}
      FROM ledgerd.holds h
      WHERE h.user_id = ${userId} AND h.id < ${before} AND ${filter}
      ORDER BY h.id DESC
      LIMIT ${limit}`);
  }

  async function dueAccounts(limit: number): Promise<readonly { readonly userId: bigint; readonly currency: string }[]> {
    return pool.any(sql.type(accountRow)`
      SELECT DISTINCT due.user_id, due.currency
      FROM (SELECT h.user_id, h.currency
            FROM ledgerd.holds h
            WHERE h.state = 'open' AND h.id > 0 AND h.expires_at <= statement_timestamp()
            ORDER BY h.expires_at
            LIMIT ${limit}) AS due`);
  }
}
