// How fast a Deduct is, beside the seed's own way, on the same server in the same run: `npm run bench`.
//
//   unary   256 concurrent Deducts on 100,000 users, against the seed's five statements under pgbench at its best of 8 to 64 clients
//   jobs    jobs created, claimed by fifties and completed, with their money, against the seed's three statements one by one, without any
//   lone    one Deduct at a time, against the seed's five statements one by one, by plain pg in a Node process
//
// Each round measures all of them in turn; the medians are compared. PostgreSQL runs with full durability. The log is summed up at the end: what
// was answered is what is in it.

import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, chmodSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { promisify } from "node:util";
import pg from "pg";
import { startEmbedded } from "../src/postgres/embedded.ts";
import { migrate } from "../src/postgres/migrate.ts";
import type { Load } from "./report.ts";
import { createSeedDatabase, findPgbench, runPgbench } from "./seed.ts";

const USERS = 100_000;
const ROUNDS = 5;
const SECONDS = 4;
const PGBENCH_CLIENTS = [8, 16, 32, 64];
const run = promisify(execFile);

interface Round {
  readonly unary: Load;
  readonly pgbench: number | undefined;
  readonly lone: Load;
  readonly seedLone: Load;
  readonly jobs: Load;
  readonly jobsSingly: Load;
}

async function main(): Promise<void> {
  const folder = mkdtempSync(path.join(tmpdir(), "ledgerd-bench-"));
  chmodSync(folder, 0o755);
  const server = await startEmbedded({ folder, log: say });
  try {
    await migrate(server.url);
    await giveMoney(server.url);
    const seedUrl = await createSeedDatabase(server.url, USERS);
    const service = await startLedgerd(server.url);
    const rounds: Round[] = [];
    const clients = bestClients(seedUrl);
    for (let round = 1; round <= ROUNDS; round++) {
      say(`round ${round} of ${ROUNDS}`);
      // The lone pair first, before anything heavy leaves its work behind to the server; and each of the two goes first in turn.
      const ours = (): Promise<Load> => measure("caller.ts", service.address, "1", String(SECONDS), String(USERS), `lone${round}`);
      const theirs = (): Promise<Load> => measure("seed-lone.ts", seedUrl, String(SECONDS), String(USERS));
      const first = round % 2 === 0 ? await theirs() : await ours();
      const second = round % 2 === 0 ? await ours() : await theirs();
      rounds.push({
        lone: round % 2 === 0 ? second : first,
        seedLone: round % 2 === 0 ? first : second,
        unary: await measure("caller.ts", service.address, "256", String(SECONDS), String(USERS), `unary${round}`),
        pgbench: clients === undefined ? undefined : runPgbench(clients.pgbench, seedUrl, clients.count, SECONDS, USERS),
        jobs: await measure("jobs-caller.ts", service.address, String(SECONDS), String(USERS), `jobs${round}`),
        jobsSingly: await measure("jobs-singly.ts", seedUrl, String(SECONDS)),
      });
    }
    await service.stop();
    await checkLog(server.url, rounds);
    print(rounds, clients?.count);
  } finally {
    await server.stop();
    rmSync(folder, { recursive: true });
  }
}

/** pgbench at the number of clients with which it is fastest here. */
function bestClients(seedUrl: string): { pgbench: string; count: number } | undefined {
  const pgbench = findPgbench();
  if (pgbench === undefined) return undefined;
  const rates = PGBENCH_CLIENTS.map((count) => ({ pgbench, count, rate: runPgbench(pgbench, seedUrl, count, 2, USERS) }));
  return rates.toSorted((a, b) => b.rate - a.rate)[0];
}

async function giveMoney(url: string): Promise<void> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  await client.query(
    `INSERT INTO ledgerd.transactions (user_id, amount, type, sequence, balance_after, held_after, credit_limit_after, hash)
     SELECT n, 1000000.00, 'topup', 1, 1000000.00, 0.00, 0.00, sha256(n::text::bytea) FROM generate_series(1, $1::int) n`,
    [USERS],
  );
  await client.query(
    `INSERT INTO ledgerd.user_balances (user_id, balance, sequence, chain_head)
     SELECT user_id, balance_after, sequence, hash FROM ledgerd.transactions`,
  );
  await client.query("VACUUM ANALYZE");
  await client.end();
}

