// The part of a group's writes that is about jobs.

import { sql } from "slonik";
import { isReady, type Job } from "../../domain/jobs/job.ts";
import { storedBytes } from "../../domain/jobs/parameters.ts";
import { noColumns } from "../rows/rows.ts";
import { BinaryArray } from "../protocol/binary.ts";

/** Writes minor units as a decimal number. */
export type Amount = (minor: bigint, currency: string) => string;

/** Stores new jobs, and the new state of locked ones. A fencing token is given by a claim alone. */
export function upsertJobs(jobs: readonly Job[], groupTime: bigint, amount: Amount, type: number) {
  return sql.prepared("upsert_jobs", noColumns)`
    WITH written AS (
      INSERT INTO ledgerd.jobs (
        id, user_id, currency, model_id, prompt, parameters, cost, idempotency_key, priority, max_attempts, created_at, status, hold_id, final_cost,
        result_url, error_message, run_at, ready, attempt, worker_id, lease_expires_at, progress, cancel_requested, completed_at, size, changed_at)
      SELECT n.id, n.user_id, n.currency, n.model_id, n.prompt, n.parameters, n.cost, n.idempotency_key, n.priority, n.max_attempts, n.created_at,
             n.status, n.hold_id, n.final_cost, n.result_url, n.error_message, n.run_at, n.ready, n.attempt, n.worker_id,
             n.lease_expires_at, n.progress, n.cancel_requested, n.completed_at, n.size, n.changed_at
      FROM unnest(${jobRows(jobs, groupTime, amount, type)}::ledgerd.job_row[]) AS n
      ORDER BY n.id
      ON CONFLICT (id, user_id) DO UPDATE SET
        status = EXCLUDED.status, hold_id = EXCLUDED.hold_id, final_cost = EXCLUDED.final_cost, result_url = EXCLUDED.result_url,
        error_message = EXCLUDED.error_message, run_at = EXCLUDED.run_at, ready = EXCLUDED.ready, attempt = EXCLUDED.attempt,
        worker_id = EXCLUDED.worker_id, lease_expires_at = EXCLUDED.lease_expires_at, progress = EXCLUDED.progress,
        cancel_requested = EXCLUDED.cancel_requested, completed_at = EXCLUDED.completed_at, changed_at = EXCLUDED.changed_at
      RETURNING id
    )
    SELECT ledgerd.assert_count('jobs', (SELECT count(*) FROM written), ${jobs.length}::int8) AS jobs_complete`;
}

/** In the order of the type `ledgerd.job_row`. */
function jobRows(jobs: readonly Job[], changedAt: bigint, amount: Amount, type: number) {
  const array = new BinaryArray(type);
  for (const job of jobs) {
    array.row(26);
    array.int8(job.id);
    array.int8(job.userId);
    array.text(job.currency);
    array.text(job.modelId);
    array.text(job.prompt);
    array.jsonb(job.parameters);
    array.numeric(amount(job.cost, job.currency));
    array.text(job.idempotencyKey);
    array.int4(job.priority);
    array.int4(job.maxAttempts);
    array.time(job.createdAt);
    array.text(job.status);
    array.int8(job.holdId);
    array.numeric(job.finalCost === undefined ? undefined : amount(job.finalCost, job.currency));
    array.text(job.resultUrl);
    array.text(job.errorMessage);
    array.time(job.runAt);
    array.bool(isReady(job, changedAt));
    array.int4(job.attempt);
    array.text(job.workerId);
    array.time(job.leaseExpiresAt);
    array.int4(job.progress);
    array.bool(job.cancelRequested);
    array.time(job.completedAt);
    array.int4(Buffer.byteLength(job.prompt) + storedBytes(job.parameters));
    array.time(changedAt);
  }
  return array.end();
}
