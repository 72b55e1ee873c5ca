// Every answer that isn't OK carries a reason, whatever is wrong with a call, and by whichever protocol it came.

import { once } from "node:events";
import { createServer } from "node:http";
import { connect as connectHttp2 } from "node:http2";
import { connect, type AddressInfo } from "node:net";
import { text as textOf } from "node:stream/consumers";
import { gzipSync } from "node:zlib";
import { create, toBinary } from "@bufbuild/protobuf";
import { Code } from "@connectrpc/connect";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { HealthCheckRequestSchema } from "../../src/gen/grpc/health/v1/health_pb.ts";
import { GetBalanceRequestSchema } from "../../src/gen/ledger/v1/ledger_service_pb.ts";
import { tellHttpErrors } from "../../src/servers/web/http-errors.ts";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { framed, protocolsAt, toldBy, type Told } from "../harness/protocols.ts";
import { postOf, refusalIn, sendBytes } from "../harness/raw-http.ts";
import { describeFailure, serve, type TestService } from "../harness/service.ts";

const GET_BALANCE = "/ledger.v1.LedgerService/GetBalance";
const WATCH = "/ledger.v1.LedgerService/WatchTransactions";

let database: TestDatabase;
let service: TestService;
let protocols: ReturnType<typeof protocolsAt>;

beforeAll(async () => {
  database = await createDatabase();
  service = await serve(database.url);
  protocols = protocolsAt(service);
});

afterAll(async () => {
  protocols.close();
  await service.close();
  await database[Symbol.asyncDispose]();
});

const binary = toBinary(GetBalanceRequestSchema, create(GetBalanceRequestSchema, { userId: 5n }));
const json = '{"userId":5}';

function reasonIn({ error, whole }: Told): string {
  if (error === undefined) throw new Error(`no error in ${whole}`);
  return describeFailure(error).reason;
}

describe.each([
  "gRPC",
  "gRPC-Web",
  "gRPC-Web-Text",
  "gRPC-Web with JSON",
  "Connect with protobuf",
  "Connect with JSON",
])("by %s", (protocol) => {
  const isGrpc = protocol.startsWith("gRPC");
  const encodings = isGrpc ? ["grpc-encoding"] : ["content-encoding", "connect-content-encoding"];
  const send = (isStream: boolean, headers: Readonly<Record<string, string>>, body = binary) =>
    (protocols.by[protocol] ?? expect.unreachable())({
      path: isStream ? WATCH : GET_BALANCE,
      isStream,
      binary: body,
      json,
      headers,
    });

  test("a deadline that is none", async () => {
    const [name, ...values] = isGrpc
      ? ["grpc-timeout", "", "5", "-1S", "123456789S", "1 S", "1s"]
      : ["connect-timeout-ms", "", "-1", "1s", "12345678901", "0x10"];
    for (const value of values)
      for (const isStream of [false, true])
        expect(reasonIn(await send(isStream, { [name ?? ""]: value })), value).toBe("INVALID_REQUEST");
  });

  // What wasn't compressed is taken by gRPC, whatever encoding it names: see wire.test.ts.
  if (protocol !== "gRPC")
    test("an encoding that isn't taken", async () => {
      for (const isStream of [false, true]) {
        const told = await send(isStream, { [encodings.at(isStream ? -1 : 0) ?? ""]: "br" });
        expect([reasonIn(told), told.error?.code]).toEqual(["UNSUPPORTED", Code.Unimplemented]);
      }
    });

  test("a path that isn't there", async () => {
    const sent = { path: "/ledger.v1.LedgerService/Nothing", isStream: false, binary, json };
    const told = await (protocols.by[protocol] ?? expect.unreachable())(sent);
    expect([reasonIn(told), told.error?.code]).toEqual(["UNSUPPORTED", Code.Unimplemented]);
  });
});

