// The laws of jobs, over everything that lies in the database, and over every move that a job made.

import { expect } from "vitest";
import type { Hold } from "../../src/domain/money/account.ts";
import { currenciesWith } from "../../src/domain/money/currency.ts";
import type { Job, JobStatus } from "../../src/domain/jobs/job.ts";
import { jobColumns } from "../../src/postgres/rows/job-rows.ts";
import { rowsFor } from "../../src/postgres/rows/rows.ts";
import type { TestDatabase } from "../harness/database.ts";
import { checkDatabase, type StoredLedger } from "../harness/inspect.ts";

const rows = rowsFor(currenciesWith([]));

type Queried = Pick<TestDatabase, "query">;

/** All jobs, and the ledger that pays for them. */
export interface StoredJobs extends StoredLedger {
  readonly jobs: readonly Job[];
}

/** Which states follow which; a job that stays in its state makes no move. */
const moves: Readonly<Record<JobStatus, readonly JobStatus[]>> = {
  pending: ["processing", "cancelled"],
  processing: ["pending", "completed", "failed", "cancelled"],
  completed: [],
  failed: ["pending"],
  cancelled: ["pending"],
};

/** Has the database itself note every move of a job, past the service. To be called before the first job. */
export async function noteMoves({ query }: Queried): Promise<void> {
  await query(`
    CREATE TABLE public.job_moves (
      number BIGSERIAL, job_id BIGINT, status_before TEXT, status_after TEXT, token_before BIGINT, token_after BIGINT, rescued_early BOOLEAN
    )`);
  await query(`
    CREATE FUNCTION public.note_job_move() RETURNS TRIGGER LANGUAGE plpgsql SECURITY DEFINER AS $$
    BEGIN
      INSERT INTO public.job_moves (job_id, status_before, status_after, token_before, token_after, rescued_early)
      VALUES (NEW.id, OLD.status, NEW.status, OLD.fencing_token, NEW.fencing_token,
              NEW.status <> 'completed' AND NEW.error_message = 'the lease of worker ' || OLD.worker_id || ' ran out' AND OLD.lease_expires_at > clock_timestamp());
      RETURN NULL;
    END $$`);
  await query(`
    CREATE TRIGGER note_job_move AFTER UPDATE ON ledgerd.jobs FOR EACH ROW
    WHEN (OLD.status <> NEW.status OR OLD.fencing_token <> NEW.fencing_token) EXECUTE FUNCTION public.note_job_move()`);
}

/** All jobs, in the order of their ids. */
export async function readJobs({ query }: Queried): Promise<readonly Job[]> {
  return (await query(`SELECT ${jobColumns.sql} FROM ledgerd.jobs j ORDER BY j.id`)).map((row) => rows.job.parse(row));
}

/** Checks the laws of jobs and those of the ledger, of a database at rest. Answers what was read. */
export async function checkJobs(database: Queried): Promise<StoredJobs> {
  const ledger = await checkDatabase(database);
  const jobs = await readJobs(database);
  const holds = Map.groupBy(ledger.holds.filter(({ jobId }) => jobId !== undefined), ({ jobId }) => jobId);
  for (const job of jobs) {
    checkState(job);
    checkHolds(job, holds.get(job.id) ?? []);
  }
  checkMoney(jobs, ledger);
  await checkNoneLost(jobs, ledger, database);
  await checkMoves(database);
  return { ...ledger, jobs };
}

export const isFinal = ({ status }: Pick<Job, "status">): boolean => ["completed", "failed", "cancelled"].includes(status);

function checkState(job: Job): void {
  const { id, status, cost, finalCost } = job;
  expect(Object.keys(moves), `job ${id}: its state is one of the machine's`).toContain(status);
  expect(job.completedAt !== undefined, `job ${id}, ${status}: it has a time of its end exactly if it is final`).toBe(isFinal(job));
  expect(finalCost !== undefined, `job ${id}, ${status}: it has a final cost exactly if it is completed`).toBe(status === "completed");
  if (finalCost !== undefined) expect(finalCost >= 0n && finalCost <= cost, `job ${id}: ${finalCost} of ${cost} was charged`).toBe(true);
  if (job.leaseExpiresAt !== undefined) expect(status, `job ${id}: only a worked on one has a lease`).toBe("processing");
}

