// What a job of the old application becomes: its work goes on, its money is not touched again.
//
// Whether the old application was paid for a job, nobody can tell from its row. So an adopted job costs nothing: it holds nothing, and charges
// nothing when it ends. What it cost, and whatever else couldn't stay, is kept beside it.

import { unitOf, type AdoptionRules } from "./adoption.ts";
import type { Job, JobStatus } from "./job.ts";
import type { Tally } from "./tally.ts";

/** What kinds of old jobs a report counts. */
export type JobKind =
  | "adopted" | "pending" | "processing" | "completed" | "failed" | "cancelled" | "interrupted" | "status_spelled" | "status_unknown" | "cost_dropped"
  | "cost_missing" | "end_missing" | "time_missing" | "model_missing" | "parameters_wrapped" | "texts_cut" | "vanished" | "id_below_1";

/** A row of the old table `jobs`; times in microseconds. */
export interface OldJob {
  readonly id: bigint;
  readonly userId: bigint;
  /** Of the user's balance. */
  readonly currency: string | null;
  readonly modelId: string;
  readonly prompt: string;
  /** JSON as text; empty: none. */
  readonly parameters: string;
  readonly parametersAreObject: boolean;
  readonly status: string | null;
  readonly resultUrl: string;
  readonly errorMessage: string;
  readonly cost: string | null;
  readonly createdAt: bigint | null;
  readonly completedAt: bigint | null;
  /** How many bytes its texts had; more than are kept if they were cut. */
  readonly bytes: number;
  readonly isCut: boolean;
}

/** A job for the ledger, and what of the old one it doesn't say. */
export interface AdoptedJob {
  readonly job: Job;
  readonly bytes: number;
  readonly old: Readonly<Record<string, string | null>>;
}

/** Bytes of a job's texts that are kept; of a job with more, the beginnings alone. */
export const JOB_BYTES = 1_048_576;

const statuses: ReadonlyMap<string, JobStatus> = new Map([
  ["pending", "pending"],
  ["processing", "processing"],
  ["completed", "completed"],
  ["failed", "failed"],
  ["cancelled", "cancelled"],
  ["canceled", "cancelled"],
]);

/** Adopts a job. */
export function adoptJob(rules: AdoptionRules, old: OldJob, tally: Tally<JobKind>): AdoptedJob {
  const count = (kind: JobKind): void => tally.add(kind, old.id);
  const { status, errorMessage } = stateOf(old, count);
  const createdAt = usable(rules, old.createdAt);
  if (createdAt === undefined) count("time_missing");
  const created = createdAt ?? rules.now;
  const isFinal = status !== "pending";
  const ended = usable(rules, old.completedAt);
  if (isFinal && ended === undefined) count("end_missing");
  if (old.cost === null) count("cost_missing");
  else if (/[1-9]/.test(old.cost) || !/^[\d.]+$/.test(old.cost)) count("cost_dropped");
  if (old.modelId === "") count("model_missing");
  if (old.parameters !== "" && !old.parametersAreObject) count("parameters_wrapped");
  if (old.isCut) count("texts_cut");
  if (old.id < 1n) count("id_below_1");
  count("adopted");
  count(status);
  const job: Job = {
    id: old.id, userId: old.userId, currency: unitOf(rules, old.currency)?.currency.code ?? rules.fallback, modelId: old.modelId === "" ? "unknown" : old.modelId,
    prompt: old.prompt, parameters: old.parameters === "" || old.parametersAreObject ? old.parameters : `{"value": ${old.parameters}}`,
    cost: 0n, idempotencyKey: "", maxAttempts: 3, priority: 0, createdAt: created, status, holdId: undefined,
    finalCost: status === "completed" ? 0n : undefined, resultUrl: old.resultUrl, errorMessage, runAt: created,
    attempt: status === "pending" && statuses.get(plain(old.status)) === "pending" ? 0 : 1, workerId: "", fencingToken: 0n, leaseExpiresAt: undefined,
    progress: status === "completed" ? 100 : 0, cancelRequested: false,
    completedAt: isFinal ? later(created, ended ?? created) : undefined,
  };
  return { job, bytes: old.isCut ? JOB_BYTES : old.bytes, old: { status: old.status, cost: old.cost, ...(old.isCut ? { bytes: `${old.bytes}` } : {}) } };
}

/** Where an adopted job stands. Nobody works on it any more: one that was being worked on waits again. */
function stateOf(old: OldJob, count: (kind: JobKind) => void): { readonly status: JobStatus; readonly errorMessage: string } {
  const { errorMessage } = old;
  const known = statuses.get(plain(old.status));
  if (known === undefined) count("status_unknown");
  else if (known !== old.status) count("status_spelled");
  if (known === undefined) return { status: "failed", errorMessage: errorMessage === "" ? `adopted with the status ${JSON.stringify(old.status)}` : errorMessage };
  if (known !== "pending" && known !== "processing") return { status: known, errorMessage };
  if (old.isCut) return { status: "failed", errorMessage: "its prompt and parameters were too long to be adopted whole" };
  if (known === "processing") count("interrupted");
  return { status: "pending", errorMessage };
}

function plain(status: string | null): string {
  return (status ?? "").trim().toLowerCase();
}

function usable({ now }: AdoptionRules, time: bigint | null): bigint | undefined {
  if (time === null || time < 0n) return undefined;
  return time > now ? now : time;
}

function later(one: bigint, other: bigint): bigint {
  return one > other ? one : other;
}
