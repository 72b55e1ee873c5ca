// What a verification can find: each way in which a ledger can differ from what its log proves.

/** The kinds of differences. */
export type FindingKind =
  /** A row's hash doesn't follow from its fields and the row before: one of the two was changed. */
  | "row_altered"
  /** A row holds what no row of the ledger can: more digits than its currency has, a unit that isn't configured. */
  | "row_unreadable"
  /** Sequences of an account have a gap: rows were taken out. */
  | "row_missing"
  /** Two rows of an account have one sequence, or ids or times go back. */
  | "row_out_of_order"
  /** The figures after a row don't follow from those before it. */
  | "figures_wrong"
  /** A row breaks a law of its type: a deduction that adds, a capture of a hold that isn't open. */
  | "law_broken"
  /** The balance row knows of more rows than the log has: the last ones were taken out. */
  | "log_truncated"
  /** The account has rows and no balance row. */
  | "balance_missing"
  /** A column of the balance row isn't what the log says. */
  | "balance_wrong"
  /** A hold that the log placed isn't there. */
  | "hold_missing"
  /** A column of a hold isn't what the log says. */
  | "hold_wrong"
  /** There are holds that the log didn't place. */
  | "hold_unfounded"
  /** What a job says of its money isn't so. */
  | "job_wrong"
  /** A hold or a key names a job that isn't there. */
  | "job_missing"
  /** Refunds come to more than what they refund, or it is none of the account's. */
  | "refund_wrong"
  /** The two sides of a transfer don't come to zero. */
  | "transfer_unbalanced"
  /** A row's idempotency key isn't stored: a retry would be applied again. */
  | "key_missing"
  /** A stored key names a row that isn't there, or another key's. */
  | "key_wrong"
  /** The log has more rows, or fewer, than are reached by account. */
  | "count_wrong"
  /** A part of the log lacks what keeps it append-only and its sequences unique. */
  | "unguarded"
  /** A sequence would draw ids that are used already. */
  | "id_sequence_behind"
  /** A row isn't the one that was there when the digest was written: the chain was rewritten. */
  | "digest_differs";

/** One difference. What of it is known to be about is set. */
export interface Finding {
  readonly kind: FindingKind;
  readonly userId?: bigint;
  readonly currency?: string;
  readonly transactionId?: bigint;
  readonly sequence?: bigint;
  readonly holdId?: bigint;
  readonly jobId?: bigint;
  readonly key?: string;
  /** What is compared: a column, or a law. */
  readonly what: string;
  /** What the log proves, or the law asks for. */
  readonly expected: string;
  /** What is there. */
  readonly actual: string;
}

/** A difference as an operator reads it. */
export function describe(finding: Finding): string {
  const { kind, userId, currency, transactionId, sequence, holdId, jobId, key, what, expected, actual } = finding;
  const about = [
    userId === undefined ? [] : [`user ${userId}`],
    currency ?? [],
    transactionId === undefined ? [] : [`transaction ${transactionId}`],
    sequence === undefined ? [] : [`sequence ${sequence}`],
    holdId === undefined ? [] : [`hold ${holdId}`],
    jobId === undefined ? [] : [`job ${jobId}`],
    key === undefined ? [] : [`key ${JSON.stringify(key)}`],
  ].flat();
  return `${kind}: ${about.length === 0 ? "" : `${about.join(", ")}: `}${what}: expected ${expected}, found ${actual}`;
}
