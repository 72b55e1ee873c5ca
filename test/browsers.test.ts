// A real browser, Chromium, on a page of another origin: it reads a balance only from a service that lists this
// origin.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { text as textOf } from "node:stream/consumers";
import { afterAll, beforeAll, expect, test } from "vitest";
import { createDatabase, type TestDatabase } from "./harness/database.ts";
import { isInstalled } from "./harness/programs.ts";
import { newKey, serve, type TestService } from "./harness/service.ts";

const chromium = ["chromium", "chromium-browser", "google-chrome"].find(isInstalled);
const USER = 5;

let database: TestDatabase;
let page: Server;
let closed: TestService;
let open: TestService;
/** What the page has found out. */
const told = Promise.withResolvers<Readonly<Record<string, Readonly<Record<string, unknown>>>>>();

beforeAll(async () => {
  page = createServer((request, response) => {
    if (request.method === "POST") void textOf(request).then((body) => told.resolve(JSON.parse(body) as never));
    response
      .writeHead(200, { "content-type": "text/html" })
      .end(`<!doctype html><script>(${script})(${targets()})</script>`);
  });
  page.listen(0, "127.0.0.1");
  await once(page, "listening");
  database = await createDatabase();
  closed = await serve(database.url);
  open = await serve(database.url, { LEDGERD_WEB_ORIGINS: origin() });
  await open.ledger.topUp({ userId: BigInt(USER), amount: { amount: "7" }, idempotencyKey: newKey() });
});

afterAll(async () => {
  await closed.close();
  await open.close();
  await database[Symbol.asyncDispose]();
  page.close();
  page.closeAllConnections();
});

const origin = (): string => `http://localhost:${(page.address() as AddressInfo).port}`;
const portOf = ({ httpAddress }: TestService): string => httpAddress.slice(httpAddress.lastIndexOf(":"));

/** What the page calls, as JSON. */
function targets(): string {
  return JSON.stringify({
    closed: `http://127.0.0.1${portOf(closed)}`,
    "closed, of the same site": `http://localhost${portOf(closed)}`,
    open: `http://127.0.0.1${portOf(open)}`,
    "open, by another name": `http://evil.example${portOf(open)}`,
  });
}

/** What the page does: it calls each target in each way, and sends home what came of it. */
const script = String(async (bases: Record<string, string>) => {
  const call = "/ledger.v1.LedgerService/GetBalance";
  const balanceOf = ({ balance }: { balance: { balance: { amount: string } } }) => balance.balance.amount;
  const ways: Record<string, (base: string) => Promise<unknown>> = {
    connect: async (base) => {
      const headers = {
        "content-type": "application/json",
        "connect-protocol-version": "1",
        "connect-timeout-ms": "9000",
      };
      const response = await fetch(base + call, { method: "POST", headers, body: '{"userId":5}' });
      return balanceOf((await response.json()) as never);
    },
    get: async (base) => {
      const response = await fetch(
        `${base + call}?connect=v1&encoding=json&message=${encodeURIComponent('{"userId":5}')}`,
      );
      return balanceOf((await response.json()) as never);
    },
    grpcWeb: async (base) => {
      const headers = { "content-type": "application/grpc-web+proto", "x-grpc-web": "1", "grpc-timeout": "9S" };
      const response = await fetch(base + call, {
        method: "POST",
        headers,
        body: new Uint8Array([0, 0, 0, 0, 2, 8, 5]),
      });
      const text = new TextDecoder("latin1").decode(await response.arrayBuffer());
      return [/\d\.\d\d/.exec(text)?.[0], /grpc-status: (\d+)/.exec(text)?.[1]];
    },
    refusal: async (base) => {
      const headers = { "content-type": "application/json" };
      const response = await fetch(base + call, { method: "POST", headers, body: '{"userId":-5}' });
      const { details } = (await response.json()) as { details: { debug: { reason: string } }[] };
      return [response.status, details[0]?.debug.reason];
    },
  };
  const found: Record<string, Record<string, unknown>> = {};
  for (const [name, base] of Object.entries(bases)) {
    const results: Record<string, unknown> = {};
    found[name] = results;
    for (const [way, run] of Object.entries(ways)) results[way] = await run(base).catch((error: Error) => error.name);
  }
  await fetch("/", { method: "POST", body: JSON.stringify(found) });
});

test("a page elsewhere reads a balance by Connect and by gRPC-Web only where its origin is listed", async (context) => {
  if (chromium === undefined) return context.skip("chromium is not on this machine");
  const folder = mkdtempSync(path.join(tmpdir(), "ledgerd-browser-"));
  const args = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    `--user-data-dir=${folder}`,
    // It asks nobody else.
    "--host-resolver-rules=MAP evil.example 127.0.0.1,MAP * ~NOTFOUND,EXCLUDE localhost,EXCLUDE 127.0.0.1",
    origin(),
  ];
  const browser = spawn(chromium, args, { stdio: ["ignore", "ignore", "pipe"], detached: true });
  const ended = once(browser, "close");
  const printed = textOf(browser.stderr);
  context.onTestFinished(async () => {
    if (browser.pid !== undefined && browser.exitCode === null) process.kill(-browser.pid, "SIGKILL");
    await ended;
    rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
  });
  const failed = ended.then(async () => {
    throw new Error(`the browser ended: ${await printed}`);
  });
  const refused = { connect: "TypeError", get: "TypeError", grpcWeb: "TypeError", refusal: "TypeError" };
  expect(await Promise.race([told.promise, failed])).toEqual({
    closed: refused,
    "closed, of the same site": refused,
    open: { connect: "7.00", get: "7.00", grpcWeb: ["7.00", "0"], refusal: [400, "INVALID_REQUEST"] },
    "open, by another name": refused,
  });
});
