// JobService: what callers and workers ask of jobs.

import type { Command } from "../../domain/journal/command.ts";
import type { Currencies } from "../../domain/money/currency.ts";
import type { Job, JobAsk } from "../../domain/jobs/job.ts";
import {
  BatchGetJobsRequestSchema,
  CancelJobRequestSchema,
  ClaimJobsRequestSchema,
  ClaimedJobSchema,
  CompleteJobRequestSchema,
  CreateJobRequestSchema,
  FailJobRequestSchema,
  GetJobRequestSchema,
  HeartbeatJobRequestSchema,
  ListJobsRequestSchema,
  RetryJobRequestSchema,
  UpdateJobStatusRequestSchema,
  WatchJobsRequestSchema,
  type ClaimedJob,
  type Job as JobMessage,
  type JobService,
} from "../../gen/ledger/v1/job_service_pb.ts";
import type { Claims } from "../../postgres/jobs/claims.ts";
import type { Durability } from "../../postgres/protocol/durability.ts";
import type { JobQueue } from "../../postgres/jobs/job-queue.ts";
import type { JobWatch } from "../../postgres/jobs/job-watch.ts";
import type { Jobs } from "../../postgres/jobs/jobs.ts";
import type { Journal } from "../../postgres/journal/journal.ts";
import { time, type Answers } from "../answers.ts";
import { fitting, listBytes, refuseTooLarge, sizeOf } from "../answer-size.ts";
import { jobMessage, jobSize, jobWritten } from "./job-answers.ts";
import { jobCommand, type JobSchemas } from "./job-requests.ts";
import { cursorOf, oneNumber, pageOf } from "../pages.ts";
import type { Payers } from "./payers.ts";
import { errorOfRefusal } from "../errors.ts";
import { leasedSubmissionOf, submissionOf } from "../submissions.ts";
import { validate } from "../validation.ts";
import { type Call, endOfWait, type Handlers } from "../call.ts";
import type { Submission } from "../../domain/journal/submission.ts";

/** What the handlers work with. */
export interface JobParts {
  readonly currencies: Currencies;
  readonly jobRequests: JobSchemas;
  readonly answers: Answers;
  readonly durability: Durability;
  readonly journal: Journal;
  readonly jobs: Jobs;
  readonly claims: Claims;
  readonly jobQueue: JobQueue;
  readonly jobWatch: JobWatch;
  readonly payers: Payers;
}

const claimedSize = sizeOf(ClaimedJobSchema);
const MAX_ID = 2n ** 63n - 1n;

/** The handlers of JobService. */
export function jobHandlers(parts: JobParts): Handlers<typeof JobService> {
  return { ...reading(parts), ...asking(parts), ...working(parts) };
}

function reading({ jobRequests: requests, answers, durability, jobs, jobWatch, payers, currencies }: JobParts) {
  const byIds = (ids: readonly bigint[]) => durability.durably(() => jobs.byIds(ids), (found) => found.length > 0);
  const message = (job: Job) => jobMessage(answers, job);
  return {
    getJob: async (request) => {
      const { jobId } = validate(requests.getJob, GetJobRequestSchema, request);
      const [job] = await byIds([jobId]);
      if (job === undefined) throw errorOfRefusal({ reason: "JOB_NOT_FOUND", jobId }, false, currencies);
      return { job: message(job) };
    },

    batchGetJobs: async (request) => {
      const { jobIds } = validate(requests.batchGetJobs, BatchGetJobsRequestSchema, request);
      const fewer = "ask for fewer jobs at once";
      const read = async () => {
        const told = new Map<bigint, JobMessage>();
        let bytes = 0;
        // As soon as they are too many, no more are read.
        for await (const part of jobs.inParts(jobIds)) {
          for (const job of part) {
            const one = message(job);
            told.set(job.id, one);
            refuseTooLarge((bytes += listBytes([one], jobSize)), fewer);
          }
        }
        return told;
      };
      const found = await durability.durably(read, ({ size }) => size > 0);
      const messages = jobIds.flatMap((id) => found.get(id) ?? []);
      refuseTooLarge(listBytes(messages, jobSize), fewer);
      return { jobs: messages };
    },

    listJobs: async (request) => {
      const { pageSize, pageToken: token, ...filter } = validate(requests.listJobs, ListJobsRequestSchema, request);
      const args = ["jobs", filter.userId, filter.modelId, filter.status, filter.startTime, filter.endTime];
      const [before = MAX_ID] = cursorOf(args, token, oneNumber) ?? [];
      const { jobs: found, isWhole } = await jobs.list(filter, before, pageSize + 1);
      const page = pageOf(args, { found, isWhole, size: pageSize, message, sizeOf: jobSize, cursor: ({ id }) => [id] });
      return { jobs: page.messages, nextPageToken: page.nextPageToken };
    },

    watchJobs: async function* (request, { signal }) {
      const { jobId, userId } = validate(requests.watchJobs, WatchJobsRequestSchema, request);
      if (jobId !== 0n && (await payers.of(jobId)) === undefined) {
        throw errorOfRefusal({ reason: "JOB_NOT_FOUND", jobId }, false, currencies);
      }
      const states = jobId === 0n ? jobWatch.user(userId, signal) : jobWatch.job(jobId, signal);
      for await (const job of states) yield { job: message(job) };
    },
  } satisfies Partial<Handlers<typeof JobService>>;
}

