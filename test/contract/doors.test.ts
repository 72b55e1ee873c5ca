// One implementation behind two doors: every protocol gives the same answers and the same errors, within the same limits.

import { Agent, request as beginRequest, type ClientRequest } from "node:http";
import { text as textOf } from "node:stream/consumers";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { FileDescriptorProtoSchema } from "@bufbuild/protobuf/wkt";
import { Code, type Transport } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport, createGrpcWebTransport } from "@connectrpc/connect-node";
import * as grpc from "@grpc/grpc-js";
import { ServerReflectionRequestSchema, ServerReflectionResponseSchema, type ServerReflectionResponse } from "../../src/gen/grpc/reflection/v1/reflection_pb.ts";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { clientsOf, clientsOver, failureOf, newKey, serve, type Clients, type TestService } from "../harness/service.ts";
import { until } from "../harness/until.ts";
import { streamWrites } from "../harness/write-stream.ts";

let database: TestDatabase;
let service: TestService;

beforeAll(async () => {
  database = await createDatabase();
  service = await serve(database.url, { LEDGERD_MESSAGE_LIMIT: "100000", LEDGERD_STREAM_LIMIT: "12" });
});

afterAll(async () => {
  await service.close();
  await database[Symbol.asyncDispose]();
});

const transports: Readonly<Record<string, () => Transport>> = {
  gRPC: () => createGrpcTransport({ baseUrl: `http://${service.grpcAddress}` }),
  "gRPC-Web": () => createGrpcWebTransport({ baseUrl: `http://${service.httpAddress}`, httpVersion: "1.1" }),
  "Connect with protobuf": () => createConnectTransport({ baseUrl: `http://${service.httpAddress}`, httpVersion: "1.1" }),
  "Connect with JSON": () => createConnectTransport({ baseUrl: `http://${service.httpAddress}`, httpVersion: "1.1", useBinaryFormat: false }),
};

describe.each(Object.keys(transports))("by %s", (protocol) => {
  let clients: Clients;
  beforeAll(() => {
    clients = clientsOver(transports[protocol]?.() ?? expect.unreachable());
  });

  test("a write, its replay and a read are answered alike", async () => {
    const request = { userId: 9_007_199_254_740_993n, amount: { currency: "RUB", amount: "12.50" }, idempotencyKey: newKey(), metadata: { a: "é" } };
    const first = await clients.ledger.topUp(request);
    expect(first.transaction).toMatchObject({ userId: request.userId, amount: { amount: "12.50" }, metadata: { a: "é" } });
    expect(await service.ledger.topUp(request), "under another protocol it is the same request").toEqual({ ...first, replayed: true });
    const { balance } = await clients.ledger.getBalance({ userId: request.userId });
    expect(balance).toEqual(first.balance);
  });

  test("a refusal has its reason, its metadata, and its code", async () => {
    const failed = await failureOf(clients.ledger.deduct({ userId: 404n, amount: { amount: "1" }, idempotencyKey: newKey() }));
    expect(failed).toMatchObject({
      code: Code.FailedPrecondition,
      reason: "INSUFFICIENT_FUNDS",
      metadata: { available: "0.00", requested: "1.00", currency: "RUB", stored: "true" },
    });
  });

  test("a malformed request names its fields", async () => {
    expect(await failureOf(clients.ledger.topUp({ userId: 0n, amount: { amount: "-5" } }))).toMatchObject({
      code: Code.InvalidArgument,
      reason: "INVALID_REQUEST",
      fields: ["user_id", "amount.amount", "idempotency_key"],
    });
  });

  test("a field is named by the first 64 characters of its name, none cut in two", async () => {
    const metadata = { [`${"x".repeat(63)}😀😀`]: "" };
    const topUp = clients.ledger.topUp({ userId: 1n, amount: { amount: "1" }, idempotencyKey: newKey(), metadata });
    expect((await failureOf(topUp)).fields).toEqual([`metadata["${"x".repeat(63)}😀"]`]);
  });

  test("a message over the limit is refused with the limit", async () => {
    const description = "x".repeat(110_000);
    const failed = await failureOf(clients.ledger.topUp({ userId: 1n, amount: { amount: "1" }, idempotencyKey: newKey(), description }));
    expect(failed).toMatchObject({ code: Code.ResourceExhausted, reason: "MESSAGE_TOO_LARGE", metadata: { limit_bytes: "100000" } });
  });

  test("the feed streams", async () => {
    const gone = new AbortController();
    for await (const { event } of clients.ledger.watchTransactions({ userId: 9_007_199_254_740_993n }, { signal: gone.signal })) {
      if (event.case === "caughtUp") break;
      expect(event.value?.userId).toBe(9_007_199_254_740_993n);
    }
    gone.abort();
  });

  test("writes stream by gRPC; elsewhere they are told where to", async () => {
    const request = { userId: 9n, amount: { amount: "1" }, idempotencyKey: newKey() };
    const writes = streamWrites(clients, [{ case: "topUp", value: request }]);
    if (protocol === "gRPC") expect(await writes).toMatchObject([{ result: { value: { transaction: { idempotencyKey: request.idempotencyKey } } } }]);
    else expect(await failureOf(writes)).toMatchObject({ code: Code.InvalidArgument, reason: "INVALID_REQUEST", message: expect.stringContaining("by gRPC, at the other port") as string });
  });

  test("a caller's deadline is kept", async () => {
    // By the headers alone: a client that knew of it would end the call by itself.
    const headers = protocol.startsWith("gRPC") ? { "grpc-timeout": "100m" } : { "connect-timeout-ms": "100" };
    const topUp = () => clients.ledger.topUp({ userId: 7n, amount: { amount: "1" }, idempotencyKey: newKey() }, { headers });
    const failed = await whileLocked(() => failureOf(topUp()));
    expect(failed).toMatchObject({ code: Code.DeadlineExceeded, reason: "DEADLINE_PASSED" });
  });

  test("a malformed stream's request has its reason too", async () => {
    const description = "x".repeat(110_000);
    const watch = async (): Promise<void> => {
      for await (const _ of clients.ledger.watchTransactions({ position: description })) break;
    };
    expect(await failureOf(watch())).toMatchObject({ code: Code.ResourceExhausted, reason: "MESSAGE_TOO_LARGE" });
  });
});

