// Small requests that would cost much: each is refused by what it holds, at every door and in every encoding, before
// anything is built of it.

import { connect } from "node:http2";
import { gzipSync } from "node:zlib";
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { serve, type TestService } from "../harness/service.ts";

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

const path = (method: string): string => `/ledger.v1.LedgerService/${method}`;

function framed(message: Uint8Array, flags: number): Buffer {
  const prefix = Buffer.from([flags, 0, 0, 0, 0]);
  prefix.writeUInt32BE(message.length, 1);
  return Buffer.concat([prefix, message]);
}

/** What a call answers over gRPC: its status and message. */
async function byGrpc(method: string, message: Uint8Array, encoding: "identity" | "gzip"): Promise<string> {
  const session = connect(`http://${service.grpcAddress}`);
  try {
    const call = session.request({
      ":method": "POST", ":path": path(method), "content-type": "application/grpc", te: "trailers", "grpc-encoding": encoding,
    });
    call.end(encoding === "gzip" ? framed(gzipSync(message), 1) : framed(message, 0));
    return await new Promise((resolve, reject) => {
      call.on("response", (headers) => resolve(decodeURIComponent(String(headers["grpc-message"]))));
      call.on("error", reject).resume();
    });
  } finally {
    session.destroy();
  }
}

/** What a call answers over HTTP: its body, or the trailers in it. */
async function byHttp(method: string, type: string, body: Uint8Array, headers: Readonly<Record<string, string>> = {}): Promise<string> {
  const response = await fetch(`http://${service.httpAddress}${path(method)}`, {
    method: "POST", headers: { "content-type": type, ...headers }, body: new Uint8Array(body),
  });
  return decodeURIComponent(await response.text());
}

/** Field 1 as many numbers side by side. */
const packed = (count: number): Uint8Array =>
  new BinaryWriter().tag(1, WireType.LengthDelimited).bytes(new Uint8Array(count).fill(1)).finish();

/** Field 1 as many messages that are empty. */
const empty = (count: number): Buffer => Buffer.concat(Array.from({ length: count }, () => Buffer.of(0x0a, 0)));

/** So many ids that they have as many bytes as a request of theirs may have. */
const IDS = packed(200_000);

describe("a message of many ids in few bytes is refused", () => {
  test("over gRPC", async () => {
    expect(await byGrpc("BatchGetBalances", IDS, "identity")).toContain("user_ids must have at most 1000 items");
  });

  test("over gRPC, compressed", async () => {
    expect(gzipSync(IDS).length).toBeLessThan(1000);
    expect(await byGrpc("BatchGetBalances", IDS, "gzip")).toContain("send it uncompressed");
    expect(await byGrpc("BatchGetBalances", packed(100_000), "gzip")).toContain("user_ids must have at most 1000 items");
  });

  test("over Connect", async () => {
    expect(await byHttp("BatchGetBalances", "application/proto", IDS)).toContain("user_ids must have at most 1000 items");
  });

  test("over Connect, compressed", async () => {
    const gzip = { "content-encoding": "gzip" };
    expect(await byHttp("BatchGetBalances", "application/proto", gzipSync(IDS), gzip)).toContain("MESSAGE_TOO_LARGE");
    expect(await byHttp("BatchGetBalances", "application/proto", gzipSync(packed(100_000)), gzip)).toContain("user_ids must have");
  });

  test("over gRPC-Web", async () => {
    expect(await byHttp("BatchGetBalances", "application/grpc-web+proto", framed(IDS, 0))).toContain("user_ids must have");
  });

  test("over gRPC-Web, compressed", async () => {
    const gzip = { "grpc-encoding": "gzip" };
    const zipped = framed(gzipSync(packed(100_000)), 1);
    expect(await byHttp("BatchGetBalances", "application/grpc-web+proto", zipped, gzip)).toContain("user_ids must have");
  });
});

test("a batch of two million empty writes is refused", async () => {
  expect(await byGrpc("BatchWrite", empty(2_000_000), "identity")).toContain("writes must have at most 1000 items");
  const json = Buffer.from(`{"writes":[${"{},".repeat(600_000)}{}]}`);
  expect(await byHttp("BatchWrite", "application/json", json)).toContain("values, more than any such request");
});

test("a list of many unknown enum values is refused", async () => {
  const types = new BinaryWriter().tag(3, WireType.LengthDelimited).bytes(new Uint8Array(200_000).fill(0x7f)).finish();
  expect(await byGrpc("ListTransactions", types, "identity")).toContain("types must have at most 100 items");
});

test("a number of many digits in JSON is refused", async () => {
  const json = (digits: number) => Buffer.from(`{"userId":${"9".repeat(digits)}}`);
  expect(await byHttp("GetBalance", "application/json", json(1000))).toContain("user_id must be an integer");
  expect(await byHttp("GetBalance", "application/json", json(500_000))).toContain("has more than 1000 characters");
});

test("a map of many entries is refused", async () => {
  const entry = Buffer.from("0a060a016b120176", "hex");
  const metadata = Buffer.concat(Array.from({ length: 20_000 }, () => entry));
  const field = Buffer.concat([Buffer.of(0x0a), metadata]);
  expect(await byGrpc("TopUp", field, "identity")).toContain("the request is malformed");
  const json = Buffer.from(`{"metadata":{${Array.from({ length: 20_000 }, (_, index) => `"k${index}":""`).join(",")}}}`);
  expect(await byHttp("TopUp", "application/json", json)).toContain("values, more than any such request");
});

test("a batch with a thousand mistakes is read as far as they are told", async () => {
  const writes = Buffer.from(`{"writes":[${Array.from({ length: 1000 }, () => '{"topUp":{"userId":"0"}}').join(",")}]}`);
  const told = await byHttp("BatchWrite", "application/json", writes);
  expect(told).toContain("writes[5].top_up.user_id");
  expect(told).toContain("; and more");
  expect(told).not.toContain("writes[6]");
});

test("a prompt of one letter, as long as may be, is taken however well it compresses", async () => {
  const prompt = "a".repeat(100_000);
  const body = gzipSync(JSON.stringify({ userId: "1", modelId: "m", prompt, cost: { amount: "0" }, idempotencyKey: "one-letter" }));
  const response = await fetch(`http://${service.httpAddress}/ledger.v1.JobService/CreateJob`, {
    method: "POST", headers: { "content-type": "application/json", "content-encoding": "gzip" }, body: new Uint8Array(body),
  });
  expect(await response.text()).toContain(prompt);
});