describe("at the web port", () => {
  const post = async (
    path: string,
    type: string,
    body: Uint8Array | string,
    headers: Readonly<Record<string, string>> = {},
  ) => {
    const response = await fetch(`http://${service.httpAddress}${path}`, {
      method: "POST",
      headers: { "content-type": type, ...headers },
      body,
    });
    return toldBy(response.status, response.headers, Buffer.from(await response.arrayBuffer()));
  };
  const cut = gzipSync(json).subarray(0, 15);

  test.each([
    ["a call that ends within its gzip", GET_BALANCE, "application/json", cut, { "content-encoding": "gzip" }],
    ["gzip that is none", GET_BALANCE, "application/json", json, { "content-encoding": "gzip" }],
    ["gzip that is none, in binary", GET_BALANCE, "application/proto", json, { "content-encoding": "gzip" }],
    [
      "a stream that ends within its gzip",
      WATCH,
      "application/connect+json",
      framed(cut, 1),
      { "connect-content-encoding": "gzip" },
    ],
    [
      "a call of gRPC-Web that ends within its gzip",
      GET_BALANCE,
      "application/grpc-web+proto",
      framed(cut, 1),
      { "grpc-encoding": "gzip" },
    ],
    ["a message said to be compressed by nothing", GET_BALANCE, "application/grpc-web+proto", framed(cut, 1), {}],
    ["a stream's message said to be compressed by nothing", WATCH, "application/connect+json", framed(cut, 1), {}],
    ["an envelope that is cut off", GET_BALANCE, "application/grpc-web+proto", framed(binary).subarray(0, 6), {}],
    ["half a prefix", WATCH, "application/connect+json", framed(json).subarray(0, 3), {}],
    ["no envelope", GET_BALANCE, "application/grpc-web+proto", "", {}],
    ["no envelope of a stream", WATCH, "application/connect+json", "", {}],
    ["two messages", GET_BALANCE, "application/grpc-web+proto", Buffer.concat([framed(binary), framed(binary)]), {}],
    ["two messages of a stream", WATCH, "application/connect+json", Buffer.concat([framed(json), framed(json)]), {}],
    ["a body that isn't base64", GET_BALANCE, "application/grpc-web-text", "AAAA*AAA", {}],
    [
      "base64 that is cut off",
      GET_BALANCE,
      "application/grpc-web-text",
      framed(binary).toString("base64").slice(0, 6),
      {},
    ],
    ["base64 that begins with its end", GET_BALANCE, "application/grpc-web-text", "====", {}],
    ["another version of Connect", GET_BALANCE, "application/json", json, { "connect-protocol-version": "2" }],
    [
      "another version of Connect for a stream",
      WATCH,
      "application/connect+json",
      framed(json),
      { "connect-protocol-version": "v1" },
    ],
    ["a content type that isn't there", GET_BALANCE, "text/plain", json, {}],
    ["gRPC's own content type", GET_BALANCE, "application/grpc", framed(binary), {}],
    ["a body of another character set", GET_BALANCE, "application/json; charset=latin1", json, {}],
    ["a stream of JSON as a call", WATCH, "application/json", json, {}],
    ["a call as a stream", GET_BALANCE, "application/connect+json", framed(json), {}],
    [
      "a stream in both directions",
      "/ledger.v1.LedgerService/StreamWrites",
      "application/connect+json",
      framed("{}"),
      {},
    ],
  ] as const)("%s", async (_what, path, type, body, headers) => {
    expect(reasonIn(await post(path, type, body, headers))).toBe("INVALID_REQUEST");
  });

  test("gRPC-Web-Text is served, in pieces that are padded each by itself, too", async () => {
    const whole = framed(binary);
    const pieces = [whole.subarray(0, 4), whole.subarray(4)].map((piece) => piece.toString("base64"));
    for (const [type, body] of [
      ["application/grpc-web-text", whole.toString("base64")],
      ["application/grpc-web-text+proto", pieces.join("")],
    ] as const) {
      const told = await post(GET_BALANCE, type, body);
      expect(told.error).toBeUndefined();
      expect(told.whole).toContain("application/grpc-web-text+proto");
      expect(told.whole).toContain("RUB");
    }
  });

  const host = "host: localhost";
  const inChunks = "content-type: application/json\r\ntransfer-encoding: chunked";
  const chunked = `POST ${GET_BALANCE} HTTP/1.1\r\n${host}\r\n${inChunks}\r\n\r\n`;
  test.each([
    ["what isn't HTTP", "hello\r\n\r\n", 400, "INVALID_REQUEST"],
    ["a header without a colon", `GET / HTTP/1.1\r\n${host}\r\nx\r\n\r\n`, 400, "INVALID_REQUEST"],
    ["HTTP/2 without its own door", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "INVALID_REQUEST"],
    [
      "two lengths",
      `POST ${GET_BALANCE} HTTP/1.1\r\n${host}\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n{}`,
      400,
      "INVALID_REQUEST",
    ],
    ["a chunk that is none", `${chunked}zz\r\n`, 400, "INVALID_REQUEST"],
    [
      "headers that are too large",
      `GET / HTTP/1.1\r\n${host}\r\nx: ${"x".repeat(70_000)}\r\n\r\n`,
      431,
      "MESSAGE_TOO_LARGE",
    ],
    ["an expectation that isn't met", postOf(GET_BALANCE, json, host, "expect: a miracle"), 417, "UNSUPPORTED"],
  ] as const)("%s", async (_what, bytes, status, reason) => {
    const answer = await sendBytes(service.httpAddress, bytes);
    expect([answer.status, refusalIn(answer.body).reason]).toEqual([status, reason]);
  });

  test("a body that ends before it was to", async () => {
    const [name = "", port = ""] = service.httpAddress.split(":");
    const socket = connect({ host: name, port: Number(port), allowHalfOpen: true });
    socket.end(
      `POST ${GET_BALANCE} HTTP/1.1\r\n${host}\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{`,
    );
    const [, body = ""] = (await textOf(socket)).split("\r\n\r\n");
    expect(refusalIn(Buffer.from(body)).reason).toBe("INVALID_REQUEST");
  });
});

