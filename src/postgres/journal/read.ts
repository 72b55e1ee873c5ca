// The reading half of a group's transaction: locks the accounts, then reads what the decisions depend on.
//
// Order matters. The locks come first, always in the same order, so that groups wait for each other and never deadlock. What is decided upon
// is read by statements of their own after that: only a snapshot taken after the locks sees all that was committed before
// them. (Keys looked up in the statement that locks were read from an older snapshot: seen as a double charge.)
//
// Plans, on 100,000 accounts: the lock and all look-ups are nested loops over primary keys (test/plans.test.ts).

import { sql } from "slonik";
import { z } from "zod";
import { newAccount, type TransactionType } from "../../domain/account.ts";
import type { Command } from "../../domain/command.ts";
import { accountId, keyId, referenceId, type Book, type StoredOutcome, type Submission, type UniqueReference } from "../../domain/group.ts";
import { typeOfKind, type Original } from "../../domain/ledger.ts";
import { accountColumns, decodeRefusal, holdColumns, type Rows } from "../rows.ts";
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

/** All accounts of a group, each once, in no order. */
export function accountsOfAll(submissions: readonly Submission[], named: Named): readonly AccountName[] {
  const accounts = submissions.flatMap((submission) => accountsOf(submission, named));
  return [...new Map(accounts.map((account) => [accountId(account.userId, account.currency), account])).values()];
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
  return sql.array(accounts.map(({ userId }) => userId), "int8");
}

function currencies(accounts: readonly AccountName[]) {
  return sql.array(accounts.map(({ currency }) => currency), "text");
}

/** The account rows with the hash that their chain has come to. */
function selectAccounts(rows: Rows, accounts: readonly AccountName[], mode: LockMode) {
  const names = sql.fragment`unnest(${userIds(accounts)}, ${currencies(accounts)}) AS a (user_id, currency)`;
  const lock = { wait: sql.fragment`FOR UPDATE OF b`, skip: sql.fragment`FOR UPDATE OF b SKIP LOCKED`, look: sql.fragment`` }[mode];
  return sql.prepared(`select_accounts_${mode}`, rows.chainedAccount)`
    SELECT ${accountColumns}, b.chain_head
    FROM ${names}
    JOIN ledgerd.user_balances b ON b.user_id = a.user_id AND b.currency = a.currency
    ORDER BY b.user_id, b.currency
    ${lock}`;
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
  const texts = sql.array(keys.map(({ key }) => key), "text");
  return sql.prepared("select_outcomes", outcomeRow)`
    SELECT k.user_id, k.key, encode(k.fingerprint, 'hex') AS fingerprint, k.transaction_id, k.further_transaction_ids,
           k.refusal::text, (extract(epoch FROM k.created_at) * 1000000)::int8 AS created_at
    FROM unnest(${userIds(keys)}, ${texts}) AS u (user_id, key)
    JOIN ledgerd.idempotency_keys k ON k.user_id = u.user_id AND k.key = u.key`;
}

function selectExpiredHolds(rows: Rows, accounts: readonly AccountName[]) {
  return sql.prepared("select_expired_holds", rows.hold)`
    SELECT ${holdColumns}
    FROM unnest(${userIds(accounts)}, ${currencies(accounts)}) AS a (user_id, currency)
    JOIN ledgerd.holds h ON h.user_id = a.user_id AND h.currency = a.currency AND h.state = 'open'
                        AND h.expires_at <= clock_timestamp()
    ORDER BY h.expires_at, h.id
    LIMIT ${EXPIRY_LIMIT}`;
}

type NamedBy = readonly (readonly [id: bigint, userId: bigint])[];

function namedBy(names: NamedBy) {
  const ids = sql.array(names.map(([id]) => id), "int8");
  const users = sql.array(names.map(([, userId]) => userId), "int8");
  return sql.fragment`(SELECT DISTINCT id, user_id FROM unnest(${ids}, ${users}) AS n (id, user_id)) AS n`;
}

function selectHolds(rows: Rows, names: NamedBy) {
  return sql.prepared("select_holds", rows.hold)`
    SELECT ${holdColumns} FROM ${namedBy(names)} JOIN ledgerd.holds h ON h.id = n.id AND h.user_id = n.user_id`;
}

function selectHoldCurrencies(names: NamedBy) {
  return sql.prepared("select_hold_currencies", z.object({ id: z.bigint(), currency: z.string() }))`
    SELECT h.id, h.currency FROM ${namedBy(names)} JOIN ledgerd.holds h ON h.id = n.id AND h.user_id = n.user_id`;
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
    SELECT t.id, t.user_id, t.currency, t.type, t.amount
    FROM ${namedBy(names)} JOIN ledgerd.transactions t ON t.id = n.id AND t.user_id = n.user_id`;
}

function selectRefunded(transactionIds: readonly bigint[]) {
  return sql.prepared("select_refunded", z.object({ id: z.bigint(), refunded: z.string() }))`
    SELECT t.refunded_transaction_id AS id, sum(t.amount) AS refunded
    FROM ledgerd.transactions t
    WHERE t.refunded_transaction_id = ANY(${sql.array([...transactionIds], "int8")})
    GROUP BY t.refunded_transaction_id`;
}

const referenceRow = z
  .object({ user_id: z.bigint(), type: z.custom<TransactionType>((type) => typeof type === "string"), reference: z.string() })
  .transform((row): UniqueReference => ({ userId: row.user_id, type: row.type, reference: row.reference }));

function selectReferences(references: readonly UniqueReference[]) {
  const types = sql.array(references.map(({ type }) => type), "text");
  const texts = sql.array(references.map(({ reference }) => reference), "text");
  return sql.prepared("select_references", referenceRow)`
    SELECT DISTINCT r.user_id, r.type, r.reference
    FROM unnest(${userIds(references)}, ${types}, ${texts}) AS u (user_id, type, reference)
    JOIN ledgerd.unique_references r ON r.user_id = u.user_id AND r.type = u.type AND r.reference = u.reference`;
}

function drawHoldIds(count: number) {
  return sql.prepared("draw_hold_ids", z.object({ id: z.bigint() }))`
    SELECT nextval('ledgerd.holds_id_seq') AS id FROM generate_series(1, ${count}::int)`;
}
