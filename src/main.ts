#!/usr/bin/env node
// The command line. Only process glue: what is done lies in the modules.

import { parseArgs } from "node:util";
import { pino, type Logger } from "pino";
import { readConfig, unknownVariables, type Config } from "./config.ts";
import { openDatabaseBeside } from "./database.ts";
import { FolderProblem } from "./postgres/embedded-folder.ts";
import { migrate, pendingMigrations, SchemaProblem } from "./postgres/migrate.ts";
import { DatabaseUnreachable } from "./postgres/reachable.ts";
import { startService, StartupProblem, version } from "./service.ts";

const HELP = `ledgerd ${version()}: a ledger of balances, holds and paid jobs behind gRPC, on PostgreSQL

usage: ledgerd [command]

  serve            take calls (the default)
  migrate          bring the database's schema up to date
  migrate --plan   print the SQL that migrate would run, and change nothing
  help             print this
  version          print the version

It is configured by environment variables; README.md has the table.
`;

/** Exit codes: 1 the work failed, 2 the command line or the configuration is wrong. */
const FAILED = 1;
const MISUSED = 2;

/** What an operator can mend is said in one line. */
const mendable = [SchemaProblem, StartupProblem, FolderProblem, DatabaseUnreachable];

async function main(args: readonly string[]): Promise<number> {
  const line = readCommandLine(args);
  if (typeof line === "string") return complain([line, "see `ledgerd help`"]);
  if (line.command === "help") return print(HELP);
  if (line.command === "version") return print(`${version()}\n`);
  const read = readConfig();
  if ("problems" in read) return complain(read.problems);
  const log = pino({ level: read.config.LEDGERD_LOG_LEVEL }, pino.destination(2));
  for (const variable of unknownVariables()) log.warn({ variable }, "no such setting; is it misspelt?");
  try {
    return line.command === "migrate" ? await runMigrate(read.config, log, line.plan) : await runServe(read.config, log);
  } catch (error) {
    // For the rest, the stack is what helps.
    if (error instanceof Error && mendable.some((problem) => error instanceof problem)) return complain([error.message], FAILED);
    throw error;
  }
}

type Command = "serve" | "migrate" | "help" | "version";

function readCommandLine(args: readonly string[]): { command: Command; plan: boolean } | string {
  const options = { plan: { type: "boolean", default: false }, help: { type: "boolean", short: "h" }, version: { type: "boolean", short: "v" } } as const;
  try {
    const { positionals, values } = parseArgs({ args: [...args], options, allowPositionals: true });
    const command = values.help === true ? "help" : values.version === true ? "version" : (positionals[0] ?? "serve");
    if (positionals.length > 1) return `one command at a time, not: ${positionals.join(" ")}`;
    if (!isCommand(command)) return `there is no command ${command}`;
    if (values.plan && command !== "migrate") return `--plan goes with migrate, not with ${command}`;
    return { command, plan: values.plan };
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

function isCommand(word: string): word is Command {
  return ["serve", "migrate", "help", "version"].includes(word);
}

async function runServe(config: Config, log: Logger): Promise<number> {
  const stopped = Promise.withResolvers<NodeJS.Signals>();
  // A second signal changes nothing: the first one's end is under way.
  for (const signal of ["SIGTERM", "SIGINT"] as const) process.on(signal, () => stopped.resolve(signal));
  const service = await startService(config, log);
  const call = `curl -s -H 'content-type: application/json' -d '{"user_id": 1}' http://${service.httpAddress}/ledger.v1.LedgerService/GetBalance`;
  process.stdout.write(`ledgerd serves gRPC on ${service.grpcAddress} and HTTP on ${service.httpAddress}; try: ${call}\n`);
  const signal = await stopped.promise;
  log.info({ signal }, "shutting down");
  await service.close();
  return 0;
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

function print(text: string): number {
  process.stdout.write(text);
  return 0;
}

function complain(lines: readonly string[], code = MISUSED): number {
  process.stderr.write(lines.map((line) => `ledgerd: ${line}\n`).join(""));
  return code;
}

process.exitCode = await main(process.argv.slice(2));
