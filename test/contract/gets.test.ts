// Connect's GET: calls that only read, with their requests in the address.

import { gzipSync } from "node:zlib";
import { toBinary, create } from "@bufbuild/protobuf";
import { MethodOptions_IdempotencyLevel as Idempotency } from "@bufbuild/protobuf/wkt";
import { Code } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { AdminService } from "../../src/gen/ledger/v1/admin_service_pb.ts";
import { JobService } from "../../src/gen/ledger/v1/job_service_pb.ts";
import { GetBalanceRequestSchema, LedgerService } from "../../src/gen/ledger/v1/ledger_service_pb.ts";
import { LockService } from "../../src/gen/ledger/v1/lock_service_pb.ts";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { refusalIn, sendBytes } from "../harness/raw-http.ts";
import { clientsOver, failureOf, newKey, serve, type TestService } from "../harness/service.ts";

const methods = [LedgerService, JobService, LockService, AdminService].flatMap((service) => service.methods);
const GET_BALANCE = "/ledger.v1.LedgerService/GetBalance";
const GET_OUTCOME = "/ledger.v1.LedgerService/GetOutcome";

let database: TestDatabase;
let service: TestService;

beforeAll(async () => {
  database = await createDatabase();
  service = await serve(database.url);
});

afterAll(async () => {
  await service.close();
  await database[Symbol.asyncDispose]();
});

const send = (path: string, method = "GET") =>
  sendBytes(
    service.httpAddress,
    Buffer.from(`${method} ${path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n`, "latin1"),
  );

test("each call that only reads is marked so, and no other is", () => {
  const marked = methods.filter(({ idempotency }) => idempotency === Idempotency.NO_SIDE_EFFECTS);
  const reading = methods.filter(({ name }) => /^(Get|BatchGet|List|Watch)/.test(name));
  expect(marked).toEqual(reading);
});

test.each(methods.map((method) => [method.name, method] as const))(
  "%s takes a GET only if it reads, and answers once",
  async (_name, method) => {
    const path = `/${method.parent.typeName}/${method.name}`;
    const { status, headers, body } = await send(
      `${path}?connect=v1&encoding=json&message=${encodeURIComponent('{"nothing":1}')}`,
    );
    const reads = method.methodKind === "unary" && method.idempotency === Idempotency.NO_SIDE_EFFECTS;
    // What is read is refused for its request, and what isn't for its method.
    expect([status, refusalIn(body).reason]).toEqual([reads ? 400 : 405, "INVALID_REQUEST"]);
    if (!reads) expect(headers.get("allow")).toBe("POST");
    for (const other of ["PUT", "DELETE", "OPTIONS"]) {
      const answer = await send(path, other);
      expect([answer.status, refusalIn(answer.body).reason]).toEqual([405, "INVALID_REQUEST"]);
    }
  },
);

describe("a balance", () => {
  test("is read by Connect's own client, in binary and in JSON, as by POST", async () => {
    await service.ledger.topUp({ userId: 5n, amount: { amount: "7" }, idempotencyKey: newKey() });
    const expected = await service.ledger.getBalance({ userId: 5n });
    for (const useBinaryFormat of [true, false]) {
      const baseUrl = `http://${service.httpAddress}`;
      const transport = createConnectTransport({ baseUrl, httpVersion: "1.1", useBinaryFormat, useHttpGet: true });
      expect(await clientsOver(transport).ledger.getBalance({ userId: 5n })).toEqual(expected);
      expect(await failureOf(clientsOver(transport).ledger.getBalance({ userId: -5n }))).toMatchObject({
        fields: ["user_id"],
      });
    }
  });

  test("is read from JSON, from base64, and from gzip, and isn't to be kept", async () => {
    const json = '{"userId":5}';
    const binary = toBinary(GetBalanceRequestSchema, create(GetBalanceRequestSchema, { userId: 5n }));
    const queries = [
      `encoding=json&message=${encodeURIComponent(json)}`,
      `connect=v1&encoding=json&base64=1&message=${Buffer.from(json).toString("base64url")}`,
      `encoding=json&base64=1&compression=gzip&message=${gzipSync(json).toString("base64url")}`,
      `encoding=proto&base64=1&compression=identity&message=${Buffer.from(binary).toString("base64url")}`,
    ];
    for (const query of queries) {
      const { status, headers } = await send(`${GET_BALANCE}?${query}`);
      expect([status, headers.get("cache-control")], query).toEqual([200, "no-store"]);
    }
  });
});

describe("an address is refused with a reason that", () => {
  const json = encodeURIComponent('{"userId":5}');
  test.each([
    ["has no encoding", `message=${json}`],
    ["has an encoding that nobody knows", `encoding=xml&message=${json}`],
    ["is of another version", `connect=v2&encoding=json&message=${json}`],
    ["has no message", "encoding=json"],
    ["has two", `encoding=json&message=${json}&message=${json}`],
    ["has what is no base64", "encoding=json&base64=1&message=*"],
    ["has half of a byte in base64", "encoding=json&base64=1&message=e30aA"],
    ["has base64 that is no JSON", "encoding=json&base64=1&message=AAAA"],
    ["has base64 that is no message", "encoding=proto&base64=1&message=____"],
    ["has a message of bytes as text", "encoding=proto&message=%08%05"],
    ["has a broken %", "encoding=json&message=%"],
    [
      "has gzip that ends too early",
      `encoding=json&base64=1&compression=gzip&message=${gzipSync("{}").subarray(0, 12).toString("base64url")}`,
    ],
  ])("%s", async (_what, query) => {
    const { status, body } = await send(`${GET_BALANCE}?${query}`);
    expect([status, refusalIn(body)]).toMatchObject([400, { code: Code.InvalidArgument, reason: "INVALID_REQUEST" }]);
  });

  test("has bytes that aren't UTF-8, or aren't encoded: they are never read as another key", async () => {
    const keyed = (key: string) =>
      `${GET_OUTCOME}?encoding=json&message=%7B%22user_id%22:5,%22idempotency_key%22:%22${key}%22%7D`;
    expect(refusalIn((await send(keyed("%C3%A9"))).body).reason).toBe("OUTCOME_NOT_FOUND");
    for (const key of ["%ff", "%C3", "\u00e9", "\u00c3\u00a9"])
      expect(refusalIn((await send(keyed(key))).body).reason, key).toBe("INVALID_REQUEST");
  });

  test("has a compression that nobody knows", async () => {
    const { status, body } = await send(`${GET_BALANCE}?encoding=json&base64=1&compression=br&message=e30`);
    expect([status, refusalIn(body).reason]).toEqual([501, "UNSUPPORTED"]);
  });

  test("is longer than a request's head may be", async () => {
    const { status, body } = await send(`${GET_BALANCE}?encoding=json&message=${"x".repeat(70_000)}`);
    expect([status, refusalIn(body).reason]).toEqual([431, "MESSAGE_TOO_LARGE"]);
  });
});
