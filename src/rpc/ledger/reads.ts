// The handlers that read accounts, holds and the log.

import { z } from "zod";
import { newAccount, type Account, type Hold } from "../../domain/money/account.ts";
import type { Currencies } from "../../domain/money/currency.ts";
import type { Transaction } from "../../domain/journal/transaction.ts";
import { BalanceSchema, HoldSchema, TransactionSchema } from "../../gen/ledger/v1/account_pb.ts";
import {
  BatchGetBalancesRequestSchema,
  GetBalanceRequestSchema,
  GetHoldRequestSchema,
  GetOutcomeRequestSchema,
  GetStatementRequestSchema,
  GetStatementResponseSchema,
  GetTransactionRequestSchema,
  ListHoldsRequestSchema,
  ListTransactionsRequestSchema,
  type BatchGetBalancesRequest,
  type GetBalanceRequest,
  type GetHoldRequest,
  type GetOutcomeRequest,
  type GetStatementRequest,
  type GetTransactionRequest,
  type ListHoldsRequest,
  type ListTransactionsRequest,
} from "../../gen/ledger/v1/ledger_service_pb.ts";
import type { AsOf, Balances } from "../../postgres/reads/balances.ts";
import type { Durability } from "../../postgres/protocol/durability.ts";
import type { Holds } from "../../postgres/reads/holds.ts";
import type { History, Range } from "../../postgres/reads/history.ts";
import type { Listed } from "../../postgres/rows/rows.ts";
import type { Transactions } from "../../postgres/reads/transactions.ts";
import { listBytes, refuseTooLarge, sizeOf } from "../answer-size.ts";
import { time, typeMessages, type Answers } from "../answers.ts";
import { cursorNumber, cursorOf, oneNumber, pageOf } from "../pages.ts";
import type { ReadSchemas } from "./read-requests.ts";
import { errorOf, errorOfRefusal, errorOfViolations, refusalMessage } from "../errors.ts";
import { validate } from "../validation.ts";

/** What the handlers work with. */
export interface ReadParts {
  readonly currencies: Currencies;
  readonly reads: ReadSchemas;
  readonly answers: Answers;
  readonly durability: Durability;
  readonly balances: Balances;
  readonly transactions: Transactions;
  readonly history: History;
  readonly holds: Holds;
}

/** For so long, a write that is being committed may still come to lie before a moment: the longest that a group may take. */
const PROVISIONAL_MICROS = 10_000_000n;

/** Beyond all ids. */
const MAX_ID = 2n ** 63n - 1n;

const transactionSize = sizeOf(TransactionSchema);
const holdSize = sizeOf(HoldSchema);
const balanceSize = sizeOf(BalanceSchema);
const statementSize = sizeOf(GetStatementResponseSchema);

/** What there is, its caller may act on as final; what isn't there yet, or is lost, isn't there. */
const isThere = (found: unknown): boolean => found !== undefined;

