// The rules of jobs: each move of a job's state with the entry that moves its money, or why it is refused.

import { captureHold, endHold, remaining, type Account, type Entry, type Hold } from "../money/account.ts";
import type { CommandOf } from "./command.ts";
import { refuseSpending } from "./floor.ts";
import { backoff, holdsLease, JOB_HOLD_EXPIRES_AT, type Job, type JobAsk, type JobStatus } from "../jobs/job.ts";
import type { Refusal } from "./refusal.ts";

/** What is asked of a job, and of which account. */
export type JobCommand = CommandOf<JobAsk["kind"]>;

/** The facts of a job's decision. */
export interface JobSituation {
  readonly account: Account;
  /** The job that is named, if it is there. */
  readonly job: Job | undefined;
  /** Its hold. */
  readonly hold: Hold | undefined;
  readonly newJobId: bigint;
  readonly newHoldId: bigint;
  /** The time of the write, in microseconds. */
  readonly time: bigint;
  /** The clock's, by which leases end and jobs fall due: `time` is ahead of it where the clock was set back. */
  readonly now: bigint;
}

/** The job afterwards, and the entry that moved its money, if any moved. */
export interface JobDecision {
  readonly job: Job;
  readonly entries: readonly Entry[];
}

/** Decides what is asked of a job. */
export function decideJob(situation: JobSituation, command: JobCommand): JobDecision | Refusal {
  if (command.kind === "create_job") return create(situation, command);
  const { job } = situation;
  if (job === undefined) return { reason: "JOB_NOT_FOUND", jobId: command.jobId };
  switch (command.kind) {
    case "complete_job":
      return refuseCurrency(job, command) ?? refuseLease(situation, job, command) ?? complete(situation, job, command);
    case "fail_job":
      return refuseLease(situation, job, command) ?? fail(situation, job, command);
    case "cancel_job":
      return cancel(situation, job);
    case "retry_job":
      return retry(situation, job);
    case "update_job":
      return refuseCurrency(job, command) ?? update(situation, job, command);
    case "rescue_job":
      return rescue(situation, job);
  }
}

function create(situation: JobSituation, command: CommandOf<"create_job">): JobDecision | Refusal {
  const { newJobId: id, time, now } = situation;
  const { userId, currency, modelId, prompt, parameters, amount: cost, priority, maxAttempts } = command;
  const job: Job = {
    id, userId, currency, modelId, prompt, parameters, cost, priority, maxAttempts,
    idempotencyKey: command.key, createdAt: time, status: "pending", runAt: command.runAt ?? now,
    holdId: undefined, finalCost: undefined, resultUrl: "", errorMessage: "", attempt: 0, workerId: "", fencingToken: 0n,
    leaseExpiresAt: undefined, progress: 0, cancelRequested: false, completedAt: undefined,
  };
  return place(situation, job);
}

/** Reserves the cost. */
function place({ account, newHoldId, time }: JobSituation, job: Job): JobDecision | Refusal {
  const { userId, currency, cost: amount } = job;
  if (amount === 0n) return { job, entries: [] };
  const refused = refuseSpending(account, amount);
  if (refused !== undefined) return refused;
  const hold: Hold = { id: newHoldId, userId, currency, amount, captured: 0n, state: "open", jobId: job.id, expiresAt: JOB_HOLD_EXPIRES_AT, createdAt: time };
  return { job: { ...job, holdId: hold.id }, entries: [{ type: "hold", userId, currency, amount: 0n, heldChange: amount, hold }] };
}

function complete(situation: JobSituation, job: Job, { finalCost, resultUrl }: CommandOf<"complete_job" | "update_job">): JobDecision | Refusal {
  const amount = finalCost?.minor ?? job.cost;
  if (amount > job.cost) {
    return { reason: "CAPTURE_EXCEEDS_HOLD", holdId: job.holdId ?? 0n, remaining: { currency: job.currency, minor: job.cost } };
  }
  return end(situation, { ...job, finalCost: amount, resultUrl, progress: 100 }, "completed", amount);
}

/** Makes a job final: charges `taken` of its hold, and sets the rest free. */
function end({ hold, time }: JobSituation, job: Job, status: JobStatus, taken = 0n): JobDecision {
  const ended: Job = { ...job, status, leaseExpiresAt: undefined, completedAt: time };
  if (job.holdId === undefined) return { job: ended, entries: [] };
  if (hold?.state !== "open") throw new Error(`job ${job.id} is ${job.status}, and its hold ${job.holdId} is not open`);
  const { userId, currency } = job;
  const heldChange = -remaining(hold);
  const released: Entry = { type: "release", userId, currency, amount: 0n, heldChange, hold: endHold(hold, "released") };
  const captured: Entry = { type: "capture", userId, currency, amount: -taken, heldChange, hold: captureHold(hold, taken, heldChange) };
  return { job: ended, entries: [taken > 0n ? captured : released] };
}

