// Answers that are large are compressed for who asks for it, at the web port; at the gRPC port, where every client says
// that it takes gzip, none is.

import { once } from "node:events";
import { request as beginRequest, type IncomingMessage } from "node:http";
import { connect } from "node:http2";
import { buffer as bytesOf } from "node:stream/consumers";
import { gunzipSync } from "node:zlib";
import { create, toBinary } from "@bufbuild/protobuf";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { ListTransactionsRequestSchema } from "../../src/gen/ledger/v1/ledger_service_pb.ts";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { framed } from "../harness/protocols.ts";
import { newKey, serve, type TestService } from "../harness/service.ts";

const LIST = "/ledger.v1.LedgerService/ListTransactions";
const WATCH_TRANSACTIONS = "/ledger.v1.LedgerService/WatchTransactions";
const WATCH_JOBS = "/ledger.v1.JobService/WatchJobs";
/** From so many bytes on it is worth while. */
const LARGE = 16 * 1024;

let database: TestDatabase;
let service: TestService;

beforeAll(async () => {
  database = await createDatabase();
  service = await serve(database.url, { LEDGERD_STREAM_MAX_AGE: "1s" });
  const description = "so much for each of them, ".repeat(30);
  const writes = Array.from({ length: 100 }, (_, index) => ({
    write: {
      case: "topUp" as const,
      value: { userId: 5n, amount: { amount: "1" }, description, idempotencyKey: `${index}` },
    },
  }));
  await service.ledger.batchWrite({ writes });
});

afterAll(async () => {
  await service.close();
  await database[Symbol.asyncDispose]();
});

/** Posts without decoding anything. */
async function post(path: string, headers: Readonly<Record<string, string>>, body: string | Uint8Array) {
  const call = beginRequest(`http://${service.httpAddress}${path}`, { method: "POST", headers });
  call.end(body);
  const [response] = (await once(call, "response")) as [IncomingMessage];
  return { headers: response.headers, body: await bytesOf(response) };
}

/** The first message of an answer in envelopes, and whether it is compressed. */
function first(body: Buffer) {
  return { isCompressed: body[0] === 1, message: body.subarray(5, 5 + body.readUInt32BE(1)) };
}

const page = '{"user_id":5,"page_size":1000}';
const small = '{"user_id":5,"page_size":1}';

describe("a page of transactions", () => {
  const json = { "content-type": "application/json" };

  test.each(["gzip", "gzip, deflate, br, zstd"])("is compressed by Connect for who accepts %s", async (accepted) => {
    const plain = await post(LIST, json, page);
    expect(plain.headers["content-encoding"]).toBeUndefined();
    expect(plain.body.length).toBeGreaterThan(LARGE);
    const zipped = await post(LIST, { ...json, "accept-encoding": accepted }, page);
    expect(zipped.headers["content-encoding"]).toBe("gzip");
    expect(zipped.body.length * 5).toBeLessThan(plain.body.length);
    expect(JSON.parse(gunzipSync(zipped.body).toString())).toEqual(JSON.parse(plain.body.toString()));
  });

  test("is compressed by Connect's GET", async () => {
    const url = `http://${service.httpAddress}${LIST}?encoding=json&message=${encodeURIComponent(page)}`;
    const response = await fetch(url, { headers: { "accept-encoding": "gzip" } });
    expect(response.headers.get("content-encoding")).toBe("gzip");
  });

  test("is compressed by gRPC-Web", async () => {
    const headers = { "content-type": "application/grpc-web+json", "grpc-accept-encoding": "gzip" };
    const { body, headers: told } = await post(LIST, headers, framed(page));
    expect([told["grpc-encoding"], first(body).isCompressed]).toEqual(["gzip", true]);
    expect(gunzipSync(first(body).message).toString()).toContain("so much for each of them");
    expect(first((await post(LIST, headers, framed(small))).body).isCompressed).toBe(false);
  });

  test("isn't compressed where it is small, or nobody asked", async () => {
    const asked = await post(LIST, { ...json, "accept-encoding": "gzip" }, small);
    expect(asked.headers["content-encoding"]).toBeUndefined();
    for (const accepted of ["br", "identity"])
      expect(
        (await post(LIST, { ...json, "accept-encoding": accepted }, page)).headers["content-encoding"],
      ).toBeUndefined();
  });
});

test("a large message of Connect's stream is compressed, and a small one isn't", async () => {
  const cost = { amount: "1" };
  const parameters = { text: "so much of it, ".repeat(3000) };
  const { job } = await service.jobs.createJob({
    userId: 5n,
    modelId: "m",
    prompt: "p",
    cost,
    parameters,
    idempotencyKey: newKey(),
  });
  const headers = { "content-type": "application/connect+json", "connect-accept-encoding": "gzip" };
  const large = await post(WATCH_JOBS, headers, framed(`{"job_id":${job?.id ?? 0n}}`));
  expect([large.headers["connect-content-encoding"], first(large.body).isCompressed]).toEqual(["gzip", true]);
  expect(gunzipSync(first(large.body).message).toString()).toContain("so much of it");
  const little = await post(WATCH_TRANSACTIONS, headers, framed('{"user_id":5}'));
  expect(first(little.body).isCompressed).toBe(false);
});

test("gRPC answers as it is, whatever its caller accepts", async () => {
  const session = connect(`http://${service.grpcAddress}`);
  const headers = { "content-type": "application/grpc", "grpc-accept-encoding": "identity,gzip" };
  const stream = session.request({ ":method": "POST", ":path": LIST, ...headers });
  const request = create(ListTransactionsRequestSchema, { userId: 5n, pageSize: 1000 });
  stream.end(framed(toBinary(ListTransactionsRequestSchema, request)));
  const body = await bytesOf(stream);
  session.close();
  expect(first(body).isCompressed).toBe(false);
  expect(body.length).toBeGreaterThan(LARGE);
});
