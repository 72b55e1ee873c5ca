// Repairs what hangs on the log, from the log, under the locks that writes take: so a write that comes between finds the one state or the other.
//
// An account's last row says how it stands: nothing has to be summed up. What was read before the lock only tells where to look.

import { sql, type CommonQueryMethods, type DatabasePool } from "slonik";
import { z } from "zod";
import { accountId, type AccountName, inLockOrder } from "../../domain/money/account.ts";
import { accountTable } from "../../postgres/journal/lock.ts";
import { timestamp } from "../../postgres/rows/rows.ts";

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
  /** Undefined: there was none. */
  readonly before: BalanceColumns | undefined;
  readonly after: BalanceColumns;
}

/** A balance row that was left as it is: it knows of more rows than the log has. */
export interface LeftBalance extends AccountName {
  readonly sequence: bigint;
  readonly logSequence: bigint;
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

/** The columns of `b` that the log says something about, and what it says: by the last row `l`; of an account without rows, that it has nothing. */
const kept = sql.fragment`(b.balance, b.held, b.credit_limit, b.sequence, b.updated_at, b.chain_head)`;
const said = sql.fragment`
  (coalesce(l.balance_after, 0.00), coalesce(l.held_after, 0.00), coalesce(l.credit_limit_after, 0.00), coalesce(l.sequence, 0), coalesce(l.created_at, b.updated_at), l.hash)`;

const leftRow = z
  .object({ user_id: z.bigint(), currency: z.string(), sequence: z.bigint(), log_sequence: z.bigint() })
  .transform((row): LeftBalance => ({ ...nameOf(row), sequence: row.sequence, logSequence: row.log_sequence }));

/**
 * Makes the balance rows of these accounts what their last rows say, and restores missing ones; answers those that it changed, and those that it left. One
 * that knows of more rows than the log has is changed only with `truncated`: the log's last rows were taken out, and the balance row alone still
 * tells of them. If it tells of rows and there are none at all, it is left even so: of that money nothing else is known.
 */
export function repairBalances(pool: DatabasePool, accounts: readonly AccountName[], truncated: boolean): Promise<{ readonly repaired: readonly RepairedBalance[]; readonly left: readonly LeftBalance[] }> {
  return pool.transaction(async (transaction) => {
    const before = await lock(transaction, accounts);
    const after = await transaction.any(sql.type(balanceRow)`
      UPDATE ledgerd.user_balances b
      SET (balance, held, credit_limit, sequence, updated_at, chain_head) = ${said}
      FROM ${accountTable(accounts)}
      LEFT JOIN LATERAL (
        SELECT t.balance_after, t.held_after, t.credit_limit_after, t.sequence, t.created_at, t.hash
        FROM ledgerd.transactions t
        WHERE t.user_id = a.user_id AND t.currency = a.currency
        ORDER BY t.sequence DESC
        LIMIT 1
      ) AS l ON TRUE
      WHERE b.user_id = a.user_id AND b.currency = a.currency AND (b.sequence <= coalesce(l.sequence, 0) OR (${truncated} AND l.sequence IS NOT NULL))
        AND ${kept} IS DISTINCT FROM ${said}
      RETURNING ${balanceColumns}`);
    const left = await transaction.any(sql.type(leftRow)`
      SELECT b.user_id, b.currency, b.sequence, coalesce(l.sequence, 0) AS log_sequence
      FROM ${accountTable(accounts)}
      JOIN ledgerd.user_balances b ON b.user_id = a.user_id AND b.currency = a.currency
      LEFT JOIN LATERAL (
        SELECT t.sequence FROM ledgerd.transactions t WHERE t.user_id = a.user_id AND t.currency = a.currency ORDER BY t.sequence DESC LIMIT 1
      ) AS l ON TRUE
      WHERE b.sequence > coalesce(l.sequence, 0)
      ORDER BY a.place`);
    const found = new Map(before.map((row) => [accountId(row.userId, row.currency), row]));
    return { repaired: after.toSorted(inLockOrder).map((row) => ({ before: found.get(accountId(row.userId, row.currency)), after: row })), left };
  });
}

const toldRow = z.object({ hold_id: z.bigint() });
const holdRow = z.object({ id: z.bigint(), captured: z.string(), state: z.string() });

/** Makes the state of these holds of an account what its rows say, and restores missing ones; answers those that it changed, and those of which no row tells. */
export function repairHolds(pool: DatabasePool, account: AccountName, ids: readonly bigint[]): Promise<{ readonly repaired: readonly RepairedHold[]; readonly left: readonly bigint[] }> {
  const { userId, currency } = account;
  return pool.transaction(async (transaction) => {
    await lock(transaction, [account]);
    const repaired = await transaction.any(sql.type(holdRow)`
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
    const told = await transaction.anyFirst(sql.type(toldRow)`
      SELECT DISTINCT t.hold_id
      FROM ledgerd.transactions t
      WHERE t.user_id = ${userId} AND t.currency = ${currency} AND t.hold_id = ANY(${sql.array(ids, "int8")})
      LIMIT ${ids.length}`);
    return { repaired, left: ids.filter((id) => !told.includes(id)) };
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

/** A part of the accounts: those that differ from their last rows, and the one to look on behind. */
export interface DifferingAccounts {
  readonly accounts: readonly AccountName[];
  readonly done: number;
  readonly next: AccountName | undefined;
}

const accountRow = z.object({ user_id: z.bigint(), currency: z.string(), differs: z.boolean() });

/** The accounts behind one whose balance row isn't what their last row says; it is a look, without locks. */
export async function differingAccounts(pool: DatabasePool, from: AccountName, limit: number): Promise<DifferingAccounts> {
  const found = await pool.any(sql.type(accountRow)`
    SELECT b.user_id, b.currency, ${kept} IS DISTINCT FROM ${said} AS differs
    FROM (
      SELECT b.user_id, b.currency, b.balance, b.held, b.credit_limit, b.sequence, b.updated_at, b.chain_head
      FROM ledgerd.user_balances b
      WHERE (b.user_id, b.currency) > (${from.userId}::int8, ${from.currency}::text)
      ORDER BY b.user_id, b.currency
      LIMIT ${limit}
    ) AS b
    LEFT JOIN LATERAL (
      SELECT t.balance_after, t.held_after, t.credit_limit_after, t.sequence, t.created_at, t.hash
      FROM ledgerd.transactions t
      WHERE t.user_id = b.user_id AND t.currency = b.currency
      ORDER BY t.sequence DESC
      LIMIT 1
    ) AS l ON TRUE
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

/** What was looked through for accounts without a balance row, up to an id. */
export interface RestoredBalances {
  readonly rows: number;
  readonly next: bigint | undefined;
  readonly restored: readonly BalanceColumns[];
}

/**
 * Restores the balance rows of accounts that have none, of those whose first row lies behind an id. No lock is needed: where a write makes the row
 * just now it stays as it is, and is held against its account's last row when balance rows are gone through.
 */
export async function restoreBalances(pool: DatabasePool, after: bigint, limit: number): Promise<RestoredBalances> {
  const { rows, last } = await pool.one(sql.type(pageRow)`
    SELECT count(*) AS rows, max(page.id) AS last
    FROM (SELECT t.id FROM ledgerd.transactions t WHERE t.id > ${after} ORDER BY t.id LIMIT ${limit}) AS page`);
  if (last === null) return { rows: 0, next: undefined, restored: [] };
  const restored = await pool.any(sql.type(balanceRow)`
    INSERT INTO ledgerd.user_balances AS b (user_id, currency, balance, held, credit_limit, sequence, updated_at, chain_head)
    SELECT a.user_id, a.currency, l.balance_after, l.held_after, l.credit_limit_after, l.sequence, l.created_at, l.hash
    FROM (
      SELECT t.user_id, t.currency
      FROM ledgerd.transactions t
      WHERE t.id > ${after} AND t.id <= ${last} AND t.sequence = 1
        AND NOT EXISTS (SELECT FROM ledgerd.user_balances b WHERE b.user_id = t.user_id AND b.currency = t.currency)
      ORDER BY t.user_id, t.currency
      LIMIT ${limit}
    ) AS a
    CROSS JOIN LATERAL (
      SELECT t.balance_after, t.held_after, t.credit_limit_after, t.sequence, t.created_at, t.hash
      FROM ledgerd.transactions t
      WHERE t.user_id = a.user_id AND t.currency = a.currency
      ORDER BY t.sequence DESC
      LIMIT 1
    ) AS l
    ON CONFLICT DO NOTHING
    RETURNING ${balanceColumns}`);
  return { rows: Number(rows), next: last, restored };
}

function nameOf(row: { readonly user_id: bigint; readonly currency: string }): AccountName {
  return { userId: row.user_id, currency: row.currency };
}
