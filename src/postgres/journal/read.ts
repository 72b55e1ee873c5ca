// The reading half of a group's transaction: locks the accounts, then reads what the decisions depend on.
//
// Order matters. The locks come first, always in the same order, so that groups wait for each other and never deadlock. What is decided upon
// is read by statements of their own after that: only a snapshot taken after the locks sees all that was committed before
// them. (Keys looked up in the statement that locks were read from an older snapshot: seen as a double charge.)
//
// Plans: all are probes of an index, one for each element of the arrays, with empty tables as with full ones (test/plans.test.ts holds
// them to it). They are made once for each session, so one that scans while a table is empty goes on to scan it when it is full: written as
// joins, the lock and the look-up of keys became walks through whole primary keys, and a lone call took 11 ms with 100,000 accounts. Hence the
// lateral subqueries: with a lock or a LIMIT inside they can only be probed, element by element.

import { sql } from "slonik";
import { z } from "zod";
import { newAccount, type TransactionType } from "../../domain/account.ts";
import type { Command } from "../../domain/command.ts";
import { accountId, keyId, referenceId, type Book, type StoredOutcome, type Submission, type UniqueReference } from "../../domain/group.ts";
import { typeOfKind, type Original } from "../../domain/ledger.ts";
import { accountColumns, decodeRefusal, holdColumns, type Rows } from "../rows.ts";
import { int8s, texts } from "./arrays.ts";
import type { Send } from "./connection.ts";

/** An account's name. */
export interface AccountName {
  readonly userId: bigint;
  readonly currency: string;
}

/** What never changes of the holds and transactions that commands name; it says which accounts to lock. */
export interface Named {
  readonly holdCurrencies: ReadonlyMap<bigint, string>;
  readonly originals: ReadonlyMap<bigint, Omit<Original, "refunded">>;
}

/** How to lock: wait for other sessions, leave out what they have locked, or only look. */
export type LockMode = "wait" | "skip" | "look";

/**
 * How many expired holds of its accounts one group sets free. Where there are more, it frees these and starts over, so that the
 * transaction's size stays bounded.
 */
export const EXPIRY_LIMIT = 1000;

/** The commands that name a hold or a transaction. */
export function namesAnything(submissions: readonly Submission[]): boolean {
  return submissions.some(({ commands }) => commands.some((command) => "holdId" in command || "transactionId" in command));
}

/** Reads what never changes of the named holds and transactions: no lock is needed. */
export async function readNamed(send: Send, rows: Rows, submissions: readonly Submission[]): Promise<Named> {
  const commands = submissions.flatMap((submission) => submission.commands);
  const holds = commands.flatMap((command) => ("holdId" in command ? [[command.holdId, command.userId] as const] : []));
  const originals = commands.flatMap((command) => ("transactionId" in command ? [[command.transactionId, command.userId] as const] : []));
  const [foundHolds, foundOriginals] = await Promise.all([send(selectHoldCurrencies(holds)), send(selectOriginals(originals))]);
  return {
    holdCurrencies: new Map(foundHolds.map(({ id, currency }) => [id, currency])),
    originals: new Map(
      foundOriginals.map(({ id, user_id: userId, currency, type, amount }) => [
        id,
        { id, userId, currency, type, amount: rows.minor(amount, currency) },
      ]),
    ),
  };
}

/** The accounts that a submission's commands change, in no order. */
export function accountsOf({ commands }: Submission, named: Named): readonly AccountName[] {
  return commands.flatMap((command) => {
    const currency = currencyOfCommand(command, named);
    const own = { userId: command.userId, currency };
    return command.kind === "transfer" ? [own, { userId: command.toUserId, currency }] : [own];
  });
}

/** All accounts of a group, each once, in the order in which every group locks them. */
export function accountsOfAll(submissions: readonly Submission[], named: Named): readonly AccountName[] {
  const accounts = submissions.flatMap((submission) => accountsOf(submission, named));
  const distinct = [...new Map(accounts.map((account) => [accountId(account.userId, account.currency), account])).values()];
  return distinct.toSorted(inLockOrder);
}

function inLockOrder(a: AccountName, b: AccountName): number {
  if (a.userId !== b.userId) return a.userId < b.userId ? -1 : 1;
  return a.currency < b.currency ? -1 : 1;
}

function currencyOfCommand(command: Command, { holdCurrencies, originals }: Named): string {
  if ("holdId" in command) return holdCurrencies.get(command.holdId) ?? command.currency;
  if ("transactionId" in command) return originals.get(command.transactionId)?.currency ?? command.currency;
  return command.currency;
}

/** Makes the rows of accounts that don't exist yet, so that they can be locked. */
export function insertMissingAccounts(accounts: readonly AccountName[]) {
  return sql.prepared("insert_missing_accounts", z.object({}))`
    INSERT INTO ledgerd.user_balances (user_id, currency)
    SELECT a.user_id, a.currency
    FROM unnest(${userIds(accounts)}, ${currencies(accounts)}) AS a (user_id, currency)
    ORDER BY a.user_id, a.currency
    ON CONFLICT DO NOTHING`;
}

