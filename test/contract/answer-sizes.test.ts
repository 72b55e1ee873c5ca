// Every answer is one that a client takes which nobody told otherwise, whatever is stored: of at most 3.5 MiB, while it takes 4.

import { connect } from "node:http2";
import type { DescMethod, MessageInitShape, MessageShape } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { Code } from "@connectrpc/connect";
import fc from "fast-check";
import { sql } from "slonik";
import { z } from "zod";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { ANSWER_BYTES } from "../../src/domain/answer-size.ts";
import { currenciesWith } from "../../src/domain/currency.ts";
import { AdminService } from "../../src/gen/ledger/v1/admin_service_pb.ts";
import { ErrorReason } from "../../src/gen/ledger/v1/errors_pb.ts";
import { ClaimedJobSchema, JobService, JobStatus, type ClaimedJob } from "../../src/gen/ledger/v1/job_service_pb.ts";
import { LedgerService, ListOrder } from "../../src/gen/ledger/v1/ledger_service_pb.ts";
import { LockService } from "../../src/gen/ledger/v1/lock_service_pb.ts";
import { jobBytes } from "../../src/postgres/job-rows.ts";
import { jobsOf } from "../../src/postgres/jobs.ts";
import { openPool } from "../../src/postgres/pool.ts";
import { rowsFor } from "../../src/postgres/rows.ts";
import { answersFor } from "../../src/rpc/answers.ts";
import { encoderOf } from "../../src/rpc/encoder.ts";
import { jobMessage } from "../../src/rpc/job-answers.ts";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { plainClient, type Answered, type PlainClient } from "../harness/plain-client.ts";
import { failureOf, newKey, serve, type TestService } from "../harness/service.ts";
import { until } from "../harness/until.ts";

/** Whose rows are as large as callers can make them; who has one that only an operator can have written. */
const [USER, OTHER, ODD] = [1n, 2n, 3n];
const rub = (amount: string) => ({ currency: "RUB", amount });
const WIDE = "\u3042";
const largest = () => ({
  description: WIDE.repeat(2000),
  metadata: Object.fromEntries(Array.from({ length: 32 }, (_, place) => [`${place}`.padStart(64, "k"), WIDE.repeat(512)])),
  reference: WIDE.repeat(128),
  idempotencyKey: `${newKey()}${WIDE.repeat(92)}`,
});
/** A legal job's parameters that take most as google.protobuf.Struct: 550 kB. */
const numbers = { a: Array.from({ length: 49_995 }, () => 0) };
const ROWS = 100;
const TRANSFERS = 20;
const JOBS = 12;

let database: TestDatabase;
let service: TestService;
let client: PlainClient;

beforeAll(async () => {
  database = await createDatabase();
  service = await serve(database.url);
  client = plainClient(service.grpcAddress);
  const { ledger, jobs, locks } = service;
  for (let written = 0; written < ROWS; written += 50) {
    await ledger.batchWrite({ writes: Array.from({ length: 50 }, () => ({ write: { case: "topUp", value: { userId: USER, amount: rub("10"), ...largest() } } })) });
  }
  const transfer = () => ({ write: { case: "transfer" as const, value: { userId: USER, toUserId: OTHER, amount: rub("1"), ...largest() } } });
  await ledger.batchWrite({ writes: Array.from({ length: TRANSFERS }, transfer) });
  const create = () => jobs.createJob({ userId: USER, modelId: "large", prompt: WIDE.repeat(1000), parameters: numbers, cost: rub("1"), idempotencyKey: newKey() });
  await Promise.all(Array.from({ length: JOBS }, create));
  for (const lockKey of [1n, 2n, 3n]) await locks.acquireLock({ lockKey, instanceId: WIDE.repeat(100) });
  await ledger.topUp({ userId: ODD, amount: rub("100"), idempotencyKey: "first" });
  await database.query(
    `INSERT INTO ledgerd.transactions (user_id, sequence, type, amount, balance_after, held_after, credit_limit_after, description, metadata, idempotency_key, hash)
     VALUES ($1, 2, 'topup', 1, 101, 0, 0, repeat('x', 5000000), jsonb_build_object('a', repeat('y', 5000000)), repeat('z', 5000000), sha256('x'))`,
    [ODD],
  );
  await database.query("UPDATE ledgerd.user_balances SET balance = 101, sequence = 2 WHERE user_id = $1", [ODD]);
  await ledger.topUp({ userId: ODD, amount: rub("1"), idempotencyKey: "last" });
  // An atomic batch as earlier versions took it.
  await database.query(
    `INSERT INTO ledgerd.idempotency_keys (user_id, key, fingerprint, transaction_id, further_transaction_ids, created_at)
     SELECT $1, 'old batch', '', ids[1], ids[2:], now()
     FROM (SELECT array_agg(t.id ORDER BY t.id) AS ids FROM ledgerd.transactions t WHERE t.user_id = ANY($2::int8[])) AS all_of_both`,
    [USER, [USER, OTHER]],
  );
});

