// A row of the log, and what a write is answered.

import { captureHold, endHold, type Account, type Hold, type TransactionType } from "../money/account.ts";
import type { Note } from "./command.ts";
import type { Job } from "../jobs/job.ts";
import type { PlannedRow, Refused } from "./group.ts";

/** The actor of all adopted rows; no caller can be it. */
export const ADOPTER = "ledgerd adopt";

/** A row of the log without what the database or the chain adds: `id` and `hash`. Times are microseconds since 1970. */
export interface Posting extends Omit<Note, "uniqueReference"> {
  readonly userId: bigint;
  readonly currency: string;
  readonly sequence: bigint;
  readonly type: TransactionType;
  readonly amount: bigint;
  readonly heldChange: bigint;
  readonly balanceAfter: bigint;
  readonly heldAfter: bigint;
  readonly creditLimitAfter: bigint;
  readonly holdId: bigint | undefined;
  /** What was captured of the hold, this row included. */
  readonly holdCaptured: bigint | undefined;
  /** On the row that places the hold. */
  readonly holdExpiresAt: bigint | undefined;
  readonly refundedTransactionId: bigint | undefined;
  readonly jobId: bigint | undefined;
  readonly groupId: string | undefined;
  readonly idempotencyKey: string | undefined;
  readonly createdAt: bigint;
}

/** A row of the log. */
export interface Transaction extends Posting {
  readonly id: bigint;
  /** SHA-256 over the row and the hash of the account's row before, in hexadecimal digits. */
  readonly hash: string;
}

/** What one command did. */
export interface Result {
  /** One row, or two for a transfer: the sender's first. */
  readonly transactions: readonly Transaction[];
  /** The hold that it placed, captured or released, as it was right after. */
  readonly hold: Hold | undefined;
  /** The job that it created or changed, as it was right after. */
  readonly job: Job | undefined;
}

/** What a submission is answered: a result for each command, or which one was refused and why. */
export type Outcome =
  | { readonly kind: "applied"; readonly results: readonly Result[]; readonly replayed: boolean }
  | ({ readonly kind: "refused"; readonly stored: boolean } & Refused);

/** The posting of a planned row. */
export function postingOf({ entry, account, note, key, groupId }: PlannedRow): Posting {
  const { hold } = entry;
  return {
    userId: entry.userId,
    currency: entry.currency,
    sequence: account.sequence,
    type: entry.type,
    amount: entry.amount,
    heldChange: entry.heldChange,
    balanceAfter: account.balance,
    heldAfter: account.held,
    creditLimitAfter: account.creditLimit,
    holdId: hold?.id,
    holdCaptured: hold?.captured,
    holdExpiresAt: entry.type === "hold" ? hold?.expiresAt : undefined,
    refundedTransactionId: entry.refundedTransactionId,
    jobId: hold?.jobId,
    groupId,
    idempotencyKey: key,
    description: note.description,
    metadata: note.metadata,
    reference: note.reference,
    actor: note.actor,
    traceId: note.traceId,
    createdAt: account.time,
  };
}

/** An entry of metadata takes about so many more, with what is around its texts. */
const ENTRY_CHARACTERS = 5;

/** How many characters the texts of a row have: what large rows are large by. */
export function charactersOf({ description, metadata, reference, idempotencyKey, actor }: Posting): number {
  let characters = description.length + reference.length + (idempotencyKey?.length ?? 0) + actor.length;
  for (const [key, value] of metadata) characters += key.length + value.length + ENTRY_CHARACTERS;
  return characters;
}

/** The account as a row left it. */
export function accountAfter(row: Posting): Account {
  return {
    userId: row.userId,
    currency: row.currency,
    balance: row.balanceAfter,
    held: row.heldAfter,
    creditLimit: row.creditLimitAfter,
    sequence: row.sequence,
    time: row.createdAt,
  };
}

/** The hold as a row left it, from what never changes of it. */
export function holdAfter(row: Posting, hold: Hold): Hold {
  const captured = row.holdCaptured ?? 0n;
  const taken = row.type === "capture" ? -row.amount : 0n;
  const before: Hold = { ...hold, state: "open", captured: captured - taken };
  switch (row.type) {
    case "capture":
      return captureHold(before, taken, row.heldChange);
    case "release":
      return endHold(before, "released");
    case "expiry":
      return endHold(before, "expired");
    default:
      return before;
  }
}
