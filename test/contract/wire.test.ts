// gRPC on the wire, as clients may speak it that nobody here wrote: compressed, in pieces, cut off, too much, too long.

import { connect, type ClientHttp2Session, type ClientHttp2Stream, type IncomingHttpHeaders } from "node:http2";
import { connect as connectTo, type Socket } from "node:net";
import { deflateSync, gzipSync } from "node:zlib";
import { create, fromBinary, toBinary, type MessageInitShape } from "@bufbuild/protobuf";
import { Code } from "@connectrpc/connect";
import * as grpc from "@grpc/grpc-js";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { ErrorInfoSchema } from "../../src/gen/google/rpc/error_details_pb.ts";
import { StatusSchema } from "../../src/gen/google/rpc/status_pb.ts";
import { GetBalanceRequestSchema, GetBalanceResponseSchema, StreamWritesRequestSchema, StreamWritesResponseSchema } from "../../src/gen/ledger/v1/ledger_service_pb.ts";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { beginCall, endRequest, preface } from "../harness/frames.ts";
import { failureOf, newKey, serve, type TestService } from "../harness/service.ts";

const LIMIT = 100_000;
const USER = 1n;

let database: TestDatabase;
let service: TestService;
let session: ClientHttp2Session;

beforeAll(async () => {
  database = await createDatabase();
  service = await serve(database.url, { LEDGERD_MESSAGE_LIMIT: `${LIMIT}` });
  session = connect(`http://${service.grpcAddress}`);
});

afterAll(async () => {
  session.close();
  await service.close();
  await database[Symbol.asyncDispose]();
});

/** How a call ended. */
interface Ended {
  readonly http: number;
  readonly body: Buffer;
  readonly code: number;
  readonly reason: string | undefined;
  readonly message: string;
}

function begin(path: string, headers: Readonly<Record<string, string>> = {}): ClientHttp2Stream {
  return session.request({ ":method": "POST", ":path": path, "content-type": "application/grpc", te: "trailers", ...headers });
}

/** The end of a call that was begun. */
async function endOf(stream: ClientHttp2Stream): Promise<Ended> {
  let headers: IncomingHttpHeaders = {};
  let trailers: IncomingHttpHeaders = {};
  const chunks: Buffer[] = [];
  stream.on("response", (found) => (headers = found));
  stream.on("trailers", (found) => (trailers = found));
  stream.on("data", (chunk: Buffer) => chunks.push(chunk));
  await new Promise((resolve, reject) => stream.once("end", resolve).once("error", reject));
  const status = "grpc-status" in headers ? headers : trailers;
  const details = fromBinary(StatusSchema, Buffer.from(String(status["grpc-status-details-bin"] ?? ""), "base64")).details;
  const info = details.find(({ typeUrl }) => typeUrl.endsWith("google.rpc.ErrorInfo"));
  return {
    http: Number(headers[":status"]),
    body: Buffer.concat(chunks),
    code: Number(status["grpc-status"]),
    reason: info === undefined ? undefined : fromBinary(ErrorInfoSchema, info.value).reason,
    message: decodeURIComponent(String(status["grpc-message"] ?? "")),
  };
}

function framed(message: Uint8Array, compressed = false): Buffer {
  const prefix = Buffer.from([compressed ? 1 : 0, 0, 0, 0, 0]);
  prefix.writeUInt32BE(message.length, 1);
  return Buffer.concat([prefix, message]);
}

const GET_BALANCE = "/ledger.v1.LedgerService/GetBalance";
const STREAM_WRITES = "/ledger.v1.LedgerService/StreamWrites";
const HEALTH_CHECK = "/grpc.health.v1.Health/Check";
const HEALTH_WATCH = "/grpc.health.v1.Health/Watch";
const request = (init: MessageInitShape<typeof GetBalanceRequestSchema> = { userId: USER }) => toBinary(GetBalanceRequestSchema, create(GetBalanceRequestSchema, init));

/** Sends bytes as the whole request of a call, and answers how it ended. */
function send(body: Uint8Array, headers: Readonly<Record<string, string>> = {}, path = GET_BALANCE): Promise<Ended> {
  const stream = begin(path, headers);
  stream.end(body);
  return endOf(stream);
}

/** A connection whose frames are written by hand: Node's client sends nothing that is forbidden. */
async function connectRaw(): Promise<Socket> {
  const { hostname, port } = new URL(`http://${service.grpcAddress}`);
  const socket = connectTo(Number(port), hostname);
  socket.on("error", () => undefined);
  socket.write(preface);
  // The server's settings.
  await new Promise((resolve) => socket.once("data", resolve));
  return socket;
}

/** That a call was answered with the balance that was asked for. */
function expectBalance({ code, body }: Ended): void {
  expect(code).toBe(0);
  expect(fromBinary(GetBalanceResponseSchema, body.subarray(5)).balance).toMatchObject({ userId: USER, balance: { amount: "0.00" } });
}

