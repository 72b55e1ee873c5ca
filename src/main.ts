#!/usr/bin/env node
// The command line. Only process glue: what is done lies in the modules.

import { availableParallelism } from "node:os";
import { parseArgs } from "node:util";
import { pino, type Logger } from "pino";
import { MAX_WORKERS, readConfig, readWorkers, unknownVariables, type Config } from "./config.ts";
import { bringUpToDate, openDatabaseBeside, openLedger } from "./database.ts";
import { AdoptionProblem } from "./domain/adoption.ts";
import { problemOfFlags, runAdoption, type AdoptFlags } from "./ops/adopt-command.ts";
import { DigestProblem } from "./ops/digest.ts";
import { Progress } from "./ops/progress.ts";
import { runRebuild } from "./ops/rebuild-command.ts";
import { runVerification } from "./ops/verify-command.ts";
import { FolderProblem } from "./postgres/embedded-folder.ts";
import { migrate, pendingMigrations, SchemaProblem } from "./postgres/migrate.ts";
import { checkReachable, DatabaseUnreachable } from "./postgres/reachable.ts";
import { WorkerProblem } from "./processes/crew.ts";
import { startWorkers } from "./processes/primary.ts";
import { hasPrimary, joinPrimary } from "./processes/worker.ts";
import { startService, StartupProblem, version } from "./service.ts";

