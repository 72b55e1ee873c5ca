// Where everything is measured: one PostgreSQL for all, with full durability, a database for each who needs one, and the processes that make load.
// What several workloads use is made when the first one asks for it.

import { chmodSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import pg from "pg";
import { startEmbedded } from "../src/postgres/embedded/embedded.ts";
import { migrate } from "../src/postgres/schema/migrate.ts";
import { databaseAt, inSession } from "./database.ts";
import { Ledger, type Server } from "./ledger.ts";
import { LoadProcess } from "./load-process.ts";
import type { Options } from "./options.ts";

/** The database that those of ledgers are copied from: migrated, with rich users, served by nobody. */
const TEMPLATE = "ledgerd";

/**
 * A service that has just started runs code that isn't optimized yet: its first ten thousand calls took each of its processes twice the CPU of those
 * after them. Streams and batches have code of their own.
 */
const WARM_UP = { unary: { warmUpMs: 0, measuredMs: 3000 }, bulk: { warmUpMs: 0, measuredMs: 700 } };

/** What PostgreSQL is told beside its defaults. */
const SETTINGS = { max_connections: "300" };

/** Where the embedded server's settings are not PostgreSQL's own, those: of PostgreSQL 18, as initdb writes them. */
const STOCK = { shared_buffers: "128MB", max_wal_size: "1GB" };

/** What the result names of PostgreSQL's settings. */
const NAMED_SETTINGS = ["server_version", "fsync", "synchronous_commit", "full_page_writes", "shared_buffers", "max_wal_size", "wal_compression", "max_connections"];

/** The stage, until it is closed. */
export class Stage {
  readonly options: Options;
  /** Makes ledgerd's load, and the one that makes the rivals'. */
  readonly caller = new LoadProcess();
  readonly rival = new LoadProcess();
  readonly say: (message: string) => void;
  readonly postmaster: number;
  readonly #url: string;
  readonly #admin: pg.Client;
  readonly #shared = new Map<string, Promise<unknown>>();
  readonly #ledgers: Ledger[] = [];
  /** Further servers. */
  readonly #more = new AsyncDisposableStack();

  private constructor(options: Options, say: (message: string) => void, url: string, admin: pg.Client, postmaster: number) {
    this.options = options;
    this.say = say;
    this.#url = url;
    this.#admin = admin;
    this.postmaster = postmaster;
  }

  /** Does the work on a stage, and clears it away. */
  static async use<T>(options: Options, say: (message: string) => void, work: (stage: Stage) => Promise<T>): Promise<T> {
    const { interrupted, reason } = interruption();
    try {
      return await Stage.#use(options, say, (stage) => Promise.race([work(stage), interrupted]));
    } catch (error) {
      // What was going on fails in its own ways as its processes end: what stopped it is what is told.
      throw reason() ?? error;
    }
  }

  static async #use<T>(options: Options, say: (message: string) => void, work: (stage: Stage) => Promise<T>): Promise<T> {
    await using opened = new AsyncDisposableStack();
    const server = await startServer(opened, SETTINGS, say);
    const admin = new pg.Client({ connectionString: databaseAt(server.url, "postgres") });
    admin.on("error", () => undefined);
    await admin.connect();
    opened.defer(() => admin.end());
    const stage = new Stage(options, say, server.url, admin, server.postmaster);
    opened.use(stage.#more);
    opened.defer(() => stage.#close());
    return await work(stage);
  }

  /** What is made once, under a name, for all who ask for it. */
  shared<T>(name: string, make: () => Promise<T>): Promise<T> {
    const made = this.#shared.get(name) ?? make();
    this.#shared.set(name, made);
    return made as Promise<T>;
  }

  /** The ledger of all workloads that don't need one of their own. */
  ledger(): Promise<Ledger> {
    return this.shared("ledger", async () => this.#warmedUp(await this.openLedger(await this.ledgerDatabase("ledger"))));
  }

  /** The same on a server with the settings that PostgreSQL is shipped with. */
  stockLedger(): Promise<Ledger> {
    return this.shared("stock ledger", async () => {
      this.say(`loading ${this.options.users} accounts into a stock PostgreSQL`);
      const server = await startServer(this.#more, { ...SETTINGS, ...STOCK }, this.say);
      await migrate(server.url);
      await giveMoney(server.url, this.options.users);
      return this.#warmedUp(await this.#openOn(server));
    });
  }

  async #warmedUp(ledger: Ledger): Promise<Ledger> {
    this.say("warming it up");
    const { address } = ledger;
    const { users } = this.options;
    await ledger.takeFrom(this.caller, "unary", { address, method: "Deduct", inFlight: 256, users }, WARM_UP.unary);
    await ledger.takeFrom(this.caller, "stream", { address, streams: 4, perMessage: 1, unanswered: 500, users }, WARM_UP.bulk);
    await ledger.takeFrom(this.caller, "batch", { address, inFlight: 8, size: 500, users }, WARM_UP.bulk);
    return ledger;
  }

  /** Serves a database until the end, when its log is checked; further settings by their names. */
  async openLedger(url: string, settings: Readonly<Record<string, string>> = {}): Promise<Ledger> {
    return this.#openOn({ url, postmaster: this.postmaster }, settings);
  }

  async #openOn(server: Server, settings: Readonly<Record<string, string>> = {}): Promise<Ledger> {
    const ledger = await Ledger.start(server, this.options.workers, settings);
    this.#ledgers.push(ledger);
    return ledger;
  }

  /** Makes a database with ledgerd's tables, in which every user is rich. */
  async ledgerDatabase(name: string): Promise<string> {
    await this.shared("template", async () => {
      this.say(`loading ${this.options.users} accounts`);
      await migrate(this.#url);
      await giveMoney(this.#url, this.options.users);
    });
    return this.emptyDatabase(name, TEMPLATE);
  }

  /** Makes a database with nothing in it, or a copy of another one. */
  async emptyDatabase(name: string, template = "template1"): Promise<string> {
    await this.#admin.query(`CREATE DATABASE ${name} TEMPLATE ${template}`);
    return databaseAt(this.#url, name);
  }

  /**
   * What was written before must be on disk, so that its writing out falls on nobody else. Once for a workload, before it is warmed up, and not before each
   * round: the first change of a page after a checkpoint logs the whole page, so that rounds of seconds would show little else of minutes without one.
   */
  async checkpoint(): Promise<void> {
    await this.#admin.query("CHECKPOINT");
  }

  /** Throws if the log of a ledger isn't what it answered; returns how many calls there were. */
  async checkLogs(): Promise<bigint> {
    let calls = 0n;
    for (const ledger of this.#ledgers) {
      await ledger.stop();
      calls += await ledger.check();
    }
    return calls;
  }

  /** PostgreSQL's settings that matter here. */
  async settings(): Promise<Readonly<Record<string, string>>> {
    const { rows } = await this.#admin.query<{ name: string; setting: string }>(
      "SELECT name, current_setting(name) AS setting FROM pg_settings WHERE name = ANY($1) ORDER BY array_position($1, name)",
      [NAMED_SETTINGS],
    );
    return Object.fromEntries(rows.map(({ name, setting }) => [name, setting]));
  }

  async #close(): Promise<void> {
    await Promise.all([this.caller.stop(), this.rival.stop(), ...this.#ledgers.map((ledger) => ledger.stop())]);
  }
}

/** A server in a folder of its own, until the end. */
async function startServer(
  opened: AsyncDisposableStack,
  settings: Readonly<Record<string, string>>,
  log: (message: string) => void,
): Promise<Server> {
  const folder = mkdtempSync(path.join(tmpdir(), "ledgerd-bench-"));
  opened.defer(() => rmSync(folder, { recursive: true, force: true }));
  chmodSync(folder, 0o755);
  const server = await startEmbedded({ folder, settings, log });
  opened.defer(() => server.stop());
  const postmaster = Number.parseInt(readFileSync(path.join(folder, "data/postmaster.pid"), "utf8"), 10);
  return { url: server.url, postmaster };
}

/** Throws when a signal asks to stop: PostgreSQL runs apart from the terminal, and would go on. */
function interruption(): { readonly interrupted: Promise<never>; readonly reason: () => Error | undefined } {
  const { promise: interrupted, reject } = Promise.withResolvers<never>();
  let reason: Error | undefined;
  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    process.once(signal, () => {
      reason = new Error(`stopped by ${signal}`);
      reject(reason);
    });
  }
  // It may come before anybody waits for it.
  interrupted.catch(() => undefined);
  return { interrupted, reason: () => reason };
}

async function giveMoney(url: string, users: number): Promise<void> {
  await inSession(url, async (client) => {
    await client.query(
      `INSERT INTO ledgerd.transactions (user_id, amount, type, sequence, balance_after, held_after, credit_limit_after, hash)
       SELECT n, 1000000.00, 'topup', 1, 1000000.00, 0.00, 0.00, sha256(n::text::bytea) FROM generate_series(1, $1::int) n`,
      [users],
    );
    await client.query(
      `INSERT INTO ledgerd.user_balances (user_id, balance, sequence, chain_head)
       SELECT user_id, balance_after, sequence, hash FROM ledgerd.transactions`,
    );
    await client.query("VACUUM ANALYZE ledgerd.transactions, ledgerd.user_balances");
  });
}
