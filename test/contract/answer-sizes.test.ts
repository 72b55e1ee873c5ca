// Every answer is one that a client takes which nobody told otherwise, whatever is stored: of at most 3.5 MiB, while it
// takes 4.

import { connect } from "node:http2";
import type { DescMethod, MessageInitShape, MessageShape } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { Code } from "@connectrpc/connect";
import fc from "fast-check";
import { sql } from "slonik";
import { z } from "zod";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { ANSWER_BYTES } from "../../src/domain/answer-size.ts";
import { currenciesWith } from "../../src/domain/money/currency.ts";
import { storedBytes } from "../../src/domain/jobs/parameters.ts";
import { AdminService } from "../../src/gen/ledger/v1/admin_service_pb.ts";
import { ClaimedJobSchema, JobService, JobStatus, type ClaimedJob } from "../../src/gen/ledger/v1/job_service_pb.ts";
import { LedgerService, ListOrder } from "../../src/gen/ledger/v1/ledger_service_pb.ts";
import { LockService } from "../../src/gen/ledger/v1/lock_service_pb.ts";
import { jobBytes } from "../../src/postgres/rows/job-rows.ts";
import { jobsOf } from "../../src/postgres/jobs/jobs.ts";
import { openPool } from "../../src/postgres/connection/pool.ts";
import { rowsFor } from "../../src/postgres/rows/rows.ts";
import { answersFor } from "../../src/rpc/answers.ts";
import { encoderOf } from "../../src/protobuf/encoder.ts";
import { jobMessage } from "../../src/rpc/jobs/job-answers.ts";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { plainClient, type Answered, type PlainClient } from "../harness/plain-client.ts";
import { failureOf, newKey, serve, type TestService } from "../harness/service.ts";

/** Whose rows are as large as callers can make them; who has one that only an operator can have written. */
const [USER, OTHER, ODD] = [1n, 2n, 3n];
const rub = (amount: string) => ({ currency: "RUB", amount });
const WIDE = "\u3042";
const entries = (length: number, entry: (place: number) => [string, string]): Record<string, string> =>
  Object.fromEntries(Array.from({ length }, (_, place) => entry(place)));
const several = <T>(length: number, make: () => T): T[] => Array.from({ length }, make);
const largest = () => ({
  description: WIDE.repeat(2000),
  metadata: entries(32, (place) => [`${place}`.padStart(64, "k"), WIDE.repeat(512)]),
  reference: WIDE.repeat(128),
  idempotencyKey: `${newKey()}${WIDE.repeat(92)}`,
});
/** A legal job's parameters that take most as google.protobuf.Struct: 550 kB. */
const numbers = { a: Array.from({ length: 49_995 }, () => 0) };
/** Longer than the tests take, whatever else the machine does. */
const HOUR = { seconds: 3600n };
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
  const topUp = () => ({ write: { case: "topUp" as const, value: { userId: USER, amount: rub("10"), ...largest() } } });
  for (let written = 0; written < ROWS; written += 50) await ledger.batchWrite({ writes: several(50, topUp) });
  await ledger.batchWrite({ writes: several(TRANSFERS, () => transferOf(USER, OTHER)) });
  const job = { userId: USER, modelId: "large", prompt: WIDE.repeat(1000), parameters: numbers, cost: rub("1") };
  await Promise.all(several(JOBS, () => jobs.createJob({ ...job, idempotencyKey: newKey() })));
  for (const lockKey of [1n, 2n, 3n]) await locks.acquireLock({ lockKey, instanceId: WIDE.repeat(100), ttl: HOUR });
  await ledger.topUp({ userId: ODD, amount: rub("100"), idempotencyKey: "first" });
  await database.query(
    `INSERT INTO ledgerd.transactions (
       user_id, sequence, type, amount, balance_after, held_after, credit_limit_after, description, metadata, idempotency_key, hash)
     VALUES ($1, 2, 'topup', 1, 101, 0, 0, repeat('x', 5000000), jsonb_build_object('a', repeat('y', 5000000)),
       repeat('z', 5000000), sha256('x'))`,
    [ODD],
  );
  await database.query("UPDATE ledgerd.user_balances SET balance = 101, sequence = 2 WHERE user_id = $1", [ODD]);
  await ledger.topUp({ userId: ODD, amount: rub("1"), idempotencyKey: "last" });
  // An atomic batch as earlier versions took it.
  await database.query(
    `INSERT INTO ledgerd.idempotency_keys (user_id, key, fingerprint, transaction_id, further_transaction_ids, created_at)
     SELECT $1, 'old batch', '', ids[1], ids[2:], now()
     FROM (
       SELECT array_agg(t.id ORDER BY t.id) AS ids FROM ledgerd.transactions t WHERE t.user_id = ANY($2::int8[])
     ) AS all_of_both`,
    [USER, [USER, OTHER]],
  );
});

