// Who pays for a job: what calls that name a job alone need to find its account. Asked for together by all calls of one moment.

import type { Jobs, Payer } from "../../postgres/jobs/jobs.ts";

interface Asked {
  readonly jobId: bigint;
  readonly resolve: (payer: Payer | undefined) => void;
  readonly reject: (error: unknown) => void;
}

/** Looks up payers. */
export class Payers {
  readonly #jobs: Jobs;
  #asked: Asked[] = [];

  constructor(jobs: Jobs) {
    this.#jobs = jobs;
  }

  /** Who pays for the job; undefined if there is no such job. */
  of(jobId: bigint): Promise<Payer | undefined> {
    return new Promise((resolve, reject) => {
      this.#asked.push({ jobId, resolve, reject });
      if (this.#asked.length === 1) setImmediate(() => void this.#ask());
    });
  }

  async #ask(): Promise<void> {
    const asked = this.#asked;
    this.#asked = [];
    try {
      const found = await this.#jobs.payers([...new Set(asked.map(({ jobId }) => jobId))]);
      const byId = new Map(found.map((payer) => [payer.jobId, payer]));
      for (const { jobId, resolve } of asked) resolve(byId.get(jobId));
    } catch (error) {
      for (const { reject } of asked) reject(error);
    }
  }
}
