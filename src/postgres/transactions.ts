// Reads the log: single rows, lists, statements, and what became of a key.

import { sql, type DatabasePool } from "slonik";
import { z } from "zod";
import type { TransactionType } from "../domain/account.ts";
import type { StoredOutcome } from "../domain/group.ts";
import type { Transaction } from "../domain/transaction.ts";
import { selectOutcomes } from "./journal/read.ts";
import { selectTransactions } from "./journal/write.ts";
import { timestamp, transactionColumns, type Rows } from "./rows.ts";

/** Which of a user's transactions to list. Empty or undefined: no restriction. Times in microseconds since 1970. */
export interface TransactionFilter {
  readonly userId: bigint;
  readonly currency: string;
  readonly types: readonly TransactionType[];
  readonly startTime: bigint | undefined;
  readonly endTime: bigint | undefined;
  readonly reference: string;
}

/** A part of an account's rows, both ends included; empty if the last is before the first. */
export interface SequenceRange {
  readonly first: bigint;
  readonly last: bigint;
}

/** The sum of a type's rows. */
export interface Total {
  readonly type: TransactionType;
  readonly count: bigint;
  readonly amount: bigint;
}

/** Reads the log. */
export type Transactions = ReturnType<typeof transactionsOf>;

/** The reads of the log, over a pool. */
export function transactionsOf(pool: DatabasePool, rows: Rows) {
  return { byId, bySequence, list, rangeOf, inRange, totals, outcome };

  async function byId(id: bigint): Promise<Transaction | undefined> {
    const found = await pool.maybeOne(sql.type(rows.transaction)`
      SELECT ${transactionColumns} FROM ledgerd.transactions t WHERE t.id = ${id}`);
    return found ?? undefined;
  }

  async function bySequence(userId: bigint, currency: string, sequence: bigint): Promise<Transaction | undefined> {
    const [found] = await inRange(userId, currency, { first: sequence, last: sequence }, 1);
    return found;
  }

  /** Up to `limit` rows beyond the one with id `from`, in the order of ids. */
  async function list(filter: TransactionFilter, order: "ascending" | "descending", from: bigint, limit: number): Promise<readonly Transaction[]> {
    const { userId, currency, types, reference, startTime, endTime } = filter;
    const bounds = startTime === undefined && endTime === undefined ? undefined : await idBounds(filter);
    const conditions = [
      sql.fragment`t.user_id = ${userId}`,
      order === "ascending" ? sql.fragment`t.id > ${from}` : sql.fragment`t.id < ${from}`,
      ...(currency === "" ? [] : [sql.fragment`t.currency = ${currency}`]),
      ...(types.length === 0 ? [] : [sql.fragment`t.type = ANY(${sql.array(types, "text")})`]),
      ...(reference === "" ? [] : [sql.fragment`t.reference = ${reference}`]),
      ...(startTime === undefined ? [] : [sql.fragment`t.created_at >= ${timestamp(startTime)}::timestamptz`]),
      ...(endTime === undefined ? [] : [sql.fragment`t.created_at < ${timestamp(endTime)}::timestamptz`]),
      ...(bounds === undefined ? [] : [sql.fragment`t.id BETWEEN ${bounds.low} AND ${bounds.high}`]),
    ];
    return pool.any(sql.type(rows.transaction)`
      SELECT ${transactionColumns}
      FROM ledgerd.transactions t
      WHERE ${sql.join(conditions, sql.fragment` AND `)}
      ORDER BY t.id ${order === "ascending" ? sql.fragment`ASC` : sql.fragment`DESC`}
      LIMIT ${limit}`);
  }

  /**
   * The ids that a filter's times leave: the first row of the period on any of the user's accounts, and the last one. Found by the accounts'
   * sequences, so that a list of last year doesn't read this year's rows.
   */
  async function idBounds({ userId, currency, startTime, endTime }: TransactionFilter): Promise<{ low: bigint; high: bigint }> {
    const first = startTime === undefined ? sql.fragment`1` : sql.fragment`ledgerd.sequence_at(b.user_id, b.currency, ${timestamp(startTime - 1n)}::timestamptz) + 1`;
    const last = endTime === undefined ? sql.fragment`b.sequence` : sql.fragment`ledgerd.sequence_at(b.user_id, b.currency, ${timestamp(endTime - 1n)}::timestamptz)`;
    return pool.one(sql.type(z.object({ low: z.bigint(), high: z.bigint() }))`
      SELECT coalesce(min(t.id), 0) AS low, coalesce(max(t.id), -1) AS high
      FROM (SELECT b.user_id, b.currency, ${first} AS first, ${last} AS last
            FROM ledgerd.user_balances b
            WHERE b.user_id = ${userId} AND ${currency === "" ? sql.fragment`TRUE` : sql.fragment`b.currency = ${currency}`}) AS p
      JOIN ledgerd.transactions t ON t.user_id = p.user_id AND t.currency = p.currency AND t.sequence IN (p.first, p.last)
      WHERE p.first <= p.last`);
  }

  /** The rows of an account in a period: from `startTime` on (absent: all), before `endTime`. */
  async function rangeOf(userId: bigint, currency: string, startTime: bigint | undefined, endTime: bigint): Promise<SequenceRange> {
    const { before, last } = await pool.one(sql.type(z.object({ before: z.bigint(), last: z.bigint() }))`
      SELECT ${startTime === undefined ? sql.fragment`0::int8` : sql.fragment`ledgerd.sequence_at(${userId}, ${currency}, ${timestamp(startTime - 1n)}::timestamptz)`} AS before,
             ledgerd.sequence_at(${userId}, ${currency}, ${timestamp(endTime - 1n)}::timestamptz) AS last`);
    return { first: before + 1n, last };
  }

  /** Up to `limit` rows of an account, from the oldest of the range on. */
  async function inRange(userId: bigint, currency: string, range: SequenceRange, limit: number): Promise<readonly Transaction[]> {
    return pool.any(sql.type(rows.transaction)`
      SELECT ${transactionColumns}
      FROM ledgerd.transactions t
      WHERE t.user_id = ${userId} AND t.currency = ${currency} AND t.sequence BETWEEN ${range.first} AND ${range.last}
      ORDER BY t.sequence
      LIMIT ${limit}`);
  }

  /** The sums of an account's rows in a range, by type. */
  async function totals(userId: bigint, currency: string, range: SequenceRange): Promise<readonly Total[]> {
    const totalRow = z
      .object({ type: z.custom<TransactionType>((type) => typeof type === "string"), count: z.bigint(), amount: z.string() })
      .transform(({ type, count, amount }): Total => ({ type, count, amount: rows.minor(amount, currency) }));
    return pool.any(sql.type(totalRow)`
      SELECT t.type, count(*) AS count, sum(t.amount) AS amount
      FROM ledgerd.transactions t
      WHERE t.user_id = ${userId} AND t.currency = ${currency} AND t.sequence BETWEEN ${range.first} AND ${range.last}
      GROUP BY t.type
      LIMIT 100`);
  }

  /** What is stored under a key, and the rows that it names. */
  async function outcome(userId: bigint, key: string): Promise<{ stored: StoredOutcome; transactions: readonly Transaction[] } | undefined> {
    const stored = await pool.maybeOne(selectOutcomes([{ userId, key }]));
    if (stored === null) return undefined;
    return { stored, transactions: await pool.any(selectTransactions(rows, stored.transactionIds)) };
  }
}
