// JSON at the web port, byte by byte as clients send it: nothing is rounded, replaced or dropped on its way to the
// ledger.

import { gzipSync } from "node:zlib";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { Code } from "@connectrpc/connect";
import { errorFromJson, endStreamFromJson } from "@connectrpc/connect/protocol-connect";
import { findTrailerError } from "@connectrpc/connect/protocol-grpc";
import { trailerParse } from "@connectrpc/connect/protocol-grpc-web";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { TopUpRequestSchema, TopUpResponseSchema } from "../../src/gen/ledger/v1/ledger_service_pb.ts";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { checkDatabase } from "../harness/inspect.ts";
import { describeFailure, newKey, serve, type Failed, type TestService } from "../harness/service.ts";
import { oddNames } from "../harness/varied-ledger.ts";
import { ConnectError } from "@connectrpc/connect";

let database: TestDatabase;
let service: TestService;

beforeAll(async () => {
  database = await createDatabase();
  service = await serve(database.url, { LEDGERD_MESSAGE_LIMIT: "300000" });
});

afterAll(async () => {
  await service.close();
  await checkDatabase(database);
  await database[Symbol.asyncDispose]();
});

const TOP_UP = "ledger.v1.LedgerService/TopUp";
const WATCH = "ledger.v1.LedgerService/WatchTransactions";

async function post(
  method: string,
  type: string,
  body: string | Uint8Array,
  headers: Readonly<Record<string, string>> = {},
) {
  const init = { method: "POST", headers: { "content-type": type, ...headers }, body };
  const response = await fetch(`http://${service.httpAddress}/${method}`, init);
  return { status: response.status, bytes: Buffer.from(await response.arrayBuffer()) };
}

type Answer = Readonly<Record<string, Readonly<Record<string, unknown>>>>;

/** Calls with JSON, and reads what it is answered. */
async function call(method: string, body: string | Uint8Array): Promise<Answer> {
  const { status, bytes } = await post(method, "application/json", body);
  expect(status, bytes.toString()).toBe(200);
  return JSON.parse(bytes.toString()) as Answer;
}

function enveloped(body: string | Uint8Array, flags = 0): Buffer {
  const bytes = Buffer.from(body);
  const prefix = Buffer.from([flags, 0, 0, 0, 0]);
  prefix.writeUInt32BE(bytes.length, 1);
  return Buffer.concat([prefix, bytes]);
}

/** The last message of an answer in envelopes. */
function last(bytes: Buffer): Buffer {
  let from = 0;
  while (from + 5 + bytes.readUInt32BE(from + 1) < bytes.length) from += 5 + bytes.readUInt32BE(from + 1);
  return bytes.subarray(from + 5);
}

const latin1 = (text: string): Uint8Array => Buffer.from(text, "latin1");
const unknown = new ConnectError("there is no error", Code.Unknown);

/** How the same body is refused, in each of the ways in which JSON may come. */
const ways: Readonly<Record<string, (body: string | Uint8Array) => Promise<Failed>>> = {
  "a call": async (body) => {
    const { status, bytes } = await post(TOP_UP, "application/json", body);
    expect(status).toBe(400);
    return describeFailure(errorFromJson(JSON.parse(bytes.toString()) as never, undefined, unknown));
  },
  "a call, compressed": async (body) => {
    const { status, bytes } = await post(TOP_UP, "application/json", gzipSync(body), { "content-encoding": "gzip" });
    expect(status).toBe(400);
    return describeFailure(errorFromJson(JSON.parse(bytes.toString()) as never, undefined, unknown));
  },
  "a stream": async (body) => {
    const { bytes } = await post(WATCH, "application/connect+json", enveloped(body));
    return describeFailure(endStreamFromJson(last(bytes)).error);
  },
  "a stream, compressed": async (body) => {
    const headers = { "connect-content-encoding": "gzip" };
    const { bytes } = await post(WATCH, "application/connect+json", enveloped(gzipSync(body), 1), headers);
    return describeFailure(endStreamFromJson(last(bytes)).error);
  },
  "gRPC-Web with JSON": async (body) => {
    const { bytes } = await post(TOP_UP, "application/grpc-web+json", enveloped(body));
    return describeFailure(findTrailerError(trailerParse(last(bytes))));
  },
};

