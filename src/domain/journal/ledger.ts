// The rules of the ledger: what a command does to its account, or why it is refused.
//
// Pure: no clock, no randomness, no I/O. The journal gives the facts that it read under lock, and writes what is decided.

import {
  captureHold,
  endHold,
  evolve,
  remaining,
  type Account,
  type Entry,
  type Hold,
  type TransactionType,
} from "../money/account.ts";
import type { Command, CommandOf } from "./command.ts";
import { refuseSpending } from "./floor.ts";
import type { Job } from "../jobs/job.ts";
import { decideJob, type JobDecision } from "./job-steps.ts";
import { withinBounds } from "../money/money.ts";
import type { Refusal } from "./refusal.ts";
import { kinds } from "./kinds.ts";

/** A transaction that a refund names. */
export interface Original {
  readonly id: bigint;
  readonly userId: bigint;
  readonly currency: string;
  readonly type: TransactionType;
  /** The signed change of the balance. */
  readonly amount: bigint;
  /** The sum of its refunds so far. */
  readonly refunded: bigint;
}

/** All that the decision on one command depends on. */
export interface Situation {
  /** The account of the command's user. */
  readonly account: Account;
  /** A transfer's other side. */
  readonly recipient: Account | undefined;
  /** The hold that is captured or released, if the user has it; of a job, its own. */
  readonly hold: Hold | undefined;
  /** The transaction that is refunded, if the user has it. */
  readonly original: Original | undefined;
  /** Whether a unique reference of the command is taken. */
  readonly referenceUsed: boolean;
  /** The job that is named, if it is there. */
  readonly job: Job | undefined;
  /** The id for a hold that is placed. */
  readonly newHoldId: bigint;
  /** The id for a job that is created. */
  readonly newJobId: bigint;
  /** The time of the write, in microseconds; not before the account's last transaction. */
  readonly time: bigint;
  /**
   * The clock's time, which is before that once it was set back: leases end and jobs fall due by it. (Holds end by
   * the log's.)
   */
  readonly now: bigint;
}

/** The entries to write, in order, and the job that changed with them; or the first refusal in order of precedence. */
export type Decision = { readonly entries: readonly Entry[]; readonly job: Job | undefined } | { readonly refusal: Refusal };

/** Decides one command. */
export function decide(situation: Situation, command: Command): Decision {
  const refused = refuseByAccount(situation, command);
  if (refused !== undefined) return { refusal: refused };
  const decided = decideKind(situation, command);
  if ("reason" in decided) return { refusal: decided };
  const { entries, job } = "job" in decided ? decided : { entries: decided, job: undefined };
  const outOfRange = refuseByBounds(situation, entries);
  return outOfRange === undefined ? { entries, job } : { refusal: outOfRange };
}

/** The entry that sets free what an open hold still reserves once its time is over. */
export function expire(hold: Hold): Entry {
  const { userId, currency } = hold;
  return { type: "expiry", userId, currency, amount: 0n, heldChange: -remaining(hold), hold: endHold(hold, "expired") };
}

type Decided = readonly Entry[] | JobDecision | Refusal;

function decideKind(situation: Situation, command: Command): Decided {
  switch (command.kind) {
    case "top_up":
      return [entry(command, command.amount)];
    case "deduct":
      return refuseSpending(situation.account, command.amount) ?? [entry(command, -command.amount)];
    case "refund":
      return decideRefund(situation, command);
    case "transfer":
      return decideTransfer(situation, command);
    case "place_hold":
      return decidePlaceHold(situation, command);
    case "capture_hold":
      return decideCapture(situation, command);
    case "release_hold":
      return decideRelease(situation, command);
    case "adjust":
      return decideAdjust(situation, command);
    case "set_credit_limit":
      return [{ ...entry(command, 0n), creditLimit: command.limit }];
    case "expire_holds":
      return [];
    default:
      return decideJob(situation, command);
  }
}

function decideRefund({ original }: Situation, command: CommandOf<"refund">): Decided {
  const { transactionId } = command;
  if (original === undefined) return { reason: "TRANSACTION_NOT_FOUND", transactionId };
  const mismatch = refuseCurrency(command, original.currency);
  if (mismatch !== undefined) return mismatch;
  const { type, currency } = original;
  if (type !== "deduction" && type !== "capture") return { reason: "TRANSACTION_NOT_REFUNDABLE", transactionId, type };
  const refundable = -original.amount - original.refunded;
  const amount = command.amount ?? refundable;
  if (amount > refundable || amount === 0n) {
    return { reason: "REFUND_EXCEEDS_ORIGINAL", transactionId, refundable: { currency, minor: refundable } };
  }
  return [{ ...entry(command, amount), currency, refundedTransactionId: transactionId }];
}

