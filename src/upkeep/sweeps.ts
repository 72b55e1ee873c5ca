// The work that goes on in the background, safe to run on every instance at once.

import { setTimeout as delay } from "node:timers/promises";
import type { Command, Note } from "../domain/journal/command.ts";
import type { Submission } from "../domain/journal/group.ts";
import type { Job } from "../domain/jobs/job.ts";
import type { Claims } from "../postgres/jobs/claims.ts";
import type { Holds } from "../postgres/reads/holds.ts";
import type { Payer } from "../postgres/jobs/jobs.ts";
import type { Journal } from "../postgres/journal/journal.ts";

/** Due holds that one step of the sweep looks at. */
const SWEEP_SIZE = 200;
const SWEEP_LIMIT_MS = 10_000;

/** Something that is done again and again. */
export interface Repeated {
  /** Returns when the round at hand is over. */
  readonly stop: () => Promise<void>;
}

/** Does `round` again and again, with a pause between; a round that fails is logged, and the next one tries again. */
export function repeat(pauseMs: number, round: () => Promise<unknown>, onError: (error: unknown) => void): Repeated {
  const stopping = new AbortController();
  const running = (async () => {
    while (!stopping.signal.aborted) {
      await round().catch(onError);
      // Ends early, by an error of its own, when we are stopped.
      await delay(pauseMs, undefined, { signal: stopping.signal }).catch(() => undefined);
    }
  })();
  return {
    stop: () => {
      stopping.abort();
      return running;
    },
  };
}

/**
 * Sets free what expired holds reserve, on all accounts that have such. Two instances at once do it once: the second one
 * finds the holds expired, under the account's lock.
 */
export function sweepHolds(holds: Holds, journal: Journal): Promise<void> {
  return sweep(() => holds.dueAccounts(SWEEP_SIZE), expiryOf, journal);
}

/**
 * Takes jobs from workers whose leases are over: they are pending again, or end where no attempts are left. Two instances at once do it once:
 * the second one finds the job moved, under its lock.
 */
export function rescueJobs(claims: Claims, journal: Journal): Promise<void> {
  return sweep(() => claims.lost(SWEEP_SIZE), rescueOf, journal);
}

/** Fails a job for good, under the lease that it has. */
export async function failForGood(job: Job, problem: string, journal: Journal): Promise<void> {
  await Promise.all(journal.submit([failureOf(job, problem)], performance.now() + SWEEP_LIMIT_MS));
}

/** Finds what is due and submits it, until nothing is. */
async function sweep<T>(find: () => Promise<readonly T[]>, submissionOf: (found: T) => Submission, journal: Journal): Promise<void> {
  for (;;) {
    const found = await find();
    if (found.length === 0) return;
    const deadline = performance.now() + SWEEP_LIMIT_MS;
    // Each in a function of its own: where one is refused for lack of room, the failures of those before it still belong to somebody.
    await Promise.all(found.map(async (one) => Promise.all(journal.submit([submissionOf(one)], deadline))));
  }
}

const note: Note = { description: "", metadata: [], reference: "", uniqueReference: false, actor: "ledgerd", traceId: "" };

function expiryOf({ userId, currency }: { readonly userId: bigint; readonly currency: string }): Submission {
  return ownWork({ kind: "expire_holds", userId, currency, expectedSequence: undefined, note });
}

function rescueOf({ jobId, userId, currency }: Payer): Submission {
  return ownWork({ kind: "rescue_job", jobId, userId, currency, expectedSequence: undefined, note });
}

function failureOf({ id: jobId, userId, currency, fencingToken }: Job, problem: string): Submission {
  const what = { kind: "fail_job", jobId, fencingToken, errorMessage: problem, final: true, jitter: 0 } as const;
  return ownWork({ ...what, userId, currency, expectedSequence: undefined, note });
}

function ownWork(command: Command): Submission {
  const { userId } = command;
  return { userId, key: undefined, lease: undefined, fingerprint: "", commands: [command], batch: false, groupId: "" };
}
