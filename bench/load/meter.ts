// What a process that makes load counts: everything it did, and of what ended within the measured time, how much and how long it took.

/** How long to measure, after a warm-up that isn't measured. */
export interface Window {
  readonly warmUpMs: number;
  readonly measuredMs: number;
}

/** What was seen. Latencies in milliseconds. */
export interface Load {
  /** All operations, the warm-up's too: each was done, and its answer checked. */
  readonly operations: number;
  /** Operations per second within the measured time. */
  readonly rate: number;
  readonly p50: number;
  readonly p99: number;
  /** The CPU that the process itself used for all operations, and how long they took. */
  readonly cpuMs: number;
  readonly tookMs: number;
  /** What only some kinds of load can tell, by name. */
  readonly further?: Readonly<Record<string, number>>;
}

/** Latencies are counted in steps of a thousandth, from a microsecond to minutes: however many there are, they take the same room. */
const STEP = Math.log(1.001);
const STEPS = 20_000;

/** Starts measuring when it is made. */
export class Meter {
  readonly #started = performance.now();
  readonly #cpu = process.cpuUsage();
  readonly #from: number;
  readonly #end: number;
  readonly #seconds: number;
  readonly #latencies = new Uint32Array(STEPS);
  #operations = 0;
  #counted = 0;
  #measured = 0;

  constructor({ warmUpMs, measuredMs }: Window) {
    this.#from = this.#started + warmUpMs;
    this.#end = this.#from + measuredMs;
    this.#seconds = measuredMs / 1000;
  }

  /** Whether no more is to be begun. */
  isOver(now = performance.now()): boolean {
    return now >= this.#end;
  }

  /** Operations are done that were begun, or due, at this moment. */
  add(since: number, operations = 1): void {
    const now = performance.now();
    this.#operations += operations;
    if (now < this.#from || now >= this.#end) return;
    this.#measured += operations;
    this.#counted += 1;
    const step = Math.max(0, Math.min(STEPS - 1, Math.floor(Math.log((now - since) * 1000) / STEP)));
    this.#latencies[step] = (this.#latencies[step] ?? 0) + 1;
  }

  /** Everything, once it has ended. */
  load(further: Readonly<Record<string, number>> = {}): Load {
    const { user, system } = process.cpuUsage(this.#cpu);
    return {
      operations: this.#operations,
      rate: this.#measured / this.#seconds,
      p50: this.#percentile(0.5),
      p99: this.#percentile(0.99),
      cpuMs: (user + system) / 1000,
      tookMs: performance.now() - this.#started,
      further,
    };
  }

  #percentile(share: number): number {
    let below = 0;
    const step = this.#latencies.findIndex((count) => (below += count) > this.#counted * share);
    return step < 0 ? Number.NaN : Math.exp((step + 0.5) * STEP) / 1000;
  }
}

/** Does one thing that takes as long as it takes, such as reading all of a table. */
export async function timed(work: () => Promise<number>): Promise<Load> {
  const cpu = process.cpuUsage();
  const started = performance.now();
  const operations = await work();
  const tookMs = performance.now() - started;
  const { user, system } = process.cpuUsage(cpu);
  return { operations, rate: (operations / tookMs) * 1000, p50: Number.NaN, p99: Number.NaN, cpuMs: (user + system) / 1000, tookMs };
}
