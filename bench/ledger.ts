// ledgerd as it is measured: an OS process on a database of its own, and in the end the proof that its log holds what it answered.

import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import path from "node:path";
import type pg from "pg";
import { inSession } from "./database.ts";
import type { LoadProcess } from "./load-process.ts";
import type { Tasks } from "./load/main.ts";
import type { Load, Window } from "./load/meter.ts";

/** How much of each call's 0.01 are hundredths. */
const HUNDREDTHS = 1n;

/** What a database's log says of money that was taken: how often, and how many hundredths. */
interface Taken {
  readonly rows: bigint;
  readonly hundredths: bigint;
}

/** A ledgerd that serves. */
export class Ledger {
  readonly url: string;
  readonly address: string;
  readonly #child: ChildProcess;
  readonly #before: Taken;
  #answered = 0n;
  /** Calls that failed: each may have been applied or not. */
  #unknown = 0n;

  private constructor(url: string, address: string, child: ChildProcess, before: Taken) {
    this.url = url;
    this.address = address;
    this.#child = child;
    this.#before = before;
  }

  /** Starts it on a database, with so many workers; undefined: as many as it itself wants. */
  static async start(url: string, workers: number | undefined): Promise<Ledger> {
    const before = await takenIn(url);
    const { LEDGERD_WORKERS: _, ...inherited } = process.env;
    const ours = { DATABASE_URL: url, LEDGERD_GRPC_ADDR: "127.0.0.1:0", LEDGERD_HTTP_ADDR: "127.0.0.1:0", LEDGERD_LOG_LEVEL: "warn" };
    const env = { ...inherited, ...ours, ...(workers === undefined ? {} : { LEDGERD_WORKERS: String(workers) }) };
    const child = spawn(process.execPath, [path.resolve(import.meta.dirname, "../src/main.ts")], { env, stdio: ["ignore", "pipe", "inherit"] });
    return new Ledger(url, await addressOf(child), child, before);
  }

  /** The process, or the first of its processes. */
  get pid(): number {
    return this.#child.pid ?? 0;
  }

  /** Lets a process make load on it, and remembers how many calls took 0.01 each. */
  async takeFrom<K extends keyof Tasks>(caller: LoadProcess, kind: K, task: Tasks[K], window: Window): Promise<Load> {
    const load = await caller.perform(kind, task, window);
    this.#answered += BigInt(load.operations);
    this.#unknown += BigInt(load.further?.["errors"] ?? 0);
    return load;
  }

  /** Stops it, and returns when it has ended. */
  async stop(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const exit = once(this.#child, "exit");
    this.#child.kill("SIGTERM");
    await exit;
  }

  /** Every answered call is in the log once, and nothing else is; and every balance is the sum of its rows. Answers how many calls there were. */
  async check(): Promise<bigint> {
    const after = await takenIn(this.url);
    const rows = after.rows - this.#before.rows;
    const hundredths = after.hundredths - this.#before.hundredths;
    const isComplete = rows >= this.#answered && rows <= this.#answered + this.#unknown;
    if (!isComplete || hundredths !== -rows * HUNDREDTHS) {
      throw new Error(`${this.#answered} calls took 0.01 each (and ${this.#unknown} failed), but the log has ${rows} more rows that take ${-hundredths} hundredths`);
    }
    const drifted = await driftIn(this.url);
    if (drifted > 0) throw new Error(`${drifted} balances are not the sum of their transactions`);
    return this.#answered;
  }
}

async function addressOf(child: ChildProcess): Promise<string> {
  let printed = "";
  for await (const chunk of child.stdout?.setEncoding("utf8") ?? []) {
    printed += String(chunk);
    const address = /gRPC on (\S+)/.exec(printed)?.[1];
    if (address !== undefined) return address;
  }
  throw new Error(`ledgerd did not start:\n${printed}`);
}

async function takenIn(url: string): Promise<Taken> {
  const [found] = await ask<{ rows: string; hundredths: string }>(
    url,
    "SELECT count(*) AS rows, coalesce(sum(amount * 100), 0)::bigint AS hundredths FROM ledgerd.transactions WHERE type IN ('deduction', 'capture')",
  );
  return { rows: BigInt(found?.rows ?? 0), hundredths: BigInt(found?.hundredths ?? 0) };
}

async function driftIn(url: string): Promise<number> {
  const [found] = await ask<{ drifted: number }>(
    url,
    `SELECT count(*)::int AS drifted
     FROM ledgerd.user_balances b
     FULL JOIN (SELECT user_id, currency, sum(amount) AS balance, sum(held_change) AS held FROM ledgerd.transactions GROUP BY 1, 2) t USING (user_id, currency)
     WHERE (t.balance, t.held) IS DISTINCT FROM (b.balance, b.held) AND b.sequence IS DISTINCT FROM 0`,
  );
  return found?.drifted ?? Number.NaN;
}

async function ask<R extends pg.QueryResultRow>(url: string, text: string): Promise<R[]> {
  return inSession(url, async (client) => (await client.query<R>(text)).rows);
}
