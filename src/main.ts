#!/usr/bin/env node
// The command line. Only process glue: what is done lies in the modules.

import { availableParallelism } from "node:os";
import { parseArgs } from "node:util";
import { setFlagsFromString } from "node:v8";
import { pino, type Logger } from "pino";
import { MAX_WORKERS, readConfig, readKeepDays, readWorkers, unknownVariables, type Config } from "./config.ts";
import { applyMigrations, openDatabaseBeside, openLedger, type Database } from "./database.ts";
import { ArchiveProblem } from "./ops/archive.ts";
import { backUp, BackupProblem } from "./ops/backup.ts";
import { DigestProblem } from "./ops/digest.ts";
import { describe } from "./ops/finding.ts";
import { majorOf } from "./ops/major.ts";
import { Progress } from "./ops/progress.ts";
import { runRebuild } from "./ops/rebuild-command.ts";
import { restore, RestoreProblem } from "./ops/restore.ts";
import { runVerification } from "./ops/verify-command.ts";
import { FolderProblem } from "./postgres/embedded-folder.ts";
import { pendingMigrations, SchemaProblem } from "./postgres/migrate.ts";
import { DatabaseUnreachable } from "./postgres/reachable.ts";
import { TargetProblem } from "./postgres/restoring.ts";
import { WorkerProblem } from "./processes/crew.ts";
import { startWorkers } from "./processes/primary.ts";
import { hasPrimary, joinPrimary } from "./processes/worker.ts";
import { startService, StartupProblem } from "./service.ts";
import { version } from "./version.ts";

const HELP = `ledgerd ${version()}: a ledger of balances, holds and paid jobs behind gRPC, on PostgreSQL

usage: ledgerd [command]

  serve              take calls (the default)
  serve --workers N  take them by N processes on the same ports; else by LEDGERD_WORKERS, or one for each core
  migrate            bring the database's schema up to date
  migrate --plan     print the SQL that migrate would run, and change nothing
  migrate --no-backup          take no backup before a migration that is major
  verify             prove the log, and all that hangs on it, while it is served; 1: there are differences, 2: it could not be done
  verify --write-digest FILE   and write the head of each chain to a file, to be kept elsewhere
  verify --digest FILE         and hold the log against such a file
  rebuild            repair balances and holds from the log, while it is served; 1: something was left, and is named
  rebuild --trust-log          balances alone, from the last row of each account, without proving the log
  backup --to DIR    write everything, as it is at one moment, to an archive in a folder, and read it back; else to LEDGERD_BACKUP_DIR
  backup --keep-days N         and remove archives of this database there that are older; else by LEDGERD_BACKUP_KEEP_DAYS, or 7
  restore --from FILE          put an archive into an empty database, and verify it; goes on where it was, if it was cut off
  help               print this
  version            print the version

It is configured by environment variables; README.md has the table.
`;

/** Exit codes: 1 the work failed, 2 the command line or the configuration is wrong. */
const FAILED = 1;
const MISUSED = 2;

/** A command was asked to end before it was done. */
class Interrupted extends Error {}

/** What an operator can mend is said in one line. */
const mendable = [Interrupted, SchemaProblem, StartupProblem, FolderProblem, DatabaseUnreachable, WorkerProblem, DigestProblem, ArchiveProblem, BackupProblem, RestoreProblem, TargetProblem];

async function main(args: readonly string[]): Promise<number> {
  const line = readCommandLine(args);
  if (typeof line === "string") return complain([line, "see `ledgerd help`"]);
  if (line.command === "help") return print(HELP);
  if (line.command === "version") return print(`${version()}\n`);
  const read = readConfig();
  if ("problems" in read) return complain(read.problems);
  const log = pino({ level: read.config.LEDGERD_LOG_LEVEL }, pino.destination(2));
  try {
    return await run(line, read.config, log);
  } catch (error) {
    // For the rest, the stack is what helps.
    if (!isMendable(error)) throw error;
    return complain([error.message], FAILED);
  }
}

function isMendable(error: unknown): error is Error {
  return error instanceof Error && mendable.some((problem) => error instanceof problem);
}

/** `worker` is what `serve` starts its further processes with. */
type Command = "serve" | "migrate" | "verify" | "rebuild" | "backup" | "restore" | "help" | "version" | "worker";

interface Line {
  readonly command: Command;
  readonly plan: boolean;
  readonly noBackup: boolean;
  readonly workers: number | undefined;
  readonly digest: string | undefined;
  readonly writeDigest: string | undefined;
  readonly trustLog: boolean;
  readonly to: string | undefined;
  readonly keepDays: number | undefined;
  readonly from: string | undefined;
}

