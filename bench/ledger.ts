// ledgerd as it is measured: an OS process on a database of its own, which remembers what it was asked to write.

import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import path from "node:path";
import { servedAt } from "./database.ts";
import type { LoadProcess } from "./load-process.ts";
import type { Tasks } from "./load/main.ts";
import type { Load, Window } from "./load/meter.ts";
import { checkLog, takenIn, type Taken } from "./log.ts";

/** A database, and the process of its server. */
export interface Server {
  readonly url: string;
  readonly postmaster: number;
}

/** A ledgerd that serves. */
export class Ledger {
  readonly address: string;
  /** Where its web port is. */
  readonly httpAddress: string;
  /** Of its PostgreSQL. */
  readonly postmaster: number;
  readonly #url: string;
  readonly #child: ChildProcess;
  readonly #before: Taken;
  #applied = 0n;
  #failed = 0n;

  private constructor({ url, postmaster }: Server, { grpc, http }: Addresses, child: ChildProcess, before: Taken) {
    this.#url = url;
    this.postmaster = postmaster;
    this.address = grpc;
    this.httpAddress = http;
    this.#child = child;
    this.#before = before;
  }

  /** Starts it on a database, with so many workers; undefined: as many as it itself wants. */
  static async start(
    server: Server,
    workers: number | undefined,
    settings: Readonly<Record<string, string>> = {},
  ): Promise<Ledger> {
    const { url } = server;
    const before = await takenIn(url);
    const { LEDGERD_WORKERS: _, ...inherited } = process.env;
    const ours = { DATABASE_URL: servedAt(url), LEDGERD_GRPC_ADDR: "127.0.0.1:0", LEDGERD_HTTP_ADDR: "127.0.0.1:0", LEDGERD_LOG_LEVEL: "error" };
    const env = { ...inherited, ...ours, ...settings, ...(workers === undefined ? {} : { LEDGERD_WORKERS: String(workers) }) };
    const child = spawn(process.execPath, [path.resolve(import.meta.dirname, "../src/main.ts")], { env, stdio: ["ignore", "pipe", "inherit"] });
    return new Ledger(server, await addressesOf(child), child, before);
  }

  /** The process, or the first of its processes. */
  get pid(): number {
    return this.#child.pid ?? 0;
  }

  /** Lets a process make load on it that takes 0.01 with each operation. */
  async takeFrom<K extends keyof Tasks>(caller: LoadProcess, kind: K, task: Tasks[K], window: Window): Promise<Load> {
    const load = await caller.perform(kind, task, window);
    this.#applied += BigInt(load.operations);
    this.#failed += BigInt(load.further?.["errors"] ?? 0);
    return load;
  }

  /** Stops it, and returns when it has ended. */
  async stop(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const exit = once(this.#child, "exit");
    this.#child.kill("SIGTERM");
    await exit;
  }

  /** Throws if its log isn't what it answered. Returns how many operations that were. */
  async check(): Promise<bigint> {
    await checkLog(this.#url, this.#before, { applied: this.#applied, failed: this.#failed });
    return this.#applied;
  }
}

interface Addresses {
  readonly grpc: string;
  readonly http: string;
}

async function addressesOf(child: ChildProcess): Promise<Addresses> {
  let printed = "";
  for await (const chunk of child.stdout?.setEncoding("utf8") ?? []) {
    printed += String(chunk);
    const [, grpc, http] = /gRPC on (\S+) and HTTP on (\S+);/.exec(printed) ?? [];
    if (grpc !== undefined && http !== undefined) return { grpc, http };
  }
  throw new Error(`ledgerd did not start:\n${printed}`);
}
