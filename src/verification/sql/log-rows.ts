// Rows of the log as a verification reads them: out of texts, with the amounts' own digits, which their hashes cover. What can't be read is
// said rather than thrown: it is a difference like others.

import type { TransactionType } from "../../domain/money/account.ts";
import type { Currencies } from "../../domain/money/currency.ts";
import { formatAmount } from "../../domain/money/money.ts";
import type { Transaction } from "../../domain/journal/transaction.ts";
import type { Figures } from "../../domain/journal/chain.ts";
import { hexOf, integer, metadataOf, parseStored, required } from "../../postgres/rows/rows.ts";
import type { Fields } from "./session.ts";

/** A row whose amounts can be read. */
export interface ReadableRow extends Transaction {
  readonly figures: Figures;
  readonly problem?: undefined;
}

/** A row of which only its place is known, and what is wrong with it. */
export interface UnreadableRow extends Pick<ReadableRow, "id" | "userId" | "currency" | "sequence" | "holdId" | "hash"> {
  readonly problem: string;
}

/** A row of the log. */
export type LogRow = ReadableRow | UnreadableRow;

/** Reads a row from the columns of `transactionColumns`. */
export function logRowOf(fields: Fields, currencies: Currencies): LogRow {
  const currency = required(fields[2]);
  const place = { id: BigInt(required(fields[0])), userId: BigInt(required(fields[1])), currency, sequence: BigInt(required(fields[3])), holdId: integer(fields[10]), hash: hexOf(required(fields[23])) };
  const digits = currencies.get(currency)?.digits;
  if (digits === undefined) return { ...place, problem: `${currency} is no currency of ISO 4217, nor in LEDGERD_UNITS` };
  try {
    return { ...place, ...amountsOf(fields, digits), ...detailsOf(fields) };
  } catch (error) {
    return { ...place, problem: error instanceof Error ? error.message : String(error) };
  }
}

type Amounts = Pick<ReadableRow, "amount" | "heldChange" | "balanceAfter" | "heldAfter" | "creditLimitAfter" | "holdCaptured" | "figures">;

function amountsOf(fields: Fields, digits: number): Amounts {
  const amount = minor(fields[5], digits);
  const heldChange = minor(fields[6], digits);
  const balanceAfter = minor(fields[7], digits);
  const heldAfter = minor(fields[8], digits);
  const creditLimitAfter = minor(fields[9], digits);
  const holdCaptured = fields[11] === null ? undefined : minor(fields[11], digits);
  return {
    amount, heldChange, balanceAfter, heldAfter, creditLimitAfter, holdCaptured,
    figures: {
      amount: figure(fields[5], amount, digits),
      heldChange: figure(fields[6], heldChange, digits),
      balanceAfter: figure(fields[7], balanceAfter, digits),
      heldAfter: figure(fields[8], heldAfter, digits),
      creditLimitAfter: figure(fields[9], creditLimitAfter, digits),
      holdCaptured: holdCaptured === undefined ? undefined : figure(fields[11], holdCaptured, digits),
    },
  };
}

function detailsOf(fields: Fields): Omit<ReadableRow, keyof Amounts | "id" | "userId" | "currency" | "sequence" | "holdId" | "hash" | "problem"> {
  return {
    type: required(fields[4]) as TransactionType,
    holdExpiresAt: integer(fields[12]),
    refundedTransactionId: integer(fields[13]),
    jobId: integer(fields[14]),
    groupId: fields[15] ?? undefined,
    idempotencyKey: fields[16] ?? undefined,
    reference: fields[17] ?? "",
    description: fields[18] ?? "",
    metadata: fields[19] === null || fields[19] === undefined ? [] : metadataOf(JSON.parse(fields[19]) as Readonly<Record<string, string>>),
    actor: fields[20] ?? "",
    traceId: fields[21] ?? "",
    createdAt: BigInt(required(fields[22])),
  };
}

/** An amount in minor units. */
export function minor(field: string | null | undefined, digits: number): bigint {
  return parseStored(required(field), digits);
}

/** An amount as the chain writes it, which is mostly how PostgreSQL does. */
function figure(field: string | null | undefined, amount: bigint, digits: number): string {
  return field !== null && field !== undefined && hasDigits(field, digits) ? field : formatAmount(amount, digits);
}

function hasDigits(text: string, digits: number): boolean {
  return digits === 0 ? !text.includes(".") : text.charAt(text.length - digits - 1) === ".";
}
