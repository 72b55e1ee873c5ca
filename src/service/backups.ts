// The backups that a service takes by itself.

import type { Logger } from "pino";
import type { DatabasePool } from "slonik";
import { ledgerOf } from "../backup/sql/snapshot.ts";
import type { Config } from "../config.ts";
import { runBackup } from "../upkeep/backup-process.ts";
import { ScheduledBackups } from "../upkeep/scheduled-backups.ts";

/** The backups by the schedule, if there is one. */
export function backupsOf(
  config: Config,
  url: string,
  background: DatabasePool,
  log: Logger,
): ScheduledBackups | undefined {
  const { folder, schedule, keepDays } = config.backups;
  if (folder === undefined || schedule.kind === "off") return undefined;
  const take = async (signal: AbortSignal): Promise<void> => {
    log.info({ folder }, "taking a backup");
    await runBackup({ url, folder, keepDays, signal });
  };
  return new ScheduledBackups({ schedule, folder, ledger: () => ledgerOf(background), take });
}
