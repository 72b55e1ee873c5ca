// Backups that are taken without being asked for: by a schedule, and before migrations that are marked major.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { copyFileSync, cpSync, existsSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { pino } from "pino";
import { afterAll, describe, expect, test } from "vitest";
import { isDue } from "../../src/domain/schedule.ts";
import { Archive } from "../../src/backup/archive.ts";
import { archiveName, timeOf } from "../../src/backup/archive-folder.ts";
import { majorOf, migrateWithBackup } from "../../src/backup/before-migration.ts";
import { ScheduledBackups } from "../../src/upkeep/scheduled-backups.ts";
import { knownMigrations, migrate } from "../../src/postgres/schema/migrate.ts";
import { startLedgerd, servesAt, logOf } from "../harness/command.ts";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { withLogins } from "../harness/logins.ts";
import { newKey, serve } from "../harness/service.ts";
import { until } from "../harness/until.ts";

const root = mkdtempSync(path.join(tmpdir(), "ledgerd-scheduled-"));

afterAll(() => rmSync(root, { recursive: true }));

function newFolder(): string {
  return mkdtempSync(path.join(root, "archives-"));
}

/** The archives in a folder, the oldest first. */
function archivesIn(folder: string): readonly string[] {
  return readdirSync(folder).filter((name) => name.endsWith(".tar")).toSorted();
}

describe("a schedule", () => {
  const at = (text: string): number => Date.parse(`2026-11-${text}Z`);

  test("by the time of day is due once the time has come, and stays so until it was done", () => {
    const daily = { kind: "daily", minute: 3 * 60 } as const;
    expect(isDue(daily, undefined, at("23T00:00:00"))).toBe(true);
    expect(isDue(daily, at("22T03:00:05"), at("23T02:59:59"))).toBe(false);
    expect(isDue(daily, at("22T03:00:05"), at("23T03:00:00"))).toBe(true);
    expect(isDue(daily, at("23T03:00:00"), at("23T03:00:01"))).toBe(false);
    expect(isDue(daily, at("20T03:00:05"), at("23T02:00:00")), "one that was missed").toBe(true);
    expect(isDue({ kind: "daily", minute: 0 }, at("22T23:59:59"), at("23T00:00:00"))).toBe(true);
    expect(isDue({ kind: "daily", minute: 24 * 60 - 1 }, at("22T23:58:00"), at("23T10:00:00"))).toBe(true);
  });

  test("by an interval is due that long after the last time; one that is off never", () => {
    const every = { kind: "every", intervalMs: 6 * 3600 * 1000 } as const;
    expect(isDue(every, undefined, 0)).toBe(true);
    expect(isDue(every, at("23T00:00:00"), at("23T05:59:59"))).toBe(false);
    expect(isDue(every, at("23T00:00:00"), at("23T06:00:00"))).toBe(true);
    expect(isDue({ kind: "off" }, undefined, at("23T06:00:00"))).toBe(false);
  });

  test("goes by the newest archive of its own database, and doesn't try again at once where it failed", async () => {
    const folder = newFolder();
    writeFileSync(path.join(folder, archiveName("ffffffff", Date.now())), "");
    let taken = 0;
    const backups = (take: () => Promise<void>) => new ScheduledBackups({ schedule: { kind: "every", intervalMs: 3600_000 }, folder, ledger: () => Promise.resolve({ ledger: "0a1b2c3d", time: Date.now() }), take });
    const failing = backups(() => Promise.reject(new Error(`no room ${(taken += 1)}`)));
    await expect(failing.takeIfDue()).rejects.toThrow("no room 1");
    await failing.takeIfDue();
    expect(taken).toBe(1);
    const working = backups(async () => writeFileSync(path.join(folder, archiveName("0a1b2c3d", Date.now())), String((taken += 1))));
    await working.takeIfDue();
    await working.takeIfDue();
    expect(taken).toBe(2);
  });
});