describe.each(Object.entries(ways))("of %s, a body is refused", (_name, refusalOf) => {
  test.each([
    ["an integer that no int64 is", '{"userId":9223372036854775808}', "user_id"],
    ["a fraction for an integer", '{"user_id":1.5}', "user_id"],
    ["a name that is given twice", '{"userId":1,"user_id":1}', "user_id"],
    ["a field that nobody knows", '{"user":1}', "user"],
    ["bytes that aren't UTF-8", latin1('{"idempotencyKey":"caf\xe9-1"}'), ""],
    ["a byte order mark", "\uFEFF{}", ""],
    ["a hundred thousand brackets", "[".repeat(100_000), ""],
  ])("for %s", async (_what, body, field) => {
    expect(await refusalOf(body)).toMatchObject({
      code: Code.InvalidArgument,
      reason: "INVALID_REQUEST",
      fields: [field],
    });
  });

  test("for its size, however it is encoded", async () => {
    const body = `{"description":"${"x".repeat(400_000)}"}`;
    const refused =
      refusalOf === ways["a call"] || refusalOf === ways["a call, compressed"]
        ? post(TOP_UP, "application/json", body)
        : undefined;
    if (refused !== undefined) expect((await refused).bytes.toString()).toContain("resource_exhausted");
    else expect(await refusalOf(body)).toMatchObject({ code: Code.ResourceExhausted, reason: "MESSAGE_TOO_LARGE" });
  });
});

describe("an integer of 64 bits is exact", () => {
  const ids = [2n ** 53n - 1n, 2n ** 53n + 1n, 9_007_199_254_740_995n, 2n ** 62n + 1n, 2n ** 63n - 1n];

  test.each(ids)("as the user of a write: %s", async (userId) => {
    for (const [index, written] of [`${userId}`, `"${userId}"`, `${userId}.0`, `"${userId}e0"`].entries()) {
      const body = `{"user_id":${written},"amount":{"amount":"10"},"idempotency_key":"${index}"}`;
      expect((await call(TOP_UP, body))["transaction"]).toMatchObject({
        userId: `${userId}`,
        balanceAfter: { amount: `${index + 1}0.00` },
      });
    }
    const batch = `{"writes":[{"topUp":{"userId":${userId},"amount":{"amount":"10"},"idempotencyKey":"batch"}}]}`;
    expect(await call("ledger.v1.LedgerService/BatchWrite", batch)).toMatchObject({
      results: [{ topUp: { transaction: { userId: `${userId}` } } }],
    });
    expect(await call("ledger.v1.LedgerService/BatchGetBalances", `{"userIds":[${userId},"${userId}"]}`)).toMatchObject(
      {
        balances: [{ userId: `${userId}` }, { userId: `${userId}` }],
      },
    );
    const name = `{"accountSequence":{"userId":${userId},"sequence":1}}`;
    expect(await call("ledger.v1.LedgerService/GetTransaction", name)).toMatchObject({
      transaction: { userId: `${userId}`, sequence: "1" },
    });
    const { bytes } = await post(WATCH, "application/connect+json", enveloped(`{"userId":-${userId}}`));
    expect(describeFailure(endStreamFromJson(last(bytes)).error).fields, "read as what it is").toEqual(["user_id"]);
  });

  test.each([9_007_199_255_784_029n, -9_007_199_255_784_029n, -(2n ** 62n), 2n ** 63n - 1n])(
    "as the key of a lock: %s",
    async (lockKey) => {
      await service.locks.acquireLock({ lockKey, instanceId: "by gRPC" });
      const { status, bytes } = await post(
        "ledger.v1.LockService/AcquireLock",
        "application/json",
        `{"lock_key":${lockKey},"instance_id":"by JSON"}`,
      );
      expect([status, bytes.toString()]).toEqual([400, expect.stringContaining("LOCK_HELD")]);
      expect(await call("ledger.v1.LockService/GetLock", `{"lockKey":${lockKey}}`)).toMatchObject({
        lock: { lockKey: `${lockKey}`, instanceId: "by gRPC" },
      });
    },
  );
});

