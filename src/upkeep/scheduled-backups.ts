// Backups by a schedule. What was done last is told by the folder itself, so that one that was missed is made up for, by whichever instance is there.

import { mkdir } from "node:fs/promises";
import { isDue, type Schedule } from "../domain/schedule.ts";
import { newestArchive } from "../backup/archive-folder.ts";

/** What is done, and when. */
export interface ScheduledBackupsOptions {
  readonly schedule: Schedule;
  readonly folder: string;
  /** By what the archives of the database are known, and its time, which they are named by, in milliseconds since 1970. */
  readonly ledger: () => Promise<{ readonly ledger: string; readonly time: number }>;
  /** Makes one, unless the signal ends it. */
  readonly take: (signal: AbortSignal) => Promise<void>;
}

/** One that fails would fail at once again, mostly, having read everything. */
const RETRY_AFTER_MS = 5 * 60_000;

/** The backups of one database into one folder. */
export class ScheduledBackups {
  readonly #options: ScheduledBackupsOptions;
  readonly #stopping = new AbortController();
  #failedAt = Number.NEGATIVE_INFINITY;
  #failures = 0;

  constructor(options: ScheduledBackupsOptions) {
    this.#options = options;
  }

  /** How many of this process failed. */
  get failures(): number {
    return this.#failures;
  }

  /** When the newest archive was taken, in milliseconds since 1970; 0: there is none to be seen. */
  async newest(): Promise<number> {
    const { folder, ledger } = this.#options;
    // What keeps it from being seen keeps the next backup from being taken, which then is told.
    return (await newestArchive(folder, (await ledger()).ledger).catch(() => undefined)) ?? 0;
  }

  /** Gives up the one that is being taken. */
  stop(): void {
    this.#stopping.abort();
  }

  /** Takes a backup if one is due, unless it failed just now. */
  async takeIfDue(): Promise<void> {
    const { schedule, folder, ledger, take } = this.#options;
    if (performance.now() - this.#failedAt < RETRY_AFTER_MS) return;
    try {
      await mkdir(folder, { recursive: true, mode: 0o700 });
      const { ledger: known, time } = await ledger();
      if (isDue(schedule, await newestArchive(folder, known), time)) await take(this.#stopping.signal);
    } catch (error) {
      this.#failedAt = performance.now();
      this.#failures += 1;
      throw error;
    }
  }
}