afterAll(async () => {
  client.close();
  await service.close();
  await database[Symbol.asyncDispose]();
});

/** All pages of a list, or the one answer of another call. */
async function pagesOf<M extends DescMethod>(method: M, request: MessageInitShape<M["input"]>): Promise<MessageShape<M["output"]>[]> {
  const pages: MessageShape<M["output"]>[] = [];
  for (let pageToken = ""; ; ) {
    const { message, bytes } = await client.call(method, "pageToken" in method.input.field ? { ...request, pageToken } : request);
    expect(bytes, method.name).toBeLessThanOrEqual(ANSWER_BYTES);
    pages.push(message);
    pageToken = ("nextPageToken" in message ? message.nextPageToken : "") as string;
    if (pageToken === "") return pages;
  }
}

/** As many answers of a stream as are asked for; each of them one that a client takes. */
async function taken<M extends DescMethod>(count: number, answers: AsyncGenerator<Answered<M>>): Promise<MessageShape<M["output"]>[]> {
  const messages: MessageShape<M["output"]>[] = [];
  for await (const { message, bytes } of answers) {
    expect(bytes).toBeLessThanOrEqual(ANSWER_BYTES);
    messages.push(message);
    if (messages.length === count) break;
  }
  return messages;
}

type Init = Record<string, unknown>;

const ledger = LedgerService.method;
const every = { pageSize: 1000 };
const ids = (transactions: readonly { readonly id: bigint }[]) => transactions.map(({ id }) => id);

