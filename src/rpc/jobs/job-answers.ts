// From jobs to the messages of the contract.

import type { JsonObject } from "@bufbuild/protobuf";
import { LARGEST_ROW } from "../../domain/answer-size.ts";
import type { Job, JobStatus } from "../../domain/jobs/job.ts";
import { readParameters } from "../../domain/jobs/parameters.ts";
import { accountAfter, type Result } from "../../domain/journal/transaction.ts";
import { JobSchema, JobStatus as StatusMessage, type Job as JobMessage } from "../../gen/ledger/v1/job_service_pb.ts";
import { sizeOf } from "../answer-size.ts";
import { cut, time, type Answers } from "../answers.ts";

/** What the database's word for a status is in the contract. */
export const statusMessages: Readonly<Record<JobStatus, StatusMessage>> = {
  pending: StatusMessage.PENDING,
  processing: StatusMessage.PROCESSING,
  completed: StatusMessage.COMPLETED,
  failed: StatusMessage.FAILED,
  cancelled: StatusMessage.CANCELLED,
};

/** The most bytes of a job's message. */
export const jobSize = sizeOf(JobSchema);

/** Up to so many characters of its texts, a job's bytes need not be counted. */
const SMALL_JOB = 100_000;

/** A job as a message. */
export function jobMessage(answers: Answers, job: Job): JobMessage {
  const message = wholeJob(answers, job);
  const { prompt, parameters, errorMessage, resultUrl, idempotencyKey, workerId } = job;
  const texts = [prompt, parameters, errorMessage, resultUrl, idempotencyKey, workerId];
  const characters = texts.reduce((sum, { length }) => sum + length, 0);
  return characters <= SMALL_JOB || jobSize(message) <= LARGEST_ROW ? message : shortened(message);
}

/**
 * A job that no call has created, larger than clients take: its texts are cut, as those of transactions are, and its
 * parameters left out. No worker is given it.
 */
function shortened(message: JobMessage): JobMessage {
  const { prompt, resultUrl, errorMessage, idempotencyKey, workerId } = message;
  const shorter: JobMessage = {
    ...message,
    prompt: cut(prompt),
    resultUrl: cut(resultUrl),
    errorMessage: cut(errorMessage),
    idempotencyKey: cut(idempotencyKey),
    workerId: cut(workerId),
  };
  delete shorter.parameters;
  return shorter;
}

function wholeJob({ money }: Answers, job: Job): JobMessage {
  return {
    $typeName: "ledger.v1.Job",
    id: job.id,
    userId: job.userId,
    modelId: job.modelId,
    prompt: job.prompt,
    status: statusMessages[job.status],
    cost: money(job.cost, job.currency),
    resultUrl: job.resultUrl,
    errorMessage: job.errorMessage,
    holdId: job.holdId ?? 0n,
    priority: job.priority,
    runTime: time(job.runAt),
    attempt: job.attempt,
    maxAttempts: job.maxAttempts,
    workerId: job.workerId,
    progressPercent: job.progress,
    cancelRequested: job.cancelRequested,
    idempotencyKey: job.idempotencyKey,
    createTime: time(job.createdAt),
    ...parametersOf(job),
    ...(job.finalCost === undefined ? {} : { finalCost: money(job.finalCost, job.currency) }),
    ...(job.leaseExpiresAt === undefined ? {} : { leaseExpireTime: time(job.leaseExpiresAt) }),
    ...(job.completedAt === undefined ? {} : { completeTime: time(job.completedAt) }),
  };
}

/** Its parameters; none where no client could read them, nor the answer that had them: nobody is given such a job. */
function parametersOf({ parameters }: Job): { readonly parameters?: JsonObject } {
  const read = readParameters(parameters);
  return "problem" in read || read.object === undefined ? {} : { parameters: read.object as JsonObject };
}

/** What every call that may move a job's money answers. */
export function jobWritten(answers: Answers, { job, transactions: [transaction] }: Result, replayed: boolean) {
  if (job === undefined) throw new Error("a job's write was applied without a job");
  const moved = transaction === undefined ? {} : { transaction: answers.transaction(transaction), balance: answers.balance(accountAfter(transaction)) };
  return { job: jobMessage(answers, job), ...moved, replayed };
}
