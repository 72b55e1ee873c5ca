// Reads accounts, as they are and as they were.

import { sql, type DatabasePool } from "slonik";
import { z } from "zod";
import { type Account, accountId, type AccountName, newAccount } from "../../domain/money/account.ts";
import { accountAfter } from "../../domain/journal/transaction.ts";
import { gathered } from "../sharing/gather.ts";
import { accountColumns, accountRow, timestamp, transactionColumns, type Rows } from "../rows/rows.ts";

/** The moment to read accounts at: microseconds since 1970, or a count of the account's transactions. */
export type AsOf = { readonly time: bigint } | { readonly sequence: bigint };

type AccountRow = z.output<typeof accountRow>;

const timeRow = z.object({ time: z.bigint() });

/** Reads balances. */
export interface Balances {
  /** An account; a new one, if it has no transactions. Read together with those that others ask for at the same time. */
  readonly read: (name: AccountName) => Promise<Account>;
  /** These accounts, in their order. */
  readonly readAll: (names: readonly AccountName[]) => Promise<readonly Account[]>;
  /** The same as of a moment, from the log. Of a sequence that an account hasn't reached, its last one: the caller compares. */
  readonly readAsOf: (userIds: readonly bigint[], currency: string, asOf: AsOf) => Promise<readonly Account[]>;
  /** Up to `limit` accounts behind the given one, ordered by user and currency; with an empty currency, of all currencies. */
  readonly list: (
    currency: string,
    after: { readonly userId: bigint; readonly currency: string },
    limit: number,
  ) => Promise<readonly Account[]>;
  /** The database's time, in microseconds since 1970. */
  readonly now: () => Promise<bigint>;
}

/** The reads of balances, over a pool. */
export function balancesOf(pool: DatabasePool, rows: Rows): Balances {
  const readRow = gathered(readRows);
  return { read, readAll, readAsOf, list, now };

  async function read(name: AccountName): Promise<Account> {
    return accountOf(name, await readRow(name));
  }

  async function readAll(names: readonly AccountName[]): Promise<readonly Account[]> {
    const found = await readRows(names);
    return names.map((name, index) => accountOf(name, found[index]));
  }

  /** Where a row can't be understood, that is an error for who asked for it, and not for all whose accounts were read with it. */
  function accountOf({ userId, currency }: AccountName, row: AccountRow | undefined): Account {
    return row === undefined ? newAccount(userId, currency) : rows.toAccount(row);
  }

  async function readRows(names: readonly AccountName[]): Promise<readonly (AccountRow | undefined)[]> {
    const found = await pool.any(sql.prepared("read_balances", accountRow)`
      SELECT f.user_id, f.currency, f.balance, f.held, f.credit_limit, f.sequence, f.time
      FROM unnest(${sql.array(names.map(({ userId }) => userId), "int8")}, ${sql.array(names.map(({ currency }) => currency), "text")})
        AS a (user_id, currency)
      CROSS JOIN LATERAL (
        SELECT ${accountColumns}
        FROM ledgerd.user_balances b
        WHERE b.user_id = a.user_id AND b.currency = a.currency AND b.sequence > 0
        LIMIT 1
      ) AS f`);
    const byName = new Map(found.map((row) => [accountId(row.user_id, row.currency), row]));
    return names.map(({ userId, currency }) => byName.get(accountId(userId, currency)));
  }

  async function readAsOf(userIds: readonly bigint[], currency: string, asOf: AsOf): Promise<readonly Account[]> {
    const sequence =
      "time" in asOf
        ? sql.fragment`ledgerd.sequence_at(a.user_id, ${currency}, ${timestamp(asOf.time)}::timestamptz)`
        : sql.fragment`least(${asOf.sequence}::int8, (
            SELECT b.sequence FROM ledgerd.user_balances b WHERE b.user_id = a.user_id AND b.currency = ${currency}))`;
    const found = await pool.any(sql.type(rows.transaction)`
      SELECT ${transactionColumns}
      FROM (SELECT DISTINCT user_id FROM unnest(${sql.array(userIds, "int8")}) AS a (user_id)) AS a
      CROSS JOIN LATERAL (SELECT ${sequence} AS sequence OFFSET 0) AS s
      CROSS JOIN LATERAL (
        SELECT t.id FROM ledgerd.transactions t WHERE t.user_id = a.user_id AND t.currency = ${currency} AND t.sequence = s.sequence LIMIT 1
      ) AS f
      JOIN ledgerd.transactions t ON t.id = f.id`);
    return inOrder(userIds, currency, found.map(accountAfter));
  }

  async function list(currency: string, after: { readonly userId: bigint; readonly currency: string }, limit: number): Promise<readonly Account[]> {
    const filter = currency === "" ? sql.fragment`TRUE` : sql.fragment`b.currency = ${currency}`;
    return pool.any(sql.type(rows.account)`
      SELECT ${accountColumns}
      FROM ledgerd.user_balances b
      WHERE (b.user_id, b.currency) > (${after.userId}, ${after.currency}) AND b.sequence > 0 AND ${filter}
      ORDER BY b.user_id, b.currency
      LIMIT ${limit}`);
  }

  async function now(): Promise<bigint> {
    return pool.oneFirst(sql.type(timeRow)`
      SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8 AS time`);
  }
}

function inOrder(userIds: readonly bigint[], currency: string, accounts: readonly Account[]): readonly Account[] {
  const found = new Map(accounts.map((account) => [account.userId, account]));
  return userIds.map((userId) => found.get(userId) ?? newAccount(userId, currency));
}
