// The log by account, in pages, each in a snapshot of its own together with what hangs on its accounts: their balance rows and their holds. So
// a page is true by itself, whatever is written meanwhile.
//
// An account that goes over the end of a page is read on in later snapshots, up to the row that was its last one in the first of them: there
// its balance row belongs to, which was read in that snapshot, too.

import { sql } from "slonik";
import { accountId, type AccountName } from "../../domain/money/account.ts";
import type { Currencies } from "../../domain/money/currency.ts";
import { accountColumns, holdColumns, transactionColumns } from "../../postgres/rows/rows.ts";
import { logRowOf, type LogRow } from "./log-rows.ts";
import { integer } from "../../postgres/rows/rows.ts";
import type { Ask, Fields, ProofSession } from "./session.ts";

/** Up to where the log was read. */
export interface Cursor extends AccountName {
  /** The last row that was read of this account, and up to which sequence it is to be read; undefined: all of it was. */
  readonly last: { readonly sequence: bigint; readonly id: bigint; readonly upTo: bigint } | undefined;
}

/** Before all accounts. */
export const START: Cursor = { userId: -(2n ** 63n), currency: "", last: undefined };

/** A balance row, amounts as texts. */
export interface Projection extends AccountName {
  readonly balance: string;
  readonly held: string;
  readonly creditLimit: string;
  readonly sequence: bigint;
  readonly time: bigint;
  /** In hexadecimal digits. */
  readonly head: string | undefined;
  /** How many holds the account has, in any state. */
  readonly holds: bigint;
}

/** A row of the table of holds, amounts as texts. */
export interface StoredHold extends AccountName {
  readonly id: bigint;
  readonly amount: string;
  readonly captured: string;
  readonly state: string;
  readonly jobId: bigint | undefined;
  readonly expiresAt: bigint;
  readonly createdAt: bigint;
}

/** A part of the log. */
export interface LogPage {
  /** By account and sequence. */
  readonly rows: readonly LogRow[];
  /** By `accountId`: the balance rows of all accounts that begin in this page, and of those without rows between them. */
  readonly projections: ReadonlyMap<string, Projection>;
  /** By id: the holds that the rows are about. */
  readonly holds: ReadonlyMap<bigint, StoredHold>;
  /** From where to read on; undefined: this was the last page. Where it has a last row, rows of that row's account may still come. */
  readonly next: Cursor | undefined;
}

/** Reads the page behind a cursor: up to so many rows, and accounts. */
export function readLogPage(session: ProofSession, currencies: Currencies, from: Cursor, limit: number): Promise<LogPage> {
  return session.snapshot(async (ask) => {
    const furthest = await accountAt(ask, from, limit);
    const found = (await selectRows(ask, from, furthest, limit)).map((fields) => logRowOf(fields, currencies));
    // The row at the cursor was read already: it is asked for again because another one may wrongly have its sequence.
    const rows = found.filter(({ id }) => id !== from.last?.id);
    const full = found.length === limit ? found.at(-1) : undefined;
    const end: AccountName | undefined = full ?? furthest;
    const last = full === undefined ? undefined : { sequence: full.sequence, id: full.id, upTo: isSame(full, from) ? from.last?.upTo ?? full.sequence : await lastSequence(ask, full) };
    const projections = await selectProjections(ask, from, end, limit);
    const holds = await selectHolds(ask, [...new Set(rows.flatMap(({ holdId }) => holdId ?? []))]);
    return {
      rows,
      projections: new Map(projections.map((projection) => [accountId(projection.userId, projection.currency), projection])),
      holds: new Map(holds.map((hold) => [hold.id, hold])),
      next: end === undefined ? undefined : { userId: end.userId, currency: end.currency, last },
    };
  });
}

/** The account that is so many accounts further; undefined: there are fewer. */
async function accountAt(ask: Ask, { userId, currency }: Cursor, count: number): Promise<AccountName | undefined> {
  const [found] = await ask(sql.unsafe`
    SELECT b.user_id, b.currency
    FROM ledgerd.user_balances b
    WHERE (b.user_id, b.currency) > (${userId}::int8, ${currency}::text)
    ORDER BY b.user_id, b.currency
    OFFSET ${count - 1}::int8
    LIMIT 1`);
  return found === undefined ? undefined : { userId: BigInt(found[0] ?? ""), currency: found[1] ?? "" };
}

/** Rows that the account at the cursor gained since it was begun are passed by, however many: a hot one would never end. */
async function selectRows(ask: Ask, from: Cursor, furthest: AccountName | undefined, limit: number): Promise<readonly Fields[]> {
  const rest = from.last === undefined ? [] : await selectRest(ask, from, from.last, limit);
  return rest.length === limit ? rest : [...rest, ...(await selectBehind(ask, from, furthest, limit - rest.length))];
}

