// A service under attack, with a good client beside the attacker.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import type { Instance } from "../harness/instance.ts";
import { patient } from "../harness/patience.ts";
import { newKey } from "../harness/service.ts";
import type { Target } from "./attack.ts";

const ATTACKER = path.join(import.meta.dirname, "attacker.ts");

/** What a good client saw: how many of its calls were answered in how long, and what was wrong with the others. */
export interface Seen {
  readonly calls: number;
  readonly elapsedMs: number;
  readonly failures: readonly string[];
}

/** Runs an attack to its end. Throws what the attacker printed if it failed. */
export async function attackOn({ grpcAddress, httpAddress }: Target, name: string): Promise<void> {
  const attacker = spawn(process.execPath, [ATTACKER, name, grpcAddress, httpAddress], { stdio: ["ignore", "ignore", "pipe"] });
  let printed = "";
  attacker.stderr.setEncoding("utf8").on("data", (text: string) => (printed += text));
  const [code] = (await once(attacker, "close")) as [number | null];
  if (code !== 0) throw new Error(`the attacker ended with ${code}: ${printed}`);
}

/** Tops up, deducts and reads, some calls at a time, until something else is over: each call must be answered. */
export async function goodClientUntil(over: Promise<unknown>, { ledger }: Instance, inFlight = 8): Promise<Seen> {
  const began = performance.now();
  const failures: string[] = [];
  let calls = 0;
  const ended = new AbortController();
  const ending = over.finally(() => ended.abort());
  const one = async (userId: bigint): Promise<void> => {
    const amount = { amount: "1" };
    while (!ended.signal.aborted) {
      await ledger.topUp({ userId, amount, idempotencyKey: newKey() }, patient);
      await ledger.deduct({ userId, amount, idempotencyKey: newKey() }, patient);
      await ledger.getBalance({ userId }, patient);
      calls += 3;
    }
  };
  const users = Array.from({ length: inFlight }, (_, index) => BigInt(index + 1));
  const noted = (error: unknown): void => void failures.push(String(error));
  await Promise.all([ending, ...users.map((userId) => one(userId).catch(noted))]);
  return { calls, elapsedMs: performance.now() - began, failures };
}

/** The processes of an instance: its first one and its workers. */
export function processesOf({ process: { pid = Number.NaN } }: Pick<Instance, "process">): readonly number[] {
  const children = readdirSync(`/proc/${pid}/task`).flatMap((task) =>
    readFileSync(`/proc/${pid}/task/${task}/children`, "utf8").split(" ").filter(Boolean).map(Number),
  );
  return [pid, ...children.filter((child) => readFileSync(`/proc/${child}/cmdline`, "utf8").includes("run.ts"))];
}

/** How many descriptors a process has open. */
export function descriptorsOf(pid: number): number {
  return readdirSync(`/proc/${pid}/fd`).length;
}

/** How much memory of a process is resident, in MiB. */
export function residentMiB(pid: number): number {
  const [, kib = "NaN"] = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8")) ?? [];
  return Number(kib) / 1024;
}
