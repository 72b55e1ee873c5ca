// A backup by a process of its own, as an operator would start it: reading and compressing millions of rows would hold up the calls of the process
// that serves, and take its memory. It runs at a lower priority.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { constants, setPriority } from "node:os";
import path from "node:path";
import { environmentWith } from "../config.ts";

/** What to back up, and where to. */
export interface BackupOrder {
  readonly url: string;
  readonly folder: string;
  readonly keepDays: number;
  /** Ends it in the middle. */
  readonly signal: AbortSignal;
}

const MAIN = path.resolve(import.meta.dirname, "../main.ts");
/** As much of what it printed last as an error needs. */
const KEPT_CHARACTERS = 4000;

/** Runs `ledgerd backup`; throws what it complained of if it failed, unless the signal ended it. */
export async function runBackup({ url, folder, keepDays, signal }: BackupOrder): Promise<void> {
  if (signal.aborted) return;
  const args = [MAIN, "backup", "--to", folder, "--keep-days", String(keepDays)];
  // Detached, in a process group of its own: Ctrl-C reaches the service alone, which then ends it.
  const child = spawn(process.execPath, args, { env: environmentWith(url), stdio: ["ignore", "ignore", "pipe"], detached: true });
  const ended = once(child, "close") as Promise<[number | null, NodeJS.Signals | null]>;
  let complaint = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => (complaint = (complaint + text).slice(-KEPT_CHARACTERS)));
  const stop = (): void => void child.kill("SIGTERM");
  signal.addEventListener("abort", stop, { once: true });
  try {
    if (child.pid !== undefined) setPriority(child.pid, constants.priority.PRIORITY_BELOW_NORMAL);
    const [code, ending] = await ended;
    if (code !== 0 && !signal.aborted) throw new Error(`ledgerd backup ended with ${ending ?? `exit code ${code}`}: ${complaint.trim()}`);
  } finally {
    signal.removeEventListener("abort", stop);
  }
}