afterAll(async () => {
  client.close();
  await service.close();
  await database[Symbol.asyncDispose]();
});

/** A transfer of as much text as can be. */
function transferOf(userId: bigint, toUserId: bigint) {
  return { write: { case: "transfer" as const, value: { userId, toUserId, amount: rub("0.01"), ...largest() } } };
}

/** All pages of a list, or the one answer of another call. */
async function pagesOf<M extends DescMethod>(method: M, request: Asked<M>): Promise<Message<M>[]> {
  const pages: Message<M>[] = [];
  for (let pageToken = ""; ; ) {
    const page = "pageToken" in method.input.field ? { ...request, pageToken } : request;
    const { message, bytes } = await client.call(method, page);
    expect(bytes, method.name).toBeLessThanOrEqual(ANSWER_BYTES);
    pages.push(message);
    pageToken = ("nextPageToken" in message ? message.nextPageToken : "") as string;
    if (pageToken === "") return pages;
  }
}

/** As many answers of a stream as are asked for; each of them one that a client takes. */
async function taken<M extends DescMethod>(count: number, answers: AsyncGenerator<Answered<M>>): Promise<Message<M>[]> {
  const messages: Message<M>[] = [];
  for await (const { message, bytes } of answers) {
    expect(bytes).toBeLessThanOrEqual(ANSWER_BYTES);
    messages.push(message);
    if (messages.length === count) break;
  }
  return messages;
}

type Init = Record<string, unknown>;
type Asked<M extends DescMethod> = MessageInitShape<M["input"]>;
type Message<M extends DescMethod> = MessageShape<M["output"]>;

const ledger = LedgerService.method;
const every = { pageSize: 1000 };
const ids = (transactions: readonly { readonly id: bigint }[]) => transactions.map(({ id }) => id);

