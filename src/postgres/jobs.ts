// Reads jobs. A job is found by its id alone: on empty tables a user's index seems as good, and would be walked once it is full.

import { sql, type DatabasePool } from "slonik";
import { z } from "zod";
import type { Job, JobStatus } from "../domain/job.ts";
import { timestamp, type Rows } from "./rows.ts";
import { jobColumns } from "./job-rows.ts";

/** Who pays for a job, in what. */
export interface Payer {
  readonly jobId: bigint;
  readonly userId: bigint;
  readonly currency: string;
}

/** Which jobs of a user to list. */
export interface JobFilter {
  readonly userId: bigint;
  /** Empty: all. */
  readonly modelId: string;
  readonly status: JobStatus | undefined;
  readonly startTime?: bigint | undefined;
  readonly endTime?: bigint | undefined;
}

/** How far back watchers look for changes: no transaction takes longer than 10 seconds. */
const LOOK_BACK = "15 seconds";

/** Converts a row into who pays. */
export const payerRow = z
  .object({ id: z.bigint(), user_id: z.bigint(), currency: z.string() })
  .transform((row): Payer => ({ jobId: row.id, userId: row.user_id, currency: row.currency }));

/** Reads jobs. */
export type Jobs = ReturnType<typeof jobsOf>;

/** The reads of jobs, over a pool. */
export function jobsOf(pool: DatabasePool, rows: Rows) {
  return { byIds, payers, list, unfinished, changed };

  /** The jobs with these ids, in no order. */
  async function byIds(ids: readonly bigint[]): Promise<readonly Job[]> {
    return pool.any(sql.type(rows.job)`SELECT ${jobColumns} FROM ledgerd.jobs j WHERE j.id = ANY(${sql.array(ids, "int8")})`);
  }

  /** Who pays for these jobs: what never changes of them. */
  async function payers(ids: readonly bigint[]): Promise<readonly Payer[]> {
    return pool.any(sql.type(payerRow)`SELECT j.id, j.user_id, j.currency FROM ledgerd.jobs j WHERE j.id = ANY(${sql.array(ids, "int8")})`);
  }

  /** Up to `limit` of a user's jobs with an id below `before`, the newest first. */
  async function list({ userId, modelId, status, startTime, endTime }: JobFilter, before: bigint, limit: number): Promise<readonly Job[]> {
    const ofModel = modelId === "" ? sql.fragment`TRUE` : sql.fragment`j.model_id = ${modelId}`;
    const inStatus = status === undefined ? sql.fragment`TRUE` : sql.fragment`j.status = ${status}`;
    const from = startTime === undefined ? sql.fragment`TRUE` : sql.fragment`j.created_at >= ${timestamp(startTime)}::timestamptz`;
    const to = endTime === undefined ? sql.fragment`TRUE` : sql.fragment`j.created_at < ${timestamp(endTime)}::timestamptz`;
    return pool.any(sql.type(rows.job)`
      SELECT ${jobColumns}
      FROM ledgerd.jobs j
      WHERE j.user_id = ${userId} AND j.id < ${before} AND ${ofModel} AND ${inStatus} AND ${from} AND ${to}
      ORDER BY j.id DESC
      LIMIT ${limit}`);
  }

  /** A user's jobs that aren't final, the newest thousand. */
  async function unfinished(userId: bigint): Promise<readonly Job[]> {
    return pool.any(sql.type(rows.job)`
      SELECT ${jobColumns}
      FROM ledgerd.jobs j
      WHERE j.user_id = ${userId} AND j.status IN ('pending', 'processing')
      ORDER BY j.id DESC
      LIMIT 1000`);
  }

  /** What has changed of these users' jobs in the last moments: longer ago than any transaction that may yet commit. */
  async function changed(userIds: readonly bigint[]): Promise<readonly Job[]> {
    return pool.any(sql.type(rows.job)`
      SELECT recent.id, recent.user_id, recent.currency, recent.model_id, recent.prompt, recent.parameters, recent.cost, recent.idempotency_key,
             recent.priority, recent.max_attempts, recent.created_at, recent.status, recent.hold_id, recent.final_cost, recent.result_url,
             recent.error_message, recent.run_at, recent.attempt, recent.worker_id, recent.fencing_token, recent.lease_expires_at,
             recent.progress, recent.cancel_requested, recent.completed_at
      FROM unnest(${sql.array(userIds, "int8")}) AS u (user_id)
      CROSS JOIN LATERAL (
        SELECT ${jobColumns}
        FROM ledgerd.jobs j
        WHERE j.user_id = u.user_id AND j.changed_at > statement_timestamp() - ${LOOK_BACK}::interval
        ORDER BY j.changed_at
        LIMIT 10000
      ) AS recent`);
  }
}