describe("a request is taken", () => {
  test.each([["gzip", gzipSync], ["deflate", deflateSync]] as const)("that is compressed by %s", async (encoding, compress) => {
    expectBalance(await send(framed(compress(request()), true), { "grpc-encoding": encoding }));
  });

  test("that could be compressed and isn't", async () => {
    expectBalance(await send(framed(request()), { "grpc-encoding": "gzip" }));
  });

  test("that comes byte by byte", async () => {
    const stream = begin(GET_BALANCE);
    const ended = endOf(stream);
    for (const byte of framed(request())) await new Promise<void>((resolve) => stream.write(Buffer.of(byte), () => resolve()));
    stream.end();
    expectBalance(await ended);
  });

  test.each(["application/grpc", "application/grpc+proto", "application/grpc;charset=utf-8"])("of the content type %s", async (type) => {
    expectBalance(await send(framed(request()), { "content-type": type }));
  });
});

describe("a request is refused", () => {
  test.each([
    ["without a message", Buffer.alloc(0), "before its message did"],
    ["with a part of a prefix", framed(request()).subarray(0, 3), "before its message did"],
    ["with a part of a message", framed(request()).subarray(0, -1), "before its message did"],
    ["with a message and a part of another", Buffer.concat([framed(request()), framed(request()).subarray(0, 4)]), "before its message did"],
    ["with two messages", Buffer.concat([framed(request()), framed(request())]), "takes one message"],
  ])("%s", async (_name, body, told) => {
    expect(await send(body)).toMatchObject({ code: Code.InvalidArgument, reason: "INVALID_REQUEST", message: expect.stringContaining(told) as string });
  });

  test("whose encoding nobody knows, and it is told which are", async () => {
    const message = expect.stringContaining("identity,gzip,deflate") as string;
    expect(await send(framed(request(), true), { "grpc-encoding": "brotli" })).toMatchObject({ code: Code.Unimplemented, reason: "UNSUPPORTED", message });
  });

  test("that says it is compressed, and not how", async () => {
    const message = expect.stringContaining("no header tells how") as string;
    expect(await send(framed(request(), true))).toMatchObject({ reason: "INVALID_REQUEST", message });
  });

  test("that says it is compressed and isn't", async () => {
    expect(await send(framed(request(), true), { "grpc-encoding": "gzip" })).toMatchObject({ reason: "INVALID_REQUEST", message: expect.stringContaining("not gzip") as string });
  });

  test("that is small and would be large: no more of it is unpacked than the limit", async () => {
    const bomb = gzipSync(Buffer.alloc(50_000_000));
    expect(bomb.length).toBeLessThan(LIMIT);
    expect(await send(framed(bomb, true), { "grpc-encoding": "gzip" })).toMatchObject({ code: Code.ResourceExhausted, reason: "MESSAGE_TOO_LARGE" });
  });

  test("that is too large as soon as it says so, and the rest of it is thrown away", async () => {
    const stream = begin(GET_BALANCE);
    const ended = endOf(stream);
    stream.write(framed(Buffer.alloc(LIMIT + 1)).subarray(0, 5));
    expect(await ended).toMatchObject({ code: Code.ResourceExhausted, reason: "MESSAGE_TOO_LARGE" });
    stream.end(Buffer.alloc(LIMIT));
    await new Promise((resolve) => stream.once("close", resolve));
    expect(stream.rstCode).toBe(0);
  });

  test.each([
    ["a call", GET_BALANCE],
    ["a stream", STREAM_WRITES],
  ])("that goes on and on after it was refused is cut off, and the connection's other calls are not: %s", async (_name, path) => {
    const stream = begin(path);
    const ended = endOf(stream);
    stream.on("error", () => undefined);
    stream.write(Buffer.from([0, 0x7f, 0xff, 0xff, 0xff]));
    expect(await ended).toMatchObject({ reason: "MESSAGE_TOO_LARGE" });
    const cut = new Promise<void>((resolve) => stream.once("close", () => resolve()));
    const pump = (): void => void (stream.closed || stream.write(Buffer.alloc(LIMIT), () => setImmediate(pump)));
    pump();
    await cut;
    expectBalance(await send(framed(request())));
  });

  test.each([
    ["that never comes", Buffer.alloc(0)],
    ["that comes in part", framed(request()).subarray(0, 6)],
  ])("%s, when its caller's deadline passes", async (_name, part) => {
    const stream = begin(GET_BALANCE, { "grpc-timeout": "50m" });
    const ended = endOf(stream);
    stream.write(part);
    expect(await ended).toMatchObject({ code: Code.DeadlineExceeded, reason: "DEADLINE_PASSED" });
    stream.end();
  });

  test("with a thousand mistakes is told of the first ones, since an error travels in headers", async () => {
    const writes = Array.from({ length: 1000 }, () => ({ write: { case: "topUp" as const, value: { userId: 0n } } }));
    const failed = await failureOf(service.ledger.batchWrite({ writes }));
    expect(failed).toMatchObject({ reason: "INVALID_REQUEST", message: expect.stringMatching(/writes\[0\]\.top_up\.user_id .*; and more$/) as string });
    expect(failed.fields.length).toBe(16);
  });

  test.each(["soon", "5", "123456789m", "-5m"])("with the timeout %s", async (timeout) => {
    expect(await send(framed(request()), { "grpc-timeout": timeout })).toMatchObject({ reason: "INVALID_REQUEST", message: expect.stringContaining("grpc-timeout") as string });
    expect(await send(framed(request()), { "grpc-timeout": timeout }, STREAM_WRITES)).toMatchObject({ reason: "INVALID_REQUEST" });
  });

  test("by HTTP's own status where it isn't gRPC at all", async () => {
    for (const type of ["application/json", "application/grpc-web", "application/grpc+json"]) {
      expect(await send(Buffer.from("{}"), { "content-type": type })).toMatchObject({ http: 415 });
    }
    for (const method of ["PUT", "PATCH"]) expect(await send(Buffer.alloc(0), { ":method": method })).toMatchObject({ http: 405 });
  });

  test("where there is no such method, and where there is no such service", async () => {
    for (const path of ["/ledger.v1.LedgerService/Nothing", "/nothing.v1.Nothing/Nothing", "/"]) {
      expect(await send(framed(request()), {}, path)).toMatchObject({ code: Code.Unimplemented, reason: "UNSUPPORTED" });
    }
  });
});

