// How domain values lie in the tables: columns to read, and their conversion. NUMERIC comes as text, BYTEA as hexadecimal digits, times as microseconds.

import { sql } from "slonik";
import { z } from "zod";
import type { Account, Hold, HoldState, TransactionType } from "../../domain/money/account.ts";
import { currencyOf, type Currencies } from "../../domain/money/currency.ts";
import type { Refused } from "../../domain/journal/group.ts";
import { isoTime } from "../../domain/moment.ts";
import type { Transaction } from "../../domain/journal/transaction.ts";
import { jobRowFor, type KeptJob } from "./job-rows.ts";

/** A row: for each column the text of its value, or NULL. */
export type Texts = readonly (string | null)[];

/**
 * Rows that were found, as far as they were read at once: those behind a part that has more bytes than an answer
 * weren't.
 */
export interface Listed {
  readonly rows: readonly Transaction[];
  readonly isWhole: boolean;
}

/** Converts what statements answer into domain values. */
export type Rows = ReturnType<typeof rowsFor>;

/** An account that is locked. */
export interface LockedAccount {
  readonly account: Account;
  /** The hash that its chain has come to; undefined: it has no rows. */
  readonly head: string | undefined;
  /** Where its row lies, as PostgreSQL writes it: `(block,offset)`. */
  readonly row: string;
  /** The time, if it was asked for here. */
  readonly now: bigint | undefined;
}

/** The columns of `user_balances b`. */
export const accountColumns = sql.fragment`
  b.user_id, b.currency, b.balance, b.held, b.credit_limit, b.sequence,
  (extract(epoch FROM b.updated_at) * 1000000)::int8 AS time`;

/** The columns of `holds h`. */
export const holdColumns = sql.fragment`
  h.id, h.user_id, h.currency, h.amount, h.captured, h.state, h.job_id,
  (extract(epoch FROM h.expires_at) * 1000000)::int8 AS expires_at,
  (extract(epoch FROM h.created_at) * 1000000)::int8 AS created_at`;

/** The columns of `transactions t`. */
export const transactionColumns = sql.fragment`
  t.id, t.user_id, t.currency, t.sequence, t.type, t.amount, t.held_change, t.balance_after, t.held_after, t.credit_limit_after,
  t.hold_id, t.hold_captured, (extract(epoch FROM t.hold_expires_at) * 1000000)::int8 AS hold_expires_at,
  t.refunded_transaction_id, t.job_id, t.group_id, t.idempotency_key, t.reference, t.description, t.metadata, t.actor, t.trace_id,
  (extract(epoch FROM t.created_at) * 1000000)::int8 AS created_at, t.hash`;

/** How many bytes the long texts of `transactions t` have: what large rows are large by. */
export const transactionBytes = sql.fragment`
  coalesce(octet_length(t.description), 0) + coalesce(octet_length(t.metadata::text), 0)`;

/** A row of `accountColumns`, its amounts as texts. */
export const accountRow = z.object({
  user_id: z.bigint(),
  currency: z.string(),
  balance: z.string(),
  held: z.string(),
  credit_limit: z.string(),
  sequence: z.bigint(),
  time: z.bigint(),
});

const holdRow = z.object({
  id: z.bigint(),
  user_id: z.bigint(),
  currency: z.string(),
  amount: z.string(),
  captured: z.string(),
  state: z.custom<HoldState>((state) => typeof state === "string"),
  job_id: z.bigint().nullable(),
  expires_at: z.bigint(),
  created_at: z.bigint(),
});

/** A row of `transactionColumns`, its amounts as texts. */
interface TransactionRow {
  readonly id: bigint;
  readonly user_id: bigint;
  readonly currency: string;
  readonly sequence: bigint;
  readonly type: TransactionType;
  readonly amount: string;
  readonly held_change: string;
  readonly balance_after: string;
  readonly held_after: string;
  readonly credit_limit_after: string;
  readonly hold_id: bigint | null;
  readonly hold_captured: string | null;
  readonly hold_expires_at: bigint | null;
  readonly refunded_transaction_id: bigint | null;
  readonly job_id: bigint | null;
  readonly group_id: string | null;
  readonly idempotency_key: string | null;
  readonly reference: string | null;
  readonly description: string | null;
  readonly metadata: Readonly<Record<string, string>> | null;
  readonly actor: string | null;
  readonly trace_id: string | null;
  readonly created_at: bigint;
  readonly hash: string;
}

/** A row of which nothing is read. Schemas are made once: making one takes as long as running a small statement. */
export const noColumns = z.object({});

