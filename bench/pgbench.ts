// pgbench, PostgreSQL's own benchmark program, with prepared statements: the seed's statements at their best, with no service and a caller in C.

import { execFile } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import path from "node:path";
import { promisify } from "node:util";
import type { Load, Window } from "./load/meter.ts";
import { cpuOfEnded } from "./processes.ts";

const run = promisify(execFile);

/** What pgbench's sessions do. */
export const scripts = {
  deduct: `
\\set user_id random(1, :users)
BEGIN;
SELECT balance FROM user_balances WHERE user_id = :user_id FOR UPDATE;
UPDATE user_balances SET balance = balance - 0.01, updated_at = NOW() WHERE user_id = :user_id;
INSERT INTO transactions (user_id, amount, type, description) VALUES (:user_id, -0.01, 'deduction', 'a deduction');
COMMIT;
`,
  read: `
\\set user_id random(1, :users)
SELECT balance FROM user_balances WHERE user_id = :user_id;
`,
} as const;

/** What to run where. */
export interface Pgbench {
  readonly program: string;
  readonly url: string;
  readonly script: keyof typeof scripts;
  readonly users: number;
}

/** The numbers of clients among which its best is looked for. */
const CLIENTS = [8, 16, 32, 64];
const MUCH_SLOWER = 0.8;

/** Where pgbench is, if it is on this machine: on the PATH, or where Debian puts it. */
export function findPgbench(): string | undefined {
  const debian = "/usr/lib/postgresql";
  const versions = existsSync(debian) ? readdirSync(debian).map((version) => path.join(debian, version, "bin")) : [];
  const folders = [...(process.env["PATH"] ?? "").split(":"), ...versions];
  return folders.map((folder) => path.join(folder, "pgbench")).find((file) => existsSync(file));
}

/** The number of clients with which it is fastest, each tried with so many transactions, up to the first that is much slower than the best. */
export async function bestClients(pgbench: Pgbench, transactions: number): Promise<number> {
  let best = { clients: 0, rate: 0 };
  for (const clients of CLIENTS) {
    const printed = await execute(pgbench, clients, ["-t", String(Math.ceil(transactions / clients))]);
    const rate = Number(/tps = ([\d.]+)/.exec(printed)?.[1]);
    if (Number.isNaN(rate)) throw new Error(`pgbench told no rate:\n${printed}`);
    if (rate > best.rate) best = { clients, rate };
    if (rate < best.rate * MUCH_SLOWER) break;
  }
  return best.clients;
}

/**
 * Runs it for warm-up and measured time, and counts by its own log of transactions: it knows whole seconds only, has no warm-up, and its
 * sessions do have to warm up. Writing the log takes it a microsecond a transaction.
 */
export async function measurePgbench(pgbench: Pgbench, clients: number, { warmUpMs, measuredMs }: Window): Promise<Load> {
  const folder = mkdtempSync(path.join(tmpdir(), "ledgerd-pgbench-"));
  try {
    const cpu = cpuOfEnded();
    const started = performance.now();
    await execute(pgbench, clients, ["-T", String(Math.ceil((warmUpMs + measuredMs) / 1000)), "-l", "--log-prefix", path.join(folder, "log")]);
    const tookMs = performance.now() - started;
    const logs = readdirSync(folder).map((file) => readFileSync(path.join(folder, file), "utf8"));
    return { ...countedIn(logs, measuredMs), cpuMs: (cpuOfEnded() ?? Number.NaN) - (cpu ?? Number.NaN), tookMs };
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** What the last so many milliseconds of its logs tell. A line: client, number, microseconds it took, script, and when it ended: seconds, microseconds. */
export function countedIn(logs: readonly string[], measuredMs: number): Pick<Load, "operations" | "rate" | "p50" | "p99"> {
  const all = logs.flatMap((log) => log.split("\n")).filter((line) => line !== "").map((line) => {
    const [, , took = 0, , seconds = 0, micros = 0] = line.split(" ").map(Number);
    return { took: took / 1000, end: seconds * 1000 + micros / 1000 };
  });
  const last = all.reduce((latest, { end }) => Math.max(latest, end), 0);
  const times = all.filter(({ end }) => end > last - measuredMs).map(({ took }) => took).toSorted((a, b) => a - b);
  const at = (share: number): number => times[Math.floor(times.length * share)] ?? Number.NaN;
  return { operations: all.length, rate: times.length / (measuredMs / 1000), p50: at(0.5), p99: at(0.99) };
}

async function execute({ program, url, script, users }: Pgbench, clients: number, how: readonly string[]): Promise<string> {
  const folder = mkdtempSync(path.join(tmpdir(), "ledgerd-pgbench-"));
  try {
    const file = path.join(folder, "script.sql");
    writeFileSync(file, scripts[script]);
    const { username, hostname, port, pathname } = new URL(url);
    const connection = ["-h", decodeURIComponent(hostname), "-p", port, "-U", username];
    const threads = String(Math.min(clients, availableParallelism()));
    const load = ["-n", "-M", "prepared", "-c", String(clients), "-j", threads, "-D", `users=${users}`, "-f", file, ...how];
    return (await run(program, [...connection, ...load, pathname.slice(1)])).stdout;
  } finally {
    rmSync(folder, { recursive: true });
  }
}
