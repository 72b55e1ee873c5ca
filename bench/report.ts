// What a benchmark learns from a process that calls.

/** Calls of the first second are made but not counted. */
export const WARM_UP_MS = 1000;

/** What a caller saw. Latencies in milliseconds. */
export interface Load {
  /** All calls that were made, the warm-up's too: each was applied. */
  readonly calls: number;
  readonly perSecond: number;
  readonly p50: number;
  readonly p99: number;
  /** How much of one core the caller itself used: near 1, it and not the other side was measured. */
  readonly cpu: number;
}

/** Prints what was seen, as one line of JSON. */
export function report(calls: number, latencies: number[], seconds: number): void {
  const { user, system } = process.cpuUsage();
  latencies.sort((a, b) => a - b);
  const at = (share: number): number => latencies[Math.floor(latencies.length * share)] ?? Number.NaN;
  const load: Load = { calls, perSecond: latencies.length / seconds, p50: at(0.5), p99: at(0.99), cpu: (user + system) / 1000 / performance.now() };
  process.stdout.write(`${JSON.stringify(load)}\n`);
}
