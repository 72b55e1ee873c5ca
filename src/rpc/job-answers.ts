// From jobs to the messages of the contract.

import type { JsonObject } from "@bufbuild/protobuf";
import type { Job, JobStatus } from "../domain/job.ts";
import { accountAfter, type Result } from "../domain/transaction.ts";
import { JobStatus as StatusMessage, type Job as JobMessage } from "../gen/ledger/v1/job_service_pb.ts";
import { time, type Answers } from "./answers.ts";

/** What the database's word for a status is in the contract. */
export const statusMessages: Readonly<Record<JobStatus, StatusMessage>> = {
  pending: StatusMessage.PENDING,
  processing: StatusMessage.PROCESSING,
  completed: StatusMessage.COMPLETED,
  failed: StatusMessage.FAILED,
  cancelled: StatusMessage.CANCELLED,
};

/** A job as a message. */
export function jobMessage({ money }: Answers, job: Job): JobMessage {
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
    ...(job.parameters === "" ? {} : { parameters: JSON.parse(job.parameters) as JsonObject }),
    ...(job.finalCost === undefined ? {} : { finalCost: money(job.finalCost, job.currency) }),
    ...(job.leaseExpiresAt === undefined ? {} : { leaseExpireTime: time(job.leaseExpiresAt) }),
    ...(job.completedAt === undefined ? {} : { completeTime: time(job.completedAt) }),
  };
}

/** What every call that may move a job's money answers. */
export function jobWritten(answers: Answers, { job, transactions: [transaction] }: Result, replayed: boolean) {
  if (job === undefined) throw new Error("a job's write was applied without a job");
  const moved = transaction === undefined ? {} : { transaction: answers.transaction(transaction), balance: answers.balance(accountAfter(transaction)) };
  return { job: jobMessage(answers, job), ...moved, replayed };
}
