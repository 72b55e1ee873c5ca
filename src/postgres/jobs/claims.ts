// Gives jobs to workers.
//
// A claim, a heartbeat, and the look for lost leases move no money: they are statements of their own, which lock jobs alone and skip those
// that are locked. Everything else about jobs goes through the journal, under the account's lock.
//
// Times in conditions are statement_timestamp(): with clock_timestamp(), which changes from row to row, an index can't be searched for them (a look
// for due jobs read a hundred thousand that weren't). Where a lease is decided upon, its row is found by its id, and the time is that very moment's,
// in a condition from which no partial index follows: on empty tables that of leases seems as good, and would be walked once it is full.

import { sql, type CommonQueryMethods, type DatabasePool } from "slonik";
import { z } from "zod";
import { ANSWER_BYTES } from "../../domain/answer-size.ts";
import type { Job, Lease } from "../../domain/jobs/job.ts";
import { jobBytes, jobColumns, roughJobBytes } from "../rows/job-rows.ts";
import { payerRow, type Payer } from "./jobs.ts";
import { noColumns, type Rows } from "../rows/rows.ts";

/** What a worker asks for. */
export interface Claim {
  readonly workerId: string;
  /** Empty: any. */
  readonly modelIds: readonly string[];
  readonly limit: number;
  /** In microseconds. */
  readonly lease: bigint;
  /** The worker's id of this claim; empty: none. */
  readonly requestId: string;
}

/** How many jobs whose time has come are made ready at once. */
const READY_SIZE = 1000;

const readyRow = z.object({ made_ready: z.bigint() });

/** Gives jobs to workers. */
export interface Claims {
  /** Makes jobs claimable whose time has come; answers how many. */
  readonly makeReady: () => Promise<bigint>;
  /** Takes ready jobs; under an id that the worker has used before, those that it took then, as far as its leases are valid. */
  readonly claim: (wanted: Claim) => Promise<readonly Job[]>;
  /** Extends a valid lease by this many microseconds from now; undefined if there is none. */
  readonly heartbeat: (lease: Lease, extension: bigint, progress: number | undefined) => Promise<Job | undefined>;
  /** Up to `limit` jobs whose lease is over, the longest over first. */
  readonly lost: (limit: number) => Promise<readonly Payer[]>;
}

/** The claims of jobs, over a pool. */
export function claimsOf(pool: DatabasePool, rows: Rows): Claims {
  return { makeReady, claim, heartbeat, lost };

  async function makeReady(): Promise<bigint> {
    return pool.oneFirst(sql.type(readyRow)`
      WITH due AS (
        SELECT j.ctid AS row
        FROM ledgerd.jobs j
        WHERE j.status = 'pending' AND NOT j.ready AND j.run_at <= statement_timestamp()
        ORDER BY j.run_at
        LIMIT ${READY_SIZE}
        FOR UPDATE SKIP LOCKED
      ), made AS (
        UPDATE ledgerd.jobs j SET ready = TRUE FROM due WHERE j.ctid = due.row RETURNING j.id
      )
      SELECT count(*) AS made_ready FROM made`);
  }

  async function claim(wanted: Claim): Promise<readonly Job[]> {
    const { workerId, requestId } = wanted;
    if (requestId === "") return take(pool, rows, wanted);
    return pool.transaction(async (transaction) => {
      // One at a time: of two repeats at once, the second one finds what the first one took.
      await transaction.query(sql.type(noColumns)`SELECT pg_advisory_xact_lock(hashtextextended(${`ledgerd claim ${workerId} ${requestId}`}, 0))`);
      const taken = await claimed(transaction, wanted);
      return taken.length > 0 ? taken : take(transaction, rows, wanted);
    });
  }

  async function claimed(connection: CommonQueryMethods, { workerId, requestId }: Claim): Promise<readonly Job[]> {
    return connection.any(sql.type(rows.job)`
      SELECT ${jobColumns}
      FROM ledgerd.jobs j
      WHERE j.worker_id = ${workerId} AND j.claim_request_id = ${requestId} AND j.status = 'processing' AND j.lease_expires_at > statement_timestamp()
      ORDER BY j.priority DESC, j.run_at, j.id
      LIMIT 1000`);
  }

  async function heartbeat({ jobId, fencingToken }: Lease, lease: bigint, progress: number | undefined): Promise<Job | undefined> {
    const extended = await pool.maybeOne(sql.type(rows.job)`
      UPDATE ledgerd.jobs j
      SET lease_expires_at = greatest(j.lease_expires_at, clock_timestamp() + ${lease}::int8 * interval '1 microsecond'),
          progress = coalesce(${progress ?? null}::int, j.progress),
          changed_at = CASE WHEN ${progress ?? null}::int <> j.progress THEN clock_timestamp() ELSE j.changed_at END
      WHERE j.id = ${jobId} AND j.fencing_token = ${fencingToken} AND coalesce(j.lease_expires_at > clock_timestamp(), FALSE)
      RETURNING ${jobColumns}`);
    return extended ?? undefined;
  }

  async function lost(limit: number): Promise<readonly Payer[]> {
    return pool.any(sql.type(payerRow)`
      SELECT j.id, j.user_id, j.currency
      FROM ledgerd.jobs j
      WHERE j.status = 'processing' AND j.lease_expires_at IS NOT NULL AND j.lease_expires_at <= statement_timestamp()
      ORDER BY j.lease_expires_at
      LIMIT ${limit}`);
  }
}

