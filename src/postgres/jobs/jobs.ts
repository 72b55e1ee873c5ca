// Reads jobs. A job is found by its id alone: on empty tables a user's index seems as good, and would be walked once it is full.

import { sql, type DatabasePool } from "slonik";
import { z } from "zod";
import { ANSWER_BYTES } from "../../domain/answer-size.ts";
import type { Job, JobStatus } from "../../domain/jobs/job.ts";
import { timestamp, type Rows } from "../rows/rows.ts";
import { jobColumns, roughJobBytes } from "../rows/job-rows.ts";

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

/**
 * Jobs that were found, as far as they were read at once: those behind a part that has more bytes than an answer
 * weren't.
 */
export interface JobPage {
  readonly jobs: readonly Job[];
  readonly isWhole: boolean;
}

/** What has changed, and in which past of the database: see `ledgerd.timeline()`. */
export interface Changes {
  readonly timeline: string | undefined;
  readonly changes: readonly Change[];
}

/** That a job has changed. */
export interface Change {
  readonly userId: bigint;
  readonly jobId: bigint;
  /** In microseconds since 1970. */
  readonly changedAt: bigint;
}

/** A job, and about how many bytes it has. */
interface Sized {
  readonly id: bigint;
  readonly bytes: number;
}

const idRow = z.object({ id: z.bigint() });
const sizedRow = z
  .object({ id: z.bigint(), bytes: z.bigint() })
  .transform((row): Sized => ({ id: row.id, bytes: Number(row.bytes) }));
const changeRow = z.object({
  timeline: z.string().nullable(),
  user_id: z.bigint().nullable(),
  id: z.bigint().nullable(),
  changed_at: z.bigint().nullable(),
});

/** Converts a row into who pays. */
export const payerRow = z
  .object({ id: z.bigint(), user_id: z.bigint(), currency: z.string() })
  .transform((row): Payer => ({ jobId: row.id, userId: row.user_id, currency: row.currency }));

/** Reads jobs. */
export interface Jobs {
  /** The jobs with these ids, in no order. */
  readonly byIds: (ids: readonly bigint[]) => Promise<readonly Job[]>;
  /** The jobs with these ids, in the order of ids; read in parts of about so many bytes as an answer has. */
  readonly inParts: (ids: readonly bigint[]) => AsyncGenerator<readonly Job[], void>;
  /** Who pays for these jobs: what never changes of them. */
  readonly payers: (ids: readonly bigint[]) => Promise<readonly Payer[]>;
  /** Up to `limit` of a user's jobs with an id below `before`, the newest first. */
  readonly list: (jobFilter: JobFilter, before: bigint, limit: number) => Promise<JobPage>;
  /** Which of a user's jobs aren't final, the newest thousand. */
  readonly unfinished: (userId: bigint) => Promise<readonly bigint[]>;
  /**
   * Which of these users' jobs have changed in the last moments, and when: longer ago than any transaction that may yet
   * commit.
   */
  readonly changed: (userIds: readonly bigint[]) => Promise<Changes>;
}

