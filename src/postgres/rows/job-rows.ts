// How jobs lie in their table: columns to read, and their conversion, as rows.ts has them for the ledger's own tables.

import { sql } from "slonik";
import { z } from "zod";
import { REST_OF_JOB } from "../../domain/answer-size.ts";
import type { Job, JobStatus } from "../../domain/jobs/job.ts";

/** The columns of `jobs j`. */
export const jobColumns = sql.fragment`
  j.id, j.user_id, j.currency, j.model_id, j.prompt, j.parameters::text AS parameters, j.cost, j.idempotency_key, j.priority, j.max_attempts,
  (extract(epoch FROM j.created_at) * 1000000)::int8 AS created_at, j.status, j.hold_id, j.final_cost, j.result_url, j.error_message,
  (extract(epoch FROM j.run_at) * 1000000)::int8 AS run_at, j.attempt, j.worker_id, j.fencing_token,
  (extract(epoch FROM j.lease_expires_at) * 1000000)::int8 AS lease_expires_at, j.progress, j.cancel_requested,
  (extract(epoch FROM j.completed_at) * 1000000)::int8 AS completed_at`;

/**
 * About how many bytes the texts of `jobs j` have: what a look at many jobs can afford, since no text is read for it.
 * `size` was told by whoever wrote the job: by this version as no fewer bytes than are read, by earlier ones as those
 * that were sent.
 */
export const roughJobBytes = sql.fragment`
  greatest(j.size, coalesce(octet_length(j.prompt), 0) + coalesce(pg_column_size(j.parameters), 0))::int8
    + coalesce(octet_length(j.error_message), 0) + coalesce(octet_length(j.result_url), 0)`;

/**
 * No fewer bytes than `jobs j` has in an answer, and at most about twice as many; the parameters are read for it, but
 * not written as text. They are answered as google.protobuf.Struct. As jsonb in memory, which is what `#> '{}'` makes
 * of what may be compressed, a value has four bytes and itself, a number eight at least: only lengths above 127 take
 * more in a Struct, by a few in hundreds. Numbers with many digits take less there.
 */
export const jobBytes = sql.fragment`
  ${REST_OF_JOB}::int8 + coalesce(octet_length(j.prompt), 0) + coalesce(octet_length(j.error_message), 0)
    + coalesce(octet_length(j.result_url), 0) + coalesce(octet_length(j.idempotency_key), 0)
    + octet_length(j.model_id) + 2 * octet_length(j.cost::text)
    + coalesce(pg_column_size(j.parameters #> '{}') * 17::int8 / 16, 0)`;

const jobRow = z.object({
  id: z.bigint(),
  user_id: z.bigint(),
  currency: z.string(),
  model_id: z.string(),
  prompt: z.string().nullable(),
  parameters: z.string().nullable(),
  cost: z.string(),
  idempotency_key: z.string().nullable(),
  priority: z.number(),
  max_attempts: z.number(),
  created_at: z.bigint(),
  status: z.custom<JobStatus>((status) => typeof status === "string"),
  hold_id: z.bigint().nullable(),
  final_cost: z.string().nullable(),
  result_url: z.string().nullable(),
  error_message: z.string().nullable(),
  run_at: z.bigint(),
  attempt: z.number(),
  worker_id: z.string().nullable(),
  fencing_token: z.bigint(),
  lease_expires_at: z.bigint().nullable(),
  progress: z.number(),
  cancel_requested: z.boolean(),
  completed_at: z.bigint().nullable(),
});

/** What of a job a stored outcome keeps: the texts, which never change and may be long, are in the job's own row. */
export type KeptJob = Omit<Job, "prompt" | "parameters">;

/** The conversion of a job's row, given that of its amounts. */
export function jobRowFor(minor: (text: string, currency: string) => bigint) {
  return jobRow.transform((row): Job => ({
    id: row.id,
    userId: row.user_id,
    currency: row.currency,
    modelId: row.model_id,
    prompt: row.prompt ?? "",
    parameters: row.parameters ?? "",
    cost: minor(row.cost, row.currency),
    idempotencyKey: row.idempotency_key ?? "",
    priority: row.priority,
    maxAttempts: row.max_attempts,
    createdAt: row.created_at,
    status: row.status,
    holdId: row.hold_id ?? undefined,
    finalCost: row.final_cost === null ? undefined : minor(row.final_cost, row.currency),
    resultUrl: row.result_url ?? "",
    errorMessage: row.error_message ?? "",
    runAt: row.run_at,
    attempt: row.attempt,
    workerId: row.worker_id ?? "",
    fencingToken: row.fencing_token,
    leaseExpiresAt: row.lease_expires_at ?? undefined,
    progress: row.progress,
    cancelRequested: row.cancel_requested,
    completedAt: row.completed_at ?? undefined,
  }));
}
