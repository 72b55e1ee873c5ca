// A connection that breaks at any statement, from the first one on: a service comes to serve nevertheless, a command
// does its work, or the operator is told in one sentence why not.

import { once } from "node:events";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { text as textFrom } from "node:stream/consumers";
import { ConnectError } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { pino } from "pino";
import { afterAll, beforeAll, beforeEach, expect, test, vi } from "vitest";
import { administer } from "../../src/cli/administer.ts";
import { readCommandLine } from "../../src/cli/command-line.ts";
import { readConfig, type Config } from "../../src/config.ts";
import { sentenceOf } from "../../src/cli/exit.ts";
import { listenHere } from "../../src/servers/listener.ts";
import { startService } from "../../src/service/service.ts";
import { fillOldTables, makeOldTables } from "../adoption/old-database.ts";
import { block } from "../harness/blocker.ts";
import { runLedgerd, servesAt, startLedgerd } from "../harness/command.ts";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { withLogins } from "../harness/logins.ts";
import { clientsOver } from "../harness/service.ts";
import { until } from "../harness/until.ts";
import { startWireProxy, textOf, type Message, type WireProxy } from "../harness/wire-proxy.ts";

const log = pino({ level: "silent" });
let folder: string;
let ledger: TestDatabase;
/** What commands print. */
let printed: string;

beforeAll(async () => {
  folder = mkdtempSync(path.join(tmpdir(), "ledgerd-starting-"));
  ledger = await createDatabase();
  // Each command listens to signals for as long as its process lives.
  process.setMaxListeners(1000);
});

afterAll(async () => {
  vi.restoreAllMocks();
  rmSync(folder, { recursive: true });
  await ledger[Symbol.asyncDispose]();
});

beforeEach(() => {
  for (const stream of [process.stdout, process.stderr]) {
    vi.spyOn(stream, "write").mockImplementation((text) => {
      printed += String(text);
      return true;
    });
  }
});

function configOf(url: string): Config {
  const addresses = { LEDGERD_GRPC_ADDR: "127.0.0.1:0", LEDGERD_HTTP_ADDR: "127.0.0.1:0" };
  const settings = { DATABASE_URL: url, ...addresses, LEDGERD_DURABILITY: "relaxed", LEDGERD_VERIFY_RATE: "0" };
  const read = readConfig(withLogins(settings));
  if ("problems" in read) throw new Error(read.problems.join("; "));
  return read.config;
}

/** What begins a session or asks for something: the first message, a Parse, a Query, the end of a COPY. */
const begins = ({ type }: Message): boolean => ["", "P", "Q", "c"].includes(type);

/**
 * Does something again and again, with the connection cut at the first statement, the next one, and so on (or in
 * larger strides), until it does with less of them. Answers at how many. Each time it succeeds, or fails by an error
 * that one sentence tells.
 */
async function cutEverywhere(proxy: WireProxy, run: () => Promise<unknown>, stride = 1): Promise<number> {
  for (let nth = 1; ; nth += stride) {
    printed = "";
    let seen = 0;
    proxy.tamper({ client: (message) => (begins(message) && (seen += 1) === nth ? "cut" : message) });
    const failed: unknown = await run().then(
      () => undefined,
      (error: unknown) => error,
    );
    if (failed !== undefined && sentenceOf(failed) === undefined)
      throw new Error(`cut at statement ${nth}`, { cause: failed });
    expect(printed, `cut at statement ${nth}`).not.toMatch(/^\s+at /m);
    if (seen < nth) return nth - 1;
  }
}

test("serve", async () => {
  await using proxy = await startWireProxy(ledger.url, "all");
  const cuts = await cutEverywhere(proxy, async () => {
    const service = await startService(configOf(proxy.url), log);
    // What its end asks for is no part of its start.
    proxy.tamper({});
    await service.close();
  });
  expect(cuts).toBeGreaterThan(8);
});

/** A start that stands still before it can tell which migrations are lacking, and where it is to serve. */
async function standStill(settings: Readonly<Record<string, string>>) {
  const blocker = await block(ledger, "LOCK TABLE ledgerd.schema_migrations");
  const addresses = { LEDGERD_GRPC_ADDR: await freeAddress(), LEDGERD_HTTP_ADDR: await freeAddress() };
  const command = startLedgerd(["serve"], { DATABASE_URL: ledger.url, LEDGERD_LOG_LEVEL: "error", ...addresses, ...settings });
  const waits = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
  await until(async () => command.process.exitCode !== null || (await ledger.query(waits)).length > 0);
  return { blocker, command, grpc: addresses.LEDGERD_GRPC_ADDR, http: addresses.LEDGERD_HTTP_ADDR };
}

