// `ledgerd backup`: everything that ledgerd keeps, as it was at one moment, in one file. It has its name only once it was read back, byte for byte.

import { mkdir, open, rename, rm } from "node:fs/promises";
import path from "node:path";
import { knownMigrations, pendingMigrations, type Migrating } from "../postgres/schema/migrate.ts";
import { Snapshot, type Origin } from "./sql/snapshot.ts";
import { Archive, ArchiveWriter, PART_BYTES, type Manifest } from "./archive.ts";
import { archiveName, removeOld, unfinishedName } from "./archive-folder.ts";
import { Problem } from "../domain/problem.ts";

/** There is nothing to back up, or nowhere to. */
export class BackupProblem extends Problem {}

/** What to back up, and where to. */
export interface BackupOptions {
  readonly url: string;
  /** The folder; made if it isn't there. */
  readonly folder: string;
  /** How long older archives of this database stay there. */
  readonly keepDays: number;
  /** The version of ledgerd that does it. */
  readonly version: string;
  readonly migrating?: Migrating;
  /** Ends it in the middle, with nothing left behind. */
  readonly signal?: AbortSignal;
  /** Is told how far it is. */
  readonly progress: (phase: string, rows: number) => void;
}

/** An archive that was made. */
export interface Backup {
  readonly file: string;
  readonly manifest: Manifest;
  /** Older archives that were removed. */
  readonly removed: readonly string[];
}

/** Makes an archive, verifies it, and then removes those that are too old. */
export async function backUp(options: BackupOptions): Promise<Backup> {
  const { url, folder, keepDays, signal, progress, migrating = {} } = options;
  const pending = await pendingMigrations(url, migrating);
  if (pending.length === (migrating.known ?? knownMigrations()).length) throw new BackupProblem("there is no ledger in this database yet: nothing to back up");
  await makeFolder(folder);
  const snapshot = await Snapshot.open(url, () => progress("waiting for another backup", 0), signal);
  try {
    const origin = await snapshot.origin();
    const unfinished = path.join(folder, unfinishedName(origin.ledger, origin.time));
    const file = path.join(folder, archiveName(origin.ledger, origin.time));
    try {
      const manifest = await write(snapshot, origin, unfinished, options);
      await verify(unfinished, options);
      await rename(unfinished, file);
      await syncFolder(folder);
      return { file, manifest, removed: await removeOld(folder, origin.ledger, origin.time, keepDays) };
    } finally {
      await rm(unfinished, { force: true });
    }
  } finally {
    await snapshot.close();
  }
}

async function write(snapshot: Snapshot, origin: Origin, file: string, { version, progress }: BackupOptions): Promise<Manifest> {
  const writer = await ArchiveWriter.create(file, origin.time);
  try {
    let rows = 0;
    for (const table of await snapshot.tables()) {
      writer.begin(table);
      for await (const part of snapshot.rows(table, PART_BYTES)) {
        await writer.add(part);
        rows += part.rows;
        progress("copying", rows);
      }
    }
    const digest = await snapshot.digest();
    const sequences = (await snapshot.sequences()).map((state) => ({ ...state, lastValue: state.lastValue.toString() }));
    const { ledger, database, postgres, migrations } = origin;
    return await writer.finish({ ledgerd: version, postgres, database, ledger, time: new Date(origin.time).toISOString(), migrations: [...migrations], digest, sequences });
  } finally {
    await writer.close();
  }
}

/** Reads it back, every byte of it. */
async function verify(file: string, { progress, signal }: BackupOptions): Promise<void> {
  const read = (rows: number): void => {
    signal?.throwIfAborted();
    progress("verifying", rows);
  };
  read(0);
  const archive = await Archive.open(file, read);
  await archive.close();
  signal?.throwIfAborted();
}

async function makeFolder(folder: string): Promise<void> {
  try {
    await mkdir(folder, { recursive: true, mode: 0o700 });
  } catch (cause) {
    throw new BackupProblem(`can't make the folder ${folder}: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
  }
}

/** A new name survives a loss of power only once its folder is on the disk, too. */
async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