describe("by curl with JSON", () => {
  const post = async (path: string, body: string, type = "application/json") => {
    const response = await fetch(`http://${service.httpAddress}${path}`, { method: "POST", headers: { "content-type": type }, body });
    return { status: response.status, text: await response.text() };
  };

  test("names are as in the proto or in camel case, and 64-bit integers may be numbers or strings", async () => {
    for (const body of ['{"user_id": 5}', '{"userId": "5"}']) {
      const { status, text } = await post("/ledger.v1.LedgerService/GetBalance", body);
      expect([status, JSON.parse(text)]).toMatchObject([200, { balance: { userId: "5", balance: { currency: "RUB", amount: "0.00" } } }]);
    }
  });

  test.each([
    ["a misspelt field", '{"user": 5}'],
    ["a number in the place of an object", '{"user_id": 5, "currency": {}}'],
    ["text that isn't JSON", "{user_id"],
    ["a list", "[]"],
  ])("%s is an invalid request", async (_name, body) => {
    const { status, text } = await post("/ledger.v1.LedgerService/GetBalance", body);
    expect([status, JSON.parse(text)]).toMatchObject([400, { code: "invalid_argument", details: [{ type: "google.rpc.ErrorInfo" }, { type: "google.rpc.BadRequest" }] }]);
  });

  test.each([
    ["a call with another content type", "POST", "text/plain", "GetBalance", 415, "application/json"],
    ["a stream with the content type of a call", "POST", "application/json", "WatchTransactions", 415, "application/connect+json"],
    ["a browser's GET", "GET", undefined, "TopUp", 405, "by POST"],
    ["a GET of what writes", "GET", undefined, "TopUp?connect=v1&encoding=json&message=%7B%22user_id%22%3A5%7D", 405, "by POST"],
    ["a GET of a stream", "GET", undefined, "WatchTransactions?connect=v1&encoding=json&message=%7B%7D", 405, "by POST"],
  ])("%s is told what to send", async (_name, method, type, call, status, told) => {
    const headers = type === undefined ? {} : { "content-type": type };
    const response = await fetch(`http://${service.httpAddress}/ledger.v1.LedgerService/${call}`, { method, headers, ...(method === "POST" ? { body: "{}" } : {}) });
    expect(response.status).toBe(status);
    expect(await response.json()).toMatchObject({ message: expect.stringContaining(told) as string, details: [{ type: "google.rpc.ErrorInfo" }, { type: "google.rpc.BadRequest" }] });
  });

  test("a path that isn't there says where methods are", async () => {
    expect(await post("/ledger.v1.LedgerService/Nothing", "{}")).toMatchObject({ status: 404, text: expect.stringContaining("/ledger.v1.LedgerService/GetBalance") as string });
  });
});

