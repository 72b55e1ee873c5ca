// Reads the history of a user's accounts: lists and sums of the log's rows, by account and sequence.

import { sql, type DatabasePool } from "slonik";
import { z } from "zod";
import type { TransactionType } from "../../domain/money/account.ts";
import { ANSWER_BYTES } from "../../domain/answer-size.ts";
import { listedRows, timestamp, transactionBytes, transactionColumns, type Listed, type Rows } from "../rows/rows.ts";

/** A part of an account's rows, both ends included; empty if the last is before the first. */
export interface Range {
  readonly currency: string;
  readonly first: bigint;
  readonly last: bigint;
}

/** A period: from `startTime` on, before `endTime`, in microseconds since 1970. Undefined: no bound. */
export interface Period {
  readonly startTime: bigint | undefined;
  readonly endTime: bigint | undefined;
}

/** In which order to list them. */
export type Order = "newest" | "oldest";

/** Which rows of the ranges to list. Empty: no restriction. */
export interface TransactionFilter {
  readonly types: readonly TransactionType[];
  readonly reference: string;
}

/** The sum of a type's rows. */
export interface Total {
  readonly type: TransactionType;
  readonly count: bigint;
  readonly amount: bigint;
}

const rangeRow = z.object({ currency: z.string(), first: z.bigint(), last: z.bigint() });

/** Reads histories. */
export interface History {
  /** The rows of a period, for each of a user's accounts, or for the one in this currency. Found by halves: it doesn't read the rows between. */
  readonly ranges: (userId: bigint, currency: string, period: Period) => Promise<readonly Range[]>;
  /** The rows of a user behind one id, up to another, for each of the user's accounts. */
  readonly rangesOfIds: (userId: bigint, after: bigint, upTo: bigint) => Promise<readonly Range[]>;
  /**
   * Up to `limit` rows out of these ranges of a user's accounts, the newest or the oldest first, in the order of ids.
   * Of large ones only as many as an answer holds, and at least one: a thousand may have 77 MB.
   */
  readonly list: (
    userId: bigint,
    of: readonly Range[],
    order: Order,
    filter: TransactionFilter,
    limit: number,
  ) => Promise<Listed>;
  /** The sums of an account's rows in a range, by type. */
  readonly totals: (userId: bigint, range: Range) => Promise<readonly Total[]>;
}

/** The reads of histories, over a pool. */
export function historyOf(pool: DatabasePool, rows: Rows): History {
  const totals = (userId: bigint, range: Range): Promise<readonly Total[]> => totalsOf(pool, rows, userId, range);
  return { ranges, rangesOfIds, list, totals };

  async function ranges(userId: bigint, currency: string, { startTime, endTime }: Period): Promise<readonly Range[]> {
    const upTo = (moment: bigint) => sql.fragment`ledgerd.sequence_at(b.user_id, b.currency, ${timestamp(moment - 1n)}::timestamptz)`;
    const first = startTime === undefined ? sql.fragment`1::int8` : sql.fragment`${upTo(startTime)} + 1`;
    const last = endTime === undefined ? sql.fragment`b.sequence` : upTo(endTime);
    const filter = currency === "" ? sql.fragment`TRUE` : sql.fragment`b.currency = ${currency}`;
    return pool.any(sql.type(rangeRow)`
      SELECT b.currency, ${first} AS first, ${last} AS last
      FROM ledgerd.user_balances b
      WHERE b.user_id = ${userId} AND ${filter}
      ORDER BY b.currency
      LIMIT 1000`);
  }

  async function rangesOfIds(userId: bigint, after: bigint, upTo: bigint): Promise<readonly Range[]> {
    return pool.any(sql.type(rangeRow)`
      SELECT b.currency, ledgerd.sequence_at(b.user_id, b.currency, ${after}::int8) + 1 AS first,
             ledgerd.sequence_at(b.user_id, b.currency, ${upTo}::int8) AS last
      FROM ledgerd.user_balances b
      WHERE b.user_id = ${userId}
      ORDER BY b.currency
      LIMIT 1000`);
  }

  async function list(userId: bigint, of: readonly Range[], order: Order, filter: TransactionFilter, limit: number): Promise<Listed> {
    const direction = order === "newest" ? sql.fragment`DESC` : sql.fragment`ASC`;
    const types = filter.types.length === 0 ? sql.fragment`TRUE` : sql.fragment`t.type = ANY(${sql.array(filter.types, "text")})`;
    const reference = filter.reference === "" ? sql.fragment`TRUE` : sql.fragment`t.reference = ${filter.reference}`;
    const currencies = sql.array(of.map(({ currency }) => currency), "text");
    const firsts = sql.array(of.map(({ first }) => first), "int8");
    const lasts = sql.array(of.map(({ last }) => last), "int8");
    const found = await pool.any(sql.type(rows.listed)`
      SELECT ${transactionColumns}, page.found
      FROM (
        SELECT best.id, count(*) OVER () AS found,
               sum(best.bytes) OVER (ORDER BY best.id ${direction}) - best.bytes AS before
        FROM (
          SELECT found.id, found.bytes
          FROM unnest(${currencies}, ${firsts}, ${lasts}) AS r (currency, first, last)
          CROSS JOIN LATERAL (
            SELECT t.id, ${transactionBytes} AS bytes
            FROM ledgerd.transactions t
            WHERE t.user_id = ${userId} AND t.currency = r.currency AND t.sequence BETWEEN r.first AND r.last
              AND ${types} AND ${reference}
            ORDER BY t.sequence ${direction}
            LIMIT ${limit}
          ) AS found
          ORDER BY found.id ${direction}
          LIMIT ${limit}
        ) AS best
      ) AS page
      JOIN ledgerd.transactions t ON t.id = page.id
      WHERE page.before < ${ANSWER_BYTES}::int8
      ORDER BY t.id ${direction}
      LIMIT ${limit}`);
    return listedRows(found);
  }
}

/** The sums of an account's rows in a range, by type. */
async function totalsOf(
  pool: DatabasePool,
  rows: Rows,
  userId: bigint,
  { currency, first, last }: Range,
): Promise<readonly Total[]> {
  const totalRow = z
    .object({ type: z.custom<TransactionType>((type) => typeof type === "string"), count: z.bigint(), amount: z.string() })
    .transform(({ type, count, amount }): Total => ({ type, count, amount: rows.minor(amount, currency) }));
  return pool.any(sql.type(totalRow)`
    SELECT t.type, count(*) AS count, sum(t.amount) AS amount
    FROM ledgerd.transactions t
    WHERE t.user_id = ${userId} AND t.currency = ${currency} AND t.sequence BETWEEN ${first} AND ${last}
    GROUP BY t.type
    LIMIT 100`);
}
