// What a workload is: who does the same work in which ways, and which of their figures are divided by which.

import type { Ledger } from "./ledger.ts";
import type { Load, Window } from "./load/meter.ts";
import type { Stage } from "./stage.ts";

/** One way of doing the work, measured once in each round. */
export interface Contender {
  /** As the table calls it. */
  readonly title: string;
  readonly measure: (window: Window) => Promise<Load>;
  /** Whose CPU is the service's, where there is a service. */
  readonly ledger?: Ledger;
}

/** What one round showed of a contender, with what its processes used. */
export interface Sample extends Load {
  /** CPU for one operation, in microseconds: of the process that makes the load, of the service and of PostgreSQL. Undefined: not available. */
  readonly cpuPerOperation: { readonly caller: number; readonly service: number | undefined; readonly postgres: number | undefined };
  /** How much of one core the process used that makes the load: near 1, it and not the other side was measured. */
  readonly callerCores: number;
}

/** One round: a sample of each contender, by its name. */
export type Round = Readonly<Record<string, Sample>>;

/** The contenders of a workload, and what is compared. */
export interface Lineup {
  readonly contenders: Readonly<Record<string, Contender>>;
  /** `ratio`, and others that begin with it, of one round. One that can't be had is left out. */
  readonly ratios: Readonly<Record<string, (round: Round) => number>>;
  /** What the reader must know: what was chosen, what is not available. */
  readonly notes: readonly string[];
  /** Once is enough, whatever the options say. */
  readonly once?: boolean;
}

/** A row of the table of workloads. */
export interface Workload {
  readonly id: string;
  /** What is done, and what it is compared with. */
  readonly what: string;
  /** What an operation is: what the rates count. */
  readonly unit: string;
  /** Workloads of one family have contenders in common. */
  readonly family: string;
  readonly prepare: (stage: Stage) => Promise<Lineup>;
}

/** Divides rates. */
export function rateRatio(ours: string, theirs: string): (round: Round) => number {
  return (round) => (round[ours]?.rate ?? Number.NaN) / (round[theirs]?.rate ?? Number.NaN);
}

/** Divides median latencies. */
export function latencyRatio(ours: string, theirs: string): (round: Round) => number {
  return (round) => (round[ours]?.p50 ?? Number.NaN) / (round[theirs]?.p50 ?? Number.NaN);
}
