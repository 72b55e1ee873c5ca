// What a job of the old application becomes: its work goes on, its money is not touched again.
//
// Whether the old application was paid for a job, nobody can tell from its row. So an adopted job costs nothing: it
// holds nothing, and charges nothing when it ends. What it cost, and whatever else couldn't stay, is kept beside it. A
// job that couldn't be handed to a worker as it was is failed, rather than handed over as something else.

import { unitOf, type AdoptionRules } from "./adoption.ts";
import { decimalOf } from "../../domain/money/decimal.ts";
import type { Job, JobStatus } from "../../domain/jobs/job.ts";
import { problemIn, sizeProblem, storedBytes, storedProblem, type Json, type JsonObject } from "../../domain/jobs/parameters.ts";
import type { Tally } from "./tally.ts";
import { firstOf } from "../../domain/text.ts";

/** What kinds of old jobs a report counts. */
export type JobKind =
  | "adopted"
  | "pending"
  | "processing"
  | "completed"
  | "failed"
  | "cancelled"
  | "interrupted"
  | "status_spelled"
  | "status_unknown"
  | "cost_dropped"
  | "cost_missing"
  | "end_missing"
  | "time_missing"
  | "model_missing"
  | "model_cut"
  | "parameters_wrapped"
  | "parameters_no_json"
  | "parameters_unreadable"
  | "numbers_rounded"
  | "names_doubled"
  | "texts_cut"
  | "vanished"
  | "id_below_1";