/** What callers do with their jobs. */
function asking(parts: JobParts) {
  const { jobRequests: requests } = parts;
  return {
    createJob: (request, call) => {
      const { userId, cost, runTime: runAt, idempotencyKey: key, ...own } = validate(requests.createJob, CreateJobRequestSchema, request);
      const command = jobCommand({ kind: "create_job", ...own, key, runAt, amount: cost.amount }, { userId, currency: cost.currency });
      return write(parts, submissionOf(command, key, call), call);
    },

    updateJobStatus: (request, call) => {
      const { finalCost, idempotencyKey: key, status, ...own } = validate(requests.updateJobStatus, UpdateJobStatusRequestSchema, request);
      if (status === undefined) throw new Error("a status passed the check without being one");
      return ask(parts, { kind: "update_job", ...own, status, finalCost }, (command) => submissionOf(command, key, call), call);
    },

    cancelJob: (request, call) => {
      const { jobId, idempotencyKey: key } = validate(requests.cancelJob, CancelJobRequestSchema, request);
      return ask(parts, { kind: "cancel_job", jobId }, (command) => submissionOf(command, key, call), call);
    },

    retryJob: (request, call) => {
      const { jobId, idempotencyKey: key } = validate(requests.retryJob, RetryJobRequestSchema, request);
      return ask(parts, { kind: "retry_job", jobId }, (command) => submissionOf(command, key, call), call);
    },
  } satisfies Partial<Handlers<typeof JobService>>;
}

/** What workers do under their leases. */
function working(parts: JobParts) {
  const { jobRequests: requests, answers, jobs, claims, jobQueue, currencies } = parts;
  return {
    claimJobs: async (request, call) => {
      const { maxJobs: limit, leaseDuration: lease, wait, ...own } = validate(requests.claimJobs, ClaimJobsRequestSchema, request);
      const taken = await jobQueue.claim({ ...own, limit, lease }, endOfWait(call, wait));
      // What is taken anew fits. What is told again may not: an earlier version gave more at once.
      return { jobs: fitting(taken, (job) => claimedJob(answers, job), claimedSize, 0) };
    },

    heartbeatJob: async (request) => {
      const { jobId, fencingToken, leaseDuration, progressPercent } = validate(requests.heartbeatJob, HeartbeatJobRequestSchema, request);
      const job = await claims.heartbeat({ jobId, fencingToken }, leaseDuration, progressPercent);
      if (job !== undefined) return { job: jobMessage(answers, job) };
      const exists = (await jobs.payers([jobId])).length > 0;
      throw errorOfRefusal(exists ? { reason: "LEASE_LOST", jobId, fencingToken } : { reason: "JOB_NOT_FOUND", jobId }, false, currencies);
    },

    completeJob: (request, call) => {
      const { finalCost, ...own } = validate(requests.completeJob, CompleteJobRequestSchema, request);
      return ask(parts, { kind: "complete_job", ...own, finalCost }, (command) => leasedSubmissionOf(command, own, call), call);
    },

    failJob: (request, call) => {
      const own = validate(requests.failJob, FailJobRequestSchema, request);
      return ask(parts, { kind: "fail_job", ...own, jitter: Math.random() }, (command) => leasedSubmissionOf(command, own, call), call);
    },
  } satisfies Partial<Handlers<typeof JobService>>;
}

/** Finds who pays for the job, and asks it of the journal. */
async function ask(
  parts: JobParts,
  what: Exclude<JobAsk, { kind: "create_job" }>,
  submission: (command: Command) => Submission,
  call: Call,
) {
  const payer = await parts.payers.of(what.jobId);
  if (payer === undefined) throw errorOfRefusal({ reason: "JOB_NOT_FOUND", jobId: what.jobId }, false, parts.currencies);
  return write(parts, submission(jobCommand(what, { userId: payer.userId, currency: payer.currency })), call);
}

async function write({ journal, answers, currencies }: JobParts, submission: Submission, call: Call) {
  const [submitted] = journal.submit([submission], call.deadline);
  if (submitted === undefined) throw new Error("the write was not submitted");
  const outcome = await submitted;
  if (outcome.kind === "refused") throw errorOfRefusal(outcome.refusal, outcome.stored, currencies);
  const [result] = outcome.results;
  if (result === undefined) throw new Error("the write was applied without a result");
  return jobWritten(answers, result, outcome.replayed);
}

function claimedJob(answers: Answers, job: Job): ClaimedJob {
  const { fencingToken, leaseExpiresAt } = job;
  if (leaseExpiresAt === undefined) throw new Error(`job ${job.id} was claimed without a lease`);
  return { $typeName: "ledger.v1.ClaimedJob", job: jobMessage(answers, job), fencingToken, leaseExpireTime: time(leaseExpiresAt) };
}
