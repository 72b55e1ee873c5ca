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

/** How many bytes of jobs' texts are answered at once: clients take 4 MiB for one answer if they aren't told otherwise. */
export const ANSWER_BYTES = 3 * 1024 * 1024;

/** A part of a list; not the last one if there are more jobs, or if the rest was too large. */
export interface JobPage {
  readonly jobs: readonly Job[];
  readonly isLast: boolean;
}

/** That a job has changed. */
export interface Change {
  readonly userId: bigint;
  readonly jobId: bigint;
  /** In microseconds since 1970. */
  readonly changedAt: bigint;
}

const sizeRow = z.object({ id: z.bigint(), size: z.number() });
const changeRow = z
  .object({ user_id: z.bigint(), id: z.bigint(), changed_at: z.bigint() })
  .transform((row): Change => ({ userId: row.user_id, jobId: row.id, changedAt: row.changed_at }));

/** Converts a row into who pays. */
export const payerRow = z
  .object({ id: z.bigint(), user_id: z.bigint(), currency: z.string() })
  .transform((row): Payer => ({ jobId: row.id, userId: row.user_id, currency: row.currency }));

/** Reads jobs. */
export type Jobs = ReturnType<typeof jobsOf>;

/** The reads of jobs, over a pool. */
export function jobsOf(pool: DatabasePool, rows: Rows) {
  return { answerBytes: ANSWER_BYTES, byIds, bytesOf, payers, list, unfinished, changed };

  /** The jobs with these ids, in no order. */
  async function byIds(ids: readonly bigint[]): Promise<readonly Job[]> {
    // Of no ids at all, PostgreSQL knows that nothing can be found, and walks through any index to find it.
    if (ids.length === 0) return [];
    return pool.any(sql.type(rows.job)`SELECT ${jobColumns} FROM ledgerd.jobs j WHERE j.id = ANY(${sql.array(ids, "int8")})`);
  }

  /** How many bytes these jobs have together. */
  async function bytesOf(ids: readonly bigint[]): Promise<number> {
    const found = await pool.any(sql.type(sizeRow)`SELECT j.id, j.size FROM ledgerd.jobs j WHERE j.id = ANY(${sql.array(ids, "int8")})`);
    return found.reduce((sum, { size }) => sum + size, 0);
  }

  /** Who pays for these jobs: what never changes of them. */
  async function payers(ids: readonly bigint[]): Promise<readonly Payer[]> {
    return pool.any(sql.type(payerRow)`SELECT j.id, j.user_id, j.currency FROM ledgerd.jobs j WHERE j.id = ANY(${sql.array(ids, "int8")})`);
  }

  /** Up to `limit` of a user's jobs with an id below `before`, the newest first; fewer where they are large. */
  async function list({ userId, modelId, status, startTime, endTime }: JobFilter, before: bigint, limit: number): Promise<JobPage> {
    const ofModel = modelId === "" ? sql.fragment`TRUE` : sql.fragment`j.model_id = ${modelId}`;
    const inStatus = status === undefined ? sql.fragment`TRUE` : sql.fragment`j.status = ${status}`;
    const from = startTime === undefined ? sql.fragment`TRUE` : sql.fragment`j.created_at >= ${timestamp(startTime)}::timestamptz`;
    const to = endTime === undefined ? sql.fragment`TRUE` : sql.fragment`j.created_at < ${timestamp(endTime)}::timestamptz`;
    const found = await pool.any(sql.type(sizeRow)`
      SELECT j.id, j.size
      FROM ledgerd.jobs j
      WHERE j.user_id = ${userId} AND j.id < ${before} AND ${ofModel} AND ${inStatus} AND ${from} AND ${to}
      ORDER BY j.id DESC
      LIMIT ${limit + 1}`);
    let bytes = 0;
    const fitting = found.slice(0, limit).filter(({ size }, place) => (bytes += size) <= ANSWER_BYTES || place === 0);
    const jobs = await byIds(fitting.map(({ id }) => id));
    return { jobs: jobs.toSorted((one, other) => Number(other.id - one.id)), isLast: fitting.length === found.length };
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

  /** Which of these users' jobs have changed in the last moments, and when: longer ago than any transaction that may yet commit. */
  async function changed(userIds: readonly bigint[]): Promise<readonly Change[]> {
    return pool.any(sql.type(changeRow)`
      SELECT recent.user_id, recent.id, recent.changed_at
      FROM unnest(${sql.array(userIds, "int8")}) AS u (user_id)
      CROSS JOIN LATERAL (
        SELECT j.user_id, j.id, (extract(epoch FROM j.changed_at) * 1000000)::int8 AS changed_at
        FROM ledgerd.jobs j
        WHERE j.user_id = u.user_id AND j.changed_at > statement_timestamp() - ${LOOK_BACK}::interval
        ORDER BY j.changed_at
        LIMIT 10000
      ) AS recent`);
  }
}
