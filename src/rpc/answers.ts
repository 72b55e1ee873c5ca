// From domain values to the messages of the contract.
//
// Messages are written as they are rather than made by `create`: a write's answer holds a dozen, and that took a tenth of a call's time.

import type { Timestamp } from "@bufbuild/protobuf/wkt";
import { available, type Account, type Hold, type HoldState, type TransactionType } from "../domain/money/account.ts";
import { LARGEST_ROW } from "../domain/answer-size.ts";
import { currencyOf, type Currencies } from "../domain/money/currency.ts";
import { SECOND, split } from "../domain/moment.ts";
import { formatAmount } from "../domain/money/money.ts";
import { accountAfter, charactersOf, type Result, type Transaction } from "../domain/journal/transaction.ts";
import {
  HoldState as HoldStateMessage,
  TransactionType as TypeMessage,
  type Balance,
  type Hold as HoldMessage,
  type Transaction as TransactionMessage,
} from "../gen/ledger/v1/account_pb.ts";
import type { Money } from "../gen/ledger/v1/money_pb.ts";

/** What the database's word for a type is in the contract. */
export const typeMessages: Readonly<Record<TransactionType, TypeMessage>> = {
  topup: TypeMessage.TOPUP,
  deduction: TypeMessage.DEDUCTION,
  refund: TypeMessage.REFUND,
  transfer_out: TypeMessage.TRANSFER_OUT,
  transfer_in: TypeMessage.TRANSFER_IN,
  hold: TypeMessage.HOLD,
  capture: TypeMessage.CAPTURE,
  release: TypeMessage.RELEASE,
  expiry: TypeMessage.EXPIRY,
  adjustment: TypeMessage.ADJUSTMENT,
  credit_limit: TypeMessage.CREDIT_LIMIT,
  opening: TypeMessage.OPENING,
};

/** What the database's word for a hold's state is in the contract. */
export const stateMessages: Readonly<Record<HoldState, HoldStateMessage>> = {
  open: HoldStateMessage.OPEN,
  captured: HoldStateMessage.CAPTURED,
  released: HoldStateMessage.RELEASED,
  expired: HoldStateMessage.EXPIRED,
};

/** Makes messages. */
export type Answers = ReturnType<typeof answersFor>;

/** What makes messages, for a ledger with these currencies. */
export function answersFor(currencies: Currencies) {
  const hold = (of: Hold): HoldMessage => holdMessage(of, (minor) => money(minor, of.currency));
  return { money, balance, transaction, hold, written };

  function money(minor: bigint, currency: string): Money {
    return { $typeName: "ledger.v1.Money", currency, amount: formatAmount(minor, currencyOf(currencies, currency).digits) };
  }

  function balance(account: Account): Balance {
    const { userId, currency, sequence } = account;
    return {
      $typeName: "ledger.v1.Balance",
      userId,
      balance: money(account.balance, currency),
      held: money(account.held, currency),
      available: money(available(account), currency),
      creditLimit: money(account.creditLimit, currency),
      sequence,
    };
  }

  function transaction(row: Transaction): TransactionMessage {
    const message = wholeTransaction(row);
    return charactersOf(row) <= MOST_CHARACTERS ? message : shortened(message);
  }

  function wholeTransaction(row: Transaction): TransactionMessage {
    const { currency } = row;
    return {
      $typeName: "ledger.v1.Transaction",
      id: row.id,
      userId: row.userId,
      sequence: row.sequence,
      type: typeMessages[row.type],
      amount: money(row.amount, currency),
      heldChange: money(row.heldChange, currency),
      balanceAfter: money(row.balanceAfter, currency),
      heldAfter: money(row.heldAfter, currency),
      creditLimitAfter: money(row.creditLimitAfter, currency),
      description: row.description,
      metadata: Object.fromEntries(row.metadata),
      idempotencyKey: row.idempotencyKey ?? "",
      reference: row.reference,
      holdId: row.holdId ?? 0n,
      refundedTransactionId: row.refundedTransactionId ?? 0n,
      jobId: row.jobId ?? 0n,
      groupId: row.groupId ?? "",
      actor: row.actor,
      createTime: time(row.createdAt),
    };
  }

  /** What every write's response has, and what some have beside it. */
  function written({ transactions, hold: moved }: Result, replayed: boolean) {
    const [first, second] = transactions;
    if (first === undefined) throw new Error("a write was applied without a transaction");
    const message = transaction(first);
    return {
      transaction: message,
      balance: balanceAfter(message, money(available(accountAfter(first)), first.currency)),
      replayed,
      ...(second === undefined ? {} : { recipientTransaction: transaction(second) }),
      ...(moved === undefined ? {} : { hold: hold(moved) }),
    };
  }
}

/**
 * A row whose texts have up to so many characters is answered whole: they take three bytes each at most. What callers
 * may give is a fiftieth of that.
 */
const MOST_CHARACTERS = LARGEST_ROW / 3 - 10_000;
/** Characters that are left of a text where it is cut. */
const CUT_TEXT = 1000;

/**
 * A transaction that no call has written: an answer that had it as it is would be larger than clients take. To leave it
 * out would be wrong, and to fail would hide all the others of its list.
 */
function shortened(message: TransactionMessage): TransactionMessage {
  const { description, reference, idempotencyKey, actor } = message;
  const [key, by] = [cut(idempotencyKey), cut(actor)];
  const texts = { description: cut(description), reference: cut(reference), idempotencyKey: key, actor: by };
  return { ...message, ...texts, metadata: { "ledgerd.cut": "larger than an answer: read it in the database" } };
}

/** A text, or its beginning with a mark that it isn't all. */
export function cut(text: string): string {
  if (text.length <= CUT_TEXT) return text;
  return `${text.slice(0, CUT_TEXT).toWellFormed()}… (${text.length} characters, larger than an answer)`;
}

/** The account as a transaction left it: it has the transaction's figures, which aren't written anew. */
function balanceAfter({ userId, balanceAfter: balance, heldAfter: held, creditLimitAfter: creditLimit, sequence }: TransactionMessage, spendable: Money): Balance {
  return { $typeName: "ledger.v1.Balance", userId, balance, held, available: spendable, creditLimit, sequence };
}

function holdMessage(of: Hold, money: (minor: bigint) => Money): HoldMessage {
  return {
    $typeName: "ledger.v1.Hold",
    id: of.id,
    userId: of.userId,
    amount: money(of.amount),
    captured: money(of.captured),
    state: stateMessages[of.state],
    jobId: of.jobId ?? 0n,
    expireTime: time(of.expiresAt),
    createTime: time(of.createdAt),
  };
}

/** A moment as a Timestamp, whose nanoseconds count forwards before 1970, too. */
export function time(moment: bigint): Timestamp {
  const { whole, rest } = split(moment, SECOND);
  return { $typeName: "google.protobuf.Timestamp", seconds: whole, nanos: Number(rest) * 1000 };
}