/** How each method is called so that it answers as much as it can; a stream's answers are so many. */
async function callsOf(): Promise<ReadonlyMap<DescMethod, readonly [request: Init, answers?: number]>> {
  const write = { userId: OTHER, amount: rub("0.01"), ...largest() };
  const hold = async () => (await service.ledger.placeHold({ ...write, ...largest() })).hold?.id ?? 0n;
  const { transaction: spent } = await service.ledger.deduct({ ...write, ...largest() });
  const jobIds = await jobIdsOf(USER);
  const job = async (modelId = "other") => {
    const asked = { userId: USER, modelId, parameters: numbers, cost: rub("1"), idempotencyKey: newKey() };
    return (await service.jobs.createJob(asked)).job?.id ?? 0n;
  };
  const leased = async () => {
    const modelId = newKey();
    await job(modelId);
    const [claimed] = (await service.jobs.claimJobs({ workerId: "w", modelIds: [modelId], leaseDuration: HOUR })).jobs;
    return { jobId: claimed?.job?.id ?? 0n, fencingToken: claimed?.fencingToken ?? 0n };
  };
  const cancelled = { jobId: await job() };
  await service.jobs.cancelJob(cancelled);
  const { fencingToken } = await service.locks.acquireLock({ lockKey: 9n, instanceId: "me", ttl: HOUR });
  const lock = { lockKey: 9n, fencingToken };
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
    [ledger.batchWrite, [{ writes: several(30, () => transferOf(OTHER, USER)) }]],
    [ledger.streamWrites, [{ writes: several(60, () => transferOf(OTHER, USER)) }, 1000]],
    [ledger.getOutcome, [{ userId: USER, idempotencyKey: "old batch" }]],
    [ledger.getHold, [{ holdId: await hold() }]],
    [ledger.listHolds, [{ userId: OTHER, ...every }]],
    [ledger.getTransaction, [{ name: { case: "accountSequence", value: { userId: ODD, sequence: 2n } } }]],
    [ledger.listTransactions, [{ userId: USER, ...every }]],
    [ledger.watchTransactions, [{}, ROWS + 2 * TRANSFERS]],
    [ledger.getStatement, [{ userId: USER, ...every }]],
    [jobs.createJob, [{ userId: USER, modelId: "m", prompt: WIDE.repeat(100_000), parameters: numbers, cost: rub("1"), idempotencyKey: newKey() }]],
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
    [jobs.claimJobs, [{ workerId: WIDE.repeat(100), maxJobs: 1000, leaseDuration: HOUR }]],
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
  const text = "SELECT id FROM ledgerd.jobs WHERE user_id = $1 AND model_id = 'large' ORDER BY id";
  return ids(await database.query<{ id: bigint }>(text, [userId]));
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
    const request = { userId: USER, ...period, ...every };
    const oldest = await pagesOf(ledger.listTransactions, { ...request, order: ListOrder.OLDEST_FIRST });
    const text = "SELECT id FROM ledgerd.transactions WHERE user_id = $1 ORDER BY sequence";
    const stored = await database.query<{ id: bigint }>(text, [USER]);
    const found = oldest.flatMap(({ transactions }) => transactions);
    expect(oldest.length).toBeGreaterThan(1);
    expect(ids(found)).toEqual(ids(stored));
    const metadata = { ["31".padStart(64, "k")]: WIDE.repeat(512) };
    expect(found[0]).toMatchObject({ description: WIDE.repeat(2000), metadata });
    const newest = await pagesOf(ledger.listTransactions, request);
    expect(ids(newest.flatMap(({ transactions }) => transactions))).toEqual(ids(stored).toReversed());
    const statement = await pagesOf(ledger.getStatement, request);
    expect(ids(statement.flatMap(({ transactions }) => transactions))).toEqual(ids(stored));
    expect(new Set(statement.map(({ closingBalance }) => closingBalance?.amount)).size).toBe(1);
  });

  test("GetOutcome of a batch that an earlier version took", async () => {
    const pages = await pagesOf(ledger.getOutcome, { userId: USER, idempotencyKey: "old batch" });
    const [outcome] = await database.query<{ ids: bigint[] }>(
      "SELECT transaction_id || further_transaction_ids AS ids FROM ledgerd.idempotency_keys WHERE key = 'old batch'",
    );
    expect(pages.length).toBeGreaterThan(1);
    expect(ids(pages.flatMap(({ transactions }) => transactions)).map(String)).toEqual(outcome?.ids.map(String));
  });

  test("ListTransactions of a user with accounts in many currencies", async () => {
    const userId = 50n;
    const codes = [...currenciesWith([]).keys()];
    const topUp = (currency: string) => ({ userId, amount: { currency, amount: "1" }, idempotencyKey: newKey() });
    await service.ledger.batchWrite({ writes: codes.map((code) => ({ write: { case: "topUp", value: topUp(code) } })) });
    const pages = await pagesOf(ledger.listTransactions, { userId, pageSize: 25 });
    const found = pages.flatMap(({ transactions }) => transactions.map(({ amount }) => amount?.currency));
    expect(found).toHaveLength(codes.length);
    expect(new Set(found)).toEqual(new Set(codes));
  });
});

describe("a batch whose answer could be larger is refused before it is executed", () => {
  const request = (atomic: boolean) => {
    const said = { description: "д".repeat(2000), metadata: entries(32, (place) => [`key-${place}`, "v".repeat(150)]) };
    const parties = { userId: atomic ? 62n : 60n, toUserId: 61n, amount: rub("1") };
    const value = () => ({ ...parties, ...said, idempotencyKey: atomic ? "" : newKey() });
    const writes = several(400, () => ({ write: { case: "transfer" as const, value: value() } }));
    return { writes, atomic, idempotencyKey: atomic ? newKey() : "" };
  };

  test.each([["each by itself", false], ["all or none", true]])("%s", async (_name, atomic) => {
    const asked = request(atomic);
    const refused = await failureOf(service.ledger.batchWrite(asked));
    const metadata = { limit_bytes: `${ANSWER_BYTES}` };
    expect(refused).toMatchObject({ code: Code.ResourceExhausted, reason: "MESSAGE_TOO_LARGE", metadata });
    expect(refused.message).toContain("send fewer writes at once");
    const payer = atomic ? 62n : 60n;
    expect(await database.query("SELECT FROM ledgerd.idempotency_keys WHERE user_id = $1", [payer])).toEqual([]);
    const fewer = await client.call(ledger.batchWrite, { ...asked, writes: asked.writes.slice(0, 150) });
    expect(fewer.message.results).toHaveLength(150);
  });

  test("which StreamWrites answers in several messages", async () => {
    const { writes } = request(false);
    const topUp = { case: "topUp" as const, value: { userId: 60n, amount: rub("400"), idempotencyKey: newKey() } };
    const parts = [[{ write: topUp }], writes.slice(0, 200), writes.slice(200)].map((part) => ({ writes: part }));
    const answers = await taken(1000, client.stream(ledger.streamWrites, parts));
    const results = answers.flatMap((answer) => answer.results);
    expect(results.map(({ result }) => result.case)).toEqual(["topUp", ...writes.map(() => "transfer")]);
  });
});

