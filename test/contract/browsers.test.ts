// What pages in a browser can do at the web port: nothing, unless a setting lists where they are from. Others call as
// ever.

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Code } from "@connectrpc/connect";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { postOf, refusalIn, sendBytes } from "../harness/raw-http.ts";
import { serve, type TestService } from "../harness/service.ts";

const APP = "https://app.example.com";
const EVIL = "https://evil.example";
const GET_BALANCE = "/ledger.v1.LedgerService/GetBalance";
const READ = `${GET_BALANCE}?connect=v1&encoding=json&message=${encodeURIComponent('{"userId":5}')}`;

let database: TestDatabase;
let closed: TestService;
let open: TestService;

beforeAll(async () => {
  database = await createDatabase();
  closed = await serve(database.url);
  const LEDGERD_WEB_HOSTS = "ledger.internal,ledger.example.com:8443";
  open = await serve(database.url, { LEDGERD_WEB_HOSTS, LEDGERD_WEB_ORIGINS: `${APP},http://localhost:3000` });
});

afterAll(async () => {
  await closed.close();
  await open.close();
  await database[Symbol.asyncDispose]();
});

const call = (service: TestService, ...headers: readonly string[]) =>
  sendBytes(service.httpAddress, postOf(GET_BALANCE, '{"userId":5}', ...headers));

const get = (service: TestService, path: string, ...headers: readonly string[]) =>
  sendBytes(service.httpAddress, `GET ${path} HTTP/1.1\r\n${[...headers, "connection: close"].join("\r\n")}\r\n\r\n`);

const preflight = (service: TestService, ...headers: readonly string[]) => {
  const lines = [...headers, "access-control-request-method: POST", "connection: close"];
  return sendBytes(service.httpAddress, `OPTIONS ${GET_BALANCE} HTTP/1.1\r\n${lines.join("\r\n")}\r\n\r\n`);
};

const NOT_ADMITTED = { code: Code.PermissionDenied, reason: "NOT_ADMITTED" };

describe("the name by which the web port is called", () => {
  test.each([
    "127.0.0.1",
    "127.0.0.1:1",
    "10.1.2.3:8080",
    "[::1]",
    "[fe80::1]:8080",
    "localhost",
    "LocalHost:99",
    "localhost.",
    "a.localhost:1",
  ])("is taken without configuration if it is an IP address, or one of the loopback: %s", async (host) =>
    expect(await call(closed, `host: ${host}`)).toMatchObject({ status: 200 }),
  );

  test.each([
    "evil.example",
    "evil.example:8080",
    "localhost.evil.example",
    "notlocalhost",
    "127.0.0.1.evil.example",
    "127.0.0.1@evil.example",
    "127.1.evil",
    "256.1.1.1",
    "[::1].evil",
    "localhost:99999",
    "",
  ])("is refused else: %j", async (host) => {
    const { status, body } = await call(closed, `host: ${host}`);
    expect([status, refusalIn(body)]).toMatchObject([
      403,
      { ...NOT_ADMITTED, message: expect.stringContaining("LEDGERD_WEB_HOSTS") as string },
    ]);
  });

  test.each(["ledger.internal", "ledger.internal:8080", "Ledger.Internal.", "ledger.example.com:8443"])(
    "is taken if a setting lists it: %s",
    async (host) => expect(await call(open, `host: ${host}`)).toMatchObject({ status: 200 }),
  );

  test.each(["ledger.example.com", "ledger.example.com:8444", "a.ledger.internal", "ledger"])(
    "is compared whole, and with the port where that is listed: %s",
    async (host) => expect(await call(open, `host: ${host}`)).toMatchObject({ status: 403 }),
  );

  test("must be given once", async () => {
    for (const hosts of [[], ["host: localhost", "host: localhost"], ["host: localhost", "host: evil.example"]]) {
      const { status, body } = await call(closed, ...hosts);
      expect([status, refusalIn(body)]).toMatchObject([403, NOT_ADMITTED]);
    }
  });

  test.each(["/metrics", "/livez", "/readyz", "/healthz", "/", READ])(
    "counts whatever is asked for: %s",
    async (path) => {
      expect(await get(closed, path, "host: evil.example")).toMatchObject({ status: 403 });
      expect((await get(closed, path, "host: 10.1.2.3:8080")).status, "as probes of Kubernetes call").toBe(
        path === "/" ? 404 : 200,
      );
    },
  );
});

