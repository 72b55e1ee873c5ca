// Repairs what hangs on the log, from the log, under the locks that writes take: so a write that comes between finds the one state or the other.
//
// An account's last row says how it stands: nothing has to be summed up. What was read before the lock only tells where to look.

import { sql, type CommonQueryMethods, type DatabasePool } from "slonik";
import { z } from "zod";
import { timestamp } from "../rows.ts";
import type { AccountName } from "./log-pages.ts";

/** A balance row, amounts as texts, the hash in hexadecimal digits. */
export interface BalanceColumns extends AccountName {
  readonly balance: string;
  readonly held: string;
  readonly creditLimit: string;
  readonly sequence: bigint;
  readonly updatedAt: string;
  readonly chainHead: string | undefined;
}

/** A balance row that was changed. */
export interface RepairedBalance {
  readonly before: BalanceColumns;
  readonly after: BalanceColumns;
}

/** A hold as it was changed to, or restored. */
export interface RepairedHold {
  readonly id: bigint;
  readonly captured: string;
  readonly state: string;
}

const balanceRow = z
  .object({ user_id: z.bigint(), currency: z.string(), balance: z.string(), held: z.string(), credit_limit: z.string(), sequence: z.bigint(), time: z.bigint(), chain_head: z.string().nullable() })
  .transform((row): BalanceColumns => ({
    userId: row.user_id,
    currency: row.currency,
    balance: row.balance,
    held: row.held,
    creditLimit: row.credit_limit,
    sequence: row.sequence,
    updatedAt: row.sequence === 0n ? "" : timestamp(row.time),
    chainHead: row.chain_head ?? undefined,
  }));

const balanceColumns = sql.fragment`
  b.user_id, b.currency, b.balance, b.held, b.credit_limit, b.sequence, (extract(epoch FROM b.updated_at) * 1000000)::int8 AS time,
  encode(b.chain_head, 'hex') AS chain_head`;

/**
 * Makes the balance rows of these accounts what their last rows say, and restores missing ones; answers those that it changed. One that knows of more
 * rows than the log has is changed only with `truncated`: the log's last rows were taken out, and the balance row alone still tells of them.
 */
export function repairBalances(pool: DatabasePool, accounts: readonly AccountName[], truncated: boolean): Promise<readonly RepairedBalance[]> {
  return pool.transaction(async (transaction) => {
    const before = await lock(transaction, accounts);
    const after = await transaction.any(sql.type(balanceRow)`
      UPDATE ledgerd.user_balances b
      SET balance = l.balance_after, held = l.held_after, credit_limit = l.credit_limit_after, sequence = l.sequence, updated_at = l.created_at,
          chain_head = l.hash
      FROM ${accountTable(accounts)}
      CROSS JOIN LATERAL (
        SELECT t.balance_after, t.held_after, t.credit_limit_after, t.sequence, t.created_at, t.hash
        FROM ledgerd.transactions t
        WHERE t.user_id = a.user_id AND t.currency = a.currency
        ORDER BY t.sequence DESC
        LIMIT 1
      ) AS l
      WHERE b.user_id = a.user_id AND b.currency = a.currency AND (b.sequence <= l.sequence OR ${truncated})
        AND (b.balance, b.held, b.credit_limit, b.sequence, b.updated_at, b.chain_head)
          IS DISTINCT FROM (l.balance_after, l.held_after, l.credit_limit_after, l.sequence, l.created_at, l.hash)
      RETURNING ${balanceColumns}`);
    return after.flatMap((row) => {
      const found = before.find(({ userId, currency }) => userId === row.userId && currency === row.currency);
      return found === undefined ? [] : [{ before: found, after: row }];
    });
  });
}

const holdRow = z.object({ id: z.bigint(), captured: z.string(), state: z.string() });

/** Makes the state of these holds of an account what its rows say, and restores missing ones; answers those that it changed. */
export function repairHolds(pool: DatabasePool, account: AccountName, ids: readonly bigint[]): Promise<readonly RepairedHold[]> {
  const { userId, currency } = account;
  return pool.transaction(async (transaction) => {
    await lock(transaction, [account]);
    return transaction.any(sql.type(holdRow)`
      INSERT INTO ledgerd.holds (id, user_id, currency, amount, captured, state, job_id, expires_at, created_at)
      SELECT f.id, ${userId}, ${currency}, f.amount, f.captured, f.state, f.job_id, f.expires_at, f.created_at
      FROM (
        SELECT t.hold_id AS id, sum(t.held_change) FILTER (WHERE t.type = 'hold') AS amount, -sum(t.amount) AS captured,
               CASE WHEN sum(t.held_change) > 0 THEN 'open'
                    WHEN bool_or(t.type = 'release') THEN 'released'
                    WHEN bool_or(t.type = 'expiry') THEN 'expired'
                    ELSE 'captured' END AS state,
               max(t.job_id) AS job_id, max(t.hold_expires_at) AS expires_at, min(t.created_at) AS created_at
        FROM ledgerd.transactions t
        WHERE t.user_id = ${userId} AND t.currency = ${currency} AND t.hold_id = ANY(${sql.array(ids, "int8")})
        GROUP BY t.hold_id
      ) AS f
      ORDER BY f.id
      ON CONFLICT (id, user_id) DO UPDATE SET captured = EXCLUDED.captured, state = EXCLUDED.state
      WHERE (holds.captured, holds.state) IS DISTINCT FROM (EXCLUDED.captured, EXCLUDED.state)
      RETURNING id, captured, state`);
  });
}