describe("the process goes on when a caller", () => {
  test("cancels a call at any moment: of ours, of health, of nothing that there is", async () => {
    for (const path of [GET_BALANCE, STREAM_WRITES, HEALTH_CHECK, HEALTH_WATCH, "/nothing.v1.Nothing/Nothing"]) {
      for (const code of [0, 8]) {
        for (const delayMs of [undefined, 0, 2]) {
          const stream = begin(path);
          stream.on("error", () => undefined);
          stream.write(framed(Buffer.alloc(0)));
          const closed = new Promise((resolve) => stream.once("close", resolve));
          if (delayMs === undefined) stream.close(code);
          else setTimeout(() => stream.close(code), delayMs);
          stream.resume();
          await closed;
        }
      }
    }
    expectBalance(await send(framed(request())));
  });

  test("sends headers that HTTP/2 forbids to clients", async () => {
    for (const path of [GET_BALANCE, HEALTH_CHECK, "/nothing.v1.Nothing/Nothing"]) {
      const socket = await connectRaw();
      socket.write(Buffer.concat([beginCall(path, [["te", "Trailers"], ["http2-settings", "x"]]), endRequest(framed(Buffer.alloc(0)))]));
      await new Promise((resolve) => socket.once("data", resolve));
      socket.destroy();
    }
    expectBalance(await send(framed(request())));
  });
});

describe("an error's text", () => {
  test("arrives as it is, with all its characters", async () => {
    const reference = "Überweisung 100% / 日本 & mehr";
    const topUp = () => service.ledger.topUp({ userId: 2n, amount: { amount: "1" }, idempotencyKey: newKey(), reference, uniqueReference: true });
    await topUp();
    await expect(topUp()).rejects.toMatchObject({ rawMessage: expect.stringContaining(reference) as string });
  });

  test("arrives at clients of grpc-js, too", async () => {
    const client = new grpc.Client(service.grpcAddress, grpc.credentials.createInsecure());
    const same = (bytes: Buffer): Buffer => bytes;
    const body = Buffer.from(request({ userId: USER, currency: "日本" }));
    const error = await new Promise<grpc.ServiceError | null>((resolve) => client.makeUnaryRequest(GET_BALANCE, same, same, body, resolve));
    expect(error).toMatchObject({ code: Code.InvalidArgument, details: expect.stringContaining("must be a currency of ISO 4217") as string });
    client.close();
  });
});

test("a stream ends at its caller's deadline, which it is told", async () => {
  const stream = begin(STREAM_WRITES, { "grpc-timeout": "100m" });
  expect(await endOf(stream)).toMatchObject({ code: Code.DeadlineExceeded, reason: "DEADLINE_PASSED" });
  stream.end();
});

test("a stream's messages may come in any pieces", async () => {
  const writes = Array.from({ length: 50 }, (_, n) => ({ write: { case: "topUp" as const, value: { userId: 3n, amount: { amount: "1" }, idempotencyKey: `piece ${n}` } } }));
  const bytes = Buffer.concat(writes.map((write) => framed(toBinary(StreamWritesRequestSchema, create(StreamWritesRequestSchema, { writes: [write] })))));
  const stream = begin(STREAM_WRITES);
  const ended = endOf(stream);
  for (let at = 0; at < bytes.length; at += 7) await new Promise<void>((resolve) => stream.write(bytes.subarray(at, at + 7), () => resolve()));
  stream.end();
  const { code, body } = await ended;
  expect(code).toBe(0);
  const keys: unknown[] = [];
  for (let at = 0; at < body.length; at += 5 + body.readUInt32BE(at + 1)) {
    const { results } = fromBinary(StreamWritesResponseSchema, body.subarray(at + 5, at + 5 + body.readUInt32BE(at + 1)));
    for (const { result } of results) keys.push(result.case === "topUp" ? result.value.transaction?.idempotencyKey : result);
  }
  expect(keys).toEqual(writes.map(({ write }) => write.value.idempotencyKey));
});
