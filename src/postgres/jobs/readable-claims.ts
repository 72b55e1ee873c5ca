// Claims whose jobs can all be handed over.
//
// A ledger may hold jobs with parameters that no client could read, or so long that no answer holds them (earlier
// adoptions took whatever the old database had). One of them in an answer would keep the worker from all jobs in it,
// until their attempts were gone. So it is failed for good under the lease that it was just given, as its worker would
// do it, and the worker gets the others: those behind it, where it was alone.

import { LARGEST_ROW, REST_OF_JOB } from "../../domain/answer-size.ts";
import type { Job } from "../../domain/jobs/job.ts";
import { readParameters, structBytes } from "../../domain/jobs/parameters.ts";
import type { Claim, Claims } from "./claims.ts";
import type { Journal } from "../journal/journal.ts";
import { OWN_NOTE, ownWork } from "../../domain/journal/own-work.ts";
import type { Submission } from "../../domain/journal/submission.ts";

const FAILING_LIMIT_MS = 10_000;

/** How often one call looks for others while all that it finds must be failed. */
const ROUNDS = 20;

/** What a queue of workers asks of claims. */
export type ReadableClaims = Pick<Claims, "makeReady" | "claim">;

/** The same claims, without jobs that nobody could read. */
export function readableClaims({ makeReady, claim }: ReadableClaims, journal: () => Journal): ReadableClaims {
  return { makeReady, claim: claimReadable };

  async function claimReadable(wanted: Claim): Promise<readonly Job[]> {
    for (let round = 0; round < ROUNDS; round++) {
      const taken = await claim(wanted);
      const problems = new Map(taken.map((job) => [job, problemOf(job)]));
      const readable = taken.filter((job) => problems.get(job) === undefined);
      if (readable.length === taken.length) return taken;
      const failures = [...problems].map(
        async ([job, problem]) => problem === undefined || failForGood(job, problem, journal()),
      );
      const ended = await Promise.allSettled(failures);
      if (readable.length > 0) return readable;
      // It is tried again when the lease is over. Until then a claim that is repeated would find the same jobs, again
      // and again.
      for (const one of ended) if (one.status === "rejected") throw one.reason;
    }
    return [];
  }
}

function problemOf(job: Job): string | undefined {
  const read = readParameters(job.parameters);
  if ("problem" in read) return `its parameters can't be handed over: they ${read.problem}`;
  const { prompt, errorMessage, resultUrl, idempotencyKey, modelId } = job;
  const texts = [prompt, errorMessage, resultUrl, idempotencyKey, modelId];
  const bytes = texts.reduce((sum, text) => sum + Buffer.byteLength(text), REST_OF_JOB + structBytes(read.object ?? {}));
  return bytes <= LARGEST_ROW ? undefined : "it is larger than an answer to a worker may be";
}

/** Fails a job for good, under the lease that it has. */
async function failForGood(job: Job, problem: string, journal: Journal): Promise<void> {
  await Promise.all(journal.submit([failureOf(job, problem)], performance.now() + FAILING_LIMIT_MS));
}

function failureOf({ id: jobId, userId, currency, fencingToken }: Job, problem: string): Submission {
  const what = { kind: "fail_job", jobId, fencingToken, errorMessage: problem, final: true, jitter: 0 } as const;
  return ownWork({ ...what, userId, currency, expectedSequence: undefined, note: OWN_NOTE });
}