describe("a request at the web port that is refused before it has come", () => {
  const path = "/ledger.v1.LedgerService/WatchTransactions";
  const tooLong = Buffer.from([0, 0x7f, 0xff, 0xff, 0xff]);
  let agent: Agent;
  beforeAll(() => {
    agent = new Agent({ keepAlive: true, maxSockets: 1 });
  });
  afterAll(() => agent.destroy());

  const begin = (headers: Readonly<Record<string, string>>) => {
    const [host = "", port = ""] = service.httpAddress.split(":");
    const type = { "content-type": "application/connect+json" };
    return beginRequest({ agent, host, port, method: "POST", path, headers: { ...type, ...headers } });
  };
  const answerTo = (call: ClientRequest) =>
    new Promise<string>((resolve, reject) => {
      call.once("error", reject);
      call.once("response", (response) => void textOf(response).then(resolve, reject));
    });

  test("doesn't hold up the next one on its connection", async () => {
    for (const bytes of [110_000, 400_000]) {
      const call = begin({ "content-length": `${bytes}` });
      call.end(Buffer.concat([tooLong, Buffer.alloc(bytes - tooLong.length)]));
      expect(await answerTo(call)).toContain("MESSAGE_TOO_LARGE");
      expect(call.reusedSocket || bytes === 110_000, "the connection is the same").toBe(true);
    }
  });

  test("is cut off where it goes on and on", async () => {
    const call = begin({});
    call.write(tooLong);
    const cut = new Promise((resolve) => call.once("close", resolve));
    expect(await answerTo(call)).toContain("MESSAGE_TOO_LARGE");
    const pump = (): void => {
      if (!call.destroyed) call.write(Buffer.alloc(100_000), (error) => error ?? setImmediate(pump));
    };
    call.on("error", () => undefined);
    pump();
    await cut;
  });
});

describe("deadlines", () => {
  test("of a call that has none are the default", async () => {
    await using quick = await serve(database.url, { LEDGERD_DEFAULT_DEADLINE: "100ms" });
    const topUp = () => quick.ledger.topUp({ userId: 7n, amount: { amount: "1" }, idempotencyKey: newKey() });
    expect(await whileLocked(() => failureOf(topUp()))).toMatchObject({ reason: "DEADLINE_PASSED" });
  });

  test("that are too far off are cut", async () => {
    await using quick = await serve(database.url, { LEDGERD_MAX_DEADLINE: "100ms" });
    const topUp = () => quick.ledger.topUp({ userId: 7n, amount: { amount: "1" }, idempotencyKey: newKey() }, { headers: { "grpc-timeout": "1H" } });
    expect(await whileLocked(() => failureOf(topUp()))).toMatchObject({ reason: "DEADLINE_PASSED" });
  });
});