/** The handlers of all reads. */
export function readHandlers(parts: ReadParts) {
  const { reads, answers, durability, transactions, history, holds } = parts;
  return {
    getBalance: async (request: GetBalanceRequest) => {
      const { userId, currency, asOf } = validate(reads.getBalance, GetBalanceRequestSchema, request);
      const { accounts, provisional } = await readAccounts(parts, [userId], currency, asOf);
      return { balance: answers.balance(accounts[0] ?? newAccount(userId, currency)), provisional };
    },

    batchGetBalances: async (request: BatchGetBalancesRequest) => {
      const { userIds, currency, asOf } = validate(reads.batchGetBalances, BatchGetBalancesRequestSchema, request);
      const { accounts, provisional } = await readAccounts(parts, userIds, currency, asOf);
      const found = accounts.map(answers.balance);
      refuseTooLarge(listBytes(found, balanceSize), "ask for fewer accounts at once");
      return { balances: found, provisional };
    },

    getOutcome: (request: GetOutcomeRequest) => outcome(parts, request),

    getHold: async (request: GetHoldRequest) => {
      const { holdId } = validate(reads.getHold, GetHoldRequestSchema, request);
      const hold = await durability.durably(() => holds.byId(holdId), isThere);
      if (hold === undefined) throw errorOfRefusal({ reason: "HOLD_NOT_FOUND", holdId }, false, parts.currencies);
      return { hold: answers.hold(hold) };
    },

    listHolds: async (request: ListHoldsRequest) => {
      const { userId, state, pageSize, pageToken } = validate(reads.listHolds, ListHoldsRequestSchema, request);
      const args = ["holds", userId, state];
      const [before = MAX_ID] = cursorOf(args, pageToken, oneNumber) ?? [];
      const found = await holds.list(userId, state, before, pageSize + 1);
      const cursor = ({ id }: Hold) => [id];
      const page = pageOf(args, { found, size: pageSize, message: answers.hold, sizeOf: holdSize, cursor });
      return { holds: page.messages, nextPageToken: page.nextPageToken };
    },

    getTransaction: async (request: GetTransactionRequest) => {
      const name = validate(reads.getTransaction, GetTransactionRequestSchema, request);
      const found = await durability.durably(() => readNamed(transactions, name), isThere);
      if (found !== undefined) return { transaction: answers.transaction(found) };
      const metadata = Object.entries(name).map(([part, value]) => [part.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`), String(value)]);
      throw errorOf("TRANSACTION_NOT_FOUND", "there is no such transaction", Object.fromEntries(metadata));
    },

    listTransactions: async (request: ListTransactionsRequest) => {
      const { userId, currency, startTime, endTime, order, pageSize, pageToken, ...filter } = validate(reads.listTransactions, ListTransactionsRequestSchema, request);
      const args = ["transactions", userId, currency, filter.types, startTime, endTime, filter.reference, order];
      const ranges = cursorOf(args, pageToken, rangesCursor(currency)) ?? (await history.ranges(userId, currency, { startTime, endTime }));
      const found = await history.list(userId, ranges, order, filter, pageSize + 1);
      const cursor = (_last: Transaction, items: readonly Transaction[]) =>
        cursorFrom(ranges.map((range) => behind(range, order, items)));
      const { messages, nextPageToken } = pageOf(args, { ...transactionsOf(parts, found), size: pageSize, cursor });
      return { transactions: messages, nextPageToken };
    },

    getStatement: (request: GetStatementRequest) => statement(parts, request),
  };
}

function readNamed({ byId, bySequence }: Transactions, name: z.output<ReadSchemas["getTransaction"]>) {
  return "transactionId" in name ? byId(name.transactionId) : bySequence(name.userId, name.currency, name.sequence);
}

/** Rows of the log as what a page is cut out of. */
function transactionsOf({ answers }: ReadParts, { rows, isWhole }: Listed) {
  return { found: rows, isWhole, message: answers.transaction, sizeOf: transactionSize };
}

async function readAccounts(
  { balances }: ReadParts,
  userIds: readonly bigint[],
  currency: string,
  asOf: AsOf | undefined,
): Promise<{ accounts: readonly Account[]; provisional: boolean }> {
  if (asOf === undefined) return { accounts: await readNow(balances, userIds, currency), provisional: false };
  const provisional = "time" in asOf && (await isProvisional(balances, "as_of_time", asOf.time));
  const accounts = await balances.readAsOf(userIds, currency, asOf);
  const short = "sequence" in asOf ? accounts.find(({ sequence }) => sequence < asOf.sequence) : undefined;
  if (short !== undefined && "sequence" in asOf) {
    throw errorOf("TRANSACTION_NOT_FOUND", `user ${short.userId}'s account in ${currency} is at sequence ${short.sequence}`, {
      user_id: `${short.userId}`,
      currency,
      sequence: `${short.sequence}`,
      as_of_sequence: `${asOf.sequence}`,
    });
  }
  return { accounts, provisional };
}

/** A single one together with those that others ask for at the same time. */
async function readNow(balances: Balances, userIds: readonly bigint[], currency: string): Promise<readonly Account[]> {
  const [first, ...others] = userIds.map((userId) => ({ userId, currency }));
  if (first === undefined) return [];
  return others.length === 0 ? [await balances.read(first)] : balances.readAll([first, ...others]);
}

/** Whether a moment is too recent to be sure of; one in the future is refused. By the database's clock. */
async function isProvisional(balances: Balances, field: string, moment: bigint): Promise<boolean> {
  const now = await balances.now();
  if (moment > now) throw errorOfViolations([{ field, description: "must not be in the future" }]);
  return moment > now - PROVISIONAL_MICROS;
}

/** What is left of an account's range behind a page of rows, in the list's order. */
function behind(range: Range, order: "newest" | "oldest", page: readonly Transaction[]): Range {
  const last = page.findLast(({ currency }) => currency === range.currency);
  if (last === undefined) return range;
  return order === "newest" ? { ...range, last: last.sequence - 1n } : { ...range, first: last.sequence + 1n };
}

/** Ranges as a page token's cursor: currency, first and last, one behind the other. */
function cursorFrom(ranges: readonly Range[]): readonly (string | bigint)[] {
  return ranges.filter(({ first, last }) => first <= last).flatMap(({ currency, first, last }) => [currency, first, last]);
}

const rangeCursor = z
  .tuple([z.string().regex(/^[A-Z]{3}$/), cursorNumber, cursorNumber])
  .transform(([currency, first, last]): Range => ({ currency, first, last }))
  .refine(({ first, last }) => first >= 1n && first <= last);

/** Such a cursor, read back: of one currency, unless none is named. */
const rangesCursor = (ofCurrency: string) => z
  .array(z.string())
  .transform((parts) => Array.from({ length: Math.ceil(parts.length / 3) }, (_, place) => parts.slice(place * 3, place * 3 + 3)))
  .pipe(z.array(rangeCursor))
  .refine((ranges) => ofCurrency === "" || ranges.every(({ currency }) => currency === ofCurrency));

/** How many of an outcome's transactions were told. */
const outcomeCursor = z.tuple([z.string().regex(/^\d{1,6}$/).transform(Number)]);

/** What a key became. An atomic batch may be larger than an answer: an earlier version took such. */
async function outcome(parts: ReadParts, request: GetOutcomeRequest) {
  const { reads, transactions, durability } = parts;
  const { userId, idempotencyKey, pageToken } = validate(reads.getOutcome, GetOutcomeRequestSchema, request);
  const args = ["outcome", userId, idempotencyKey];
  const told = cursorOf(args, pageToken, outcomeCursor)?.[0] ?? 0;
  const kept = await durability.durably(() => transactions.outcome(userId, idempotencyKey, told), isThere);
  if (kept === undefined) {
    throw errorOf("OUTCOME_NOT_FOUND", "nothing is stored under this user and key; a write under it may still be under way", {
      user_id: `${userId}`,
      idempotency_key: idempotencyKey,
    });
  }
  const { stored, found } = kept;
  const cursor = (_last: Transaction, items: readonly Transaction[]) => [BigInt(told + items.length)];
  const page = pageOf(args, { ...transactionsOf(parts, found), size: found.rows.length, cursor });
  return {
    transactions: page.messages,
    nextPageToken: page.nextPageToken,
    ...(stored.refused === undefined ? {} : { refusal: refusalMessage(stored.refused.refusal, true, parts.currencies) }),
    createTime: time(stored.createdAt),
    jobId: stored.job?.id ?? 0n,
  };
}

/** The figures follow from the first page's range of sequences, which the token keeps: the log doesn't change behind it. */
async function statement(parts: ReadParts, request: GetStatementRequest) {
  const { balances, reads, answers, transactions, history } = parts;
  const { userId, currency, startTime, endTime, pageSize, pageToken } = validate(reads.getStatement, GetStatementRequestSchema, request);
  // Without an end it has all that there is, and so ends with the balance: the last transactions may be ahead of a
  // clock that was set back.
  const provisional = endTime === undefined || (await isProvisional(balances, "end_time", endTime));
  const args = ["statement", userId, currency, startTime, endTime];
  const [range = { currency, first: 1n, last: 0n }, rest = range] =
    cursorOf(args, pageToken, rangesCursor(currency)) ?? (await history.ranges(userId, currency, { startTime, endTime }));
  const [before, closing, totals, found] = await Promise.all([
    transactions.bySequence(userId, currency, range.first - 1n),
    transactions.bySequence(userId, currency, range.last),
    history.totals(userId, range),
    history.list(userId, [rest], "oldest", { types: [], reference: "" }, pageSize + 1),
  ]);
  if (closing === undefined && range.first <= range.last) {
    const description = "must be of this log, which has gone back since: begin with the first page again";
    throw errorOfViolations([{ field: "page_token", description }]);
  }
  const figures = {
    openingBalance: answers.money(before?.balanceAfter ?? 0n, currency),
    closingBalance: answers.money(closing?.balanceAfter ?? 0n, currency),
    totals: totals
      .map(({ type, count, amount }) => ({ type: typeMessages[type], count, amount: answers.money(amount, currency) }))
      .toSorted((a, b) => a.type - b.type),
    provisional,
  };
  const cursor = (last: Transaction) => cursorFrom([range, behind(rest, "oldest", [last])]);
  const page = pageOf(args, { ...transactionsOf(parts, found), size: pageSize, beside: statementSize(figures), cursor });
  return { ...figures, transactions: page.messages, nextPageToken: page.nextPageToken };
}
