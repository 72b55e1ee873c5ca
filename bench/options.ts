// What the command line of the benchmark may say.

import { parseArgs } from "node:util";
import type { Window } from "./load/meter.ts";

/** What to measure, and how. */
export interface Options {
  /** The workloads' ids, in the order of the table. */
  readonly ids: readonly string[];
  readonly quick: boolean;
  readonly json: boolean;
  readonly rounds: number;
  readonly window: Window;
  readonly users: number;
  /** ledgerd's processes; undefined: as many as it wants itself. */
  readonly workers: number | undefined;
  /** How many rows the largest history has. */
  readonly history: number;
  /** How long each load of `memory` lasts. */
  readonly minutes: number;
}

export const USAGE = `usage: npm run bench -- [workload …] [option …]

  --quick          the first eight workloads, in short rounds, within 50 seconds
  --json           print the result as one JSON object, and nothing else on standard output
  --rounds N       measure everything so many times (5; quick: 2)
  --seconds S      measure so long each time, a fraction too (4; quick: 0.3)
  --users N        accounts to spread the load over (100000)
  --workers N      ledgerd's processes (its own default)
  --history N      rows of the largest history (10000000)
  --minutes M      how long each load of \`memory\` lasts (1)
  --help           print this
`;

const flags = {
  quick: { type: "boolean", default: false },
  json: { type: "boolean", default: false },
  help: { type: "boolean", default: false },
  rounds: { type: "string" },
  seconds: { type: "string" },
  users: { type: "string" },
  workers: { type: "string" },
  history: { type: "string" },
  minutes: { type: "string" },
} as const;

/** The command line is wrong; the message says what to do. */
export class Misuse extends Error {}

/** Reads the command line, given all workloads that there are, and how many of them are quick. "help" if that is what was asked for. */
export function readOptions(args: readonly string[], known: readonly string[], quickOnes: number): Options | "help" {
  const { values, positionals } = parsed(args);
  if (values.help) return "help";
  const unknown = positionals.filter((id) => !known.includes(id));
  if (unknown.length > 0) throw new Misuse(`there is no workload ${unknown.join(", ")}; there are: ${known.join(", ")}`);
  const quick = known.slice(0, quickOnes);
  const slow = positionals.filter((id) => !quick.includes(id));
  if (values.quick && slow.length > 0) throw new Misuse(`--quick knows ${quick.join(", ")}; leave it out to measure ${slow.join(", ")}`);
  const wanted = positionals.length > 0 ? positionals : values.quick ? quick : known;
  const seconds = number("seconds", values.seconds, values.quick ? 0.3 : 4, { from: 0.1, to: 3600 });
  const whole = { from: 1, to: 2_000_000, whole: true };
  return {
    ids: known.filter((id) => wanted.includes(id)),
    quick: values.quick,
    json: values.json,
    rounds: number("rounds", values.rounds, values.quick ? 2 : 5, { ...whole, to: 1000 }),
    window: { warmUpMs: values.quick ? 200 : Math.min(1000, seconds * 1000), measuredMs: seconds * 1000 },
    users: number("users", values.users, 100_000, whole),
    workers: values.workers === undefined ? undefined : number("workers", values.workers, 1, { ...whole, to: 64 }),
    history: number("history", values.history, 10_000_000, { from: 1000, to: 50_000_000, whole: true }),
    minutes: number("minutes", values.minutes, 1, { from: 0.01, to: 1440 }),
  };
}

function parsed(args: readonly string[]) {
  try {
    return parseArgs({ args: [...args], options: flags, allowPositionals: true });
  } catch (error) {
    throw new Misuse(error instanceof Error ? error.message : String(error));
  }
}

function number(flag: string, text: string | undefined, fallback: number, { from, to, whole = false }: { from: number; to: number; whole?: boolean }): number {
  if (text === undefined) return fallback;
  const value = Number(text);
  if (!(value >= from && value <= to) || (whole && !Number.isInteger(value))) {
    throw new Misuse(`--${flag} must be a ${whole ? "whole " : ""}number from ${from} to ${to}, not ${text}`);
  }
  return value;
}