describe("streams", () => {
  test("are ended cleanly when they are too old, at both doors", async () => {
    await using brief = await serve(database.url, { LEDGERD_STREAM_MAX_AGE: "1s" });
    const web = clientsOver(createConnectTransport({ baseUrl: `http://${brief.httpAddress}`, httpVersion: "1.1" }));
    for (const { ledger } of [brief, web]) {
      let marks = 0;
      for await (const { event } of ledger.watchTransactions({ userId: 9n })) marks += event.case === "caughtUp" ? 1 : 0;
      expect(marks, "it came to its end without an error, told once or not yet").toBeLessThanOrEqual(1);
    }
  });

  test("over a connection's share, and over the limit, are refused, until others end", async () => {
    const gone = new AbortController();
    const one = async ({ ledger }: Clients): Promise<void> => {
      for await (const _ of ledger.watchTransactions({ userId: 9n })) break;
    };
    const connections = Array.from({ length: 4 }, () => clientsOf(service.grpcAddress));
    const open = connections.flatMap(({ ledger }) =>
      Array.from({ length: 3 }, () =>
        ledger.watchTransactions({ userId: 9n }, { signal: gone.signal })[Symbol.asyncIterator](),
      ),
    );
    for (const stream of open) await stream.next();
    const refused = { code: Code.ResourceExhausted, reason: "OVERLOADED" };
    for (const connection of connections) {
      const message = expect.stringContaining("this connection has its 3 streams") as string;
      expect(await failureOf(one(connection))).toMatchObject({ ...refused, message });
    }
    const message = expect.stringContaining("this instance has its 12 streams") as string;
    expect(await failureOf(one(service))).toMatchObject({ ...refused, message });
    gone.abort();
    await Promise.allSettled(open.map((stream) => stream.next()));
    await until(() =>
      one(service).then(
        () => true,
        () => false,
      ),
    );
  });
});

describe("reflection", () => {
  /** Asks one question, by the wire format that both versions share. */
  async function ask(version: string, question: Parameters<typeof create<typeof ServerReflectionRequestSchema>>[1]): Promise<ServerReflectionResponse> {
    const client = new grpc.Client(service.grpcAddress, grpc.credentials.createInsecure());
    const stream = client.makeBidiStreamRequest(
      `/grpc.reflection.${version}.ServerReflection/ServerReflectionInfo`,
      (request: ReturnType<typeof create<typeof ServerReflectionRequestSchema>>) => Buffer.from(toBinary(ServerReflectionRequestSchema, request)),
      (bytes) => fromBinary(ServerReflectionResponseSchema, bytes),
    );
    const answer = new Promise<ServerReflectionResponse>((resolve, reject) => stream.once("data", resolve).once("error", reject));
    stream.write(create(ServerReflectionRequestSchema, question));
    stream.end();
    const answered = await answer;
    client.close();
    return answered;
  }

  describe.each(["v1", "v1alpha"])("%s", (version) => {
    test("lists the services, health among them", async () => {
      const { messageResponse } = await ask(version, { messageRequest: { case: "listServices", value: "" } });
      const listed = messageResponse.case === "listServicesResponse" ? messageResponse.value.service.map(({ name }) => name) : [];
      expect(listed).toEqual(expect.arrayContaining(["ledger.v1.LedgerService", "ledger.v1.AdminService", "grpc.health.v1.Health"]));
    });

    test.each(["ledger.v1.LedgerService", "ledger.v1.LedgerService.Deduct", "ledger.v1.ErrorReason", "google.rpc.ErrorInfo", "google.rpc.BadRequest", "grpc.health.v1.Health"])(
      "has the file of %s, and all that it imports",
      async (symbol) => {
        const { messageResponse } = await ask(version, { messageRequest: { case: "fileContainingSymbol", value: symbol } });
        const bytes = messageResponse.case === "fileDescriptorResponse" ? messageResponse.value.fileDescriptorProto : [];
        const files = bytes.map((file) => fromBinary(FileDescriptorProtoSchema, file));
        const names = new Set(files.map(({ name }) => name));
        expect(files.length).toBeGreaterThan(0);
        for (const { dependency } of files) expect(dependency.filter((name) => !names.has(name))).toEqual([]);
      },
    );
  });
});

/** Does something while the account of user 7 is locked in another session, so that writes on it wait. */
async function whileLocked<T>(work: () => Promise<T>): Promise<T> {
  await service.ledger.topUp({ userId: 7n, amount: { amount: "1" }, idempotencyKey: newKey() });
  const session = await database.connect();
  await session.query("BEGIN");
  await session.query("SELECT FROM ledgerd.user_balances WHERE user_id = 7 FOR UPDATE");
  try {
    return await work();
  } finally {
    await session.end();
  }
}