function decideTransfer({ account }: Situation, command: CommandOf<"transfer">): Decided {
  const { userId, toUserId, amount } = command;
  if (toUserId === userId) return { reason: "SAME_ACCOUNT", userId };
  const refused = refuseSpending(account, amount);
  if (refused !== undefined) return refused;
  return [entry(command, -amount), { ...entry(command, amount), type: "transfer_in", userId: toUserId }];
}

function decidePlaceHold({ account, newHoldId, time }: Situation, command: CommandOf<"place_hold">): Decided {
  const { userId, currency, amount } = command;
  const refused = refuseSpending(account, amount);
  if (refused !== undefined) return refused;
  const expiresAt = time + command.expiresIn;
  const hold: Hold = { id: newHoldId, userId, currency, amount, captured: 0n, state: "open", jobId: undefined, expiresAt, createdAt: time };
  return [{ ...entry(command, 0n), heldChange: amount, hold }];
}

function decideCapture({ hold }: Situation, command: CommandOf<"capture_hold">): Decided {
  if (hold === undefined) return { reason: "HOLD_NOT_FOUND", holdId: command.holdId };
  const refused = refuseCurrency(command, hold.currency) ?? refuseHold(hold);
  if (refused !== undefined) return refused;
  const left = remaining(hold);
  const taken = command.amount ?? left;
  if (taken > left) return { reason: "CAPTURE_EXCEEDS_HOLD", holdId: hold.id, remaining: { currency: hold.currency, minor: left } };
  // A final capture's one row carries the release of the rest too.
  const heldChange = command.final ? -left : -taken;
  return [{ ...entry(command, -taken), currency: hold.currency, heldChange, hold: captureHold(hold, taken, heldChange) }];
}

function decideRelease({ hold }: Situation, command: CommandOf<"release_hold">): Decided {
  if (hold === undefined) return { reason: "HOLD_NOT_FOUND", holdId: command.holdId };
  const refused = refuseHold(hold);
  if (refused !== undefined) return refused;
  return [{ ...entry(command, 0n), currency: hold.currency, heldChange: -remaining(hold), hold: endHold(hold, "released") }];
}

function decideAdjust({ account }: Situation, command: CommandOf<"adjust">): Decided {
  const refused = command.amount < 0n && !command.allowNegative ? refuseSpending(account, -command.amount) : undefined;
  return refused ?? [entry(command, command.amount)];
}

function entry(command: Command, amount: bigint): Entry {
  return { type: kinds[command.kind].type, userId: command.userId, currency: command.currency, amount, heldChange: 0n };
}

function refuseByAccount({ account, referenceUsed }: Situation, command: Command): Refusal | undefined {
  const { userId, currency, sequence } = account;
  const { expectedSequence, note } = command;
  const mustExist = command.kind === "set_credit_limit" || (expectedSequence !== undefined && expectedSequence > 0n);
  if (sequence === 0n && mustExist) return { reason: "ACCOUNT_NOT_FOUND", userId, currency };
  if (expectedSequence !== undefined && expectedSequence !== sequence) return { reason: "SEQUENCE_MISMATCH", expectedSequence, sequence };
  if (referenceUsed) return { reason: "REFERENCE_ALREADY_USED", reference: note.reference };
  return undefined;
}

function refuseCurrency(command: CommandOf<"refund" | "capture_hold">, currency: string): Refusal | undefined {
  if (command.amount === undefined || command.currency === currency) return undefined;
  return { reason: "CURRENCY_MISMATCH", currency, requested: command.currency };
}

function refuseHold(hold: Hold): Refusal | undefined {
  if (hold.jobId !== undefined) return { reason: "HOLD_OWNED_BY_JOB", holdId: hold.id, jobId: hold.jobId };
  switch (hold.state) {
    case "open":
      return undefined;
    case "captured":
      return { reason: "HOLD_ALREADY_CAPTURED", holdId: hold.id };
    case "released":
      return { reason: "HOLD_ALREADY_RELEASED", holdId: hold.id };
    case "expired":
      return { reason: "HOLD_EXPIRED", holdId: hold.id, expiresAt: hold.expiresAt };
  }
}

function refuseByBounds({ account, recipient, time }: Situation, entries: readonly Entry[]): Refusal | undefined {
  for (const written of entries) {
    const before = written.userId === account.userId ? account : recipient;
    if (before === undefined) throw new Error("a transfer was decided without its recipient's account");
    const { balance, held, userId, currency } = evolve(before, written, time);
    if (!withinBounds(balance) || !withinBounds(held)) return { reason: "AMOUNT_OUT_OF_RANGE", userId, currency };
  }
  return undefined;
}
