// The command line as a shell runs it: an OS process, what it prints, and how it ends.

import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { MAIN } from "./instance.ts";
import { withLogins } from "./logins.ts";
import { CALL_DEADLINE, TEST_LIMIT_MS } from "./patience.ts";
import { until } from "./until.ts";

/** A command that was started. */
export interface Command {
  readonly process: ChildProcess;
  /** What it has printed so far. */
  readonly printed: { readonly stdout: string; readonly stderr: string };
  /** Its exit code, once it has ended and all that it printed is here; null where a signal ended it. */
  readonly ended: Promise<number | null>;
  readonly [Symbol.asyncDispose]: () => Promise<void>;
}

/** How a command ended. */
export interface Ended {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Any free ports, no further processes, and calls that end when they are done. */
const defaults = {
  LEDGERD_GRPC_ADDR: "127.0.0.1:0",
  LEDGERD_HTTP_ADDR: "127.0.0.1:0",
  LEDGERD_WORKERS: "1",
  LEDGERD_DEFAULT_DEADLINE: CALL_DEADLINE,
  LEDGERD_MAX_DEADLINE: CALL_DEADLINE,
};

/**
 * Starts `ledgerd` with these arguments, in an environment of these settings and some defaults; it serves by two logins.
 * `group` gives it a process group of its own, as a shell does; `input` is its standard input, else there is none.
 */
export function startLedgerd(args: readonly string[], settings: Readonly<Record<string, string>> = {}, group: "own" | "ours" = "ours", input?: string): Command {
  const isServing = args.length === 0 || args[0] === "serve" || args[0]?.startsWith("-") === true;
  const given = isServing ? withLogins(settings) : settings;
  const env = { PATH: process.env["PATH"] ?? "", ...defaults, ...given };
  const child = spawn(process.execPath, [MAIN, ...args], { env, stdio: [input === undefined ? "ignore" : "pipe", "pipe", "pipe"], detached: group === "own", timeout: TEST_LIMIT_MS });
  child.stdin?.end(input);
  const printed = { stdout: "", stderr: "" };
  child.stdout?.setEncoding("utf8").on("data", (text: string) => (printed.stdout += text));
  child.stderr?.setEncoding("utf8").on("data", (text: string) => (printed.stderr += text));
  const ended = once(child, "close").then(() => child.exitCode);
  return {
    process: child,
    printed,
    ended,
    [Symbol.asyncDispose]: async () => {
      child.kill("SIGKILL");
      await ended;
    },
  };
}

/** What a terminal sends to a command in a process group of its own; answers whether there was anybody to get it. */
export function pressCtrlC({ process: { pid = Number.NaN } }: Command): boolean {
  try {
    return process.kill(-pid, "SIGINT");
  } catch {
    // It has ended: whoever presses a key isn't told when.
    return false;
  }
}

/** Runs `ledgerd` to its end. */
export async function runLedgerd(args: readonly string[], settings: Readonly<Record<string, string>> = {}): Promise<Ended> {
  await using command = startLedgerd(args, settings);
  const code = await command.ended;
  return { code, ...command.printed };
}

/** Where a command serves, once it says so; throws if it ends before that. */
export async function servesAt({ process: child, printed }: Command): Promise<{ readonly grpc: string; readonly http: string }> {
  await until(() => printed.stdout.includes("\n") || child.exitCode !== null);
  const [, grpc, http] = /gRPC on (\S+) and HTTP on (\S+);/.exec(printed.stdout) ?? [];
  if (grpc === undefined || http === undefined) throw new Error(`it doesn't serve, but printed:\n${printed.stdout}${printed.stderr}`);
  return { grpc, http };
}

/** What a command has logged: each line is one JSON object. */
export function logOf({ printed }: Pick<Command, "printed">): readonly Readonly<Record<string, unknown>>[] {
  return printed.stderr.split("\n").slice(0, -1).map((line) => JSON.parse(line) as Record<string, unknown>);
}

/** The pids of a command's further processes: of those that it has started, and that have not ended. */
export function workersOf(command: Pick<Command, "printed">): readonly number[] {
  const told = (message: string): readonly number[] => logOf(command).flatMap(({ msg, worker }) => (msg === message ? [Number(worker)] : []));
  const ended = told("a worker ended; another one takes its place");
  return told("a worker starts").filter((pid) => !ended.includes(pid));
}
