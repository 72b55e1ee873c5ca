// Adopts a large generated database of the old application, killed twice on the way, and says what it took: `npm run adoption`, with
// `-- --transactions 5000000` and so on for other sizes. It runs on a PostgreSQL of its own, with full durability.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { parseArgs } from "node:util";
import pg from "pg";
import { startEmbedded } from "../src/postgres/embedded/embedded.ts";
import { migrate } from "../src/postgres/schema/migrate.ts";
import { fillOldTables, makeOldTables, type Size } from "../test/adoption/old-database.ts";

const MAIN = path.resolve(import.meta.dirname, "../src/main.ts");
const MEGABYTE = 1024;
const PAUSE_MS = 50;

const { values } = parseArgs({
  options: {
    transactions: { type: "string", default: "1000000" },
    users: { type: "string", default: "100000" },
    jobs: { type: "string", default: "20000" },
    hot: { type: "string", default: "100000" },
    kills: { type: "string", default: "2" },
    "no-plain": { type: "boolean", default: false },
  },
});
const size: Size = { transactions: Number(values.transactions), users: Number(values.users), jobs: Number(values.jobs), hot: Number(values.hot) };

const folder = mkdtempSync(path.join(tmpdir(), "ledgerd-adoption-"));
chmodSync(folder, 0o755);
const server = await startEmbedded({ folder, settings: { max_wal_size: "4GB" }, log: () => undefined });
const urlOf = (database: string): string => server.url.replace(/ledgerd$/, database);
try {
  await run();
} finally {
  await server.stop();
  rmSync(folder, { recursive: true, force: true });
}

async function run(): Promise<void> {
  const admin = await connect(urlOf("postgres"));
  await admin.query("CREATE DATABASE old_application");
  await admin.end();
  await using old = await session(urlOf("old_application"));
  await using ledger = await session(urlOf("ledgerd"));
  const query = async <R extends pg.QueryResultRow>(text: string, parameters: readonly unknown[] = []): Promise<R[]> => (await old.client.query<R>(text, [...parameters])).rows;
  await makeOldTables(query);
  say("filled", await timed(() => fillOldTables(query, size)), size.transactions);
  if (!values["no-plain"]) await insertPlainly(query);
  await migrate(urlOf("ledgerd"));

  const batches = Math.ceil(size.transactions / 5000);
  const kills = Number(values.kills);
  for (let kill = 1; kill <= kills; kill++) await adoptOnce(ledger.client, Math.floor((batches * kill) / (kills + 1)));
  await adoptOnce(ledger.client, undefined);
  await adoptOnce(ledger.client, undefined);
  await check(old.client, ledger.client);
}

/** What the rate of an adoption is compared with. */
async function insertPlainly(query: (text: string) => Promise<unknown>): Promise<void> {
  const insert = "INSERT INTO plain SELECT t.id, t.user_id, t.amount, t.currency, t.type, t.description, t.created_at FROM transactions t";
  await query("CREATE TABLE plain (LIKE transactions INCLUDING ALL)");
  say("plain INSERT … SELECT of the same rows, with their indexes", await timed(() => query(insert)), size.transactions);
  await query("DROP TABLE plain");
}

/** Runs the command to its end, or until it has written so many batches. */
async function adoptOnce(ledger: pg.Client, killAt: number | undefined): Promise<void> {
  const env = { PATH: process.env["PATH"] ?? "", DATABASE_URL: urlOf("ledgerd"), LEDGERD_LOG_LEVEL: "error" };
  const child = spawn(process.execPath, [MAIN, "adopt", "--from", urlOf("old_application"), "--ignore-sessions"], { env, stdio: ["ignore", "pipe", "inherit"] });
  const ended = once(child, "exit");
  let printed = "";
  const phases = new Map<string, { first: number; last: number; from: number; done: number }>();
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    printed += text;
    const lines = printed.split("\n");
    printed = lines.pop() ?? "";
    for (const line of lines) note(phases, line);
  });
  let memory = 0;
  let killed = false;
  while (child.exitCode === null && child.signalCode === null) {
    memory = Math.max(memory, memoryOf(child.pid));
    if (killAt !== undefined && !killed && (await stepOf(ledger)) >= killAt) killed = child.kill("SIGKILL");
    await delay(PAUSE_MS);
  }
  await ended;
  if (!killed && child.exitCode !== 0) throw new Error(`it ended with ${child.exitCode}`);
  process.stdout.write(`${killed ? `killed after ${killAt} batches` : "ran to its end"}: RSS ${Math.round(memory / MEGABYTE)} MB\n`);
  for (const [phase, { first, last, from, done }] of phases) if (done > from) say(`  ${phase}`, last - first, done - from);
}

