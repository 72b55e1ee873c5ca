// So many workers, whatever happens to them: in the place of each that ends another one is started.

import { setTimeout as delay } from "node:timers/promises";
import type { Logger } from "pino";
import type { End, WorkerProcess } from "./worker-process.ts";
import { Problem } from "../domain/problem.ts";

/** A worker did not start, or did not end, as it should. */
export class WorkerProblem extends Problem {}

/** One that lived for so long is replaced at once. */
const STEADY_MS = 10_000;
const FIRST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 10_000;

/** The workers of one command. */
export class Supervisor {
  readonly #log: Logger;
  readonly #stopping = new AbortController();
  /** Those that have not ended. */
  readonly #workers = new Set<WorkerProcess>();

  constructor(log: Logger) {
    this.#log = log;
  }

  /** All but one. */
  others(worker: WorkerProcess): readonly WorkerProcess[] {
    return [...this.#workers].filter((other) => other !== worker);
  }

  /** Starts so many, and returns when they serve; from then on there are so many. Throws `WorkerProblem` if one ended before. */
  async start(count: number, launch: () => WorkerProcess): Promise<void> {
    try {
      await Promise.all(Array.from({ length: count }, () => this.#add(launch)));
    } catch (error) {
      // The first one has said what is wrong: how the others end adds nothing to it.
      await this.stop().catch(() => undefined);
      throw error;
    }
  }

  /** Has all of them end. Throws `WorkerProblem` if one did not end well. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    const workers = [...this.#workers];
    for (const worker of workers) worker.stop();
    const ends = await Promise.all(workers.map(({ ended }) => ended));
    // One that has only just begun to start ends by the signal itself.
    const bad = ends.find(({ code, signal }) => code !== 0 && signal !== "SIGTERM");
    if (bad !== undefined) throw new WorkerProblem(`a worker ended with ${wordsOf(bad)} when it was told to end`);
  }

  async #add(launch: () => WorkerProcess): Promise<void> {
    const worker = this.#begin(launch);
    if (!(await worker.served)) {
      const end = await worker.ended;
      throw new WorkerProblem(end.problem ?? `a worker ended with ${wordsOf(end)} before it served`);
    }
    void this.#keep(worker, launch);
  }

  /** Has others take this one's place, one after the other. */
  async #keep(first: WorkerProcess, launch: () => WorkerProcess): Promise<void> {
    /** How many came to an early and bad end, one after the other. */
    let early = 0;
    for (let worker = first; ; worker = this.#begin(launch)) {
      const end = await worker.ended;
      if (this.#stopping.signal.aborted) return;
      if (end.code === 0 || performance.now() - worker.startedAt > STEADY_MS) early = 0;
      const pauseMs = early === 0 ? 0 : Math.min(FIRST_PAUSE_MS * 2 ** (early - 1), LONGEST_PAUSE_MS);
      if (end.code !== 0) early += 1;
      this.#log[end.code === 0 ? "info" : "warn"]({ worker: worker.pid, ...end, pauseMs }, "a worker ended; another one takes its place");
      // It fails only when it is cut short by `stop`.
      await delay(pauseMs, undefined, { signal: this.#stopping.signal }).catch(() => undefined);
      if (this.#stopping.signal.aborted) return;
    }
  }

  #begin(launch: () => WorkerProcess): WorkerProcess {
    const worker = launch();
    this.#workers.add(worker);
    void worker.ended.then(() => this.#workers.delete(worker));
    this.#log.info({ worker: worker.pid }, "a worker starts");
    return worker;
  }
}

function wordsOf({ code, signal }: End): string {
  return signal ?? `exit code ${code}`;
}