describe("jobs", () => {
  test("of 550 kB are claimed each once, and lists of them go on to the end", async () => {
    const listed = await pagesOf(JobService.method.listJobs, { userId: USER, modelId: "large", ...every });
    expect(listed.length).toBeGreaterThan(1);
    expect(listed.flatMap(({ jobs }) => jobs.map(({ id }) => id)).toReversed()).toEqual(await jobIdsOf(USER));
    const again = "UPDATE ledgerd.jobs SET status = 'pending', attempt = 0, lease_expires_at = NULL WHERE model_id = 'large'";
    await database.query(again);
    const claimed: ClaimedJob[] = [];
    for (let more = 1; more > 0; ) {
      const request = { workerId: "w", modelIds: ["large"], maxJobs: 20, leaseDuration: HOUR };
      const { message, bytes } = await client.call(JobService.method.claimJobs, request);
      expect(bytes).toBeLessThanOrEqual(ANSWER_BYTES);
      claimed.push(...message.jobs);
      more = message.jobs.length;
    }
    expect(claimed.map(({ job }) => [job?.id, job?.attempt])).toEqual((await jobIdsOf(USER)).map((id) => [id, 1]));
    expect(claimed[0]?.job?.parameters).toEqual(numbers);
    const jobIds = await jobIdsOf(USER);
    for (const asked of [jobIds, several(50, () => jobIds[0] ?? 0n)]) {
      expect(await failureOf(service.jobs.batchGetJobs({ jobIds: asked }))).toMatchObject({ reason: "MESSAGE_TOO_LARGE" });
    }
  });

  test("that no answer holds fail with their reason and give back what they hold; the claim goes on behind them", async () => {
    const userId = 70n;
    await service.ledger.topUp({ userId, amount: rub("10"), idempotencyKey: newKey() });
    const create = async (priority: number) => {
      const asked = { userId, modelId: "odd", priority, cost: rub("1"), idempotencyKey: newKey() };
      return (await service.jobs.createJob(asked)).job?.id ?? 0n;
    };
    const [odd, long, good] = [await create(9), await create(8), await create(1)];
    const zeros = "jsonb_build_object('a', to_jsonb(array_fill(0, ARRAY[400000])))";
    await database.query(`UPDATE ledgerd.jobs SET parameters = ${zeros} WHERE id = $1`, [odd]);
    await database.query("UPDATE ledgerd.jobs SET prompt = repeat('x', 4000000) WHERE id = $1", [long]);
    const claimed = await service.jobs.claimJobs({ workerId: "w", modelIds: ["odd"], maxJobs: 1 });
    expect(claimed.jobs.map(({ job }) => job?.id)).toEqual([good]);
    const pages = await pagesOf(JobService.method.listJobs, { userId });
    const told = new Map(pages.flatMap(({ jobs }) => jobs.map((job) => [job.id, job])));
    const failed = { status: JobStatus.FAILED, attempt: 1 };
    const problem = "its parameters can't be handed over: they must have at most 2097152 bytes as a google.protobuf.Struct";
    expect(told.get(odd)).toMatchObject({ ...failed, errorMessage: problem });
    expect(told.get(odd), "no answer holds them").not.toHaveProperty("parameters");
    expect(told.get(long)).toMatchObject({ ...failed, errorMessage: "it is larger than an answer to a worker may be" });
    const { balance } = await service.ledger.getBalance({ userId });
    expect(balance).toMatchObject({ held: rub("1.00"), available: rub("9.00") });
  });

  test.each([1e308, 1e-300])("with %d as often as a call can send it are claimed, read and listed whole", async (number) => {
    const userId = 71n;
    const modelId = `${number}`;
    const parameters = { v: Array.from({ length: 14_000 }, () => number) };
    const cost = rub("0");
    const create = () => service.jobs.createJob({ userId, modelId, parameters, cost, idempotencyKey: newKey() });
    const created = [await create(), await create()].map(({ job }) => job?.id);
    // The second one as earlier versions wrote it.
    const sent = JSON.stringify(parameters).length;
    await database.query("UPDATE ledgerd.jobs SET size = $2 WHERE id = $1", [created[1], sent]);
    const claim = { workerId: "w", modelIds: [modelId], maxJobs: 2, leaseDuration: HOUR };
    const claims = [await service.jobs.claimJobs(claim), await service.jobs.claimJobs(claim)];
    const claimed = claims.flatMap(({ jobs }) => jobs.map(({ job }) => job));
    expect(claimed.map((job) => job?.id)).toEqual(created);
    const listed = (await pagesOf(JobService.method.listJobs, { userId, modelId })).flatMap(({ jobs }) => jobs);
    const read = await service.jobs.batchGetJobs({ jobIds: created.map((id) => id ?? 0n) });
    const got = await service.jobs.getJob({ jobId: created[0] ?? 0n });
    for (const job of [...claimed, ...listed, ...read.jobs, got.job]) expect(job?.parameters).toEqual(parameters);
    expect([listed.length, read.jobs.length]).toEqual([2, 2]);
  });

  test("whose JSON is longer than an answer, but what is answered is not, are read at once", async () => {
    const inserted = await database.query<{ id: bigint }>(
      `INSERT INTO ledgerd.jobs (user_id, model_id, parameters, size, completed_at, status)
       SELECT 72, 'm', p::jsonb, length(p), now(), 'failed'
       FROM unnest(ARRAY[$1::text]) p, generate_series(1, 40)
       RETURNING id`,
      [JSON.stringify({ a: Array.from({ length: 5000 }, () => 1 / 3) })],
    );
    const { message } = await client.call(JobService.method.batchGetJobs, { jobIds: ids(inserted) });
    expect(ids(message.jobs)).toEqual(ids(inserted).map(BigInt));
  });

  test("have no more bytes in an answer than the claim counts for them, nor as they are read than what wrote them tells", async () => {
    const limits = { min: 0, max: 1, connectTimeoutMs: 5000, queryTimeoutMs: 10_000, idleTimeoutMs: 10_000 };
    const pool = await openPool({ url: database.url, ...limits, onError: () => undefined });
    const rows = rowsFor(currenciesWith([]));
    const [answers, encode] = [answersFor(rows.currencies), encoderOf(ClaimedJobSchema)];
    const any = fc.sample(fc.dictionary(fc.string(), fc.jsonValue(), { maxKeys: 20 }), 100);
    const many = (value: unknown) => ({ a: Array.from({ length: 5000 }, () => value) });
    const long = "x".repeat(128);
    const far = [1e308, 5e-324, -1e-300 / 3, 1 / 3].map(many);
    const small = [null, "", [], {}, [[]], long, { "": 0 }, { [long]: long }].map(many);
    const odd = [{ "": [[[[0]]]], a: {}, b: [] }, { ":": ":::,,,[[[" }, ...far, ...small];
    const values = [...any, numbers, ...odd].map((value) => JSON.stringify(value));
    const found = await database.query<{ id: bigint }>(
      `INSERT INTO ledgerd.jobs (user_id, model_id, prompt, parameters, completed_at, status)
       SELECT 80, 'm', p, p::jsonb, now(), 'failed' FROM unnest($1::text[]) p RETURNING id`,
      [values.filter((text) => !text.includes("\\u0000") && !/\\ud[89a-f]/.test(text))],
    );
    const row = z.object({ id: z.bigint(), bytes: z.bigint(), written: z.number() });
    const bounds = await pool.any(sql.type(row)`
      SELECT j.id, ${jobBytes} AS bytes, octet_length(j.parameters::text) AS written FROM ledgerd.jobs j WHERE j.user_id = 80`);
    const byId = new Map(bounds.map(({ id, bytes }) => [id, Number(bytes)]));
    const writtenById = new Map(bounds.map(({ id, written }) => [id, written]));
    for (const job of await jobsOf(pool, rows).byIds(ids(found))) {
      const lease = { fencingToken: -1n, leaseExpireTime: timestampFromMs(1) };
      const bytes = encode({ job: jobMessage(answers, job), ...lease }).length;
      expect(byId.get(job.id)).toBeGreaterThanOrEqual(bytes);
      if (bytes > 100_000) expect(byId.get(job.id), "of many values not much more").toBeLessThan(2.4 * bytes);
      if (job.prompt === JSON.stringify(numbers)) expect(byId.get(job.id)).toBeLessThan(1.25 * bytes);
      expect(storedBytes(job.prompt)).toBeGreaterThanOrEqual(writtenById.get(job.id) ?? Infinity);
    }
    await pool.end();
  });
});

