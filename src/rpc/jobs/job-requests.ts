// The requests about jobs: checked, and turned into domain values.

import type { JsonObject, JsonValue } from "@bufbuild/protobuf";
import { z } from "zod";
import type { Command } from "../../domain/journal/command.ts";
import type { Currencies } from "../../domain/money/currency.ts";
import type { JobAsk, JobStatus } from "../../domain/jobs/job.ts";
import { problemIn } from "../../domain/jobs/parameters.ts";
import { isLonger } from "../../domain/text.ts";
import type { Money } from "../../gen/ledger/v1/money_pb.ts";
import { statusMessages } from "./job-answers.ts";
import { pageTokenText } from "../pages.ts";
import { id, ids, idempotencyKey, leaseIntervalOrDefault, money, name, pageSize, printableText, report, text, timestamp, waitInterval } from "../validation.ts";

const MAX_PARAMETERS = 100_000;
const DEFAULT_ATTEMPTS = 3;

/** The schemas of requests about jobs. */
export type JobSchemas = ReturnType<typeof jobSchemas>;

/** Kinds of jobs to claim; one that is named twice would be looked for twice. */
const kinds = z
  .array(z.unknown())
  .refine((given) => given.length <= 100, { error: "must name at most 100 kinds", abort: true })
  .pipe(z.array(name(100)))
  .transform((given) => [...new Set(given)]);

/** The schemas of requests about jobs, for a ledger with these currencies. */
export function jobSchemas(currencies: Currencies, defaultCurrency: string) {
  const cost = money(currencies, defaultCurrency, "not negative");
  // Absent has a meaning of its own here: all of the cost, in the job's currency.
  const finalCost = z
    .custom<Money>()
    .optional()
    .transform((given, context) => {
      if (given === undefined) return undefined;
      const checked = cost.safeParse(given);
      if (checked.success) return { currency: checked.data.currency, minor: checked.data.amount };
      for (const { path, message } of checked.error.issues) context.addIssue({ code: "custom", path: [...path], message });
      return z.NEVER;
    });
  const leased = { jobId: id, fencingToken: id };
  return {
    createJob: z.object({
      userId: id,
      modelId: name(100),
      prompt: text(100_000),
      parameters,
      cost,
      idempotencyKey,
      priority: z.int(),
      runTime: timestamp.optional(),
      maxAttempts: z.int().refine((count) => count >= 0 && count <= 100, "must be from 0 to 100").transform((count) => (count === 0 ? DEFAULT_ATTEMPTS : count)),
    }),
    getJob: z.object({ jobId: id }),
    batchGetJobs: z.object({ jobIds: ids("jobs") }),
    listJobs: z.object({
      userId: id,
      modelId: text(100),
      status: jobStatus,
      startTime: timestamp.optional(),
      endTime: timestamp.optional(),
      pageSize,
      pageToken: pageTokenText,
    }),
    updateJobStatus: z.object({
      jobId: id,
      status: jobStatus.refine((status) => status !== undefined, "is required"),
      resultUrl: text(2000),
      errorMessage: report(2000),
      finalCost,
      idempotencyKey: printableText,
    })
    .superRefine(refuseUnfitting),
    claimJobs: z.object({
      workerId: name(100),
      modelIds: kinds,
      maxJobs: z.int().refine((count) => count >= 0 && count <= 1000, "must be from 0 to 1000").transform((count) => (count === 0 ? 1 : count)),
      leaseDuration: leaseIntervalOrDefault,
      wait: waitInterval,
      requestId: printableText,
    }),
    heartbeatJob: z.object({
      ...leased,
      leaseDuration: leaseIntervalOrDefault,
      progressPercent: z.int().refine((percent) => percent >= 0 && percent <= 100, "must be from 0 to 100").optional(),
    }),
    completeJob: z.object({ ...leased, resultUrl: text(2000), finalCost }),
    failJob: z.object({ ...leased, errorMessage: report(2000), final: z.boolean() }),
    cancelJob: z.object({ jobId: id, idempotencyKey: printableText }),
    retryJob: z.object({ jobId: id, idempotencyKey }),
    watchJobs: z
      .object({ jobId: idOrNone, userId: idOrNone })
      .refine(({ jobId, userId }) => (jobId === 0n) !== (userId === 0n), { path: ["jobId"], error: "or user_id must be given, and not both" }),
  };
}

/** A command on a job, given who pays for it. */
export function jobCommand(ask: JobAsk, payer: { readonly userId: bigint; readonly currency: string }): Command {
  const note = { description: "", metadata: [], reference: "", uniqueReference: false, actor: "", traceId: "" };
  return { ...ask, ...payer, expectedSequence: undefined, note };
}

const idOrNone = z.bigint().refine((value) => value >= 0n, "must not be negative");

const statusByMessage = new Map(Object.entries(statusMessages).map(([status, message]) => [message as number, status as JobStatus]));

const jobStatus = z.number().transform((message, context): JobStatus | undefined => {
  const status = statusByMessage.get(message);
  if (status === undefined && message !== 0) context.addIssue({ code: "custom", message: "must be a known status" });
  return status;
});

/** What an update says must go with the state that it asks for: nothing that was sent is dropped silently. */
function refuseUnfitting(
  { status, resultUrl, errorMessage, finalCost }: { status: JobStatus | undefined; resultUrl: string; errorMessage: string; finalCost?: object | undefined },
  context: z.RefinementCtx,
): void {
  const ends = status === "completed";
  const issues: readonly (readonly [field: string, isUnfitting: boolean])[] = [
    ["resultUrl", resultUrl !== "" && !ends],
    ["finalCost", finalCost !== undefined && !ends],
    ["errorMessage", errorMessage !== "" && (ends || status === "processing")],
  ];
  for (const [field, isUnfitting] of issues) if (isUnfitting) context.addIssue({ code: "custom", path: [field], message: "doesn't go with this status" });
}

/** A JSON object as text, the same for all orders of its names; empty if there is none. */
const parameters = z.custom<JsonObject>().optional().transform((given, context): string => {
  if (given === undefined) return "";
  const problem = problemIn(given);
  const written = problem === undefined ? JSON.stringify(sorted(given)) : "";
  if (problem !== undefined || isLonger(written, MAX_PARAMETERS)) {
    context.addIssue({ code: "custom", message: problem ?? `must have at most ${MAX_PARAMETERS} characters as JSON` });
    return z.NEVER;
  }
  return written;
});

function sorted(value: JsonValue): JsonValue {
  if (Array.isArray(value)) return value.map(sorted);
  if (typeof value !== "object" || value === null) return value;
  const entries = Object.entries(value).toSorted(([a], [b]) => (a < b ? -1 : 1));
  return Object.fromEntries(entries.map(([key, inner]) => [key, sorted(inner)]));
}