describe("serving with a schedule", () => {
  test("takes a backup at once where one was missed, then when its time has come, by one instance of several, each archive whole", async () => {
    await using database = await createDatabase();
    const folder = path.join(newFolder(), "not there yet");
    const settings = { LEDGERD_BACKUP_DIR: folder, LEDGERD_BACKUP_SCHEDULE: "every 1s", LEDGERD_BACKUP_KEEP_DAYS: "1" };
    await using first = await serve(database.url, settings);
    await using second = await serve(database.url, settings);
    await first.ledger.topUp({ userId: 1n, amount: { amount: "1" }, idempotencyKey: newKey() });
    await until(() => existsSync(folder) && archivesIn(folder).length >= 2);
    const metrics = await (await fetch(`http://${second.httpAddress}/metrics`)).text();
    expect(Number(/^ledgerd_backup_last_completed_timestamp_seconds (\S+)$/m.exec(metrics)?.[1])).toBeGreaterThan(1_700_000_000);
    await Promise.all([first.close(), second.close()]);
    const archives = archivesIn(folder);
    const times = archives.map((name) => timeOf(name, name.slice(8, 16)) ?? 0);
    expect(times.slice(1).filter((time, index) => time - (times[index] ?? 0) < 1000), "none was taken before its time").toEqual([]);
    for (const name of archives) await (await Archive.open(path.join(folder, name))).close();
    expect(readdirSync(folder), "one that was being made is given up").toEqual(archives);
  });

  test("takes one by several processes of one instance", async () => {
    await using database = await createDatabase();
    const folder = newFolder();
    const settings = { DATABASE_URL: database.url, LEDGERD_DURABILITY: "relaxed", LEDGERD_BACKUP_DIR: folder, LEDGERD_BACKUP_SCHEDULE: "daily 00:00" };
    await using command = startLedgerd(["serve", "--workers", "2"], settings);
    await servesAt(command);
    await until(() => archivesIn(folder).length > 0);
    command.process.kill("SIGTERM");
    expect(await command.ended).toBe(0);
    expect(archivesIn(folder)).toHaveLength(1);
    expect(logOf(command).filter(({ msg }) => msg === "taking a backup")).toHaveLength(1);
  });

  test("tells of a backup that fails as an error, with the command's own words, and serves on", async () => {
    await using database = await createDatabase();
    const file = path.join(newFolder(), "a file");
    writeFileSync(file, "");
    const folder = path.join(file, "below");
    const settings = { DATABASE_URL: database.url, LEDGERD_DURABILITY: "relaxed", LEDGERD_BACKUP_DIR: folder, LEDGERD_BACKUP_SCHEDULE: "daily 00:00" };
    await using command = startLedgerd(["serve"], settings);
    const { http } = await servesAt(command);
    await until(() => logOf(command).some(({ level }) => level === pino.levels.values["error"]));
    expect(logOf(command).filter(({ level }) => level === pino.levels.values["error"])).toMatchObject([{ msg: "the backup failed", err: { message: expect.stringContaining("ENOTDIR") as string } }]);
    const metrics = await (await fetch(`http://${http}/metrics`)).text();
    expect(metrics).toContain("\nledgerd_backup_last_completed_timestamp_seconds 0\n");
    expect(metrics).toContain("\nledgerd_backup_failures_total 1\n");
    command.process.kill("SIGTERM");
    expect(await command.ended).toBe(0);
  });
});

/** A folder of migrations: ours, and then these. */
function migrationsWith(...texts: readonly string[]): ReturnType<typeof knownMigrations> {
  const folder = mkdtempSync(path.join(root, "migrations-"));
  const ours = path.resolve(import.meta.dirname, "../../migrations");
  const files = readdirSync(ours).toSorted();
  for (const file of files) copyFileSync(path.join(ours, file), path.join(folder, file));
  texts.forEach((text, index) => writeFileSync(path.join(folder, `${String(files.length + index + 1).padStart(4, "0")}_test.sql`), text));
  return knownMigrations(folder);
}

const MAJOR = "-- Says what it is about.\n-- major\n\nALTER TABLE ledgerd.holds ADD COLUMN IF NOT EXISTS later TEXT;\n";
const MINOR = "-- Nothing -- major about it.\nALTER TABLE ledgerd.holds ADD COLUMN IF NOT EXISTS minor TEXT; -- major\n-- major\n";

/** The command line of a later version: of this one with one more migration. */
function copyOfLedgerd(migration: string): string {
  const copy = mkdtempSync(path.join(root, "later-"));
  const here = path.resolve(import.meta.dirname, "../..");
  for (const name of ["src", "migrations", "package.json"]) cpSync(path.join(here, name), path.join(copy, name), { recursive: true });
  symlinkSync(path.join(here, "node_modules"), path.join(copy, "node_modules"));
  writeFileSync(path.join(copy, "migrations", `${String(knownMigrations().length + 1).padStart(4, "0")}_test.sql`), migration);
  return path.join(copy, "src/main.ts");
}

/** Migrates as `ledgerd migrate` and `ledgerd serve` do; answers what was backed up. */
async function migrateAs(url: string, known: ReturnType<typeof knownMigrations>, folder: string | undefined, noBackup = false) {
  const files: string[] = [];
  await migrateWithBackup({ url, folder, known, noBackup, keepDays: 7, version: "0.0.1", progress: () => undefined, onBackup: ({ file }) => files.push(file) });
  return files;
}