function fail(situation: JobSituation, job: Job, { errorMessage, final, jitter }: CommandOf<"fail_job">): JobDecision {
  const failed: Job = { ...job, errorMessage };
  if (job.cancelRequested) return end(situation, failed, "cancelled");
  if (final || job.attempt >= job.maxAttempts) return end(situation, failed, "failed");
  return pendingFrom(failed, situation.now + backoff(job.attempt, jitter));
}

function pendingFrom(job: Job, runAt: bigint): JobDecision {
  return { job: { ...job, status: "pending", leaseExpiresAt: undefined, runAt }, entries: [] };
}

function cancel(situation: JobSituation, job: Job): JobDecision | Refusal {
  if (job.status === "cancelled") return { job, entries: [] };
  if (job.status !== "pending" && job.status !== "processing") return conflict(job);
  const isWorkedOn = job.leaseExpiresAt !== undefined && job.leaseExpiresAt > situation.now;
  return isWorkedOn ? { job: { ...job, cancelRequested: true }, entries: [] } : end(situation, job, "cancelled");
}

function retry(situation: JobSituation, job: Job): JobDecision | Refusal {
  if (job.status !== "failed" && job.status !== "cancelled") return conflict(job);
  const anew = { attempt: 0, progress: 0, cancelRequested: false, runAt: situation.now, completedAt: undefined };
  const again: Job = { ...job, status: "pending", holdId: undefined, ...anew };
  return place(situation, again);
}

function update(situation: JobSituation, job: Job, command: CommandOf<"update_job">): JobDecision | Refusal {
  const { status, resultUrl, errorMessage } = command;
  if (job.leaseExpiresAt !== undefined) return conflict(job);
  if (status === job.status) return isAsAsked(job, command) ? { job, entries: [] } : conflict(job);
  const from = (...statuses: readonly JobStatus[]): boolean => statuses.includes(job.status);
  const explained: Job = { ...job, errorMessage };
  if (status === "processing" && from("pending")) return { job: { ...job, status, attempt: job.attempt + 1, progress: 0 }, entries: [] };
  if (status === "completed" && from("processing")) return complete(situation, job, { ...command, resultUrl });
  if (status === "failed" && from("processing")) return end(situation, explained, status);
  if (status === "pending" && from("processing")) return pendingFrom(explained, situation.now);
  if (status === "cancelled" && from("pending", "processing")) return end(situation, explained, status);
  return conflict(job);
}

/** Whether a job that has the state which is asked for was brought there by the same request. */
function isAsAsked(job: Job, { status, resultUrl, errorMessage, finalCost }: CommandOf<"update_job">): boolean {
  if (status === "completed") return job.resultUrl === resultUrl && job.finalCost === (finalCost?.minor ?? job.cost);
  // Two workers that both take a job must not both be told that they have it.
  return status !== "processing" && job.errorMessage === errorMessage;
}

function rescue(situation: JobSituation, job: Job): JobDecision {
  const { status, leaseExpiresAt, workerId, attempt, maxAttempts } = job;
  const isOver = leaseExpiresAt !== undefined && leaseExpiresAt <= situation.now;
  if (status !== "processing" || !isOver) return { job, entries: [] };
  const lost: Job = { ...job, errorMessage: `the lease of worker ${workerId} ran out` };
  if (job.cancelRequested) return end(situation, lost, "cancelled");
  return attempt >= maxAttempts ? end(situation, lost, "failed") : pendingFrom(lost, situation.now);
}

function refuseLease({ now }: JobSituation, job: Job, lease: Pick<Job, "fencingToken">): Refusal | undefined {
  const { fencingToken } = lease;
  return holdsLease(job, fencingToken, now) ? undefined : { reason: "LEASE_LOST", jobId: job.id, fencingToken };
}

function refuseCurrency({ currency }: Job, { finalCost }: CommandOf<"complete_job" | "update_job">): Refusal | undefined {
  if (finalCost === undefined || finalCost.currency === currency) return undefined;
  return { reason: "CURRENCY_MISMATCH", currency, requested: finalCost.currency };
}

function conflict({ id, status, leaseExpiresAt }: Job): Refusal {
  return { reason: "JOB_STATE_CONFLICT", jobId: id, status, leaseExpiresAt };
}
