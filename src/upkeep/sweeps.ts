// What becomes due with time: found, and submitted as anybody's writes are; safe on every instance at once.

import { OWN_NOTE, ownWork } from "../domain/journal/own-work.ts";
import type { Claims } from "../postgres/jobs/claims.ts";
import type { Holds } from "../postgres/reads/holds.ts";
import type { Payer } from "../postgres/jobs/jobs.ts";
import type { Journal } from "../postgres/journal/journal.ts";
import type { Submission } from "../domain/journal/submission.ts";

/** Due holds that one step of the sweep looks at. */
const SWEEP_SIZE = 200;
const SWEEP_LIMIT_MS = 10_000;

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

function expiryOf({ userId, currency }: { readonly userId: bigint; readonly currency: string }): Submission {
  return ownWork({ kind: "expire_holds", userId, currency, expectedSequence: undefined, note: OWN_NOTE });
}

function rescueOf({ jobId, userId, currency }: Payer): Submission {
  return ownWork({ kind: "rescue_job", jobId, userId, currency, expectedSequence: undefined, note: OWN_NOTE });
}
