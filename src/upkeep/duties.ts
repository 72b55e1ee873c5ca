// The work in the background, as one list: each part is done by one instance for all, and safe to run on every one at once.

import { randomUUID } from "node:crypto";
import { hostname } from "node:os";
import type { Logger } from "pino";
import { ownLocks } from "../domain/lock.ts";
import type { Claims } from "../postgres/jobs/claims.ts";
import type { Journal } from "../postgres/journal/journal.ts";
import type { Locks } from "../postgres/locks/locks.ts";
import type { Holds } from "../postgres/reads/holds.ts";
import type { BackgroundProof } from "../verification/requested.ts";
import { Leadership } from "./leadership.ts";
import { logged, repeat } from "./repeat.ts";
import type { ScheduledBackups } from "./scheduled-backups.ts";
import { rescueJobs, sweepHolds } from "./sweeps.ts";

const PARTITIONS_PAUSE_MS = 10_000;
/** How often the schedule of backups is looked at. */
const BACKUP_PAUSE_MS = 2000;
/** Between rounds of the verification in the background; short beside the rounds, which keep to the rate by themselves. */
const VERIFY_ROUND_PAUSE_MS = 500;

/** What is kept up. */
export interface UpkeepParts {
  readonly holds: Holds;
  readonly claims: Claims;
  readonly locks: Locks;
  readonly journal: Journal;
  /** Makes the partitions that will be needed. */
  readonly partitions: () => Promise<unknown>;
  /** Undefined: nobody wants any. */
  readonly backups: ScheduledBackups | undefined;
  readonly proof: BackgroundProof | undefined;
  readonly sweepPauseMs: number;
  readonly rescuePauseMs: number;
}

/** Something that one instance does for all, again and again. */
interface Duty {
  readonly what: string;
  /** Who holds it leads. */
  readonly lock: bigint;
  readonly pauseMs: number;
  /** Is told the token of the lease, which is another one if another instance may have led since. */
  readonly round: (token: bigint) => Promise<unknown>;
  /** Tells of a round that has failed, if that is more than a warning. */
  readonly failed?: (error: unknown) => void;
  /** Ends a round that is under way, given what ends the rounds. */
  readonly stop?: (endRounds: () => Promise<void>) => Promise<void>;
}

function dutiesOf(parts: UpkeepParts, log: Logger): readonly Duty[] {
  const { holds, claims, journal, partitions, backups, proof, ...pauses } = parts;
  const { sweepPauseMs, rescuePauseMs } = pauses;
  const duties: Duty[] = [
    {
      what: "sweeping expired holds",
      lock: ownLocks.expireHolds,
      pauseMs: sweepPauseMs,
      round: () => sweepHolds(holds, journal),
    },
    {
      what: "rescuing jobs",
      lock: ownLocks.rescueJobs,
      pauseMs: rescuePauseMs,
      round: () => rescueJobs(claims, journal),
    },
    { what: "adding partitions", lock: ownLocks.addPartitions, pauseMs: PARTITIONS_PAUSE_MS, round: partitions },
  ];
  if (backups !== undefined) {
    duties.push({
      what: "taking backups",
      lock: ownLocks.backUp,
      pauseMs: BACKUP_PAUSE_MS,
      round: () => backups.takeIfDue(),
      failed: (error) => log.error({ err: error }, "the backup failed"),
      stop: (endRounds) => {
        backups.stop();
        return endRounds();
      },
    });
  }
  if (proof !== undefined) {
    duties.push({
      what: "verifying",
      lock: ownLocks.verify,
      pauseMs: VERIFY_ROUND_PAUSE_MS,
      round: (token) => proof.round(token),
      stop: (endRounds) => proof.stop(endRounds),
    });
  }
  return duties;
}

/** Begins all of it; it ends with what was opened. */
export function startUpkeep(parts: UpkeepParts, log: Logger, opened: AsyncDisposableStack): void {
  const instanceId = `${hostname()}:${process.pid}:${randomUUID().slice(0, 8)}`;
  for (const { what, lock, pauseMs, round, failed = logged(what, log), stop } of dutiesOf(parts, log)) {
    const leadership = new Leadership(parts.locks, lock, instanceId, pauseMs);
    opened.defer(() => leadership.resign().catch(logged(`resigning from ${what}`, log)));
    const rounds = repeat(pauseMs, () => leadership.lead(round), failed);
    opened.defer(() => (stop === undefined ? rounds.stop() : stop(rounds.stop)));
  }
}