/** A row of the old table `jobs`; times in microseconds. */
export interface OldJob {
  readonly id: bigint;
  readonly userId: bigint;
  /** Of the user's balance. */
  readonly currency: string | null;
  readonly modelId: string;
  readonly prompt: string;
  /** As the old column has them, JSON or not; empty: none. */
  readonly parameters: string;
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

/** Characters of a model's name. */
const MODEL_LIMIT = 100;
/** Characters of an old status that a message has. */
const STATUS_LIMIT = 100;

/** What of an old job goes over, and why that isn't all of it. */
interface Contents {
  readonly modelId: string;
  readonly parameters: string;
  /** Why a worker can't be given it. */
  readonly problem: string | undefined;
  /** What couldn't stay. */
  readonly lost: Readonly<Record<string, string>>;
  readonly bytes: number;
}

type Count = (kind: JobKind) => void;

/** Adopts a job. */
export function adoptJob(rules: AdoptionRules, old: OldJob, tally: Tally<JobKind>): AdoptedJob {
  const count: Count = (kind) => tally.add(kind, old.id);
  const { modelId, parameters, problem, lost, bytes } = contentsOf(old, count);
  const { status, errorMessage } = stateOf(old, problem, count);
  const createdAt = usable(rules, old.createdAt);
  if (createdAt === undefined) count("time_missing");
  const created = createdAt ?? rules.now;
  const isFinal = status !== "pending";
  const ended = usable(rules, old.completedAt);
  if (isFinal && ended === undefined) count("end_missing");
  if (old.cost === null) count("cost_missing");
  else if (/[1-9]/.test(old.cost) || decimalOf(old.cost) === undefined) count("cost_dropped");
  if (old.id < 1n) count("id_below_1");
  count("adopted");
  count(status);
  const job: Job = {
    id: old.id,
    userId: old.userId,
    currency: unitOf(rules, old.currency)?.currency.code ?? rules.fallback,
    modelId,
    prompt: old.prompt,
    parameters,
    cost: 0n,
    idempotencyKey: "",
    maxAttempts: 3,
    priority: 0,
    createdAt: created,
    status,
    holdId: undefined,
    finalCost: status === "completed" ? 0n : undefined,
    resultUrl: old.resultUrl,
    errorMessage,
    runAt: created,
    attempt: status === "pending" && statuses.get(plain(old.status)) === "pending" ? 0 : 1,
    workerId: "",
    fencingToken: 0n,
    leaseExpiresAt: undefined,
    progress: status === "completed" ? 100 : 0,
    cancelRequested: false,
    completedAt: isFinal ? later(created, ended ?? created) : undefined,
  };
  const replaced =
    errorMessage === old.errorMessage || old.errorMessage === "" ? {} : { error_message: old.errorMessage };
  return { job, bytes, old: { status: old.status, cost: old.cost, ...replaced, ...lost } };
}

function contentsOf(old: OldJob, count: Count): Contents {
  const modelId = old.modelId === "" ? "unknown" : firstOf(old.modelId, MODEL_LIMIT);
  const isModelCut = old.modelId !== "" && modelId !== old.modelId;
  const { text, stored, problem, lost } = parametersOf(old.parameters, count);
  if (old.modelId === "") count("model_missing");
  if (isModelCut) count("model_cut");
  if (old.isCut) count("texts_cut");
  const others = [old.prompt, old.resultUrl, old.errorMessage].reduce((sum, one) => sum + Buffer.byteLength(one), 0);
  return {
    modelId,
    parameters: text,
    problem: old.isCut
      ? "its prompt and parameters were too long to be adopted whole"
      : isModelCut
        ? `the name of its model has more than ${MODEL_LIMIT} characters`
        : problem,
    lost: {
      ...lost,
      ...(isModelCut ? { model_id: old.modelId } : {}),
      ...(old.isCut ? { bytes: `${old.bytes}` } : {}),
    },
    bytes: stored + others,
  };
}

/**
 * Parameters for the ledger: written as every reader will read them, the old ones beside them where that isn't the
 * same.
 */
function parametersOf(
  given: string,
  count: Count,
): Pick<Contents, "problem" | "lost"> & { readonly text: string; readonly stored: number } {
  const nothing = { text: "", stored: 0, problem: undefined, lost: {} };
  const value = jsonOf(given);
  if (given === "" || value === null) return nothing;
  const isObject = typeof value === "object" && !Array.isArray(value);
  if (value === undefined) count("parameters_no_json");
  else if (!isObject) count("parameters_wrapped");
  const object = isObject ? (value as JsonObject) : { value: value ?? given };
  const unreadable = problemIn(object) ?? sizeProblem(object);
  // What is nested too deep can't be written either.
  const text = unreadable === undefined ? JSON.stringify(object) : "";
  const stored = storedBytes(text);
  const problem = unreadable ?? storedProblem(stored);
  if (problem !== undefined) {
    count("parameters_unreadable");
    return { ...nothing, problem: `its parameters can't be handed over: they ${problem}`, lost: { parameters: given } };
  }
  const changes = value === undefined ? [] : changesIn(given, value);
  changes.forEach(count);
  return {
    text,
    stored,
    problem: undefined,
    lost: changes.length === 0 ? {} : { parameters: given },
  };
}

function jsonOf(text: string): Json | undefined {
  try {
    return JSON.parse(text) as Json;
  } catch {
    return undefined;
  }
}

/** Texts, those that are names with the colon behind them, and numbers of a JSON text. */
const tokens = /"[^"\\]*(?:\\.[^"\\]*)*"(\s*:)?|-?\d[\d.eE+-]*/g;

/**
 * What of a JSON text its reader doesn't get: figures that a double has no room for, and all but the last member of a
 * name.
 */
function changesIn(text: string, value: Json): readonly JobKind[] {
  let names = 0;
  let isRounded = false;
  for (const [token, colon] of text.matchAll(tokens)) {
    if (colon !== undefined) names += 1;
    else if (!token.startsWith('"')) isRounded ||= figuresOf(token) !== figuresOf(String(Number(token)));
  }
  const changes: JobKind[] = isRounded ? ["numbers_rounded"] : [];
  return names === namesIn(value) ? changes : [...changes, "names_doubled"];
}

/** A number, written in one way. */
function figuresOf(text: string): string {
  const { whole, fraction } = decimalOf(text.toLowerCase()) ?? { whole: text, fraction: "" };
  const written = `${whole.replace(/^(-?)0+(?=\d)/, "$1")}.${fraction.replace(/0+$/, "")}`;
  return written === "-0." ? "0." : written;
}

/** How many members there are in a value, and in all values in it. */
function namesIn(value: Json): number {
  if (typeof value !== "object" || value === null) return 0;
  const inner = Object.values(value) as readonly Json[];
  return inner.reduce((sum: number, one) => sum + namesIn(one), Array.isArray(value) ? 0 : inner.length);
}

/** Where an adopted job stands. Nobody works on it any more: one that was being worked on waits again. */
function stateOf(
  old: OldJob,
  problem: string | undefined,
  count: Count,
): { readonly status: JobStatus; readonly errorMessage: string } {
  const { errorMessage } = old;
  const known = statuses.get(plain(old.status));
  if (known === undefined) {
    count("status_unknown");
    const status = old.status === null ? null : firstOf(old.status, STATUS_LIMIT);
    return {
      status: "failed",
      errorMessage: errorMessage === "" ? `adopted with the status ${JSON.stringify(status)}` : errorMessage,
    };
  }
  if (known !== old.status) count("status_spelled");
  if (known !== "pending" && known !== "processing") return { status: known, errorMessage };
  if (problem !== undefined) return { status: "failed", errorMessage: problem };
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
