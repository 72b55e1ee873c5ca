// Reads single rows of the log, and what became of a key.

import { sql, type DatabasePool } from "slonik";
import { ANSWER_BYTES } from "../../domain/answer-size.ts";
import type { StoredOutcome } from "../../domain/journal/group.ts";
import type { Transaction } from "../../domain/journal/transaction.ts";
import { selectOutcomes } from "../journal/read.ts";
import { listedRows, transactionBytes, transactionColumns, type Listed, type Rows } from "../rows/rows.ts";

/** What is stored under a key, and the rows that it names. */
export interface Kept {
  readonly stored: StoredOutcome;
  readonly found: Listed;
}

/** Reads single rows. */
export interface Transactions {
  readonly byId: (id: bigint) => Promise<Transaction | undefined>;
  readonly bySequence: (userId: bigint, currency: string, sequence: bigint) => Promise<Transaction | undefined>;
  /**
   * What is stored under a key, and the rows that it names, behind the first ones; of large ones only as many as an
   * answer holds.
   */
  readonly outcome: (userId: bigint, key: string, behind: number) => Promise<Kept | undefined>;
}

/** The reads of single rows, over a pool. */
export function transactionsOf(pool: DatabasePool, rows: Rows): Transactions {
  return { byId, bySequence, outcome };

  async function byId(id: bigint): Promise<Transaction | undefined> {
    const found = await pool.maybeOne(sql.type(rows.transaction)`
      SELECT ${transactionColumns} FROM ledgerd.transactions t WHERE t.id = ${id}`);
    return found ?? undefined;
  }

  async function bySequence(userId: bigint, currency: string, sequence: bigint): Promise<Transaction | undefined> {
    const found = await pool.maybeOne(sql.type(rows.transaction)`
      SELECT ${transactionColumns}
      FROM ledgerd.transactions t
      WHERE t.user_id = ${userId} AND t.currency = ${currency} AND t.sequence = ${sequence}`);
    return found ?? undefined;
  }

  async function outcome(userId: bigint, key: string, behind: number): Promise<Kept | undefined> {
    const stored = await pool.maybeOne(selectOutcomes([{ userId, key }]));
    if (stored === null) return undefined;
    const found = await pool.any(sql.type(rows.listed)`
      SELECT ${transactionColumns}, page.found
      FROM (
        SELECT named.id, sum(named.bytes) OVER (ORDER BY named.id) - named.bytes AS before, count(*) OVER () AS found
        FROM (
          SELECT t.id, ${transactionBytes} AS bytes
          FROM ledgerd.transactions t
          WHERE t.id = ANY(${sql.array(stored.transactionIds.slice(behind), "int8")})
        ) AS named
      ) AS page
      JOIN ledgerd.transactions t ON t.id = page.id
      WHERE page.before < ${ANSWER_BYTES}::int8
      ORDER BY t.id
      LIMIT 10000`);
    return { stored, found: listedRows(found) };
  }
}