/** Locks the accounts' rows in the order in which they are named, which must be that of all writes; missing ones are made. Answers how they are. */
async function lock(transaction: CommonQueryMethods, accounts: readonly AccountName[]): Promise<readonly BalanceColumns[]> {
  await transaction.any(sql.type(z.object({}))`
    INSERT INTO ledgerd.user_balances (user_id, currency)
    SELECT a.user_id, a.currency
    FROM ${accountTable(accounts)}
    ORDER BY a.place
    ON CONFLICT DO NOTHING`);
  return transaction.any(sql.type(balanceRow)`
    SELECT l.user_id, l.currency, l.balance, l.held, l.credit_limit, l.sequence, l.time, l.chain_head
    FROM ${accountTable(accounts)}
    CROSS JOIN LATERAL (
      SELECT ${balanceColumns} FROM ledgerd.user_balances b WHERE b.user_id = a.user_id AND b.currency = a.currency FOR UPDATE
    ) AS l`);
}

function accountTable(accounts: readonly AccountName[]) {
  const userIds = sql.array(accounts.map(({ userId }) => userId), "int8");
  const currencies = sql.array(accounts.map(({ currency }) => currency), "text");
  return sql.fragment`unnest(${userIds}, ${currencies}) WITH ORDINALITY AS a (user_id, currency, place)`;
}

/** A part of the accounts: those that differ from their last rows, and from where to read on. */
export interface DifferingAccounts<C> {
  readonly accounts: readonly AccountName[];
  readonly done: number;
  readonly next: C | undefined;
}

const accountRow = z.object({ user_id: z.bigint(), currency: z.string(), differs: z.boolean() });

/** The accounts behind one whose balance row isn't what their last row says; it is a look, without locks. */
export async function differingAccounts(pool: DatabasePool, from: AccountName, limit: number): Promise<DifferingAccounts<AccountName>> {
  const found = await pool.any(sql.type(accountRow)`
    SELECT b.user_id, b.currency,
           (b.balance, b.held, b.credit_limit, b.sequence, b.updated_at, b.chain_head)
             IS DISTINCT FROM (l.balance_after, l.held_after, l.credit_limit_after, l.sequence, l.created_at, l.hash) AS differs
    FROM (
      SELECT b.user_id, b.currency, b.balance, b.held, b.credit_limit, b.sequence, b.updated_at, b.chain_head
      FROM ledgerd.user_balances b
      WHERE (b.user_id, b.currency) > (${from.userId}::int8, ${from.currency}::text)
      ORDER BY b.user_id, b.currency
      LIMIT ${limit}
    ) AS b
    CROSS JOIN LATERAL (
      SELECT t.balance_after, t.held_after, t.credit_limit_after, t.sequence, t.created_at, t.hash
      FROM ledgerd.transactions t
      WHERE t.user_id = b.user_id AND t.currency = b.currency
      ORDER BY t.sequence DESC
      LIMIT 1
    ) AS l
    ORDER BY b.user_id, b.currency
    LIMIT ${limit}`);
  const last = found.at(-1);
  return {
    accounts: found.filter(({ differs }) => differs).map(nameOf),
    done: found.length,
    next: last === undefined ? undefined : nameOf(last),
  };
}

const pageRow = z.object({ rows: z.bigint(), last: z.bigint().nullable() });
const nameRow = z.object({ user_id: z.bigint(), currency: z.string() });

/** The accounts without a balance row whose first row lies behind an id. */
export async function missingAccounts(pool: DatabasePool, after: bigint, limit: number): Promise<DifferingAccounts<bigint>> {
  const { rows, last } = await pool.one(sql.type(pageRow)`
    SELECT count(*) AS rows, max(page.id) AS last
    FROM (SELECT t.id FROM ledgerd.transactions t WHERE t.id > ${after} ORDER BY t.id LIMIT ${limit}) AS page`);
  if (last === null) return { accounts: [], done: 0, next: undefined };
  const found = await pool.any(sql.type(nameRow)`
    SELECT DISTINCT t.user_id, t.currency
    FROM ledgerd.transactions t
    WHERE t.id > ${after} AND t.id <= ${last} AND t.sequence = 1
      AND NOT EXISTS (SELECT FROM ledgerd.user_balances b WHERE b.user_id = t.user_id AND b.currency = t.currency)
    LIMIT ${limit}`);
  return { accounts: found.map(nameOf), done: Number(rows), next: last };
}

function nameOf(row: z.output<typeof nameRow>): AccountName {
  return { userId: row.user_id, currency: row.currency };
}