/** How each method is called so that it answers as much as it can; a stream's answers are so many. */
async function callsOf(): Promise<ReadonlyMap<DescMethod, readonly [request: Init, answers?: number]>> {
  const hold = async () => (await service.ledger.placeHold({ userId: OTHER, amount: rub("0.10"), ...largest() })).hold?.id ?? 0n;
  const { transaction: spent } = await service.ledger.deduct({ userId: OTHER, amount: rub("1"), ...largest() });
  const jobIds = await jobIdsOf(USER);
  const write = { userId: OTHER, amount: rub("0.01"), ...largest() };
  const job = async (modelId = "other") => (await service.jobs.createJob({ userId: USER, modelId, parameters: numbers, cost: rub("1"), idempotencyKey: newKey() })).job?.id ?? 0n;
  const leased = async () => {
    const modelId = newKey();
    await job(modelId);
    const [claimed] = (await service.jobs.claimJobs({ workerId: "w", modelIds: [modelId] })).jobs;
    return { jobId: claimed?.job?.id ?? 0n, fencingToken: claimed?.fencingToken ?? 0n };
  };
  const cancelled = { jobId: await job() };
  await service.jobs.cancelJob(cancelled);
  const lock = { lockKey: 9n, fencingToken: (await service.locks.acquireLock({ lockKey: 9n, instanceId: "me" })).fencingToken };
  const [jobs, locks, admin] = [JobService.method, LockService.method, AdminService.method];
  return new Map<DescMethod, readonly [Init, number?]>([
    [ledger.getBalance, [{ userId: USER }]],
    [ledger.batchGetBalances, [{ userIds: Array.from({ length: 1000 }, () => USER) }]],
    [ledger.topUp, [write]],
    [ledger.deduct, [{ ...write, ...largest() }]],
    [ledger.refund, [{ ...write, ...largest(), transactionId: spent?.id }]],
    [ledger.transfer, [{ ...write, ...largest(), toUserId: USER }]],
    [ledger.placeHold, [{ ...write, ...largest() }]],
    [ledger.captureHold, [{ ...largest(), userId: OTHER, holdId: await hold() }]],
    [ledger.releaseHold, [{ ...largest(), userId: OTHER, holdId: await hold() }]],
    [ledger.adjust, [{ ...write, ...largest(), description: undefined, reason: WIDE.repeat(2000) }]],
    [ledger.batchWrite, [{ writes: Array.from({ length: 30 }, () => ({ write: { case: "transfer", value: { ...write, ...largest(), toUserId: USER } } })) }]],
    [ledger.streamWrites, [{ writes: Array.from({ length: 60 }, () => ({ write: { case: "transfer", value: { ...write, ...largest(), toUserId: USER } } })) }, 1000]],
    [ledger.getOutcome, [{ userId: USER, idempotencyKey: "old batch" }]],
    [ledger.getHold, [{ holdId: await hold() }]],
    [ledger.listHolds, [{ userId: OTHER, ...every }]],
    [ledger.getTransaction, [{ name: { case: "accountSequence", value: { userId: ODD, sequence: 2n } } }]],
    [ledger.listTransactions, [{ userId: USER, ...every }]],
    [ledger.watchTransactions, [{}, ROWS + 2 * TRANSFERS]],
    [ledger.getStatement, [{ userId: USER, ...every }]],
    [jobs.createJob, [{ userId: USER, modelId: "created", prompt: WIDE.repeat(100_000), parameters: numbers, cost: rub("1"), idempotencyKey: newKey() }]],
    [jobs.getJob, [{ jobId: jobIds[0] }]],
    [jobs.batchGetJobs, [{ jobIds: jobIds.slice(0, 6) }]],
    [jobs.listJobs, [{ userId: USER, ...every }]],
    [jobs.updateJobStatus, [{ jobId: await job(), status: JobStatus.CANCELLED, errorMessage: WIDE.repeat(2000) }]],
    [jobs.heartbeatJob, [await leased()]],
    [jobs.completeJob, [{ ...(await leased()), resultUrl: WIDE.repeat(2000) }]],
    [jobs.failJob, [{ ...(await leased()), errorMessage: WIDE.repeat(2000) }]],
    [jobs.cancelJob, [{ jobId: await job() }]],
    [jobs.retryJob, [{ ...cancelled, idempotencyKey: newKey() }]],
    [jobs.watchJobs, [{ userId: USER }, JOBS]],
    [jobs.claimJobs, [{ workerId: WIDE.repeat(100), maxJobs: 1000 }]],
    [locks.acquireLock, [{ lockKey: 10n, instanceId: WIDE.repeat(100) }]],
    [locks.heartbeatLock, [lock]],
    [locks.getLock, [{ lockKey: 1n }]],
    [locks.listLocks, [every]],
    [locks.watchLock, [{ lockKey: 1n }, 1]],
    [locks.releaseLock, [lock]],
    [admin.listBalances, [every]],
    [admin.setCreditLimit, [{ userId: OTHER, creditLimit: rub("1"), ...largest() }]],
    [admin.getServiceStatus, [{}]],
    [admin.verifyLedger, [{}, 1000]],
    [admin.rebuildBalances, [{}, 1000]],
  ]);
}

async function jobIdsOf(userId: bigint): Promise<bigint[]> {
  return (await database.query<{ id: bigint }>("SELECT id FROM ledgerd.jobs WHERE user_id = $1 AND model_id = 'large' ORDER BY id", [userId])).map(({ id }) => id);
}

test("every method answers what a client with its defaults takes", async () => {
  const calls = await callsOf();
  const methods = [LedgerService, JobService, LockService, AdminService].flatMap((one) => one.methods);
  expect(methods.filter((method) => !calls.has(method)).map(({ name }) => name)).toEqual([]);
  for (const [method, [request, answers]] of calls) {
    if (answers === undefined) await pagesOf(method, request);
    else expect((await taken(answers, client.stream(method, [request]))).length, method.name).toBeGreaterThan(0);
  }
}, 120_000);

