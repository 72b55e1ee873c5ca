// Servers with nothing in them yet, no role of ledgerd's either: of the embedded PostgreSQL, and of the system's packages, whose
// versions are older.

import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, chownSync, existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { promisify } from "node:util";
import { startEmbedded } from "../../src/postgres/embedded/embedded.ts";
import { SERVING_LOGIN } from "../../src/postgres/embedded/embedded-access.ts";
import { runAs } from "../../src/postgres/embedded/embedded-folder.ts";
import { connectTo } from "./database.ts";
import { until } from "./until.ts";

/** A server, and how to reach its databases. */
export interface BareServer {
  readonly url: (login: string, database: string) => string;
  readonly [Symbol.asyncDispose]: () => Promise<void>;
}

const settings = { fsync: "off", synchronous_commit: "off", full_page_writes: "off" };

/** Starts the embedded PostgreSQL. */
export async function startBareEmbedded(): Promise<BareServer> {
  const folder = mkdtempSync(path.join(tmpdir(), "ledgerd-bare-"));
  chmodSync(folder, 0o755);
  const server = await startEmbedded({ folder, settings, log: () => undefined });
  const admin = await connectTo(server.url);
  await admin.query(`DROP ROLE ${SERVING_LOGIN}; DROP ROLE ledgerd_runtime`);
  await admin.end();
  return {
    url: urlsOf(decodeURIComponent(new URL(server.url).hostname)),
    [Symbol.asyncDispose]: async () => {
      await server.stop();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** The programs of the oldest PostgreSQL before the embedded one's version that is installed where Debian's packages put it. */
export function olderPrograms(): string | undefined {
  return [15, 16, 17].map((version) => `/usr/lib/postgresql/${version}/bin`).find((folder) => existsSync(path.join(folder, "initdb")));
}

/** Starts a PostgreSQL out of a folder of programs: on a new cluster, or on one that is there already, which stays. */
export async function startBare(programs: string, more: Readonly<Record<string, string>> = {}, cluster?: string): Promise<BareServer> {
  const user = runAs();
  const folder = mkdtempSync(path.join(tmpdir(), "ledgerd-bare-"));
  if (user.uid !== undefined && user.gid !== undefined) chownSync(folder, user.uid, user.gid);
  const data = cluster ?? path.join(folder, "data");
  if (cluster === undefined) await promisify(execFile)(path.join(programs, "initdb"), ["-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C"], { ...user, cwd: "/" });
  const flags = Object.entries({ ...settings, listen_addresses: "", unix_socket_directories: folder, ...more }).flatMap(([name, value]) => ["-c", `${name}=${value}`]);
  const child = spawn(path.join(programs, "postgres"), ["-D", data, ...flags], { ...user, cwd: "/", stdio: "ignore" });
  const ended = once(child, "exit");
  const url = urlsOf(folder);
  await until(() => connectTo(url("postgres", "postgres")).then((client) => client.end().then(() => true), () => false));
  return {
    url,
    [Symbol.asyncDispose]: async () => {
      child.kill("SIGINT");
      await ended;
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

function urlsOf(socketFolder: string): BareServer["url"] {
  return (login, database) => `postgres://${login}@${encodeURIComponent(socketFolder)}:5432/${database}`;
}