/**
 * Takes ready jobs for a worker, each with a token of its own; in the order of claims, and no more than an answer
 * holds. Of those that were found, as many are read as an answer could hold by their stored sizes; they are counted,
 * and the first ones that fit are taken. The very first is taken in any case: whether an answer holds it alone is seen
 * from itself. What was locked is found again by where it lies: as a join by ids, the update read the whole primary
 * key.
 */
async function take(connection: CommonQueryMethods, rows: Rows, { workerId, modelIds, limit, lease, requestId }: Claim): Promise<readonly Job[]> {
  const order = sql.fragment`priority DESC, run_at, id`;
  const any = sql.fragment`
    SELECT j.ctid AS row, j.priority, j.run_at, j.id, ${roughJobBytes} AS bytes
    FROM ledgerd.jobs j
    WHERE j.status = 'pending' AND j.ready AND j.id > 0
    ORDER BY ${order}
    LIMIT ${limit}
    FOR UPDATE SKIP LOCKED`;
  // Each kind's best ones, by its own part of the index; those that are too many stay locked for the moment that this takes.
  const ofModels = sql.fragment`
    SELECT best.row, best.priority, best.run_at, best.id, best.bytes
    FROM unnest(${sql.array(modelIds, "text")}) AS m (model_id)
    CROSS JOIN LATERAL (
      SELECT j.ctid AS row, j.priority, j.run_at, j.id, ${roughJobBytes} AS bytes
      FROM ledgerd.jobs j
      WHERE j.status = 'pending' AND j.ready AND j.model_id = m.model_id
      ORDER BY ${order}
      LIMIT ${limit}
      FOR UPDATE SKIP LOCKED
    ) AS best
    ORDER BY ${order}
    LIMIT ${limit}`;
  const claimed = await connection.any(sql.type(rows.job)`
    WITH best AS MATERIALIZED (${modelIds.length === 0 ? any : ofModels}),
    sized AS MATERIALIZED (
      SELECT b.row, b.priority, b.run_at, b.id,
             sum(b.bytes) OVER (ORDER BY b.priority DESC, b.run_at, b.id) - b.bytes AS before
      FROM best b
    ),
    counted AS MATERIALIZED (
      SELECT s.row, s.priority, s.run_at, s.id, ${jobBytes} AS bytes
      FROM sized s
      JOIN ledgerd.jobs j ON j.ctid = s.row
      WHERE s.before < ${ANSWER_BYTES}::int8
    ),
    summed AS (
      SELECT c.row, c.priority, c.run_at, c.id, sum(c.bytes) OVER in_order AS bytes, row_number() OVER in_order AS place
      FROM counted c
      WINDOW in_order AS (ORDER BY c.priority DESC, c.run_at, c.id)
    ),
    source AS MATERIALIZED (SELECT ledgerd.token_source('ledgerd.fencing_token_seq') AS tokens),
    numbered AS MATERIALIZED (
      SELECT f.row, nextval(s.tokens) AS fencing_token
      FROM summed f CROSS JOIN source s
      WHERE f.bytes <= ${ANSWER_BYTES}::int8 OR f.place = 1
      ORDER BY ${order}
      LIMIT ${limit}
    )
    UPDATE ledgerd.jobs j
    SET status = 'processing', attempt = j.attempt + 1, worker_id = ${workerId}, fencing_token = numbered.fencing_token, progress = 0,
        lease_expires_at = clock_timestamp() + ${lease}::int8 * interval '1 microsecond', claim_request_id = ${requestId === "" ? null : requestId},
        changed_at = clock_timestamp()
    FROM numbered
    WHERE j.ctid = numbered.row
    RETURNING ${jobColumns}`);
  return claimed.toSorted((a, b) => Number(a.fencingToken - b.fencingToken));
}