/** Sends the lock and all look-ups; `read` puts their answers together. */
export function sendReads(send: Send, rows: Rows, submissions: readonly Submission[], accounts: readonly AccountName[], mode: LockMode) {
  const commands = submissions.flatMap((submission) => submission.commands);
  const keys = submissions.flatMap(({ userId, key }) => (key === undefined ? [] : [{ userId, key }]));
  const holds = commands.flatMap((command) => ("holdId" in command ? [[command.holdId, command.userId] as const] : []));
  const originals = commands.flatMap((command) => ("transactionId" in command ? [command.transactionId] : []));
  const references = commands.flatMap(({ userId, kind, note }) =>
    note.uniqueReference ? [{ userId, type: typeOfKind[kind], reference: note.reference }] : [],
  );
  const newHolds = commands.filter((command) => command.kind === "place_hold").length;
  const none = Promise.resolve([]);
  return {
    accounts: send(selectAccounts(rows, accounts, mode)),
    time: send(selectTime),
    outcomes: send(selectOutcomes(keys)),
    expired: send(selectExpiredHolds(rows, accounts)),
    holds: holds.length === 0 ? none : send(selectHolds(rows, holds)),
    refunded: originals.length === 0 ? none : send(selectRefunded(originals)),
    references: references.length === 0 ? none : send(selectReferences(references)),
    newHoldIds: newHolds === 0 || mode === "look" ? none : send(drawHoldIds(newHolds)),
  };
}

/** What the reads of a group found. */
export type Found = { [K in keyof ReturnType<typeof sendReads>]: Awaited<ReturnType<typeof sendReads>[K]> };

/**
 * The facts for the decisions on the accounts that were found, which are the locked ones; where nothing was locked (mode `look`), also
 * on `unborn` ones, that don't exist yet.
 */
export function bookOf(found: Found, named: Named, unborn: readonly AccountName[], rows: Rows): Book {
  const [now] = found.time;
  if (now === undefined) throw new Error("PostgreSQL did not tell the time");
  const accounts = new Map([
    ...unborn.map(({ userId, currency }) => [accountId(userId, currency), newAccount(userId, currency)] as const),
    ...found.accounts.map(({ account }) => [accountId(account.userId, account.currency), account] as const),
  ]);
  const holds = [...found.holds, ...found.expired].filter((hold) => accounts.has(accountId(hold.userId, hold.currency)));
  const refunded = new Map(found.refunded.map(({ id, refunded: sum }) => [id, sum]));
  return {
    time: now.time,
    accounts,
    holds: new Map(holds.map((hold) => [hold.id, hold])),
    originals: new Map(
      [...named.originals].map(([id, original]) => [id, { ...original, refunded: rows.minor(refunded.get(id) ?? "0", original.currency) }]),
    ),
    outcomes: new Map(found.outcomes.map(({ user_id: userId, key, ...outcome }) => [keyId(userId, key), outcome])),
    references: new Set(found.references.map(referenceId)),
    newHoldIds: found.newHoldIds.map(({ id }) => id),
  };
}

function userIds(accounts: readonly { readonly userId: bigint }[]) {
  return int8s(accounts.map(({ userId }) => userId));
}

function currencies(accounts: readonly AccountName[]) {
  return texts(accounts.map(({ currency }) => currency));
}

/** The account rows, locked in the order in which they are named. */
function selectAccounts(rows: Rows, accounts: readonly AccountName[], mode: LockMode) {
  const lock = { wait: sql.fragment`FOR UPDATE`, skip: sql.fragment`FOR UPDATE SKIP LOCKED`, look: sql.fragment`OFFSET 0` }[mode];
  return sql.prepared(`select_accounts_${mode}`, rows.lockedAccount)`
    SELECT l.user_id, l.currency, l.balance, l.held, l.credit_limit, l.sequence, l.time, l.chain_head, l.row
    FROM unnest(${userIds(accounts)}, ${currencies(accounts)}) AS a (user_id, currency)
    CROSS JOIN LATERAL (
      SELECT ${accountColumns}, b.chain_head, b.ctid::text AS row
      FROM ledgerd.user_balances b
      WHERE b.user_id = a.user_id AND b.currency = a.currency
      ${lock}
    ) AS l`;
}

const selectTime = sql.prepared("select_time", z.object({ time: z.bigint() }))`
  SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8 AS time`;

const outcomeRow = z
  .object({
    user_id: z.bigint(),
    key: z.string(),
    fingerprint: z.string(),
    transaction_id: z.bigint().nullable(),
    further_transaction_ids: z.array(z.bigint()).nullable(),
    refusal: z.string().nullable(),
    created_at: z.bigint(),
  })
  .transform((row): StoredOutcome & { user_id: bigint; key: string } => ({
    user_id: row.user_id,
    key: row.key,
    fingerprint: row.fingerprint,
    createdAt: row.created_at,
    transactionIds: row.transaction_id === null ? [] : [row.transaction_id, ...(row.further_transaction_ids ?? [])],
    refused: row.refusal === null ? undefined : decodeRefusal(row.refusal),
  }));

