// A folder of archives: how they are named, which one is the newest, and which are too old to be kept.

import { readdir, rm, stat } from "node:fs/promises";
import path from "node:path";

const DAY_MS = 24 * 3600 * 1000;

/** What a backup that was killed leaves behind grows no more. One that is under way does, all the time. */
const ABANDONED_AFTER_MS = 3600 * 1000;

/** The name of an archive: of which database, and of which moment. */
export function archiveName(ledger: string, time: number): string {
  return `ledgerd-${ledger}-${new Date(time).toISOString().replaceAll(":", "")}.tar`;
}

/** The name that it has until it is complete. */
export function unfinishedName(ledger: string, time: number): string {
  return `.${archiveName(ledger, time)}.unfinished`;
}

/** When a file was taken that is an archive of this database by its name, in milliseconds since 1970; undefined for all others. */
export function timeOf(name: string, ledger: string): number | undefined {
  const [, day = "", hour = "", minute = "", second = ""] = /^ledgerd-[0-9a-f]{8}-(\d{4}-\d\d-\d\d)T(\d\d)(\d\d)(\d\d\.\d{3}Z)\.tar$/.exec(name) ?? [];
  const time = Date.parse(`${day}T${hour}:${minute}:${second}`);
  return Number.isNaN(time) || archiveName(ledger, time) !== name ? undefined : time;
}

/** When the newest archive of this database in a folder was taken. */
export async function newestArchive(folder: string, ledger: string): Promise<number | undefined> {
  const times = (await readdir(folder)).flatMap((name) => timeOf(name, ledger) ?? []);
  return times.length === 0 ? undefined : Math.max(...times);
}

/**
 * Removes archives of this database that were taken so many days before `newest`, which is one that was verified and stays; and what killed
 * backups left behind. Answers the names of the archives.
 */
export async function removeOld(folder: string, ledger: string, newest: number, keepDays: number): Promise<readonly string[]> {
  const names = await readdir(folder);
  const old = names.filter((name) => (timeOf(name, ledger) ?? Number.POSITIVE_INFINITY) < newest - keepDays * DAY_MS);
  for (const name of old) await rm(path.join(folder, name));
  for (const name of names) {
    const [, whole = ""] = /^\.(.*)\.unfinished$/.exec(name) ?? [];
    if (timeOf(whole, ledger) !== undefined && (await isAbandoned(path.join(folder, name)))) await rm(path.join(folder, name), { force: true });
  }
  return old;
}

async function isAbandoned(file: string): Promise<boolean> {
  try {
    return Date.now() - (await stat(file)).mtimeMs > ABANDONED_AFTER_MS;
  } catch (error) {
    // It has just been completed or removed by whoever wrote it.
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return false;
    throw error;
  }
}
