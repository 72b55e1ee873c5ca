// A PostgreSQL as Debian's packages make it, with its own defaults (JIT among them) and the settings that production has:
// reached by TCP with TLS, whose certificates come from an authority of the test's own, or by its socket.

import { execFile, execFileSync, spawn, type ChildProcess } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { chownSync, existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { promisify } from "node:util";
import type pg from "pg";
import { SERVING_LOGIN } from "../../src/postgres/embedded/embedded-access.ts";
import { runAs } from "../../src/postgres/embedded/embedded-folder.ts";
import { connectTo } from "./database.ts";
import { isInstalled } from "./programs.ts";
import { until } from "./until.ts";

/** A server. */
export interface StockServer {
  readonly port: number;
  /** Its folder: the socket, certificates (`ca.crt`, `client.crt`, `client.key`, `other-ca.crt`), what a test adds. */
  readonly folder: string;
  /** Of a database over TCP; `parameters` as in `sslmode=disable`. */
  readonly url: (login: string, database: string, parameters?: string, host?: string) => string;
  /** Of a database over the socket, as a superuser. */
  readonly socketUrl: (database: string) => string;
  /** Runs a statement as a superuser in the database `postgres`, or another one. */
  readonly query: <R extends pg.QueryResultRow>(text: string, database?: string) => Promise<R[]>;
  readonly stop: () => Promise<void>;
  readonly start: () => Promise<void>;
  /** Makes a database of its own for a test, and answers its name. */
  readonly createDatabase: (options?: string) => Promise<string>;
  readonly [Symbol.asyncDispose]: () => Promise<void>;
}

/** Where the programs lie that these tests are to use, or those of Debian's oldest package. */
export function stockPrograms(): string | undefined {
  const known = [15, 16, 17, 18].map((version) => `/usr/lib/postgresql/${version}/bin`);
  return [process.env["LEDGERD_TEST_POSTGRES"] ?? "", ...known].find((folder) => existsSync(path.join(folder, "initdb")));
}

/** Whether all tests that can are to run on it. */
export const isStock = (process.env["LEDGERD_TEST_POSTGRES"] ?? "") !== "";

/** Why there can be no such server on this machine; undefined if there can. */
export function missingForStock(...programs: readonly string[]): string | undefined {
  if (stockPrograms() === undefined) return "PostgreSQL is not installed where Debian's packages put it";
  const missing = programs.find((program) => !isInstalled(program));
  return missing === undefined ? undefined : `${missing} is not on this machine`;
}

/** Starts one; `hba` are lines before those that trust everybody. */
export async function startStock(hba: readonly string[] = [], settings: Readonly<Record<string, string>> = {}): Promise<StockServer> {
  const programs = stockPrograms() ?? "";
  const user = runAs();
  const folder = mkdtempSync(path.join(tmpdir(), "ledgerd-stock-"));
  const data = path.join(folder, "data");
  give(folder);
  const initdb = ["-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8"];
  await promisify(execFile)(path.join(programs, "initdb"), initdb, { ...user, cwd: "/" });
  const isEncrypted = isInstalled("openssl");
  if (isEncrypted) makeCertificates(folder);
  const rules = [...hba, "local all all trust", "host all all all trust"];
  writeFileSync(path.join(data, "pg_hba.conf"), rules.map((line) => `${line}\n`).join(""));
  const port = await freePort();
  const flags = Object.entries({
    port: String(port),
    listen_addresses: "127.0.0.1",
    unix_socket_directories: folder,
    ...(isEncrypted ? tlsSettings(folder) : {}),
    ...settings,
  }).flatMap(([name, value]) => ["-c", `${name}=${value}`]);

  let child: ChildProcess | undefined;
  const socketUrl = (database: string): string => `postgres://postgres@${encodeURIComponent(folder)}:${port}/${database}`;
  const query = async <R extends pg.QueryResultRow>(text: string, database = "postgres"): Promise<R[]> => {
    const client = await connectTo(socketUrl(database));
    try {
      return (await client.query<R>(text)).rows;
    } finally {
      await client.end();
    }
  };
  const start = async (): Promise<void> => {
    child = spawn(path.join(programs, "postgres"), ["-D", data, ...flags], { ...user, cwd: "/", stdio: "ignore" });
    await until(() => query("SELECT").then(() => true, () => false));
  };
  const stop = async (): Promise<void> => {
    if (child === undefined) return;
    const ended = once(child, "exit");
    child.kill("SIGINT");
    await ended;
    child = undefined;
  };
  await start();
  await query("CREATE ROLE ledgerd_runtime NOLOGIN");
  await query(`CREATE ROLE ${SERVING_LOGIN} LOGIN IN ROLE ledgerd_runtime`);
  return {
    port,
    folder,
    url: (login, database, parameters = "", host = "localhost") =>
      `postgres://${login}@${host}:${port}/${database}${parameters === "" ? "" : `?${parameters}`}`,
    socketUrl,
    query,
    start,
    stop,
    createDatabase: async (options = "") => {
      const name = `test_${randomBytes(6).toString("hex")}`;
      await query(`CREATE DATABASE ${name} ${options}`);
      return name;
    },
    [Symbol.asyncDispose]: async () => {
      await stop();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** A port of this machine that nobody listens on. */
export async function freePort(): Promise<number> {
  const listener = createServer().listen(0, "127.0.0.1");
  await once(listener, "listening");
  const { port } = listener.address() as AddressInfo;
  listener.close();
  await once(listener, "close");
  return port;
}

function tlsSettings(folder: string): Readonly<Record<string, string>> {
  const file = (name: string): string => path.join(folder, name);
  return { ssl: "on", ssl_cert_file: file("server.crt"), ssl_key_file: file("server.key"), ssl_ca_file: file("ca.crt") };
}

/** An authority; a certificate of it for the server, whose name is `localhost`; one for the login `clerk`; another authority. */
function makeCertificates(folder: string): void {
  const openssl = (...args: readonly string[]): void => {
    execFileSync("openssl", args, { cwd: folder, stdio: "ignore" });
  };
  const key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
  for (const ca of ["ca", "other-ca"]) {
    openssl("req", "-x509", ...key, "-keyout", `${ca}.key`, "-out", `${ca}.crt`, "-subj", `/CN=${ca}`, "-days", "2");
  }
  for (const [name, subject, extension] of [["server", "localhost", "subjectAltName=DNS:localhost"], ["client", "clerk", "keyUsage=digitalSignature"]] as const) {
    openssl("req", ...key, "-keyout", `${name}.key`, "-out", `${name}.csr`, "-subj", `/CN=${subject}`, "-addext", extension);
    openssl("x509", "-req", "-in", `${name}.csr`, "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-copy_extensions", "copy", "-out", `${name}.crt`, "-days", "2");
  }
  // Of the server's user only what the server reads: the rest is read by the test.
  give(path.join(folder, "server.key"));
}

/** To the user as which the server runs. */
export function give(file: string): void {
  const { uid, gid } = runAs();
  if (uid !== undefined && gid !== undefined) chownSync(file, uid, gid);
}
