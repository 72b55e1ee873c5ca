// Why a write isn't applied: expected answers, as values. Bugs and broken infrastructure throw instead.

import type { TransactionType } from "../money/account.ts";
import type { JobStatus } from "../jobs/job.ts";
import type { Money } from "../money/money.ts";

/** A refusal with its variable parts, in order of precedence: where several apply, the first one is the answer. */
export type Refusal =
  | { readonly reason: "IDEMPOTENCY_KEY_REUSED"; readonly transactionId: bigint | undefined; readonly createdAt: bigint }
  | { readonly reason: "ACCOUNT_NOT_FOUND"; readonly userId: bigint; readonly currency: string }
  | { readonly reason: "SEQUENCE_MISMATCH"; readonly expectedSequence: bigint; readonly sequence: bigint }
  | { readonly reason: "REFERENCE_ALREADY_USED"; readonly reference: string }
  | { readonly reason: "CURRENCY_MISMATCH"; readonly currency: string; readonly requested: string }
  | { readonly reason: "SAME_ACCOUNT"; readonly userId: bigint }
  | { readonly reason: "TRANSACTION_NOT_FOUND"; readonly transactionId: bigint }
  | { readonly reason: "TRANSACTION_NOT_REFUNDABLE"; readonly transactionId: bigint; readonly type: TransactionType }
  | { readonly reason: "REFUND_EXCEEDS_ORIGINAL"; readonly transactionId: bigint; readonly refundable: Money }
  | { readonly reason: "JOB_NOT_FOUND"; readonly jobId: bigint }
  | { readonly reason: "JOB_STATE_CONFLICT"; readonly jobId: bigint; readonly status: JobStatus; readonly leaseExpiresAt: bigint | undefined }
  | { readonly reason: "LEASE_LOST"; readonly jobId: bigint; readonly fencingToken: bigint }
  | { readonly reason: "LOCK_HELD"; readonly lockKey: bigint; readonly instanceId: string; readonly expiresAt: bigint }
  | { readonly reason: "LOCK_LOST"; readonly lockKey: bigint; readonly fencingToken: bigint }
  | { readonly reason: "HOLD_NOT_FOUND"; readonly holdId: bigint }
  | { readonly reason: "HOLD_OWNED_BY_JOB"; readonly holdId: bigint; readonly jobId: bigint }
  | { readonly reason: "HOLD_ALREADY_CAPTURED"; readonly holdId: bigint }
  | { readonly reason: "HOLD_ALREADY_RELEASED"; readonly holdId: bigint }
  | { readonly reason: "HOLD_EXPIRED"; readonly holdId: bigint; readonly expiresAt: bigint }
  | { readonly reason: "CAPTURE_EXCEEDS_HOLD"; readonly holdId: bigint; readonly remaining: Money }
  | { readonly reason: "INSUFFICIENT_FUNDS"; readonly available: Money; readonly requested: Money }
  | { readonly reason: "AMOUNT_OUT_OF_RANGE"; readonly userId: bigint; readonly currency: string }
  | { readonly reason: "NOT_TRIED"; readonly culprit: number };