/** The same of a process that serves alone, and two callers who came meanwhile. */
async function comeWhileItStarts(settings: Readonly<Record<string, string>>) {
  const { blocker, command, ...at } = await standStill({ ...settings, LEDGERD_WORKERS: "1" });
  const grpc = await connectionTo(at.grpc);
  const baseUrl = `http://${at.grpc}`;
  const clients = clientsOver(createGrpcTransport({ baseUrl, nodeOptions: { createConnection: () => grpc } }));
  const called = clients.ledger.getBalance({ userId: 1n }, { timeoutMs: 0 });
  const http = await connectionTo(at.http);
  http.end("GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
  return { blocker, command, called, probed: textFrom(http) };
}

test("who comes while a process that serves alone starts waits, and is answered when it serves", async () => {
  const { blocker, command, called, probed } = await comeWhileItStarts({ LEDGERD_DURABILITY: "relaxed" });
  await using _ = command;
  await blocker.release();
  expect((await called).balance?.userId).toBe(1n);
  expect(await probed).toMatch(/^HTTP\/1\.1 200 /);
});

test("who comes while a process that serves alone starts is turned away if it never serves", async () => {
  const { blocker, command, called, probed } = await comeWhileItStarts({});
  await using _ = command;
  const refused = expect(called).rejects.toBeInstanceOf(ConnectError);
  const unanswered = probed.catch(String);
  // The PostgreSQL of the tests isn't durable: it doesn't serve from that unless it is told to.
  await blocker.release();
  expect(await command.ended).toBe(1);
  expect(command.printed.stderr).toMatch(NOT_SERVABLE);
  await refused;
  expect(await unanswered).not.toContain("HTTP/1.1");
});

test("who comes while several processes start is refused; of two on one port, the later one to serve ends", async () => {
  const { blocker, command, grpc, http } = await standStill({ LEDGERD_DURABILITY: "relaxed", LEDGERD_WORKERS: "2" });
  await using _ = command;
  const refused = { code: "ECONNREFUSED" };
  for (const address of [grpc, http]) await expect(connectionTo(address)).rejects.toMatchObject(refused);
  const addresses = { LEDGERD_GRPC_ADDR: grpc, LEDGERD_HTTP_ADDR: await freeAddress() };
  const settings = { DATABASE_URL: ledger.url, LEDGERD_DURABILITY: "relaxed", LEDGERD_LOG_LEVEL: "error" };
  await using other = startLedgerd(["serve"], { ...settings, ...addresses, LEDGERD_WORKERS: "2" });
  await blocker.release();
  await until(() => [command, other].some(({ process }) => process.exitCode !== null));
  const [later, first] = command.process.exitCode === null ? [other, command] : [command, other];
  expect(await later.ended).toBe(1);
  const taken = /^ledgerd: LEDGERD_GRPC_ADDR must be a free address [^\n]* listen EADDRINUSE: [^\n]*\n$/;
  expect(later.printed.stderr).toMatch(taken);
  expect((await servesAt(first)).grpc).toBe(grpc);
  await connectionTo(grpc).then((connection) => connection.destroy());
});

const NOT_SERVABLE = /^ledgerd: this database can't be served from: [^\n]*\n$/;

/** An address that nothing has. */
async function freeAddress(): Promise<string> {
  const listener = await listenHere({ host: "127.0.0.1", port: 0 }, { most: 10, refused: () => undefined });
  await listener.close();
  return listener.address;
}

async function connectionTo(address: string): Promise<Socket> {
  const { hostname, port } = new URL(`http://${address}`);
  const connection = connect(Number(port), hostname);
  await once(connection, "connect");
  return connection;
}

/** A command as the command line reads it. */
function commandOf(args: readonly string[], url: string): () => Promise<unknown> {
  const line = readCommandLine(args);
  if (typeof line === "string") throw new Error(line);
  return () => administer(line, configOf(url), log) ?? expect.unreachable(`${args[0]} is no command`);
}

test.each([["migrate"], ["verify"], ["rebuild"]])("%s, of a ledger", async (name) => {
  await using proxy = await startWireProxy(ledger.url, "all");
  expect(await cutEverywhere(proxy, commandOf([name], proxy.url), 2)).toBeGreaterThan(3);
});

test("migrate, of an empty database", async () => {
  await using empty = await createDatabase("empty");
  await using proxy = await startWireProxy(empty.url, "all");
  expect(await cutEverywhere(proxy, commandOf(["migrate"], proxy.url), 2)).toBeGreaterThan(10);
  expect(await empty.query("SELECT FROM ledgerd.schema_migrations LIMIT 1"), "it came to its end").toHaveLength(1);
});

test("backup, and restore of that", async () => {
  await using proxy = await startWireProxy(ledger.url, "all");
  expect(await cutEverywhere(proxy, commandOf(["backup", "--to", folder], proxy.url), 3)).toBeGreaterThan(10);
  const archive = readdirSync(folder).find((file) => file.endsWith(".tar")) ?? "";
  await using empty = await createDatabase();
  await using target = await startWireProxy(empty.url, "all");
  const restore = commandOf(["restore", "--from", path.join(folder, archive)], target.url);
  expect(await cutEverywhere(target, restore, 3)).toBeGreaterThan(8);
});

test("adopt, cut off from either database", async () => {
  await using old = await createDatabase("empty");
  await makeOldTables(old.query);
  await fillOldTables(old.query, { users: 5, transactions: 20, jobs: 2, hot: 0 });
  await using empty = await createDatabase();
  await using source = await startWireProxy(old.url, "all");
  await using target = await startWireProxy(empty.url, "all");
  expect(
    await cutEverywhere(
      source,
      commandOf(["adopt", "--from", source.url, "--dry-run", "--ignore-sessions"], empty.url),
      4,
    ),
  ).toBeGreaterThan(5);
  expect(
    await cutEverywhere(target, commandOf(["adopt", "--from", old.url, "--ignore-sessions"], target.url), 4),
  ).toBeGreaterThan(5);
});

test.each(["1", "2"])("as an operator sees it, of a service of %s processes", async (workers) => {
  await using proxy = await startWireProxy(ledger.url, "all");
  proxy.tamper({
    client: (message) => (textOf(message)?.includes("add_transaction_partitions") === true ? "cut" : message),
  });
  const settings = {
    DATABASE_URL: proxy.url,
    LEDGERD_DURABILITY: "relaxed",
    LEDGERD_LOG_LEVEL: "error",
    LEDGERD_WORKERS: workers,
  };
  const { code, stdout, stderr } = await runLedgerd(["serve"], settings);
  expect([code, stdout]).toEqual([1, ""]);
  expect(stderr).toMatch(/^ledgerd: the database went away while it was needed: [^\n]*\n$/);
});