function selectRest(ask: Ask, { userId, currency }: AccountName, { sequence, upTo }: NonNullable<Cursor["last"]>, limit: number): Promise<readonly Fields[]> {
  return ask(sql.unsafe`
    SELECT ${transactionColumns}
    FROM ledgerd.transactions t
    WHERE t.user_id = ${userId} AND t.currency = ${currency} AND t.sequence >= ${sequence} AND t.sequence <= ${upTo}
    ORDER BY t.user_id, t.currency, t.sequence
    LIMIT ${limit}`);
}

function selectBehind(ask: Ask, { userId, currency }: AccountName, furthest: AccountName | undefined, limit: number): Promise<readonly Fields[]> {
  const upTo = furthest === undefined ? sql.fragment`TRUE` : sql.fragment`(t.user_id, t.currency) <= (${furthest.userId}::int8, ${furthest.currency}::text)`;
  return ask(sql.unsafe`
    SELECT ${transactionColumns}
    FROM ledgerd.transactions t
    WHERE (t.user_id, t.currency) > (${userId}::int8, ${currency}::text) AND ${upTo}
    ORDER BY t.user_id, t.currency, t.sequence
    LIMIT ${limit}`);
}

function isSame(one: AccountName, other: AccountName): boolean {
  return one.userId === other.userId && one.currency === other.currency;
}

/** The columns of `user_balances b` that the log says something about. */
const projectionColumns = sql.fragment`
  ${accountColumns}, encode(b.chain_head, 'hex') AS chain_head,
  (SELECT count(*) FROM ledgerd.holds h WHERE h.user_id = b.user_id AND h.currency = b.currency) AS holds`;

async function selectProjections(ask: Ask, { userId, currency }: Cursor, end: AccountName | undefined, limit: number): Promise<readonly Projection[]> {
  const upTo = end === undefined ? sql.fragment`TRUE` : sql.fragment`(b.user_id, b.currency) <= (${end.userId}::int8, ${end.currency}::text)`;
  const found = await ask(sql.unsafe`
    SELECT ${projectionColumns}
    FROM ledgerd.user_balances b
    WHERE (b.user_id, b.currency) > (${userId}::int8, ${currency}::text) AND ${upTo}
    ORDER BY b.user_id, b.currency
    LIMIT ${limit}`);
  return found.map(projectionOf);
}

function projectionOf(fields: Fields): Projection {
  const [userId = "", currency = "", balance = "", held = "", creditLimit = "", sequence = "", time = "", head = "", holds = ""] = fields.map((field) => field ?? "");
  return { userId: BigInt(userId), currency, balance, held, creditLimit, sequence: BigInt(sequence), time: BigInt(time), head: head === "" ? undefined : head, holds: BigInt(holds) };
}

async function selectHolds(ask: Ask, ids: readonly bigint[]): Promise<readonly StoredHold[]> {
  if (ids.length === 0) return [];
  const found = await ask(sql.unsafe`
    SELECT f.id, f.user_id, f.currency, f.amount, f.captured, f.state, f.job_id, f.expires_at, f.created_at
    FROM unnest(${sql.array(ids, "int8")}) AS n (id)
    CROSS JOIN LATERAL (SELECT ${holdColumns} FROM ledgerd.holds h WHERE h.id = n.id LIMIT 1) AS f`);
  return found.map(holdOf);
}

function holdOf(fields: Fields): StoredHold {
  const [id = "", userId = "", currency = "", amount = "", captured = "", state = "", , expiresAt = "", createdAt = ""] = fields.map((field) => field ?? "");
  return { id: BigInt(id), userId: BigInt(userId), currency, amount, captured, state, jobId: integer(fields[6]), expiresAt: BigInt(expiresAt), createdAt: BigInt(createdAt) };
}

async function lastSequence(ask: Ask, { userId, currency }: AccountName): Promise<bigint> {
  const [found] = await ask(sql.unsafe`
    SELECT t.sequence
    FROM ledgerd.transactions t
    WHERE t.user_id = ${userId} AND t.currency = ${currency}
    ORDER BY t.sequence DESC
    LIMIT 1`);
  return BigInt(found?.[0] ?? 0);
}

/** Holds of an account that were open at one of its rows, as they are now; those left out that rows behind it have moved. */
export function readOpenHolds(session: ProofSession, { userId, currency }: AccountName, sequence: bigint, ids: readonly bigint[]): Promise<{ readonly holds: ReadonlyMap<bigint, StoredHold>; readonly moved: ReadonlySet<bigint> }> {
  return session.snapshot(async (ask) => {
    const moved = await ask(sql.unsafe`
      SELECT DISTINCT t.hold_id
      FROM ledgerd.transactions t
      WHERE t.user_id = ${userId} AND t.currency = ${currency} AND t.sequence > ${sequence} AND t.hold_id = ANY(${sql.array(ids, "int8")})
      LIMIT ${ids.length}`);
    const holds = await selectHolds(ask, ids);
    return { holds: new Map(holds.map((hold) => [hold.id, hold])), moved: new Set(moved.map(([id]) => BigInt(id ?? ""))) };
  });
}
