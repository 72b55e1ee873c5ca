// pgbouncer before a server, where this machine has it.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { runAs } from "../../src/postgres/embedded/embedded-folder.ts";
import { connectTo } from "./database.ts";
import { freePort, give, type StockServer } from "./stock-server.ts";
import { until } from "./until.ts";

const PROGRAM = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"].find(existsSync);

/** Why there can be no pooler on this machine; undefined if there can. */
export const missingPooler = PROGRAM === undefined ? "pgbouncer is not on this machine" : undefined;

/** A pooler. */
export interface Pooler {
  readonly url: (login: string, database: string, parameters?: string) => string;
  readonly [Symbol.asyncDispose]: () => Promise<void>;
}

/** Starts one, with its own defaults but for these settings; it logs in at the server as the user that is named. */
export async function startPooler(
  server: StockServer,
  mode: string,
  settings: readonly string[] = [],
  user = "postgres",
): Promise<Pooler> {
  const folder = mkdtempSync(path.join(tmpdir(), "ledgerd-pooler-"));
  const port = await freePort();
  const config = [
    "[databases]",
    `* = host=${server.folder} port=${server.port} user=${user}`,
    "[pgbouncer]",
    `pool_mode = ${mode}`,
    "listen_addr = 127.0.0.1",
    `listen_port = ${port}`,
    "unix_socket_dir =",
    "auth_type = any",
    ...settings,
  ];
  const file = path.join(folder, "pgbouncer.ini");
  writeFileSync(file, `${config.join("\n")}\n`);
  chmodSync(folder, 0o755);
  give(file);
  const child = spawn(PROGRAM ?? "", [file], { ...runAs(), cwd: "/", stdio: "ignore" });
  const ended = once(child, "exit");
  const url: Pooler["url"] = (login, database, parameters = "") =>
    `postgres://${login}@127.0.0.1:${port}/${database}${parameters === "" ? "" : `?${parameters}`}`;
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
