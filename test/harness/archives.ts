// Backups and restores within a test's own process.

import { currenciesWith } from "../../src/domain/money/currency.ts";
import { backUp, type Backup } from "../../src/backup/backup.ts";
import { restore, type Restored } from "../../src/backup/restore.ts";
import { knownMigrations, type Migration } from "../../src/postgres/schema/migrate.ts";

/** Backs a database up into a folder. */
export function archiveOf(url: string, folder: string, known: readonly Migration[] = knownMigrations()): Promise<Backup> {
  return backUp({ url, folder, keepDays: 7, version: "0.0.1", migrating: { known }, progress: () => undefined });
}

/** Restores an archive into a database. Throws if anything in it doesn't hold. */
export async function restoreInto(url: string, file: string, known: readonly Migration[] = knownMigrations(), progress: (phase: string) => void = () => undefined): Promise<Restored> {
  const findings: string[] = [];
  const limits = { connectTimeoutMs: 10_000, queryTimeoutMs: 10_000, signal: new AbortController().signal };
  const restored = await restore({ url, file, known, verifies: true, currencies: currenciesWith([]), ...limits, progress, onFinding: ({ kind }) => findings.push(kind) });
  if (findings.length > 0) throw new Error(`in what was restored there is: ${findings.join(", ")}`);
  return restored;
}