describe("two texts stay two", () => {
  test("where their bytes aren't UTF-8: both writes are refused, and none is taken for the other", async () => {
    for (const key of ["caf\xe9-1", "caf\xe8-1"]) {
      const { status } = await post(
        TOP_UP,
        "application/json",
        latin1(`{"userId":77,"amount":{"amount":"10"},"idempotencyKey":"${key}"}`),
      );
      expect(status).toBe(400);
    }
    expect((await service.ledger.getBalance({ userId: 77n })).balance).toMatchObject({ sequence: 0n });
  });

  test.each(["application/proto", "application/grpc-web+proto"])("in protobuf too, as %s", async (type) => {
    const good = toBinary(
      TopUpRequestSchema,
      create(TopUpRequestSchema, { userId: 77n, amount: { amount: "10" }, idempotencyKey: "key" }),
    );
    const bad = Buffer.concat([good, Buffer.from([0x22, 1, 0xe9])]);
    const { status, bytes } = await post(TOP_UP, type, type === "application/proto" ? bad : enveloped(bad));
    const error =
      status === 200
        ? findTrailerError(trailerParse(last(bytes)))
        : errorFromJson(JSON.parse(bytes.toString()) as never, undefined, unknown);
    expect(describeFailure(error)).toMatchObject({ code: Code.InvalidArgument, reason: "INVALID_REQUEST" });
  });

  test("with a mark at their beginning and without, by each protocol", async () => {
    const request = { userId: 78n, amount: { amount: "1" }, description: "\uFEFFmarked", metadata: { a: "\uFEFF" } };
    const body = JSON.stringify({ ...request, userId: 78, idempotencyKey: newKey() });
    expect((await call(TOP_UP, body))["transaction"]).toMatchObject({
      description: request.description,
      metadata: request.metadata,
    });
    const message = create(TopUpRequestSchema, { ...request, idempotencyKey: newKey() });
    const { bytes } = await post(TOP_UP, "application/proto", toBinary(TopUpRequestSchema, message));
    expect(fromBinary(TopUpResponseSchema, bytes).transaction).toMatchObject({
      description: request.description,
      metadata: request.metadata,
    });
    const { transaction } = await service.ledger.topUp({ ...request, idempotencyKey: newKey() });
    expect(transaction).toMatchObject({ description: request.description, metadata: request.metadata });
  });
});

test.each([
  ["a body that ends within its gzip", gzipSync('{"userId":"1"}').subarray(0, 20), "gzip", 400, "INVALID_REQUEST"],
  ["an encoding that isn't taken", Buffer.from("{}"), "deflate", 501, "UNSUPPORTED"],
])("%s is refused with a reason", async (_what, body, encoding, expected, reason) => {
  const { status, bytes } = await post(TOP_UP, "application/json", body, { "content-encoding": encoding });
  const error = errorFromJson(JSON.parse(bytes.toString()) as never, undefined, unknown);
  expect([status, describeFailure(error).reason]).toEqual([expected, reason]);
});

describe.each([
  ["is asked for twice in one call", Buffer.concat([enveloped("{}"), enveloped("{}")])],
  ["isn't asked for", ""],
  ["is said to be compressed, though not how", enveloped("{}", 1)],
  ["ends within its request", enveloped("{}").subarray(0, 6)],
])("a watch that %s is refused with a reason", (_what, body) => {
  test.each(["application/connect+json", "application/grpc-web+json"])("as %s", async (type) => {
    const { bytes } = await post(WATCH, type, body);
    const end = last(bytes);
    const error = type.includes("connect") ? endStreamFromJson(end).error : findTrailerError(trailerParse(end));
    expect(describeFailure(error)).toMatchObject({ code: Code.InvalidArgument, reason: "INVALID_REQUEST" });
  });
});