/** The stored outcomes of these keys. */
export function selectOutcomes(keys: readonly { readonly userId: bigint; readonly key: string }[]) {
    return sql.prepared("select_outcomes", outcomeRow)`
    SELECT o.user_id, o.key, o.fingerprint, o.transaction_id, o.further_transaction_ids, o.refusal, o.created_at
    FROM unnest(${userIds(keys)}, ${texts(keys.map(({ key }) => key))}) AS u (user_id, key)
    CROSS JOIN LATERAL (
      SELECT k.user_id, k.key, encode(k.fingerprint, 'hex') AS fingerprint, k.transaction_id, k.further_transaction_ids,
             k.refusal::text, (extract(epoch FROM k.created_at) * 1000000)::int8 AS created_at
      FROM ledgerd.idempotency_keys k
      WHERE k.user_id = u.user_id AND k.key = u.key
      LIMIT 1
    ) AS o`;
}

function selectExpiredHolds(rows: Rows, accounts: readonly AccountName[]) {
  return sql.prepared("select_expired_holds", rows.hold)`
    SELECT e.id, e.user_id, e.currency, e.amount, e.captured, e.state, e.job_id, e.expires_at, e.created_at
    FROM unnest(${userIds(accounts)}, ${currencies(accounts)}) AS a (user_id, currency)
    CROSS JOIN LATERAL (
      SELECT ${holdColumns}
      FROM ledgerd.holds h
      WHERE h.user_id = a.user_id AND h.currency = a.currency AND h.state = 'open' AND h.expires_at <= statement_timestamp()
      ORDER BY h.expires_at
      LIMIT ${EXPIRY_LIMIT}
    ) AS e
    LIMIT ${EXPIRY_LIMIT}`;
}

type NamedBy = readonly (readonly [id: bigint, userId: bigint])[];

function namedBy(names: NamedBy) {
  const ids = int8s(names.map(([id]) => id));
  const users = int8s(names.map(([, userId]) => userId));
  return sql.fragment`unnest(${ids}, ${users}) AS n (id, user_id)`;
}

function selectHolds(rows: Rows, names: NamedBy) {
  return sql.prepared("select_holds", rows.hold)`
    SELECT f.id, f.user_id, f.currency, f.amount, f.captured, f.state, f.job_id, f.expires_at, f.created_at
    FROM ${namedBy(names)}
    CROSS JOIN LATERAL (SELECT ${holdColumns} FROM ledgerd.holds h WHERE h.id = n.id AND h.user_id = n.user_id LIMIT 1) AS f`;
}

function selectHoldCurrencies(names: NamedBy) {
  return sql.prepared("select_hold_currencies", z.object({ id: z.bigint(), currency: z.string() }))`
    SELECT n.id, f.currency
    FROM ${namedBy(names)}
    CROSS JOIN LATERAL (SELECT h.currency FROM ledgerd.holds h WHERE h.id = n.id AND h.user_id = n.user_id LIMIT 1) AS f`;
}

const originalRow = z.object({
  id: z.bigint(),
  user_id: z.bigint(),
  currency: z.string(),
  type: z.custom<TransactionType>((type) => typeof type === "string"),
  amount: z.string(),
});

function selectOriginals(names: NamedBy) {
  return sql.prepared("select_originals", originalRow)`
    SELECT n.id, n.user_id, f.currency, f.type, f.amount
    FROM ${namedBy(names)}
    CROSS JOIN LATERAL (
      SELECT t.currency, t.type, t.amount FROM ledgerd.transactions t WHERE t.id = n.id AND t.user_id = n.user_id LIMIT 1
    ) AS f`;
}

function selectRefunded(transactionIds: readonly bigint[]) {
  return sql.prepared("select_refunded", z.object({ id: z.bigint(), refunded: z.string() }))`
    SELECT t.refunded_transaction_id AS id, sum(t.amount) AS refunded
    FROM ledgerd.transactions t
    WHERE t.refunded_transaction_id = ANY(${int8s(transactionIds)})
    GROUP BY t.refunded_transaction_id`;
}

const referenceRow = z
  .object({ user_id: z.bigint(), type: z.custom<TransactionType>((type) => typeof type === "string"), reference: z.string() })
  .transform((row): UniqueReference => ({ userId: row.user_id, type: row.type, reference: row.reference }));

function selectReferences(references: readonly UniqueReference[]) {
  const types = texts(references.map(({ type }) => type));
  const names = texts(references.map(({ reference }) => reference));
  return sql.prepared("select_references", referenceRow)`
    SELECT f.user_id, f.type, f.reference
    FROM unnest(${userIds(references)}, ${types}, ${names}) AS u (user_id, type, reference)
    CROSS JOIN LATERAL (
      SELECT r.user_id, r.type, r.reference
      FROM ledgerd.unique_references r
      WHERE r.user_id = u.user_id AND r.type = u.type AND r.reference = u.reference
      LIMIT 1
    ) AS f`;
}

function drawHoldIds(count: number) {
  return sql.prepared("draw_hold_ids", z.object({ id: z.bigint() }))`
    SELECT nextval('ledgerd.holds_id_seq') AS id FROM generate_series(1, ${count}::int)`;
}
