// The commands that administer a ledger, each once and to its end; they may run beside `serve`, unless they say otherwise.

import type { Logger } from "pino";
import type { Line } from "./command-line.ts";
import type { Config } from "../config.ts";
import { applyMigrations, bringUpToDate, openDatabaseBeside, openLedger, type Database, type Login } from "../service/database.ts";
import { complain, FAILED, print, sentenceOf, stopSignal } from "./exit.ts";
import { runAdoption, sourceOf } from "./adopt.ts";
import { backUp } from "../backup/backup.ts";
import { describe } from "../verification/finding.ts";
import { majorOf } from "../backup/before-migration.ts";
import { Progress } from "./progress.ts";
import { runRebuild } from "./rebuild.ts";
import { restore } from "../backup/restore.ts";
import { runVerification } from "./verify.ts";
import { pendingMigrations } from "../postgres/schema/migrate.ts";
import { checkReachable, type Use } from "../postgres/connection/reachable.ts";
import { version } from "../version.ts";

/** Does what the command asks for; answers its exit code. */
export function administer(line: Line, config: Config, log: Logger): Promise<number> | undefined {
  switch (line.command) {
    case "migrate":
      return runMigrate(line, config, log);
    case "verify":
    case "rebuild":
      return runProof(line, config, log);
    case "backup":
      return runBackup(line, config, log);
    case "restore":
      return runRestore(line, config, log);
    case "adopt":
      return runAdopt(line, config, log);
    default:
      return undefined;
  }
}

async function runMigrate({ plan, noBackup }: Line, config: Config, log: Logger): Promise<number> {
  return withDatabase(config, log, plan ? "read" : "write", "owner", async ({ url }) => {
    if (!plan) {
      const applied = await applyMigrations(url, config, log, noBackup);
      return print(applied.length === 0 ? "the schema is up to date\n" : applied.map(({ name }) => `applied ${name}\n`).join(""));
    }
    const pending = await pendingMigrations(url);
    const major = majorOf(pending);
    const backup = major === undefined ? "" : `-- first, since ${major.name} is major: ledgerd backup --to ${config.backups.folder ?? "LEDGERD_BACKUP_DIR, which is not set"}\n`;
    return print(pending.length === 0 ? "-- the schema is up to date\n" : backup + pending.map(({ name, sql }) => `-- ${name}\n${sql}\n`).join(""));
  });
}

async function runBackup({ to, keepDays }: Line, config: Config, log: Logger): Promise<number> {
  const folder = to ?? config.backups.folder;
  if (folder === undefined) return complain(["say where the archive goes: `ledgerd backup --to DIR`, or LEDGERD_BACKUP_DIR", "see `ledgerd help`"]);
  const progress = new Progress("backup");
  return withDatabase(config, log, "read", "serving", async ({ url }) => {
    const { file, manifest, removed } = await backUp({
      url,
      folder,
      keepDays: keepDays ?? config.backups.keepDays,
      version: version(),
      signal: stopSignal(),
      progress: (phase, done) => progress.report({ phase, done }),
    });
    const rows = manifest.tables.reduce((sum, table) => sum + table.rows, 0);
    progress.tell("done", { file, rows, digest: manifest.digest, removed }, `${rows.toLocaleString("en")} rows are in ${file}, which was read back; their digest is ${manifest.digest}`);
    return 0;
  });
}

async function runRestore({ from = "", noVerify }: Line, config: Config, log: Logger): Promise<number> {
  const progress = new Progress("restore");
  return withDatabase(config, log, "write", "owner", async ({ url }) => {
    const { manifest, verification } = await restore({
      url,
      file: from,
      verifies: !noVerify,
      currencies: config.money.currencies,
      connectTimeoutMs: config.postgres.connectTimeoutMs,
      queryTimeoutMs: config.postgres.queryTimeoutMs,
      signal: stopSignal(),
      progress: (phase, done, total) => progress.report({ phase, done, ...(total === undefined ? {} : { total }) }),
      onFinding: (finding) => progress.tell("difference", finding, describe(finding)),
    });
    const differences = verification?.differences ?? 0;
    const { time, digest } = manifest;
    const isServable = differences === 0;
    progress.tell(
      "done",
      { time, digest, servable: isServable, ...verification },
      `the ledger of ${time} is restored, its digest is ${digest}; ${judgementOf(verification?.differences)}`,
    );
    return isServable ? 0 : FAILED;
  });
}

function judgementOf(differences: number | undefined): string {
  if (differences === undefined) return "it wasn't verified: `ledgerd verify` does it";
  if (differences === 0) return "everything in it holds";
  return (
    `${differences} differences were in it already when it was archived: it isn't served from until this is run ` +
    "again with --no-verify; `ledgerd rebuild` mends those of projections then"
  );
}

/** Does it with the database, whether it is served from or not. */
async function withDatabase(
  config: Config,
  log: Logger,
  use: Use,
  login: Login,
  work: (database: Database) => Promise<number>,
): Promise<number> {
  const database = await openDatabaseBeside(config, log, use, login);
  try {
    return await work(database);
  } finally {
    await database.close();
  }
}

/** Verifies or rebuilds. Their work fails by what they find, so what keeps it from being done is as a wrong command line. */
async function runProof({ command, digest, writeDigest, trustLog }: Line, config: Config, log: Logger): Promise<number> {
  try {
    await using ledger = await openLedger(config, log, command === "rebuild" ? "write" : "read", "serving");
    const { currencies } = config.money;
    const { connectTimeoutMs } = config.postgres;
    const options = { url: ledger.url, pool: ledger.pool, currencies, connectTimeoutMs, signal: stopSignal() };
    const progress = new Progress(command);
    if (command === "rebuild") return (await runRebuild({ ...options, trustLog }, progress)).left === 0 ? 0 : FAILED;
    return (await runVerification({ ...options, writeDigest, ...(digest === undefined ? {} : { digest }) }, progress)).differences === 0 ? 0 : FAILED;
  } catch (error) {
    const stack = error instanceof Error ? (error.stack ?? error.message) : String(error);
    return complain([sentenceOf(error) ?? `it could not be done: ${stack}`]);
  }
}

async function runAdopt({ adopt }: Line, config: Config, log: Logger): Promise<number> {
  const { currencies, defaultCurrency } = config.money;
  const { connectTimeoutMs, queryTimeoutMs } = config.postgres;
  const source = sourceOf(adopt, config.adoption.from);
  if ("problem" in source) return complain([source.problem, "see `ledgerd help`"]);
  if (source.isExposed) {
    log.warn("everybody on this machine sees the password in --from: give the URL by --from-file or LEDGERD_ADOPT_FROM_FILE, or the password by a file of passwords (.pgpass)");
  }
  const advice = "see that PostgreSQL runs there and that the URL of --from is right";
  await checkReachable({ url: source.url, use: "look", timeoutMs: connectTimeoutMs, advice });
  const openTarget = async () => {
    const database = await openDatabaseBeside(config, log, "write", "owner");
    try {
      await bringUpToDate(database, config, log);
    } finally {
      await database.close();
    }
    return openLedger(config, log, "write", "owner");
  };
  const settings = { from: source.url, currencies, defaultCurrency, connectTimeoutMs, queryTimeoutMs, signal: stopSignal("run it again to go on") };
  await runAdoption(adopt, settings, openTarget, new Progress("adopt"));
  return 0;
}