/** Of holds that belong to one job; in the order of ids, so that the last one is the latest. */
function checkHolds(job: Job, holds: readonly Hold[]): void {
  const { id, userId, currency, cost, finalCost = 0n } = job;
  const last = holds.at(-1);
  expect(last?.id, `job ${id} knows its last hold`).toBe(cost === 0n ? undefined : job.holdId);
  for (const hold of holds) {
    expect(hold, `hold ${hold.id} is of the cost of job ${id}`).toMatchObject({ userId, currency, amount: cost, jobId: id });
    if (hold !== last) expect(hold, `hold ${hold.id} was released before job ${id} was retried`).toMatchObject({ state: "released", captured: 0n });
  }
  if (last === undefined) return;
  const state = !isFinal(job) ? "open" : finalCost > 0n ? "captured" : "released";
  expect(last, `the hold of job ${id}, ${job.status}`).toMatchObject({ state, captured: finalCost });
}

/** Each hold of a job was placed once, and ended once if it ended; what was captured is what its job says, and in all what jobs cost. */
function checkMoney(jobs: readonly Job[], { log, holds }: StoredLedger): void {
  const ofHold = Map.groupBy(log.filter(({ jobId }) => jobId !== undefined), ({ holdId }) => holdId);
  for (const { id, state, jobId } of holds) {
    if (jobId === undefined) continue;
    const ends = { open: [], captured: ["capture"], released: ["release"], expired: ["nothing of a job expires"] }[state];
    expect(ofHold.get(id)?.map(({ type }) => type), `the rows of hold ${id} of job ${jobId}`).toEqual(["hold", ...ends]);
  }
  const charged = log.filter(({ jobId }) => jobId !== undefined).reduce((sum, { amount }) => sum - amount, 0n);
  expect(charged, "the log's charges are the jobs' final costs").toBe(jobs.reduce((sum, { finalCost = 0n }) => sum + finalCost, 0n));
}

/** Whatever the log or a stored answer says of a job, it is there. */
async function checkNoneLost(jobs: readonly Job[], { log }: StoredLedger, { query }: Queried): Promise<void> {
  const known = new Set(jobs.map(({ id }) => id));
  const answered = await query<{ job_id: bigint }>("SELECT DISTINCT job_id FROM ledgerd.idempotency_keys WHERE job_id IS NOT NULL");
  const told = [...answered.map(({ job_id: id }) => id), ...log.flatMap(({ jobId }) => jobId ?? [])];
  expect(told.filter((id) => !known.has(id)), "jobs that were lost").toEqual([]);
}

interface Move {
  readonly job_id: bigint;
  readonly status_before: JobStatus;
  readonly status_after: JobStatus;
  readonly token_before: bigint;
  readonly token_after: bigint;
  readonly rescued_early: boolean | null;
}

/** A job is given away only while nobody has it, with a larger token; and is taken from its worker only when the lease is over. */
async function checkMoves({ query }: Queried): Promise<void> {
  for (const move of await query<Move>("SELECT * FROM public.job_moves ORDER BY number")) {
    const { job_id: id, status_before: before, status_after: after, token_before: old, token_after: token } = move;
    // A group writes a job once, as its last command leaves it: of a retry and a start in one group, say, the row shows one step.
    const within = [...moves[before], ...moves[before].flatMap((between) => moves[between])];
    expect(within, `job ${id} went from ${before} to ${after}`).toContain(after);
    expect(move.rescued_early === true, `job ${id} was rescued while its lease was valid`).toBe(false);
    if (token !== old) expect([before, after, token > old], `job ${id} got token ${token} after ${old}`).toEqual(["pending", "processing", true]);
  }
}
