// Which databases ledgerd won't take, whatever else is right with them, and what the operator is told: one sentence with the
// remedy. On PostgreSQL as Debian ships it, with pgbouncer before it.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { SERVING_LOGIN } from "../../src/postgres/embedded/embedded-access.ts";
import { archiveOf } from "../harness/archives.ts";
import { runLedgerd } from "../harness/command.ts";
import { connectTo, createDatabase } from "../harness/database.ts";
import { callEverything } from "../harness/every-call.ts";
import { missingPooler, startPooler, type Pooler } from "../harness/pooler.ts";
import { serve } from "../harness/service.ts";
import { missingForStock, startStock, type StockServer } from "../harness/stock-server.ts";
import { verify } from "../harness/verification.ts";

const missing = missingForStock();
const because = missing === undefined ? "" : ` (${missing})`;
const settings = { LEDGERD_DURABILITY: "relaxed", LEDGERD_LOG_LEVEL: "error" };
let server: StockServer;

beforeAll(async () => {
  if (missing === undefined) server = await startStock([], { fsync: "off" });
});

afterAll(async () => {
  await server?.[Symbol.asyncDispose]();
});

/** What a command complains of; in one line. */
async function complaintOf(args: readonly string[], url: string): Promise<string> {
  const { code, stdout, stderr } = await runLedgerd(args, { DATABASE_URL: url, ...settings });
  expect([code === 0, stdout, stderr.trim().split("\n").length], stderr).toEqual([false, "", 1]);
  return stderr.trim();
}

describe.skipIf(missing !== undefined)(`an encoding that isn't UTF8 is refused, by its name${because}:`, () => {
  const others = [["serve", "--workers", "2"], ["migrate"], ["restore", "--from", "an archive"], ["adopt", "--from", "the old one"]];
  test.each([
    ["WIN1251", [["serve"], ...others]],
    ["SQL_ASCII", [["serve"]]],
  ])("%s, by %j", async (encoding, commands) => {
    const folder = mkdtempSync(path.join(tmpdir(), "ledgerd-fit-"));
    await using source = await createDatabase();
    const { file } = await archiveOf(source.url, folder);
    const places: Readonly<Record<string, string>> = { "an archive": file, "the old one": server.socketUrl("postgres") };
    const name = await server.createDatabase(`ENCODING '${encoding}' LOCALE 'C' TEMPLATE template0`);
    for (const args of commands.map((words) => words.map((word) => places[word] ?? word))) {
      const login = args[0] === "serve" ? SERVING_LOGIN : "postgres";
      expect(await complaintOf(args, server.url("postgres", name))).toBe(
        `ledgerd: postgres://${login}@localhost:${server.port}/${name} can't be used: its encoding is ${encoding}, and ledgerd ` +
          `needs UTF8: take one made by CREATE DATABASE ${name}_utf8 ENCODING 'UTF8' TEMPLATE template0`,
      );
    }
    expect(await server.query("SELECT FROM pg_namespace WHERE nspname = 'ledgerd'", name), "nothing was made").toEqual([]);
    rmSync(folder, { recursive: true });
  });
});

const missingHere = missing ?? missingPooler;

describe.skipIf(missingHere !== undefined)(`a pooler${missingHere === undefined ? "" : ` (${missingHere})`}`, () => {
  test.each([
    ["transaction", [], ["serve", "migrate", "verify"]],
    ["statement", [], ["serve"]],
    ["transaction", ["default_pool_size = 1"], ["serve"]],
    ["transaction", ["server_round_robin = 1"], ["serve"]],
  ])("in mode %s, %j, is refused with the remedy by %j", async (mode, more, commands) => {
    await using pooler = await startPooler(server, mode, more);
    const name = await server.createDatabase();
    const url = pooler.url("postgres", name);
    for (const args of commands.map((command) => [command])) {
      expect(await complaintOf(args, url)).toMatch(
        /^ledgerd: postgres:.* can't be used: a pooler there has connections share sessions: set its pool_mode to session, or connect to PostgreSQL directly$/,
      );
    }
  });

  test("in mode transaction is refused while others use it as well", async () => {
    await using pooler = await startPooler(server, "transaction");
    const name = await server.createDatabase();
    const url = pooler.url("postgres", name);
    const over = new AbortController();
    const others = Array.from({ length: 4 }, () => useUntil(url, over.signal));
    expect(await complaintOf(["serve"], url)).toContain("set its pool_mode to session");
    over.abort();
    await Promise.all(others);
  });

  test("in mode session is served from, with every call, and what sessions rely on", async () => {
    await using pooler: Pooler = await startPooler(server, "session", ["default_pool_size = 60"], SERVING_LOGIN);
    const name = await server.createDatabase();
    const url = pooler.url("anybody", name);
    const service = await serve(url, { LEDGERD_MIGRATION_URL: server.url("postgres", name) });
    await callEverything(service, 1n);
    await service.close();
    expect((await verify(url)).findings).toEqual([]);
  });

  test("passes no options on: they are refused in the URL", async () => {
    await using pooler = await startPooler(server, "session");
    const url = pooler.url("postgres", await server.createDatabase(), "options=-c%20work_mem%3D8MB");
    expect(await complaintOf(["serve"], url)).toMatch(/options; a pooler passes no options on: take them out of the URL, or connect to PostgreSQL directly$/);
  });
});

/** Keeps a pooler's sessions busy. */
async function useUntil(url: string, signal: AbortSignal): Promise<void> {
  const client = await connectTo(url);
  while (!signal.aborted) await client.query("SELECT pg_sleep(0.002)");
  await client.end();
}
