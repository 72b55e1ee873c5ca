// What went wrong on our side: thrown, since no caller can do anything but wait and retry.

/** Why a call was not carried out, or why nobody knows whether it was. */
export type FailureReason =
  | "CALL_CANCELLED"
  | "DEADLINE_PASSED"
  | "SHUTTING_DOWN"
  | "OVERLOADED"
  | "DATABASE_UNAVAILABLE"
  | "COMMIT_OUTCOME_UNKNOWN"
  | "TRANSACTION_CONFLICT"
  /** An earlier write of the same batch or stream has no outcome. */
  | "NOT_TRIED";

/** A failure with a reason that callers are told. Everything else that is thrown is a bug, and answered as INTERNAL. */
export class Failure extends Error {
  readonly reason: FailureReason;
  /** What callers are told beside the reason. */
  readonly why: string | undefined;

  constructor(reason: FailureReason, options?: ErrorOptions & { readonly why?: string | undefined }) {
    super(reason, options);
    this.reason = reason;
    this.why = options?.why;
  }
}