describe("a list of large rows goes on to its end, and has each of them once", () => {
  test("ListTransactions, the newest and the oldest first, and GetStatement", async () => {
    const period = { endTime: timestampFromMs(Date.now() - 1) };
    const oldest = await pagesOf(ledger.listTransactions, { userId: USER, ...period, ...every, order: ListOrder.OLDEST_FIRST });
    const stored = await database.query<{ id: bigint }>("SELECT id FROM ledgerd.transactions WHERE user_id = $1 ORDER BY sequence", [USER]);
    const found = oldest.flatMap(({ transactions }) => transactions);
    expect(oldest.length).toBeGreaterThan(1);
    expect(ids(found)).toEqual(ids(stored));
    expect(found[0]).toMatchObject({ description: WIDE.repeat(2000), metadata: { ["31".padStart(64, "k")]: WIDE.repeat(512) } });
    const newest = await pagesOf(ledger.listTransactions, { userId: USER, ...period, ...every });
    expect(ids(newest.flatMap(({ transactions }) => transactions))).toEqual(ids(stored).toReversed());
    const statement = await pagesOf(ledger.getStatement, { userId: USER, ...period, ...every });
    expect(ids(statement.flatMap(({ transactions }) => transactions))).toEqual(ids(stored));
    expect(new Set(statement.map(({ closingBalance }) => closingBalance?.amount)).size).toBe(1);
  });

  test("GetOutcome of a batch that an earlier version took", async () => {
    const pages = await pagesOf(ledger.getOutcome, { userId: USER, idempotencyKey: "old batch" });
    const [outcome] = await database.query<{ ids: bigint[] }>(
      "SELECT array_prepend(transaction_id, further_transaction_ids) AS ids FROM ledgerd.idempotency_keys WHERE key = 'old batch'",
    );
    expect(pages.length).toBeGreaterThan(1);
    expect(ids(pages.flatMap(({ transactions }) => transactions)).map(String)).toEqual(outcome?.ids.map(String));
  });

  test("ListTransactions of a user with accounts in many currencies", async () => {
    const userId = 50n;
    const codes = [...currenciesWith([]).keys()];
    await service.ledger.batchWrite({ writes: codes.map((currency) => ({ write: { case: "topUp", value: { userId, amount: { currency, amount: "1" }, idempotencyKey: newKey() } } })) });
    const pages = await pagesOf(ledger.listTransactions, { userId, pageSize: 25 });
    expect(new Set(pages.flatMap(({ transactions }) => transactions.map(({ amount }) => amount?.currency)))).toEqual(new Set(codes));
  });
});

describe("a batch whose answer could be larger is refused before it is executed", () => {
  const request = (atomic: boolean) => {
    const modest = { description: "д".repeat(2000), metadata: Object.fromEntries(Array.from({ length: 32 }, (_, place) => [`key ${place}`.replace(" ", "-"), "v".repeat(150)])) };
    const value = () => ({ userId: atomic ? 62n : 60n, toUserId: 61n, amount: rub("1"), idempotencyKey: atomic ? "" : newKey(), ...modest });
    return { writes: Array.from({ length: 400 }, () => ({ write: { case: "transfer" as const, value: value() } })), atomic, idempotencyKey: atomic ? newKey() : "" };
  };

  test.each([["each by itself", false], ["all or none", true]])("%s", async (_name, atomic) => {
    const asked = request(atomic);
    const refused = await failureOf(service.ledger.batchWrite(asked));
    expect(refused).toMatchObject({ code: Code.ResourceExhausted, reason: "MESSAGE_TOO_LARGE", metadata: { limit_bytes: `${ANSWER_BYTES}` } });
    expect(refused.message).toContain("send fewer writes at once");
    expect(await database.query("SELECT FROM ledgerd.idempotency_keys WHERE user_id = $1", [atomic ? 62n : 60n])).toEqual([]);
    const fewer = await client.call(ledger.batchWrite, { ...asked, writes: asked.writes.slice(0, 150) });
    expect(fewer.message.results).toHaveLength(150);
  });

  test("which StreamWrites answers in several messages", async () => {
    const { writes } = request(false);
    const topUp = { case: "topUp" as const, value: { userId: 60n, amount: rub("400"), idempotencyKey: newKey() } };
    const answers = await taken(1000, client.stream(ledger.streamWrites, [{ writes: [{ write: topUp }] }, { writes: writes.slice(0, 200) }, { writes: writes.slice(200) }]));
    const results = answers.flatMap((answer) => answer.results);
    expect(results.map(({ result }) => result.case)).toEqual(["topUp", ...writes.map(() => "transfer")]);
  });
});

