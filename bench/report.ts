// What was measured, for people as a table and for programs as JSON.

import { availableParallelism, cpus, platform, release } from "node:os";
import type { Options } from "./options.ts";
import { figuresOf, type Figures } from "./statistics.ts";
import type { Lineup, Round, Sample, Workload } from "./workload.ts";

/** A workload that was measured, or why it could not be. */
export type Result = { readonly workload: Workload } & (Measured | { readonly error: string });

/** What the logs of all ledgers show in the end: so many calls were answered and each is there once; or what is wrong. */
export type LogCheck = { readonly answered: bigint } | { readonly error: string };

interface Measured {
  readonly lineup: Lineup;
  readonly rounds: readonly Round[];
}

/** What the figures depend on. */
export function settingsOf(options: Options, postgres: Readonly<Record<string, string>>) {
  const { rounds, window, users, workers, quick, history, minutes } = options;
  return {
    rounds,
    seconds: window.measuredMs / 1000,
    warm_up_seconds: window.warmUpMs / 1000,
    quick,
    users,
    workers: workers ?? "ledgerd's default",
    history_rows: history,
    memory_minutes: minutes,
    cores: availableParallelism(),
    cpu: cpus()[0]?.model ?? "unknown",
    system: `${platform()} ${release()}`,
    node: process.version,
    postgres,
  };
}

/** As one object. What is not available is null. */
export function jsonOf(results: readonly Result[], log: LogCheck, settings: ReturnType<typeof settingsOf>): string {
  return JSON.stringify({ workloads: results.map(entryOf), log: "error" in log ? log : { answered: String(log.answered) }, settings });
}

function entryOf(result: Result): object {
  const { id, what, unit } = result.workload;
  if ("error" in result) return { id, ratio: null, error: result.error };
  const { lineup, rounds } = result;
  const ratios = ratiosOf(result);
  return {
    id,
    ratio: null,
    ...Object.fromEntries(Object.entries(ratios).map(([name, { median }]) => [name, rounded(median)])),
    what,
    unit,
    spread: Object.fromEntries(Object.entries(ratios).map(([name, { min, max }]) => [name, [rounded(min), rounded(max)]])),
    notes: lineup.notes,
    figures: Object.fromEntries(
      Object.entries(lineup.contenders).map(([name, { title }]) => {
        const samples = samplesOf(rounds, name);
        const summary = { rate: figures(samples, (one) => one.rate), p50_ms: figures(samples, (one) => one.p50), p99_ms: figures(samples, (one) => one.p99) };
        return [name, { title, ...summary, rounds: samples.map(rawOf) }];
      }),
    ),
  };
}

function rawOf({ operations, rate, p50, p99, cpuPerOperation, callerCores, further }: Sample): object {
  const { caller, service, postgres } = cpuPerOperation;
  return {
    operations,
    rate: rounded(rate),
    p50_ms: rounded(p50),
    p99_ms: rounded(p99),
    cpu_us: { caller: rounded(caller), service: rounded(service), postgres: rounded(postgres) },
    caller_cores: rounded(callerCores),
    ...Object.fromEntries(Object.entries(further ?? {}).map(([name, value]) => [name, rounded(value)])),
  };
}

/** As a table: a line for each contender, and what they come to. */
export function tableOf(results: readonly Result[], log: LogCheck, settings: ReturnType<typeof settingsOf>): string {
  const { postgres, ...others } = settings;
  const rounds = `${settings.rounds} rounds of ${settings.seconds} s; medians, in brackets the least and the most; CPU in µs for one operation`;
  const said = [...Object.entries(others), ...Object.entries(postgres)].map(([name, value]) => `${name} ${value}`).join(", ");
  const end = "error" in log ? `the log: ${log.error}` : `the log has each of the ${log.answered} deductions and captures that were answered, once`;
  return [rounds, said, ...results.map(sectionOf), end].join("\n\n");
}

function sectionOf(result: Result): string {
  const { id, what, unit } = result.workload;
  const head = `${id}: ${what}`;
  if ("error" in result) return `${head}\n  failed: ${result.error}`;
  const header = ["", `${unit}/s`, "p50 ms", "p99 ms", "caller", "service", "PostgreSQL", "caller's cores"];
  const lines = Object.entries(result.lineup.contenders).map(([name, { title }]) => lineOf(title, samplesOf(result.rounds, name)));
  const ratios = Object.entries(ratiosOf(result)).map(([name, ratio]) => `  ${name} ${spread(ratio, 2)}`);
  return [head, ...aligned([header, ...lines]), ...ratios, ...furtherOf(result), ...result.lineup.notes.map((note) => `  (${note})`)].join("\n");
}

function lineOf(title: string, samples: readonly Sample[]): readonly string[] {
  const cpu = (value: (sample: Sample) => number | undefined): string => plain(figures(samples, value)?.median, 1);
  return [
    title,
    spread(figures(samples, (one) => one.rate), 0),
    plain(figures(samples, (one) => one.p50)?.median, 2),
    plain(figures(samples, (one) => one.p99)?.median, 2),
    cpu((one) => one.cpuPerOperation.caller),
    cpu((one) => one.cpuPerOperation.service),
    cpu((one) => one.cpuPerOperation.postgres),
    plain(figures(samples, (one) => one.callerCores)?.median, 2),
  ];
}

/** Figures that only this kind of load has. */
function furtherOf({ lineup, rounds }: Measured): readonly string[] {
  return Object.entries(lineup.contenders).flatMap(([name, { title }]) => {
    const samples = samplesOf(rounds, name);
    const names = Object.keys(samples[0]?.further ?? {});
    return names.map((one) => `  ${one} ${spread(figures(samples, (sample) => sample.further?.[one]), 1)} (${title})`);
  });
}

function ratiosOf({ lineup, rounds }: Measured): Readonly<Record<string, Figures>> {
  return Object.fromEntries(Object.entries(lineup.ratios).map(([name, ratio]) => [name, figuresOf(rounds.map(ratio))]));
}

function samplesOf(rounds: readonly Round[], name: string): readonly Sample[] {
  return rounds.flatMap((round) => round[name] ?? []);
}

/** Undefined where a round has no such value. */
function figures(samples: readonly Sample[], value: (sample: Sample) => number | undefined): Figures | undefined {
  const values = samples.map(value).filter((one) => one !== undefined && !Number.isNaN(one));
  return values.length === 0 || values.length < samples.length ? undefined : figuresOf(values as number[]);
}

function aligned(rows: readonly (readonly string[])[]): readonly string[] {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
  return rows.map((row) => `  ${row.map((cell, column) => (column === 0 ? cell.padEnd(widths[0] ?? 0) : cell.padStart(widths[column] ?? 0))).join("  ")}`.trimEnd());
}

function spread(value: Figures | undefined, digits: number): string {
  return value === undefined ? "n/a" : `${plain(value.median, digits)} [${plain(value.min, digits)}, ${plain(value.max, digits)}]`;
}

function plain(value: number | undefined, digits: number): string {
  return value === undefined || Number.isNaN(value) ? "n/a" : value.toFixed(digits);
}

/** Four significant digits; null for what there is not. */
function rounded(value: number | undefined): number | null {
  return value === undefined || !Number.isFinite(value) ? null : Number(value.toPrecision(4));
}