async function newestOf({ query }: TestDatabase): Promise<number> {
  const [found] = await query<{ newest: number }>("SELECT max(number) AS newest FROM ledgerd.schema_migrations");
  return found?.newest ?? 0;
}

describe("a migration that is marked major", () => {
  const known = migrationsWith(MINOR, MAJOR);

  test("is told by its mark above the first statement alone, and none of ours is", () => {
    expect(knownMigrations().filter(({ major }) => major)).toEqual([]);
    expect(known.filter(({ major }) => major)).toEqual([known.at(-1)]);
  });

  test("has a backup taken before it and all that are pending with it, of the ledger as it was", async () => {
    await using database = await createDatabase();
    const [file = ""] = await migrateAs(database.url, known, newFolder());
    expect(await newestOf(database)).toBe(known.length);
    const archive = await Archive.open(file);
    await archive.close();
    expect(archive.manifest.migrations).toHaveLength(known.length - 2);
    expect(archive.manifest.tables.find(({ name }) => name === "holds")?.columns).not.toContain("minor");
    expect(await migrateAs(database.url, known, newFolder()), "there is nothing to do any more").toEqual([]);
  });

  test("is refused where there is no folder for the backup, with the remedies, and goes without one where that is asked for", async () => {
    await using database = await createDatabase();
    const before = await newestOf(database);
    const remedy = `migration ${known.at(-1)?.name} is major, and a backup is taken before such a one: set LEDGERD_BACKUP_DIR to a folder for it, or run \`ledgerd migrate --no-backup\``;
    await expect(migrateAs(database.url, known, undefined)).rejects.toThrow(remedy);
    expect(await newestOf(database)).toBe(before);
    expect(await migrateAs(database.url, known, undefined, true)).toEqual([]);
    expect(await newestOf(database)).toBe(known.length);
  });

  test("isn't applied where its backup fails", async () => {
    await using database = await createDatabase();
    const before = await newestOf(database);
    const file = path.join(newFolder(), "a file");
    writeFileSync(file, "");
    await expect(migrateAs(database.url, known, file)).rejects.toThrow(/can't make the folder/);
    expect(await newestOf(database)).toBe(before);
  });

  test("needs none on a database that has no ledger yet, and none is taken for the sake of others", async () => {
    await using empty = await createDatabase("empty");
    expect(majorOf(known, known)).toBeUndefined();
    expect(await migrateAs(empty.url, known, undefined)).toEqual([]);
    await using database = await createDatabase();
    expect(await migrateAs(database.url, migrationsWith(MINOR), undefined)).toEqual([]);
    await migrate(database.url, { known: migrationsWith(MINOR) });
    expect(majorOf([known[0], known.at(-1)].flatMap((one) => one ?? []), known)).toBe(known.at(-1));
  });

  test("makes the command and its plan say so, and `serve` take the backup", async () => {
    await using database = await createDatabase();
    const folder = newFolder();
    const copy = copyOfLedgerd(MAJOR);
    const run = async (args: readonly string[], settings: Readonly<Record<string, string>>) => {
      const env = { PATH: process.env["PATH"] ?? "", DATABASE_URL: database.url, LEDGERD_DURABILITY: "relaxed", LEDGERD_GRPC_ADDR: "127.0.0.1:0", LEDGERD_HTTP_ADDR: "127.0.0.1:0", LEDGERD_WORKERS: "1", ...settings };
      const child = spawn(process.execPath, [copy, ...args], { env: args[0] === "serve" ? withLogins(env) : env, stdio: ["ignore", "pipe", "pipe"] });
      let printed = "";
      for (const stream of [child.stdout, child.stderr]) stream.setEncoding("utf8").on("data", (text: string) => (printed += text));
      if (args[0] === "serve") await until(() => child.exitCode !== null || /ledgerd serves/.test(printed)).then(() => child.kill("SIGTERM"));
      if (child.exitCode === null) await once(child, "close");
      return printed;
    };
    expect(await run(["migrate", "--plan"], {})).toMatch(/^-- first, since \d{4}_test is major: ledgerd backup --to LEDGERD_BACKUP_DIR, which is not set\n-- \d{4}_test\n/);
    expect(await run(["serve"], {})).toMatch(/is major, and a backup is taken before such a one: set LEDGERD_BACKUP_DIR/);
    expect(await run(["serve"], { LEDGERD_BACKUP_DIR: folder })).toMatch(/took a backup before a major migration/);
    expect(archivesIn(folder)).toHaveLength(1);
    expect(await run(["migrate"], {})).toBe("the schema is up to date\n");
  });
});