/** The conversions, for a ledger with these currencies. */
export function rowsFor(currencies: Currencies) {
  const minor = (text: string, currency: string): bigint => parseStored(text, currencyOf(currencies, currency).digits);
  const optionalMinor = (text: string | null, currency: string): bigint | undefined => (text === null ? undefined : minor(text, currency));

  const toAccount = (row: z.output<typeof accountRow>): Account => ({
    userId: row.user_id,
    currency: row.currency,
    balance: minor(row.balance, row.currency),
    held: minor(row.held, row.currency),
    creditLimit: minor(row.credit_limit, row.currency),
    sequence: row.sequence,
    time: row.time,
  });
  const account = accountRow.transform(toAccount);
  const lockedAccount = accountRow
    .extend({ chain_head: z.string().nullable(), row: z.string(), now: z.bigint().nullable() })
    .transform((row): LockedAccount => ({ account: toAccount(row), head: row.chain_head ?? undefined, row: row.row, now: row.now ?? undefined }));

  const hold = holdRow.transform((row): Hold => ({
    id: row.id,
    userId: row.user_id,
    currency: row.currency,
    amount: minor(row.amount, row.currency),
    captured: minor(row.captured, row.currency),
    state: row.state,
    jobId: row.job_id ?? undefined,
    expiresAt: row.expires_at,
    createdAt: row.created_at,
  }));

  // Its columns are taken as they come: of a row of the feed, checking each took 2 of 6 µs, most of it for the copy that zod makes.
  const toTransaction = (row: TransactionRow): Transaction => ({
    id: row.id,
    userId: row.user_id,
    currency: row.currency,
    sequence: row.sequence,
    type: row.type,
    amount: minor(row.amount, row.currency),
    heldChange: minor(row.held_change, row.currency),
    balanceAfter: minor(row.balance_after, row.currency),
    heldAfter: minor(row.held_after, row.currency),
    creditLimitAfter: minor(row.credit_limit_after, row.currency),
    holdId: row.hold_id ?? undefined,
    holdCaptured: optionalMinor(row.hold_captured, row.currency),
    holdExpiresAt: row.hold_expires_at ?? undefined,
    refundedTransactionId: row.refunded_transaction_id ?? undefined,
    jobId: row.job_id ?? undefined,
    groupId: row.group_id ?? undefined,
    idempotencyKey: row.idempotency_key ?? undefined,
    reference: row.reference ?? "",
    description: row.description ?? "",
    metadata: metadataOf(row.metadata ?? {}),
    actor: row.actor ?? "",
    traceId: row.trace_id ?? "",
    createdAt: row.created_at,
    hash: row.hash,
  });
  const transaction = z.custom<TransactionRow>().transform(toTransaction);
  // One of a list, of which so many were found, though only its first ones may have been read.
  const listed = z
    .custom<TransactionRow & { readonly found: bigint }>()
    .transform((row) => ({ transaction: toTransaction(row), found: row.found }));

  const conversions = { account, lockedAccount, hold, transaction, listed, job: jobRowFor(minor) };
  return { currencies, minor, toAccount, lockedAccountOf: lockedAccountReader(currencies), ...conversions };
}

/**
 * Reads a locked account straight from the texts of its columns, in that order. For each write one is read: by way of an object and zod, as other rows are
 * (and as this one where nothing is locked, through Slonik), that took twice the time, and left 1 KB behind.
 */
function lockedAccountReader(currencies: Currencies) {
  return (texts: Texts): LockedAccount => {
    const currency = required(texts[1]);
    const { digits } = currencyOf(currencies, currency);
    return {
      account: {
        userId: BigInt(required(texts[0])),
        currency,
        balance: parseStored(required(texts[2]), digits),
        held: parseStored(required(texts[3]), digits),
        creditLimit: parseStored(required(texts[4]), digits),
        sequence: BigInt(required(texts[5])),
        time: BigInt(required(texts[6])),
      },
      head: texts[7] === null ? undefined : hexOf(required(texts[7])),
      row: required(texts[8]),
      now: integer(texts[9]),
    };
  };
}

/** Stored metadata in the order of its keys, which the chain's hashes depend on. */
export function metadataOf(stored: Readonly<Record<string, string>>): Transaction["metadata"] {
  return Object.entries(stored).toSorted(([a], [b]) => (a < b ? -1 : 1));
}

/** The text of a column that is never NULL. */
export function required(text: string | null | undefined): string {
  if (text === null || text === undefined) throw new Error("PostgreSQL answered NULL, or fewer columns than it was asked for");
  return text;
}

/** A BIGINT, or undefined for NULL. */
export function integer(text: string | null | undefined): bigint | undefined {
  return text === null || text === undefined ? undefined : BigInt(text);
}

/** The hexadecimal digits of a BYTEA. */
export function hexOf(text: string): string {
  if (!text.startsWith("\\x")) throw new Error(`PostgreSQL answered ${text} for bytes`);
  return text.slice(2);
}

/** A stored decimal number in minor units. PostgreSQL may add zeros at its end, and nothing else. */
export function parseStored(text: string, digits: number): bigint {
  const point = text.length - digits - 1;
  // As it mostly lies there, with exactly the currency's digits, it needs no more than to lose its point.
  if (digits > 0 && text.charAt(point) === ".") return text === "0.00" ? 0n : BigInt(text.slice(0, point) + text.slice(point + 1));
  const [whole = "", fraction = ""] = text.split(".");
  if (/[1-9]/.test(fraction.slice(digits))) throw new Error(`the database holds ${text}, which has more than ${digits} fraction digits`);
  return BigInt(whole + fraction.slice(0, digits).padEnd(digits, "0"));
}

/** Rows of `listed` as what was found. */
export function listedRows(found: readonly { readonly transaction: Transaction; readonly found: bigint }[]): Listed {
  return { rows: found.map(({ transaction }) => transaction), isWhole: found.length === Number(found[0]?.found ?? 0n) };
}

/** A refusal or a job as the database keeps it in an outcome: JSON, its big integers as `{"integer": "…"}`. */
export function encodeKept(kept: Refused | Partial<KeptJob>): string {
  return JSON.stringify(kept, (_key, value: unknown) => (typeof value === "bigint" ? { integer: value.toString() } : value));
}

/** The refusal or the job that was kept. */
export function decodeKept(stored: string): unknown {
  return JSON.parse(stored, (_key, value: unknown) => (isInteger(value) ? BigInt(value.integer) : value));
}

function isInteger(value: unknown): value is { integer: string } {
  return typeof value === "object" && value !== null && "integer" in value && typeof value.integer === "string";
}

/**
 * A moment as PostgreSQL reads it in any session. Searches may begin in the year before year 1, which it calls 1 BC.
 */
export function timestamp(moment: bigint): string {
  const text = isoTime(moment);
  return text.startsWith("0000") ? `0001${text.slice(4)} BC` : text;
}
