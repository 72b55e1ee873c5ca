// The statements that write an adoption's rows, and how far it is.

import { sql } from "slonik";
import { int8s, texts, times } from "../../postgres/protocol/binary.ts";
import { logRows, type balanceRows, type Row, type RowTypes } from "../../postgres/journal/write.ts";
import { noColumns } from "../../postgres/rows/rows.ts";
import type { AdoptedJob } from "../rules/adopted-job.ts";
import type { MovedAccount } from "../rules/adoption.ts";

/** How far an adoption is. */
export interface Progress {
  readonly phase: "users" | "jobs" | "checks" | "done";
  /** Behind which old rows it goes on. */
  readonly userId: bigint;
  readonly transactionId: bigint;
  readonly jobId: bigint;
  /** What was found, as JSON. */
  readonly report: string;
}

/** An adoption. */
export interface Adoption extends Progress {
  readonly id: number;
  readonly source: string;
  readonly options: string;
  readonly fingerprint: string;
  readonly idBefore: bigint;
  readonly pass: number;
  readonly step: bigint;
  /** In microseconds. */
  readonly startedAt: bigint;
}

/** Rows of the log, in the order in which they are given. */
export function insertLog(rows: readonly Row[], types: RowTypes) {
  return sql.prepared("adopt_log", noColumns)`
    WITH log AS (
      INSERT INTO ledgerd.transactions (
        user_id, currency, sequence, type, amount, held_change, balance_after, held_after, credit_limit_after, reference, description, metadata,
        actor, created_at, hash)
      SELECT r.user_id, r.currency, r.sequence, r.type, r.amount, r.held_change, r.balance_after, r.held_after, r.credit_limit_after, r.reference,
             r.description, r.metadata, r.actor, r.created_at, r.hash
      FROM unnest(${logRows(rows, types.log)}::ledgerd.log_row[]) WITH ORDINALITY AS r (
        user_id, currency, sequence, type, amount, held_change, balance_after, held_after, credit_limit_after, hold_id, hold_captured,
        hold_expires_at, refunded_transaction_id, job_id, group_id, idempotency_key, reference, description, metadata, actor, trace_id,
        created_at, hash, place)
      ORDER BY r.place
      RETURNING id
    )
    SELECT ledgerd.assert_count('transactions', (SELECT count(*) FROM log), ${rows.length}::int8) AS log_complete`;
}

/** New accounts are inserted, those that are there move on from the sequence that was read, or the transaction fails. */
export function upsertBalances(rows: ReturnType<typeof balanceRows>, accounts: readonly MovedAccount[]) {
  return sql.prepared("adopt_balances", noColumns)`
    WITH given AS (
      SELECT r.user_id, r.currency, r.sequence_before, r.balance, r.held, r.credit_limit, r.sequence, r.updated_at, r.chain_head, r.created_at
      FROM unnest(${rows}::ledgerd.balance_row[], ${times(accounts.map(({ createdAt }) => createdAt))}::timestamptz[]) AS r (
        row, user_id, currency, sequence_before, balance, held, credit_limit, sequence, updated_at, chain_head, created_at)
    ), made AS (
      INSERT INTO ledgerd.user_balances (user_id, currency, balance, held, credit_limit, sequence, created_at, updated_at, chain_head)
      SELECT g.user_id, g.currency, g.balance, g.held, g.credit_limit, g.sequence, g.created_at, g.updated_at, g.chain_head
      FROM given g
      WHERE g.sequence_before = 0
      ON CONFLICT (user_id, currency) DO UPDATE SET
        balance = EXCLUDED.balance, sequence = EXCLUDED.sequence, created_at = EXCLUDED.created_at, updated_at = EXCLUDED.updated_at, chain_head = EXCLUDED.chain_head
      WHERE user_balances.sequence = 0
      RETURNING user_id
    ), moved AS (
      UPDATE ledgerd.user_balances b
      SET balance = g.balance, sequence = g.sequence, updated_at = g.updated_at, chain_head = g.chain_head
      FROM given g
      WHERE g.sequence_before > 0 AND b.user_id = g.user_id AND b.currency = g.currency AND b.sequence = g.sequence_before
      RETURNING b.user_id
    )
    SELECT ledgerd.assert_count('user_balances', (SELECT count(*) FROM made) + (SELECT count(*) FROM moved), ${accounts.length}::int8) AS balances_complete`;
}

/** What old jobs were, beside what they have become. */
export function noteJobs({ id }: Adoption, jobs: readonly AdoptedJob[]) {
  const ids = int8s(jobs.map(({ job }) => job.id));
  const bytes = int8s(jobs.map((one) => BigInt(one.bytes)));
  const notes = texts(jobs.map(({ old }) => JSON.stringify({ adoption: id, ...old })));
  return sql.prepared("adopt_note_jobs", noColumns)`
    UPDATE ledgerd.jobs j
    SET size = n.bytes, adopted = n.old::jsonb
    FROM unnest(${ids}::int8[], ${bytes}::int8[], ${notes}::text[]) AS n (id, bytes, old)
    WHERE j.id = n.id`;
}

/** The adoption is further, from the step that was read. */
export function moveOn({ id, step, fingerprint, pass }: Adoption, { phase, userId, transactionId, jobId, report }: Progress) {
  return sql.prepared("adopt_move_on", noColumns)`
    WITH moved AS (
      UPDATE ledgerd.adoptions a
      SET phase = ${phase}, user_id = ${userId}::int8, transaction_id = ${transactionId}::int8, job_id = ${jobId}::int8, report = ${report}::jsonb,
          fingerprint = ${fingerprint}, pass = ${pass}::int, step = a.step + 1,
          finished_at = CASE WHEN ${phase}::text = 'done' THEN clock_timestamp() END
      WHERE a.id = ${id}::int AND a.step = ${step}::int8 AND a.finished_at IS NULL
      RETURNING a.id
    )
    SELECT ledgerd.assert_count('adoptions', (SELECT count(*) FROM moved), 1) AS moved_on`;
}
