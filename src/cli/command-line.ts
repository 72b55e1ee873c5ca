// What the command line may say: commands, and the options that go with each.

import { parseArgs } from "node:util";
import { problemOfFlags, type AdoptFlags } from "./adopt.ts";
import { hasPrimary } from "../processes/worker.ts";
import { version } from "../version.ts";
import { readKeepDays, readWorkers } from "../settings/environment.ts";

/** What `ledgerd help` prints. */
export const HELP = `ledgerd ${version()}: a ledger of balances, holds and paid jobs behind gRPC, on PostgreSQL

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
  restore --no-verify          let it be served from without a verification, or although that found differences
  adopt --from-file FILE   take over a database of the old application (user_balances, transactions, jobs); docs/adoption.md says how. Nothing may serve
                     meanwhile; cut off, it goes on where it was when it is run again
                     FILE holds the URL of that database, - is standard input; LEDGERD_ADOPT_FROM or LEDGERD_ADOPT_FROM_FILE say it as well
      --from URL           the same on the command line, where others see it: for a URL without a password
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

const commands = ["serve", "migrate", "verify", "rebuild", "backup", "restore", "adopt", "help", "version"] as const;

/** `worker` is what `serve` starts its further processes with. */
export type Command = (typeof commands)[number] | "worker";

/** A command line that was read. */
export interface Line {
  readonly command: Command;
  readonly plan: boolean;
  readonly noBackup: boolean;
  readonly noVerify: boolean;
  readonly workers: number | undefined;
  readonly digest: string | undefined;
  readonly writeDigest: string | undefined;
  readonly trustLog: boolean;
  readonly to: string | undefined;
  readonly keepDays: number | undefined;
  readonly from: string | undefined;
  readonly adopt: AdoptFlags;
}

const flags = {
  plan: { type: "boolean" },
  "no-backup": { type: "boolean" },
  "no-verify": { type: "boolean" },
  workers: { type: "string" },
  digest: { type: "string" },
  "write-digest": { type: "string" },
  "trust-log": { type: "boolean" },
  to: { type: "string" },
  "keep-days": { type: "string" },
  from: { type: "string" },
  "from-file": { type: "string" },
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

/** The commands that an option goes with. */
const ownersOf: Readonly<Record<Exclude<keyof typeof flags, "help" | "version">, readonly Command[]>> = {
  plan: ["migrate"],
  "no-backup": ["migrate"],
  "no-verify": ["restore"],
  workers: ["serve"],
  digest: ["verify"],
  "write-digest": ["verify"],
  "trust-log": ["rebuild"],
  to: ["backup"],
  "keep-days": ["backup"],
  from: ["restore", "adopt"],
  "from-file": ["adopt"],
  schema: ["adopt"],
  "time-zone": ["adopt"],
  currency: ["adopt"],
  "rename-currency": ["adopt"],
  "dry-run": ["adopt"],
  report: ["adopt"],
  "ignore-sessions": ["adopt"],
};

/** Reads a command line; answers what is wrong with it where it can't be followed. */
export function readCommandLine(args: readonly string[]): Line | string {
  try {
    const { positionals, values } = parseArgs({ args: [...args], options: flags, allowPositionals: true });
    const command = values.help === true ? "help" : values.version === true ? "version" : (positionals[0] ?? "serve");
    if (positionals.length > 1) return `one command at a time, not: ${positionals.join(" ")}`;
    if (!isCommand(command)) return `there is no command ${command}`;
    const stray = Object.entries(ownersOf).find(([name, owners]) => !owners.includes(command) && (values as Readonly<Record<string, unknown>>)[name] !== undefined);
    if (stray !== undefined) return `--${stray[0]} goes with ${stray[1].join(" and ")}, not with ${command}`;
    if (command === "restore" && values.from === undefined) return "say which archive: `ledgerd restore --from FILE`";
    const wrong = command === "adopt" ? problemOfFlags(values) : undefined;
    if (wrong !== undefined) return wrong;
    const workers = values.workers === undefined ? undefined : readWorkers(values.workers);
    if (typeof workers === "string") return workers;
    const keepDays = values["keep-days"] === undefined ? undefined : readKeepDays(values["keep-days"]);
    if (typeof keepDays === "string") return keepDays;
    const { plan = false, "no-backup": noBackup = false, "no-verify": noVerify = false, digest, "write-digest": writeDigest, "trust-log": trustLog = false, to, from } = values;
    return { command, plan, noBackup, noVerify, workers, digest, writeDigest, trustLog, to, keepDays, from, adopt: values };
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

function isCommand(word: string): word is Command {
  return commands.some((command) => command === word) || (word === "worker" && hasPrimary());
}
