// Reads single rows of the log, and what became of a key.

import { sql, type DatabasePool } from "slonik";
import type { StoredOutcome } from "../domain/group.ts";
import type { Transaction } from "../domain/transaction.ts";
import { selectOutcomes } from "./journal/facts.ts";
import { selectTransactions } from "./journal/write.ts";
import { transactionColumns, type Rows } from "./rows.ts";

/** Reads single rows. */
export type Transactions = ReturnType<typeof transactionsOf>;

/** The reads of single rows, over a pool. */
export function transactionsOf(pool: DatabasePool, rows: Rows) {
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

  /** What is stored under a key, and the rows that it names. */
  async function outcome(userId: bigint, key: string): Promise<{ stored: StoredOutcome; transactions: readonly Transaction[] } | undefined> {
    const stored = await pool.maybeOne(selectOutcomes([{ userId, key }]));
    if (stored === null) return undefined;
    return { stored, transactions: await pool.any(selectTransactions(rows, stored.transactionIds)) };
  }
}