describe("a page elsewhere", () => {
  const pages: readonly (readonly string[])[] = [
    [`origin: ${EVIL}`],
    [`origin: ${EVIL}`, "sec-fetch-site: same-origin"],
    ["origin: null"],
    ["origin: http://localhost"],
    ["origin: http://localhost:8081"],
    [`origin: ${APP}.evil.example`],
    [`origin: ${APP}`, `origin: ${EVIL}`],
    ["sec-fetch-site: cross-site"],
    ["sec-fetch-site: same-site"],
    ["sec-fetch-site: whatever"],
  ];

  test.each(pages)("is refused, to read, to write, and to ask whether it may: %s %s", async (...headers) => {
    const own = ["host: localhost:8080", ...headers.filter(Boolean)];
    const answers = [
      await call(open, ...own),
      await sendBytes(open.httpAddress, postOf("/ledger.v1.LedgerService/TopUp", "{}", ...own)),
      await get(open, READ, ...own),
      await get(open, "/metrics", ...own),
      await preflight(open, ...own),
    ];
    for (const { status, headers: told, body } of answers) {
      expect([status, refusalIn(body)]).toMatchObject([
        403,
        { ...NOT_ADMITTED, message: expect.stringContaining("LEDGERD_WEB_ORIGINS") as string },
      ]);
      expect([...told.keys()].filter((name) => name.startsWith("access-control-"))).toEqual([]);
    }
  });

  test("that a setting lists reads answers and errors, with what it needs of their headers", async () => {
    for (const more of [[], ["sec-fetch-site: cross-site"], ["sec-fetch-site: same-site"]]) {
      const own = ["host: localhost:8080", `origin: ${APP}`, ...more];
      const answers = [
        [200, await call(open, ...own)],
        [200, await get(open, READ, ...own)],
        [400, await sendBytes(open.httpAddress, postOf(GET_BALANCE, "[]", ...own))],
        [404, await get(open, "/nothing", ...own)],
      ] as const;
      for (const [expected, { status, headers }] of answers) {
        expect(status).toBe(expected);
        expect(headers.get("access-control-allow-origin")).toBe(APP);
        expect(headers.get("access-control-allow-credentials"), "no cookies").toBeNull();
        expect(headers.get("vary")).toBe("Origin");
        const exposed = headers.get("access-control-expose-headers")?.toLowerCase().split(", ");
        expect(exposed).toEqual(expect.arrayContaining(["grpc-status", "grpc-message", "grpc-status-details-bin"]));
      }
    }
  });

  test("that a setting lists is told what it may send", async () => {
    const asks = [
      "host: localhost",
      `origin: ${APP}`,
      "access-control-request-headers: content-type,connect-protocol-version",
    ];
    const ask = (...more: readonly string[]) => preflight(open, ...asks, ...more);
    const { status, headers } = await ask();
    expect(status).toBe(204);
    expect(headers.get("access-control-allow-origin")).toBe(APP);
    expect(headers.get("access-control-allow-methods")).toBe("POST, GET");
    expect(Number(headers.get("access-control-max-age"))).toBeGreaterThan(0);
    const allowed = headers.get("access-control-allow-headers")?.toLowerCase().split(", ");
    expect(allowed).toEqual(
      expect.arrayContaining([
        "content-type",
        "connect-protocol-version",
        "connect-timeout-ms",
        "x-grpc-web",
        "grpc-timeout",
        "traceparent",
      ]),
    );
    expect(headers.get("access-control-allow-private-network")).toBeNull();
    expect(
      (await ask("access-control-request-private-network: true")).headers.get("access-control-allow-private-network"),
    ).toBe("true");
  });
});

describe("a page of the port's own name", () => {
  test.each([
    ["http://ledger.internal:8080", "ledger.internal:8080"],
    ["https://ledger.internal", "ledger.internal"],
  ])("may call, behind a proxy too: %s", async (origin, host) => {
    for (const more of [[], ["sec-fetch-site: same-origin"]])
      expect(await call(open, `host: ${host}`, `origin: ${origin}`, ...more)).toMatchObject({ status: 200 });
  });
});

test("what a person types into a browser is answered", async () => {
  expect(await get(closed, "/metrics", "host: localhost:8080", "sec-fetch-site: none")).toMatchObject({ status: 200 });
});