/** Which command each option goes with. */
const commandOf = {
  plan: "migrate",
  "no-backup": "migrate",
  workers: "serve",
  digest: "verify",
  "write-digest": "verify",
  "trust-log": "rebuild",
  to: "backup",
  "keep-days": "backup",
  from: "restore",
} as const;

function readCommandLine(args: readonly string[]): Line | string {
  const options = {
    plan: { type: "boolean" },
    "no-backup": { type: "boolean" },
    workers: { type: "string" },
    digest: { type: "string" },
    "write-digest": { type: "string" },
    "trust-log": { type: "boolean" },
    to: { type: "string" },
    "keep-days": { type: "string" },
    from: { type: "string" },
    help: { type: "boolean", short: "h" },
    version: { type: "boolean", short: "v" },
  } as const;
  try {
    const { positionals, values } = parseArgs({ args: [...args], options, allowPositionals: true });
    const command = values.help === true ? "help" : values.version === true ? "version" : (positionals[0] ?? "serve");
    if (positionals.length > 1) return `one command at a time, not: ${positionals.join(" ")}`;
    if (!isCommand(command)) return `there is no command ${command}`;
    const stray = Object.entries(commandOf).find(([name, owner]) => values[name as keyof typeof commandOf] !== undefined && owner !== command);
    if (stray !== undefined) return `--${stray[0]} goes with ${stray[1]}, not with ${command}`;
    if (command === "restore" && values.from === undefined) return "say which archive: `ledgerd restore --from FILE`";
    const workers = values.workers === undefined ? undefined : readWorkers(values.workers);
    if (typeof workers === "string") return workers;
    const keepDays = values["keep-days"] === undefined ? undefined : readKeepDays(values["keep-days"]);
    if (typeof keepDays === "string") return keepDays;
    const { plan = false, "no-backup": noBackup = false, digest, "write-digest": writeDigest, "trust-log": trustLog = false, to, from } = values;
    return { command, plan, noBackup, workers, digest, writeDigest, trustLog, to, keepDays, from };
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

function isCommand(word: string): word is Command {
  return ["serve", "migrate", "verify", "rebuild", "backup", "restore", "help", "version"].includes(word) || (word === "worker" && hasPrimary());
}

async function run(line: Line, config: Config, log: Logger): Promise<number> {
  const { command, workers } = line;
  if (command === "worker") return runWorker(config, log);
  for (const variable of unknownVariables()) log.warn({ variable }, "no such setting; is it misspelt?");
  if (command === "migrate") return runMigrate(line, config, log);
  if (command === "verify" || command === "rebuild") return runProof(line, config, log);
  if (command === "backup") return runBackup(line, config, log);
  if (command === "restore") return runRestore(line, config, log);
  return runServe(workers ?? config.LEDGERD_WORKERS ?? Math.min(availableParallelism(), MAX_WORKERS), config, log);
}

async function runServe(workers: number, config: Config, log: Logger): Promise<number> {
  keepHeapSmall();
  const stopped = toldToStop();
  const service = workers === 1 ? await startService(config, log) : await startWorkers(workers, config, log);
  const call = `curl -s -H 'content-type: application/json' -d '{"user_id": 1}' http://${service.httpAddress}/ledger.v1.LedgerService/GetBalance`;
  process.stdout.write(`ledgerd serves gRPC on ${service.grpcAddress} and HTTP on ${service.httpAddress}; try: ${call}\n`);
  log.info({ signal: await stopped }, "shutting down");
  await service.close();
  return 0;
}

/** One of several processes that serve: the first one has the database and the ports, and says when all serve. */
async function runWorker(config: Config, log: Logger): Promise<number> {
  keepHeapSmall();
  const stopped = toldToStop();
  const primary = joinPrimary();
  try {
    const service = await startService(config, log, primary.surroundings);
    await primary.tell({ kind: "serving" });
    const signal = await Promise.race([stopped, primary.gone.then(() => "none: the first process is gone")]);
    log.info({ signal }, "shutting down");
    await primary.tell({ kind: "draining" });
    await service.close();
    return 0;
  } catch (error) {
    if (!isMendable(error)) throw error;
    await primary.tell({ kind: "problem", problem: error.message });
    return FAILED;
  } finally {
    primary.leave();
  }
}

/**
 * Has V8 collect the old generation when it is 2.2 times what was left of it the last time, not up to 4: under load, what calls under way allocate
 * comes to lie in it. Together with a small young one, a worker has 220 MB resident instead of 370, for 5 to 10 % of its CPU.
 */
function keepHeapSmall(): void {
  setFlagsFromString("--heap-growing-percent=120");
}

/** Resolves at the first signal to end. A second one changes nothing: the first one's end is under way. */
async function toldToStop(): Promise<NodeJS.Signals> {
  const signals = ["SIGTERM", "SIGINT"] as const;
  return new Promise((resolve) => signals.forEach((signal) => process.on(signal, () => resolve(signal))));
}

async function runMigrate({ plan, noBackup }: Line, config: Config, log: Logger): Promise<number> {
  return withDatabase(config, log, async ({ url }) => {
    if (!plan) {
      const applied = await applyMigrations(url, config, log, noBackup);
      return print(applied.length === 0 ? "the schema is up to date\n" : applied.map(({ name }) => `applied ${name}\n`).join(""));
    }
    const pending = await pendingMigrations(url);
    const major = majorOf(pending);
    const backup = major === undefined ? "" : `-- first, since ${major.name} is major: ledgerd backup --to ${config.LEDGERD_BACKUP_DIR ?? "LEDGERD_BACKUP_DIR, which is not set"}\n`;
    return print(pending.length === 0 ? "-- the schema is up to date\n" : backup + pending.map(({ name, sql }) => `-- ${name}\n${sql}\n`).join(""));
  });
}

async function runBackup({ to, keepDays }: Line, config: Config, log: Logger): Promise<number> {
  const folder = to ?? config.LEDGERD_BACKUP_DIR;
  if (folder === undefined) return complain(["say where the archive goes: `ledgerd backup --to DIR`, or LEDGERD_BACKUP_DIR", "see `ledgerd help`"]);
  const progress = new Progress("backup");
  return withDatabase(config, log, async ({ url }) => {
    const { file, manifest, removed } = await backUp({
      url,
      folder,
      keepDays: keepDays ?? config.LEDGERD_BACKUP_KEEP_DAYS,
      version: version(),
      signal: stopSignal(),
      progress: (phase, done) => progress.report({ phase, done }),
    });
    const rows = manifest.tables.reduce((sum, table) => sum + table.rows, 0);
    progress.tell("done", { file, rows, digest: manifest.digest, removed }, `${rows.toLocaleString("en")} rows are in ${file}, which was read back; their digest is ${manifest.digest}`);
    return 0;
  });
}

async function runRestore({ from = "" }: Line, config: Config, log: Logger): Promise<number> {
  const progress = new Progress("restore");
  return withDatabase(config, log, async ({ url }) => {
    const { manifest, verification } = await restore({
      url,
      file: from,
      currencies: config.currencies,
      connectTimeoutMs: config.LEDGERD_CONNECT_TIMEOUT,
      queryTimeoutMs: config.LEDGERD_QUERY_TIMEOUT,
      signal: stopSignal(),
      progress: (phase, done, total) => progress.report({ phase, done, ...(total === undefined ? {} : { total }) }),
      onFinding: (finding) => progress.tell("difference", finding, describe(finding)),
    });
    const { differences } = verification;
    const { time, digest } = manifest;
    const judgement = differences === 0 ? "everything in it holds" : `${differences} differences were in it already when it was archived`;
    progress.tell("done", { time, digest, ...verification }, `the ledger of ${time} is restored, its digest is ${digest}; ${judgement}`);
    return differences === 0 ? 0 : FAILED;
  });
}

/** Does it with the database, whether it is served from or not. */
async function withDatabase(config: Config, log: Logger, work: (database: Database) => Promise<number>): Promise<number> {
  const database = await openDatabaseBeside(config, log);
  try {
    return await work(database);
  } finally {
    await database.close();
  }
}

/** Is aborted at the first signal to end. */
function stopSignal(): AbortSignal {
  const stopping = new AbortController();
  void toldToStop().then((signal) => stopping.abort(new Interrupted(`ended by ${signal}`)));
  return stopping.signal;
}

/** Verifies or rebuilds. Their work fails by what they find, so what keeps it from being done is as a wrong command line. */
async function runProof({ command, digest, writeDigest, trustLog }: Line, config: Config, log: Logger): Promise<number> {
  try {
    await using ledger = await openLedger(config, log);
    const { currencies, LEDGERD_CONNECT_TIMEOUT: connectTimeoutMs } = config;
    const options = { url: ledger.url, pool: ledger.pool, currencies, connectTimeoutMs, signal: stopSignal() };
    const progress = new Progress(command);
    if (command === "rebuild") return (await runRebuild({ ...options, trustLog }, progress)).left === 0 ? 0 : FAILED;
    return (await runVerification({ ...options, writeDigest, ...(digest === undefined ? {} : { digest }) }, progress)).differences === 0 ? 0 : FAILED;
  } catch (error) {
    return complain([isMendable(error) ? error.message : `it could not be done: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`]);
  }
}

function print(text: string): number {
  process.stdout.write(text);
  return 0;
}

function complain(lines: readonly string[], code = MISUSED): number {
  process.stderr.write(lines.map((line) => `ledgerd: ${line}\n`).join(""));
  return code;
}

process.exitCode = await main(process.argv.slice(2));