test("a transaction that no call has written and no answer holds is told with a mark, and hides no others", async () => {
  const description = expect.stringMatching(/^x{1000}… \(5000000 characters/) as string;
  const odd = { sequence: 2n, description, metadata: { "ledgerd.cut": expect.any(String) as string } };
  const around = [{ sequence: 1n }, odd, { sequence: 3n }];
  const statement = await pagesOf(ledger.getStatement, { userId: ODD, ...every });
  expect(statement.flatMap(({ transactions }) => transactions)).toMatchObject(around);
  const list = await pagesOf(ledger.listTransactions, { userId: ODD, order: ListOrder.OLDEST_FIRST, pageSize: 1 });
  expect(list.flatMap(({ transactions }) => transactions)).toMatchObject(around);
  const told = await taken(3, client.stream(ledger.watchTransactions, [{ userId: ODD }]));
  expect(told.map(({ event }) => event.value)).toMatchObject(around);
});

describe("an error fits into 8 KiB of headers", () => {
  /** The size of a call's last headers, as HTTP/2 counts it, and its status. */
  async function errorOf(method: DescMethod | string, request: Buffer, headers: Readonly<Record<string, string>> = {}) {
    const session = connect(`http://${service.grpcAddress}`);
    const path = typeof method === "string" ? method : `/${method.parent.typeName}/${method.name}`;
    const asked = { ":method": "POST", ":path": path, "content-type": "application/grpc", te: "trailers" };
    const stream = session.request({ ...asked, ...headers });
    const prefix = Buffer.alloc(5);
    prefix.writeUInt32BE(request.length, 1);
    stream.end(Buffer.concat([prefix, request]));
    const found = await new Promise<Record<string, unknown>>((resolve, reject) => {
      stream.on("error", reject);
      stream.on("response", resolve);
      stream.resume();
    });
    session.close();
    const bytes = Object.entries(found).reduce((sum, [name, value]) => sum + name.length + String(value).length + 32, 0);
    return { bytes, status: String(found["grpc-status"]) };
  }

  const bytesOf = <M extends DescMethod>(method: M, request: Asked<M>): Buffer => encoderOf(method.input)(request);
  const malformed = () => ({ write: { case: "transfer" as const, value: { metadata: { "a b": "\0" } } } });
  const metadata = entries(30, (place) => [`${place}${WIDE.repeat(70)}`, "\0"]);
  const named = { userId: 1n, amount: rub("1"), idempotencyKey: "k", metadata };
  const key = "😀".repeat(64);

  test.each([
    ["of a thousand malformed writes", ledger.batchWrite, () => bytesOf(ledger.batchWrite, { writes: several(1000, malformed) })],
    ["of fields with the longest names", ledger.topUp, () => bytesOf(ledger.topUp, named)],
    ["about the longest key", ledger.getOutcome, () => bytesOf(ledger.getOutcome, { userId: 1n, idempotencyKey: key })],
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
    const once = { userId: OTHER, amount: rub("1"), reference: key, uniqueReference: true };
    const write = () => ({ ...once, idempotencyKey: newKey() });
    await service.ledger.topUp(write());
    const { acquireLock } = LockService.method;
    for (const error of [
      await errorOf(ledger.topUp, bytesOf(ledger.topUp, write())),
      await errorOf(acquireLock, bytesOf(acquireLock, { lockKey: 1n, instanceId: "me" })),
    ]) {
      expect(error.status).toBe(`${Code.FailedPrecondition}`);
      expect(error.bytes).toBeLessThan(8192);
    }
  });
});
