// Migrations that are marked major have a backup taken before them.

import { knownMigrations, migrate, pendingMigrations, type Migration } from "../postgres/schema/migrate.ts";
import { backUp, BackupProblem, type Backup, type BackupOptions } from "./backup.ts";

/** What to migrate, and where the backup goes. */
export interface MigrateOptions extends Omit<BackupOptions, "folder" | "migrating"> {
  /** The folder for the backup; undefined: there is none. */
  readonly folder: string | undefined;
  readonly onBackup: (backup: Backup) => void;
  /** Whether the operator does without a backup. */
  readonly noBackup?: boolean;
  /** All migrations that there are; absent: those of this version. */
  readonly known?: readonly Migration[];
}

/** The migration among those that are pending on a database for whose sake a backup is taken first. On one that has no ledger yet, none. */
export function majorOf(pending: readonly Migration[], known: readonly Migration[] = knownMigrations()): Migration | undefined {
  return pending.length === known.length ? undefined : pending.find(({ major }) => major);
}

/** Migrates, with a backup before everything if one of the migrations is major; answers what it applied. */
export async function migrateWithBackup({ folder, noBackup = false, known = knownMigrations(), onBackup, ...options }: MigrateOptions): Promise<readonly Migration[]> {
  const { url } = options;
  const major = majorOf(await pendingMigrations(url, { known }), known);
  if (major !== undefined && !noBackup) {
    if (folder === undefined) {
      throw new BackupProblem(`migration ${major.name} is major, and a backup is taken before such a one: set LEDGERD_BACKUP_DIR to a folder for it, or run \`ledgerd migrate --no-backup\``);
    }
    onBackup(await backUp({ ...options, folder, migrating: { known } }));
  }
  return migrate(url, { known });
}