describe("jobs", () => {
  test("of 550 kB are claimed each once, and lists of them go on to the end", async () => {
    const listed = await pagesOf(JobService.method.listJobs, { userId: USER, modelId: "large", ...every });
    expect(listed.length).toBeGreaterThan(1);
    expect(listed.flatMap(({ jobs }) => jobs.map(({ id }) => id)).toReversed()).toEqual(await jobIdsOf(USER));
    await database.query("UPDATE ledgerd.jobs SET status = 'pending', attempt = 0, lease_expires_at = NULL WHERE model_id = 'large'");
    const claimed: ClaimedJob[] = [];
    for (let more = 1; more > 0; ) {
      const { message, bytes } = await client.call(JobService.method.claimJobs, { workerId: "w", modelIds: ["large"], maxJobs: 20 });
      expect(bytes).toBeLessThanOrEqual(ANSWER_BYTES);
      claimed.push(...message.jobs);
      more = message.jobs.length;
    }
    expect(claimed.map(({ job }) => [job?.id, job?.attempt])).toEqual((await jobIdsOf(USER)).map((id) => [id, 1]));
    expect(claimed[0]?.job?.parameters).toEqual(numbers);
    expect(await failureOf(service.jobs.batchGetJobs({ jobIds: await jobIdsOf(USER) })), "as a whole").toMatchObject({ reason: "MESSAGE_TOO_LARGE" });
    const [first = 0n] = await jobIdsOf(USER);
    expect(await failureOf(service.jobs.batchGetJobs({ jobIds: Array.from({ length: 50 }, () => first) })), "one again and again").toMatchObject({ reason: "MESSAGE_TOO_LARGE" });
  });

  test("that no answer holds fail with their reason and give back what they hold, and the others are claimed", async () => {
    const userId = 70n;
    await service.ledger.topUp({ userId, amount: rub("10"), idempotencyKey: newKey() });
    const create = async (priority: number) => (await service.jobs.createJob({ userId, modelId: "odd", priority, cost: rub("1"), idempotencyKey: newKey() })).job?.id ?? 0n;
    const [odd, good] = [await create(9), await create(1)];
    await database.query("UPDATE ledgerd.jobs SET parameters = jsonb_build_object('a', to_jsonb(array_fill(0, ARRAY[400000]))) WHERE id = $1", [odd]);
    expect((await service.jobs.claimJobs({ workerId: "w", modelIds: ["odd"], wait: { seconds: 20n } })).jobs.map(({ job }) => job?.id)).toEqual([good]);
    await until(async () => (await client.call(JobService.method.getJob, { jobId: odd })).message.job?.status === JobStatus.FAILED);
    const [page] = await pagesOf(JobService.method.listJobs, { userId });
    expect(page?.jobs.find(({ id }) => id === odd)).toMatchObject({ attempt: 0, errorMessage: "it is larger than an answer to a worker may be", parameters: { "ledgerd.cut": expect.any(String) as string } });
    expect((await service.ledger.getBalance({ userId })).balance).toMatchObject({ held: rub("1.00"), available: rub("9.00") });
  });

  test("have no more bytes in an answer than the claim counts for them", async () => {
    const pool = await openPool({ url: database.url, min: 0, max: 1, connectTimeoutMs: 5000, queryTimeoutMs: 10_000, idleTimeoutMs: 10_000, onError: () => undefined });
    const rows = rowsFor(currenciesWith([]));
    const [answers, encode] = [answersFor(rows.currencies), encoderOf(ClaimedJobSchema)];
    const values = [...fc.sample(fc.dictionary(fc.string(), fc.jsonValue(), { maxKeys: 20 }), 100), numbers, { "": [[[[0]]]], a: {}, b: [] }, { ":": ":::,,,[[[" }];
    const found = await database.query<{ id: bigint }>(
      `INSERT INTO ledgerd.jobs (user_id, model_id, prompt, parameters, completed_at, status) SELECT 80, 'm', p, p::jsonb, now(), 'failed' FROM unnest($1::text[]) p RETURNING id`,
      [values.map((value) => JSON.stringify(value)).filter((text) => !text.includes("\\u0000") && !/\\ud[89a-f]/.test(text))],
    );
    const bounds = await pool.any(sql.type(z.object({ id: z.bigint(), bytes: z.bigint() }))`SELECT j.id, ${jobBytes} AS bytes FROM ledgerd.jobs j WHERE j.user_id = 80`);
    const byId = new Map(bounds.map(({ id, bytes }) => [id, Number(bytes)]));
    for (const job of await jobsOf(pool, rows).byIds(ids(found))) {
      const bytes = encode({ job: jobMessage(answers, job), fencingToken: -1n, leaseExpireTime: timestampFromMs(1) }).length;
      expect(byId.get(job.id)).toBeGreaterThanOrEqual(bytes);
      if (bytes > 500_000) expect(byId.get(job.id), "of many numbers not much more").toBeLessThan(1.25 * bytes);
    }
    await pool.end();
  });
});