function note(phases: Map<string, { first: number; last: number; from: number; done: number }>, line: string): void {
  const { event, phase, done, outcome } = JSON.parse(line) as { event: string; phase?: string; done?: number; outcome?: string };
  const now = performance.now();
  if (event === "summary") process.stdout.write(`  outcome: ${outcome}\n`);
  if (event !== "progress" || phase === undefined || done === undefined) return;
  const known = phases.get(phase);
  phases.set(phase, known === undefined ? { first: now, last: now, from: done, done } : { ...known, last: now, done });
}

/** Everybody has the old balance, and nothing beside it; each old row is in the log. */
async function check(old: pg.Client, ledger: pg.Client): Promise<void> {
  const digestOf = async (client: pg.Client, text: string): Promise<unknown> => (await client.query(text)).rows;
  const before = await digestOf(old, "SELECT count(*), sum(hashtextextended(user_id || ':' || coalesce(upper(currency), 'RUB') || ':' || balance::text, 0))::text AS digest FROM user_balances WHERE balance <> 0");
  const after = await digestOf(ledger, "SELECT count(*), sum(hashtextextended(user_id || ':' || currency || ':' || balance::text, 0))::text AS digest FROM ledgerd.user_balances WHERE balance <> 0");
  const rows = await digestOf(old, "SELECT count(*), sum(hashtextextended(user_id || ':transactions/' || id, 0))::text AS digest FROM transactions");
  const log = await digestOf(ledger, "SELECT count(*), sum(hashtextextended(user_id || ':' || reference, 0))::text AS digest FROM ledgerd.transactions WHERE reference IS NOT NULL");
  if (JSON.stringify([before, rows]) !== JSON.stringify([after, log])) throw new Error(`the ledger isn't what the old database was: ${JSON.stringify({ before, after, rows, log })}`);
  process.stdout.write(`everybody has the old balance, and each old transaction is in the log once: ${JSON.stringify({ before, rows })}\n`);
}

async function stepOf(ledger: pg.Client): Promise<number> {
  const { rows } = await ledger.query<{ step: number }>("SELECT coalesce(max(step), 0)::int AS step FROM ledgerd.adoptions");
  return rows[0]?.step ?? 0;
}

/** The most that a process had, in kilobytes; 0 where there is no /proc. */
function memoryOf(pid: number | undefined): number {
  try {
    return Number(/VmHWM:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1] ?? 0);
  } catch (error) {
    // It has just ended, or this isn't Linux.
    if (error instanceof Error && "code" in error && (error.code === "ENOENT" || error.code === "ESRCH")) return 0;
    throw error;
  }
}

async function timed(work: () => Promise<unknown>): Promise<number> {
  const start = performance.now();
  await work();
  return performance.now() - start;
}

function say(what: string, ms: number, rows: number): void {
  process.stdout.write(`${what}: ${rows.toLocaleString("en")} in ${(ms / 1000).toFixed(1)} s, ${Math.round((rows / Math.max(1, ms)) * 1000).toLocaleString("en")}/s\n`);
}

async function connect(url: string): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  return client;
}

async function session(url: string): Promise<{ client: pg.Client } & AsyncDisposable> {
  const client = await connect(url);
  return { client, [Symbol.asyncDispose]: () => client.end() };
}
