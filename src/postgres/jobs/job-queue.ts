// Workers that wait for jobs: one look at the database serves all of a process that want the same, however many they are.

import { setTimeout as delay } from "node:timers/promises";
import type { Job } from "../../domain/jobs/job.ts";
import type { Claim } from "./claims.ts";
import type { ReadableClaims } from "./readable-claims.ts";

interface Waiting {
  readonly claim: Claim;
  readonly signal: AbortSignal;
  readonly resolve: (jobs: readonly Job[]) => void;
  readonly reject: (error: Error) => void;
}

/** The workers of one process. */
export class JobQueue {
  readonly #claims: ReadableClaims;
  readonly #own: ReadableClaims;
  readonly #pollMs: number;
  /** By what they want: only the first in each line asks the database, and the next one when it got something. */
  readonly #lines = new Map<string, Waiting[]>();
  #looking = false;
  #wake = Promise.withResolvers<void>();

  /** For those who wait, jobs are looked for by `live`, one after the other; what a call asks for first goes by `own`. */
  constructor(live: ReadableClaims, own: ReadableClaims, pollMs: number) {
    this.#claims = live;
    this.#own = own;
    this.#pollMs = pollMs;
  }

  /** Jobs may have become due: no need to wait for the next poll. */
  wake(): void {
    this.#wake.resolve();
  }

  /** Takes what is due; if nothing is, waits for it until the signal ends the wait, and then answers nothing. */
  async claim(claim: Claim, signal: AbortSignal): Promise<readonly Job[]> {
    const taken = await this.#take(claim);
    if (taken.length > 0 || signal.aborted) return taken;
    return this.#wait(claim, signal);
  }

  async #take(claim: Claim): Promise<readonly Job[]> {
    await this.#own.makeReady();
    return this.#own.claim(claim);
  }

  #wait(claim: Claim, signal: AbortSignal): Promise<readonly Job[]> {
    return new Promise((resolve, reject) => {
      const kind = [...claim.modelIds].toSorted().join("\n");
      const waiting: Waiting = { claim, signal, resolve, reject };
      const line = this.#lines.get(kind) ?? [];
      this.#lines.set(kind, [...line, waiting]);
      signal.addEventListener("abort", () => this.#leave(kind, waiting) && resolve([]), { once: true });
      if (!this.#looking) void this.#look();
    });
  }

  /** Whether it was still waiting. */
  #leave(kind: string, waiting: Waiting): boolean {
    const line = this.#lines.get(kind) ?? [];
    const rest = line.filter((other) => other !== waiting);
    if (rest.length === 0) this.#lines.delete(kind);
    else this.#lines.set(kind, rest);
    return rest.length < line.length;
  }

  async #look(): Promise<void> {
    this.#looking = true;
    while (this.#lines.size > 0) {
      await Promise.race([this.#wake.promise, delay(this.#pollMs, undefined, { ref: false })]);
      this.#wake = Promise.withResolvers();
      await this.#serve().catch((error: unknown) => this.#giveUp(error));
    }
    this.#looking = false;
  }

  async #serve(): Promise<void> {
    await this.#claims.makeReady();
    // A copy: a line that is put back would be visited again.
    const kinds = Array.from(this.#lines.keys());
    for (const kind of kinds) {
      let first = this.#lines.get(kind)?.[0];
      while (first !== undefined && (await this.#serveFirst(kind, first))) first = this.#lines.get(kind)?.[0];
    }
  }

  /** Whether there was something for it: then there may be for the next one. */
  async #serveFirst(kind: string, first: Waiting): Promise<boolean> {
    // Out of the line before the claim: one whose wait ends meanwhile must not be answered nothing and given jobs as well.
    this.#leave(kind, first);
    try {
      const jobs = await this.#claims.claim(first.claim);
      if (jobs.length > 0 || first.signal.aborted) first.resolve(jobs);
      else this.#lines.set(kind, [first, ...(this.#lines.get(kind) ?? [])]);
      return jobs.length > 0;
    } catch (error) {
      first.reject(error instanceof Error ? error : new Error(String(error)));
      throw error;
    }
  }

  /** The database is away: whoever waits is told. */
  #giveUp(error: unknown): void {
    const lines = [...this.#lines.values()];
    this.#lines.clear();
    for (const { reject } of lines.flat()) reject(error instanceof Error ? error : new Error(String(error)));
  }
}