describe("any legal name comes back as it was sent", () => {
  test("of metadata: in answers, lists, statements, the feed and outcomes, by JSON and by gRPC", async () => {
    const userId = 79n;
    const request = { userId, amount: { amount: "10" }, metadata: oddNames };
    const first = await service.ledger.topUp({ ...request, idempotencyKey: "by gRPC" });
    const names = '{"__proto__":"p","constructor":"c","hasOwnProperty":"h","toString":"t"}';
    const body = `{"userId":79,"amount":{"amount":"10"},"idempotencyKey":"by JSON","metadata":${names}}`;
    const second = await call(TOP_UP, body);
    const told = [first.transaction?.metadata, second["transaction"]?.["metadata"]];
    expect(
      (await service.ledger.topUp({ ...request, idempotencyKey: "by JSON" })).replayed,
      "one request in both",
    ).toBe(true);
    told.push((await service.ledger.getOutcome({ userId, idempotencyKey: "by JSON" })).transactions[0]?.metadata);
    told.push(...(await service.ledger.listTransactions({ userId })).transactions.map(({ metadata }) => metadata));
    told.push(...(await service.ledger.getStatement({ userId })).transactions.map(({ metadata }) => metadata));
    for await (const { event } of service.ledger.watchTransactions({ userId })) {
      if (event.case !== "transaction") break;
      told.push(event.value.metadata);
    }
    for (const method of ["ListTransactions", "GetStatement"]) {
      const { transactions } = (await call(`ledger.v1.LedgerService/${method}`, '{"userId":79}')) as unknown as {
        transactions: { metadata: object }[];
      };
      told.push(...transactions.map(({ metadata }) => metadata as Record<string, string>));
    }
    expect(told.length).toBe(13);
    // `toEqual` looks past the name `__proto__`.
    for (const metadata of told)
      expect(sortedText(metadata)).toBe(sortedText(oddNames));
  });

  test("of a job's parameters, however deep, by JSON and by gRPC", async () => {
    const sent = JSON.stringify({
      ...oddNames,
      inner: { ...oddNames, list: [oddNames] },
      ["__proto__"]: { ["__proto__"]: null },
    });
    const byGrpc = await service.jobs.createJob({
      userId: 79n,
      modelId: "m",
      cost: { amount: "0" },
      parameters: JSON.parse(sent) as never,
      idempotencyKey: newKey(),
    });
    const own = `"modelId":"m","idempotencyKey":"${newKey()}","parameters":${sent}`;
    const body = `{"userId":79,"cost":{"amount":"0"},${own}}`;
    const byJson = await call("ledger.v1.JobService/CreateJob", body);
    const ids = [byGrpc.job?.id ?? 0n, BigInt(byJson["job"]?.["id"] as string)];
    const texts = [byGrpc.job?.parameters, byJson["job"]?.["parameters"]];
    for (const jobId of ids) {
      texts.push(
        (await service.jobs.getJob({ jobId })).job?.parameters,
        (await call("ledger.v1.JobService/GetJob", `{"jobId":${jobId}}`))["job"]?.["parameters"],
      );
    }
    const claimed = await service.jobs.claimJobs({ workerId: "w", modelIds: ["m"], maxJobs: 2 });
    texts.push(...claimed.jobs.map(({ job }) => job?.parameters));
    expect(texts.length).toBe(8);
    for (const text of texts) expect(sortedText(text)).toBe(sortedText(JSON.parse(sent)));
  });
});

/** JSON with all names in order. */
function sortedText(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(sortedText).join(",")}]`;
  if (typeof value !== "object" || value === null) return JSON.stringify(value);
  return `{${Object.entries(value)
    .toSorted(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, one]) => `${JSON.stringify(name)}:${sortedText(one)}`)
    .join(",")}}`;
}
