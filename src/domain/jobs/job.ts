// Jobs: work that is paid for by a hold. What a job is, and what may be asked of it.

import { LAST_MOMENT, SECOND } from "../moment.ts";
import type { Money } from "../money/money.ts";

/** Where a job stands. The last three are final. */
export type JobStatus = "pending" | "processing" | "completed" | "failed" | "cancelled";

/** A job. Amounts in minor units, times in microseconds since 1970. */
export interface Job {
  readonly id: bigint;
  readonly userId: bigint;
  readonly currency: string;
  readonly modelId: string;
  readonly prompt: string;
  /** A JSON object, as text; empty: none. */
  readonly parameters: string;
  /** What is held for it. */
  readonly cost: bigint;
  /** The key that it was created with. */
  readonly idempotencyKey: string;
  readonly maxAttempts: number;
  readonly priority: number;
  readonly createdAt: bigint;
  readonly status: JobStatus;
  /** The hold that reserves its cost; of a job that costs nothing none. */
  readonly holdId: bigint | undefined;
  /** What was charged. */
  readonly finalCost: bigint | undefined;
  readonly resultUrl: string;
  readonly errorMessage: string;
  /** Not claimed before it. */
  readonly runAt: bigint;
  readonly attempt: number;
  /** Who has it, or had it last. */
  readonly workerId: string;
  /** Of its last lease; 0: it never had one. It only grows. */
  readonly fencingToken: bigint;
  /** When its lease is over; undefined: it has none. */
  readonly leaseExpiresAt: bigint | undefined;
  /** 0 to 100. */
  readonly progress: number;
  readonly cancelRequested: boolean;
  /** When it became final. */
  readonly completedAt: bigint | undefined;
}

/** A lease, as a worker names it. */
export interface Lease {
  readonly jobId: bigint;
  readonly fencingToken: bigint;
}

/** What is asked of a job. `jitter` is a random number from 0 to 1, which keeps retries apart. */
export type JobAsk =
  | {
      readonly kind: "create_job";
      readonly modelId: string;
      readonly prompt: string;
      readonly parameters: string;
      /** Zero or more. */
      readonly amount: bigint;
      readonly priority: number;
      /** Undefined: at once. */
      readonly runAt: bigint | undefined;
      readonly maxAttempts: number;
      /** The key of this very write. */
      readonly key: string;
    }
  /** The final cost is zero or more; undefined: all of the cost. */
  | ({ readonly kind: "complete_job"; readonly finalCost: Money | undefined; readonly resultUrl: string } & Lease)
  | ({ readonly kind: "fail_job"; readonly errorMessage: string; readonly final: boolean; readonly jitter: number } & Lease)
  | { readonly kind: "cancel_job"; readonly jobId: bigint }
  | { readonly kind: "retry_job"; readonly jobId: bigint }
  | {
      readonly kind: "update_job";
      readonly jobId: bigint;
      readonly status: JobStatus;
      readonly resultUrl: string;
      readonly errorMessage: string;
      readonly finalCost: Money | undefined;
    }
  /** ledgerd's own: takes a job from a worker whose lease is over. */
  | { readonly kind: "rescue_job"; readonly jobId: bigint };

/** The holds of jobs live as long as their jobs: until the last moment of the year 9999, as far as holds know. */
export const JOB_HOLD_EXPIRES_AT = LAST_MOMENT;

const LONGEST_BACKOFF = 300n * SECOND;

/** How long a job rests after a failed attempt: a second, doubled by each attempt up to five minutes, less up to half of it. */
export function backoff(attempt: number, jitter: number): bigint {
  const full = SECOND << BigInt(Math.min(attempt - 1, 30));
  const bounded = full < LONGEST_BACKOFF ? full : LONGEST_BACKOFF;
  return bounded - BigInt(Math.floor((Number(bounded) / 2) * jitter));
}

/** Whether a worker may act under this lease. */
export function holdsLease({ status, fencingToken, leaseExpiresAt }: Job, token: bigint, time: bigint): boolean {
  return status === "processing" && fencingToken === token && leaseExpiresAt !== undefined && leaseExpiresAt > time;
}

/** Whether a job is given to workers: the others wait for their time. */
export function isReady({ status, runAt }: Job, time: bigint): boolean {
  return status === "pending" && runAt <= time;
}