test("a transaction that no call has written and no answer holds is told with a mark, and hides no others", async () => {
  const odd = { sequence: 2n, description: expect.stringMatching(/^x{1000}… \(5000000 characters/) as string, metadata: { "ledgerd.cut": expect.any(String) as string } };
  const around = [{ sequence: 1n }, odd, { sequence: 3n }];
  expect((await pagesOf(ledger.getStatement, { userId: ODD, ...every })).flatMap(({ transactions }) => transactions)).toMatchObject(around);
  expect((await pagesOf(ledger.listTransactions, { userId: ODD, order: ListOrder.OLDEST_FIRST, pageSize: 1 })).flatMap(({ transactions }) => transactions)).toMatchObject(around);
  const told = await taken(3, client.stream(ledger.watchTransactions, [{ userId: ODD }]));
  expect(told.map(({ event }) => event.value)).toMatchObject(around);
});

describe("an error fits into 8 KiB of headers", () => {
  /** The size of a call's last headers, as HTTP/2 counts it, and its status. */
  async function errorOf(method: DescMethod | string, request: Buffer, headers: Readonly<Record<string, string>> = {}): Promise<{ bytes: number; status: string }> {
    const session = connect(`http://${service.grpcAddress}`);
    const path = typeof method === "string" ? method : `/${method.parent.typeName}/${method.name}`;
    const stream = session.request({ ":method": "POST", ":path": path, "content-type": "application/grpc", te: "trailers", ...headers });
    const prefix = Buffer.alloc(5);
    prefix.writeUInt32BE(request.length, 1);
    stream.end(Buffer.concat([prefix, request]));
    const found = await new Promise<Record<string, unknown>>((resolve, reject) => {
      stream.on("error", reject);
      stream.on("response", resolve);
      stream.resume();
    });
    session.close();
    return { bytes: Object.entries(found).reduce((sum, [name, value]) => sum + name.length + String(value).length + 32, 0), status: String(found["grpc-status"]) };
  }

  const bytesOf = <M extends DescMethod>(method: M, request: MessageInitShape<M["input"]>): Buffer => encoderOf(method.input)(request);
  const malformed = (key: string) => ({ write: { case: "transfer" as const, value: { metadata: Object.fromEntries([[key, "\0"]]), idempotencyKey: "" } } });

  const wideKeys = Object.fromEntries(Array.from({ length: 30 }, (_, place) => [`${place}${WIDE.repeat(70)}`, "\0"]));

  test.each([
    ["of a thousand malformed writes", ledger.batchWrite, () => bytesOf(ledger.batchWrite, { writes: Array.from({ length: 1000 }, () => malformed("a b")) })],
    ["of fields with the longest names", ledger.topUp, () => bytesOf(ledger.topUp, { userId: 1n, amount: rub("1"), idempotencyKey: "k", metadata: wideKeys })],
    ["about the longest key", ledger.getOutcome, () => bytesOf(ledger.getOutcome, { userId: 1n, idempotencyKey: "😀".repeat(64) })],
    ["about a method that isn't there", `/${"%D0%B6".repeat(1500)}`, () => Buffer.alloc(0)],
    ["about bytes that aren't a message", ledger.getOutcome, () => Buffer.alloc(1000, 0xff)],
  ] as const)("%s", async (_name, method, request) => {
    const { bytes, status } = await errorOf(method, request());
    expect(status).toMatch(/^[1-9]/);
    expect(bytes).toBeLessThan(8192);
  });

  test("about a header that is too long", async () => {
    const { bytes, status } = await errorOf(ledger.getBalance, Buffer.alloc(0), { "grpc-timeout": "%".repeat(10_000) });
    expect(status).toBe(`${Code.InvalidArgument}`);
    expect(bytes).toBeLessThan(8192);
  });

  test("about the longest reference, and the longest name of a lock's holder", async () => {
    const write = () => ({ userId: OTHER, amount: rub("1"), reference: "😀".repeat(64), uniqueReference: true, idempotencyKey: newKey() });
    await service.ledger.topUp(write());
    expect(await errorOf(ledger.topUp, bytesOf(ledger.topUp, write()))).toMatchObject({ status: `${Code.FailedPrecondition}` });
    expect((await errorOf(ledger.topUp, bytesOf(ledger.topUp, write()))).bytes).toBeLessThan(8192);
    const { acquireLock } = LockService.method;
    expect((await errorOf(acquireLock, bytesOf(acquireLock, { lockKey: 1n, instanceId: "me" }))).bytes).toBeLessThan(8192);
    expect(ErrorReason.REFERENCE_ALREADY_USED).toBeGreaterThan(0);
  });
});