async function startLedgerd(url: string): Promise<{ address: string; stop: () => Promise<void> }> {
  const env = { ...process.env, DATABASE_URL: url, LEDGERD_GRPC_ADDR: "127.0.0.1:0", LEDGERD_HTTP_ADDR: "127.0.0.1:0", LEDGERD_LOG_LEVEL: "warn" };
  const child = spawn(process.execPath, [path.resolve(import.meta.dirname, "../src/main.ts")], { env, stdio: ["ignore", "pipe", "inherit"] });
  let printed = "";
  for await (const chunk of child.stdout.setEncoding("utf8")) {
    printed += String(chunk);
    const address = /gRPC on (\S+)/.exec(printed)?.[1];
    if (address !== undefined) {
      const stop = async (): Promise<void> => {
        child.kill("SIGTERM");
        if (child.exitCode === null) await once(child, "exit");
      };
      return { address, stop };
    }
  }
  throw new Error(`ledgerd did not start:\n${printed}`);
}

async function measure(program: string, ...args: string[]): Promise<Load> {
  const { stdout } = await run(process.execPath, [path.join(import.meta.dirname, program), ...args]);
  return JSON.parse(stdout) as Load;
}

/** Every answered call is in the log, once, and nothing else is. */
async function checkLog(url: string, rounds: readonly Round[]): Promise<void> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  const { rows } = await client.query<{ count: string; sum: string }>(
    "SELECT count(*), coalesce(sum(amount), 0) AS sum FROM ledgerd.transactions WHERE type IN ('deduction', 'capture')",
  );
  const { rows: drift } = await client.query(
    `SELECT b.user_id FROM ledgerd.user_balances b
     JOIN (SELECT user_id, currency, sum(amount) AS balance FROM ledgerd.transactions GROUP BY 1, 2) t USING (user_id, currency)
     WHERE t.balance <> b.balance LIMIT 1`,
  );
  await client.end();
  const calls = rounds.reduce((total, { unary, lone, jobs }) => total + unary.calls + lone.calls + jobs.calls, 0);
  const found = rows[0];
  if (Number(found?.count) !== calls || Number(found?.sum) !== -calls / 100 || drift.length > 0) {
    throw new Error(`${calls} calls were answered, the log has ${found?.count} deductions and captures of ${found?.sum}; ${drift.length} balances are off`);
  }
  say(`${calls} calls were answered, and the log has each of them once`);
}

function print(rounds: readonly Round[], clients: number | undefined): void {
  const unary = figures(rounds.map((round) => round.unary.perSecond));
  const lone = figures(rounds.map((round) => round.lone.p50));
  const seedLone = figures(rounds.map((round) => round.seedLone.p50));
  const caller = figures(rounds.map((round) => round.unary.cpu));
  const jobs = figures(rounds.map((round) => round.jobs.perSecond));
  const singly = figures(rounds.map((round) => round.jobsSingly.perSecond));
  const jobsRatio = figures(rounds.map((round) => round.jobs.perSecond / round.jobsSingly.perSecond));
  const lines = [`${rounds.length} rounds of ${SECONDS} s; medians, in brackets the least and the most`, ""];
  if (clients === undefined) {
    lines.push(`unary   ledgerd ${show(unary, 0)}/s; no pgbench on this machine to compare with`);
  } else {
    const seed = figures(rounds.map((round) => round.pgbench ?? Number.NaN));
    const ratio = figures(rounds.map((round) => round.unary.perSecond / (round.pgbench ?? Number.NaN)));
    lines.push(`unary   ledgerd ${show(unary, 0)}/s, the seed's way ${show(seed, 0)}/s (pgbench, ${clients} clients): ratio ${show(ratio, 2)}`);
  }
  const ratio = figures(rounds.map((round) => round.lone.p50 / round.seedLone.p50));
  lines.push(`lone    ledgerd ${show(lone, 2)} ms, the seed's way ${show(seedLone, 2)} ms (pg in Node): ratio ${show(ratio, 2)}`);
  lines.push(`jobs    ledgerd ${show(jobs, 0)}/s with their money, singly ${show(singly, 0)}/s without (pg in Node): ratio ${show(jobsRatio, 2)}`);
  lines.push(`        the caller used ${show(caller, 2)} of a core under unary`);
  process.stdout.write(`${lines.join("\n")}\n`);
}

interface Figures {
  readonly min: number;
  readonly median: number;
  readonly max: number;
}

function figures(values: readonly number[]): Figures {
  const sorted = values.toSorted((a, b) => a - b);
  return { min: sorted[0] ?? Number.NaN, median: sorted[sorted.length >> 1] ?? Number.NaN, max: sorted.at(-1) ?? Number.NaN };
}

function show({ min, median, max }: Figures, digits: number): string {
  return `${median.toFixed(digits)} [${min.toFixed(digits)}, ${max.toFixed(digits)}]`;
}

function say(message: string): void {
  process.stderr.write(`${message}\n`);
}

await main();