const HELP = `ledgerd ${version()}: a ledger of balances, holds and paid jobs behind gRPC, on PostgreSQL

usage: ledgerd [command]

  serve              take calls (the default)
  serve --workers N  take them by N processes on the same ports; else by LEDGERD_WORKERS, or one for each core
  migrate            bring the database's schema up to date
  migrate --plan     print the SQL that migrate would run, and change nothing
  verify             prove the log, and all that hangs on it, while it is served; 1: there are differences, 2: it could not be done
  verify --write-digest FILE   and write the head of each chain to a file, to be kept elsewhere
  verify --digest FILE         and hold the log against such a file
  rebuild            repair balances and holds from the log, while it is served; 1: something was left, and is named
  rebuild --trust-log          balances alone, from the last row of each account, without proving the log
  adopt --from URL   take over a database of the old application (user_balances, transactions, jobs); docs/adoption.md says how. Nothing may serve
                     meanwhile; cut off, it goes on where it was when it is run again
      --schema NAME        where its tables are (public)
      --time-zone NAME     of its times, such as Europe/Moscow (UTC)
      --currency CODE      what a missing currency stands for (LEDGERD_DEFAULT_CURRENCY)
      --rename-currency OLD=NEW   an old code that is another one here; any number of times
      --dry-run            look at everything, write nothing
      --report FILE        what was found, as JSON
      --ignore-sessions    although others are connected to the old database
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
const mendable = [Interrupted, SchemaProblem, StartupProblem, FolderProblem, DatabaseUnreachable, WorkerProblem, DigestProblem, AdoptionProblem];

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
type Command = "serve" | "migrate" | "verify" | "rebuild" | "adopt" | "help" | "version" | "worker";

interface Line {
  readonly command: Command;
  readonly plan: boolean;
  readonly workers: number | undefined;
  readonly digest: string | undefined;
  readonly writeDigest: string | undefined;
  readonly trustLog: boolean;
  readonly adopt: AdoptFlags;
}

const flags = {
  plan: { type: "boolean" },
  workers: { type: "string" },
  digest: { type: "string" },
  "write-digest": { type: "string" },
  "trust-log": { type: "boolean" },
  from: { type: "string" },
  schema: { type: "string" },
  "time-zone": { type: "string" },
  currency: { type: "string" },
  "rename-currency": { type: "string", multiple: true },
  "dry-run": { type: "boolean" },
  report: { type: "string" },
  "ignore-sessions": { type: "boolean" },
  help: { type: "boolean", short: "h" },
  version: { type: "boolean", short: "v" },
} as const;

/** The command that an option goes with. */
const ownerOf: Readonly<Record<Exclude<keyof typeof flags, "help" | "version">, Command>> = {
  plan: "migrate",
  workers: "serve",
  digest: "verify",
  "write-digest": "verify",
  "trust-log": "rebuild",
  from: "adopt",
  schema: "adopt",
  "time-zone": "adopt",
  currency: "adopt",
  "rename-currency": "adopt",
  "dry-run": "adopt",
  report: "adopt",
  "ignore-sessions": "adopt",
};

function readCommandLine(args: readonly string[]): Line | string {
  try {
    const { positionals, values } = parseArgs({ args: [...args], options: flags, allowPositionals: true });
    const command = values.help === true ? "help" : values.version === true ? "version" : (positionals[0] ?? "serve");
    if (positionals.length > 1) return `one command at a time, not: ${positionals.join(" ")}`;
    if (!isCommand(command)) return `there is no command ${command}`;
    const stray = Object.entries(ownerOf).find(([name, owner]) => owner !== command && (values as Readonly<Record<string, unknown>>)[name] !== undefined);
    if (stray !== undefined) return `--${stray[0]} goes with ${stray[1]}, not with ${command}`;
    const wrong = command === "adopt" ? problemOfFlags(values) : undefined;
    if (wrong !== undefined) return wrong;
    const workers = values.workers === undefined ? undefined : readWorkers(values.workers);
    if (typeof workers === "string") return workers;
    return { command, plan: values.plan === true, workers, digest: values.digest, writeDigest: values["write-digest"], trustLog: values["trust-log"] === true, adopt: values };
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

function isCommand(word: string): word is Command {
  return ["serve", "migrate", "verify", "rebuild", "adopt", "help", "version"].includes(word) || (word === "worker" && hasPrimary());
}

async function run(line: Line, config: Config, log: Logger): Promise<number> {
  const { command, plan, workers } = line;
  if (command === "worker") return runWorker(config, log);
  for (const variable of unknownVariables()) log.warn({ variable }, "no such setting; is it misspelt?");
  if (command === "migrate") return runMigrate(config, log, plan);
  if (command === "verify" || command === "rebuild") return runProof(line, config, log);
  if (command === "adopt") return runAdopt(line, config, log);
  return runServe(workers ?? config.LEDGERD_WORKERS ?? Math.min(availableParallelism(), MAX_WORKERS), config, log);
}

async function runServe(workers: number, config: Config, log: Logger): Promise<number> {
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

/** Resolves at the first signal to end. A second one changes nothing: the first one's end is under way. */
async function toldToStop(): Promise<NodeJS.Signals> {
  const signals = ["SIGTERM", "SIGINT"] as const;
  return new Promise((resolve) => signals.forEach((signal) => process.on(signal, () => resolve(signal))));
}

async function runMigrate(config: Config, log: Logger, plan: boolean): Promise<number> {
  const database = await openDatabaseBeside(config, log);
  try {
    if (!plan) {
      const applied = await migrate(database.url);
      return print(applied.length === 0 ? "the schema is up to date\n" : applied.map(({ name }) => `applied ${name}\n`).join(""));
    }
    const pending = await pendingMigrations(database.url);
    return print(pending.length === 0 ? "-- the schema is up to date\n" : pending.map(({ name, sql }) => `-- ${name}\n${sql}\n`).join(""));
  } finally {
    await database.close();
  }
}

/** Verifies or rebuilds. Their work fails by what they find, so what keeps it from being done is as a wrong command line. */
async function runProof({ command, digest, writeDigest, trustLog }: Line, config: Config, log: Logger): Promise<number> {
  const stopping = new AbortController();
  void toldToStop().then((signal) => stopping.abort(new Interrupted(`ended by ${signal}`)));
  try {
    await using ledger = await openLedger(config, log);
    const { currencies, LEDGERD_CONNECT_TIMEOUT: connectTimeoutMs } = config;
    const options = { url: ledger.url, pool: ledger.pool, currencies, connectTimeoutMs, signal: stopping.signal };
    const progress = new Progress(command);
    if (command === "rebuild") return (await runRebuild({ ...options, trustLog }, progress)).left === 0 ? 0 : FAILED;
    return (await runVerification({ ...options, writeDigest, ...(digest === undefined ? {} : { digest }) }, progress)).differences === 0 ? 0 : FAILED;
  } catch (error) {
    return complain([isMendable(error) ? error.message : `it could not be done: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`]);
  }
}

async function runAdopt({ adopt }: Line, config: Config, log: Logger): Promise<number> {
  const { currencies, LEDGERD_DEFAULT_CURRENCY: defaultCurrency, LEDGERD_CONNECT_TIMEOUT: connectTimeoutMs, LEDGERD_QUERY_TIMEOUT: queryTimeoutMs } = config;
  await checkReachable(adopt.from ?? "", connectTimeoutMs, "see that PostgreSQL runs there and that --from is right");
  const openTarget = async () => {
    const database = await openDatabaseBeside(config, log);
    try {
      await bringUpToDate(database.url, config, log);
    } finally {
      await database.close();
    }
    return openLedger(config, log);
  };
  const stopping = new AbortController();
  void toldToStop().then((signal) => stopping.abort(new Interrupted(`ended by ${signal}; run it again to go on`)));
  const settings = { currencies, defaultCurrency, connectTimeoutMs, queryTimeoutMs, signal: stopping.signal };
  await runAdoption(adopt, settings, openTarget, new Progress("adopt"));
  return 0;
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