/** The reads of jobs, over a pool. */
export function jobsOf(pool: DatabasePool, rows: Rows): Jobs {
  const changed = (userIds: readonly bigint[]): Promise<Changes> => changesOf(pool, userIds);
  return { byIds, inParts, payers, list, unfinished, changed };

  async function byIds(ids: readonly bigint[]): Promise<readonly Job[]> {
    // Of no ids at all, PostgreSQL knows that nothing can be found, and walks through any index to find it.
    if (ids.length === 0) return [];
    return pool.any(sql.type(rows.job)`SELECT ${jobColumns} FROM ledgerd.jobs j WHERE j.id = ANY(${sql.array(ids, "int8")})`);
  }

  /** About how many bytes these jobs have, in no order. */
  async function sizes(ids: readonly bigint[]): Promise<readonly Sized[]> {
    if (ids.length === 0) return [];
    return pool.any(sql.type(sizedRow)`
      SELECT j.id, ${roughJobBytes} AS bytes FROM ledgerd.jobs j WHERE j.id = ANY(${sql.array(ids, "int8")})`);
  }

  async function* inParts(ids: readonly bigint[]): AsyncGenerator<readonly Job[], void> {
    let left = (await sizes(ids)).toSorted(byId);
    while (left.length > 0) {
      const part = firstPart(left);
      left = left.slice(part.length);
      yield (await byIds(part.map(({ id }) => id))).toSorted(byId);
    }
  }

  async function payers(ids: readonly bigint[]): Promise<readonly Payer[]> {
    return pool.any(sql.type(payerRow)`SELECT j.id, j.user_id, j.currency FROM ledgerd.jobs j WHERE j.id = ANY(${sql.array(ids, "int8")})`);
  }

  async function list({ userId, modelId, status, startTime, endTime }: JobFilter, before: bigint, limit: number): Promise<JobPage> {
    const ofModel = modelId === "" ? sql.fragment`TRUE` : sql.fragment`j.model_id = ${modelId}`;
    const inStatus = status === undefined ? sql.fragment`TRUE` : sql.fragment`j.status = ${status}`;
    const from = startTime === undefined ? sql.fragment`TRUE` : sql.fragment`j.created_at >= ${timestamp(startTime)}::timestamptz`;
    const to = endTime === undefined ? sql.fragment`TRUE` : sql.fragment`j.created_at < ${timestamp(endTime)}::timestamptz`;
    const found = await pool.any(sql.type(sizedRow)`
      SELECT j.id, ${roughJobBytes} AS bytes
      FROM ledgerd.jobs j
      WHERE j.user_id = ${userId} AND j.id < ${before} AND ${ofModel} AND ${inStatus} AND ${from} AND ${to}
      ORDER BY j.id DESC
      LIMIT ${limit}`);
    const part = firstPart(found);
    const jobs = await byIds(part.map(({ id }) => id));
    return { jobs: jobs.toSorted(byId).toReversed(), isWhole: part.length === found.length };
  }

  async function unfinished(userId: bigint): Promise<readonly bigint[]> {
    const found = await pool.any(sql.type(idRow)`
      SELECT j.id
      FROM ledgerd.jobs j
      WHERE j.user_id = ${userId} AND j.status IN ('pending', 'processing')
      ORDER BY j.id DESC
      LIMIT 1000`);
    return found.map(({ id }) => id);
  }
}

/**
 * Which of these users' jobs have changed in the last moments, and when: longer ago than any transaction that may yet
 * commit.
 */
async function changesOf(pool: DatabasePool, userIds: readonly bigint[]): Promise<Changes> {
  // At least one row, that has the past alone.
  const found = await pool.any(sql.type(changeRow)`
    SELECT past.timeline, recent.user_id, recent.id, recent.changed_at
    FROM (SELECT ledgerd.timeline() AS timeline) AS past
    CROSS JOIN unnest(${sql.array(userIds, "int8")}) AS u (user_id)
    LEFT JOIN LATERAL (
      SELECT j.user_id, j.id, (extract(epoch FROM j.changed_at) * 1000000)::int8 AS changed_at
      FROM ledgerd.jobs j
      WHERE j.user_id = u.user_id AND j.changed_at > statement_timestamp() - ${LOOK_BACK}::interval
      ORDER BY j.changed_at
      LIMIT 10000
    ) AS recent ON TRUE`);
  const changes = found.flatMap(({ user_id: userId, id: jobId, changed_at: changedAt }) => {
    return userId === null || jobId === null || changedAt === null ? [] : [{ userId, jobId, changedAt }];
  });
  return { timeline: found[0]?.timeline ?? undefined, changes };
}

/**
 * The first ones, up to about what an answer holds, and the one that is too many: how many fit is then seen from the
 * jobs themselves.
 */
function firstPart(found: readonly Sized[]): readonly Sized[] {
  let before = 0;
  return found.filter(({ bytes }) => {
    const fits = before < ANSWER_BYTES;
    before += bytes;
    return fits;
  });
}

function byId(one: { readonly id: bigint }, other: { readonly id: bigint }): number {
  return one.id < other.id ? -1 : 1;
}