describe("what Node itself would end a connection for", () => {
  test("is told to who is too slow", async () => {
    await using server = createServer({ headersTimeout: 1, requestTimeout: 1, connectionsCheckingInterval: 10 });
    tellHttpErrors(server);
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    const answer = await sendBytes(`127.0.0.1:${(server.address() as AddressInfo).port}`, "GET / HTTP/1.1\r\n");
    expect([answer.status, refusalIn(answer.body).reason]).toEqual([408, "DEADLINE_PASSED"]);
  });

  test("isn't told in the place of an answer to a call that has come", async () => {
    await using server = createServer();
    tellHttpErrors(server);
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    const address = `127.0.0.1:${(server.address() as AddressInfo).port}`;
    const whole = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    const broken = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n";
    for (const rest of ["nonsense\r\n\r\n", broken])
      expect((await sendBytes(address, whole + rest)).status, "nothing was answered").toBeNaN();
  });
});

describe("at the gRPC port", () => {
  test.each([
    ["a GET", { ":method": "GET" }, 405],
    ["JSON", { "content-type": "application/json" }, 415],
    ["no content type", {}, 415],
  ])("%s is told by HTTP, in JSON", async (_what, headers, status) => {
    const session = connectHttp2(`http://${service.grpcAddress}`);
    const stream = session.request({ ":method": "POST", ":path": GET_BALANCE, ...headers });
    const [answer] = (await once(stream.end(), "response")) as [Readonly<Record<string, unknown>>];
    const body = await textOf(stream);
    session.close();
    expect([answer[":status"], refusalIn(Buffer.from(body)).reason]).toEqual([status, "INVALID_REQUEST"]);
  });

  test("health says so of a service that it doesn't know", async () => {
    const sent = { path: "/grpc.health.v1.Health/Check", isStream: false, json: "" };
    const check = async (name: string) =>
      (protocols.by["gRPC"] ?? expect.unreachable())({
        ...sent,
        binary: toBinary(HealthCheckRequestSchema, create(HealthCheckRequestSchema, { service: name })),
      });
    const told = await check("nobody");
    expect([told.error?.code, reasonIn(told)]).toEqual([Code.NotFound, "SERVICE_NOT_FOUND"]);
    expect(reasonIn(await check("x".repeat(1000)))).toBe("INVALID_REQUEST");
  });
});
