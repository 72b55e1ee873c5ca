// Calls that share a database transaction: what one of them can, and can't, do to the others.

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Code, ConnectError } from "@connectrpc/connect";
import { RetryInfoSchema } from "../../src/gen/google/rpc/error_details_pb.ts";
import { journalsWaiting, keepLaneBusy, lockUser } from "../harness/blocker.ts";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { checkDatabase } from "../harness/inspect.ts";
import { patient } from "../harness/patience.ts";
import { describeFailure, failureOf, newKey, serve, type TestService } from "../harness/service.ts";
import { until } from "../harness/until.ts";

let database: TestDatabase;
let lastUser = 0n;

beforeAll(async () => {
  database = await createDatabase();
});

afterAll(async () => {
  await checkDatabase(database);
  await database[Symbol.asyncDispose]();
});

const rub = (amount: string) => ({ currency: "RUB", amount });

function newUser(): bigint {
  return (lastUser += 1n);
}

async function userWith({ ledger }: TestService, amount: string): Promise<bigint> {
  const userId = newUser();
  await ledger.topUp({ userId, amount: rub(amount), idempotencyKey: newKey() }, patient);
  return userId;
}

/** An instance with one lane, whose queue is every call's, and without a sweep that would use it too. */
function serveOneLane(settings: Readonly<Record<string, string>> = {}): Promise<TestService> {
  return serve(database.url, { LEDGERD_LANES: "1", LEDGERD_SWEEP_INTERVAL: "1h", ...settings });
}

async function keepBusy(service: TestService) {
  return keepLaneBusy(database, service, await userWith(service, "1"));
}

/** The sizes of the database transactions that wrote rows which match a condition, in the order of their ids. */
async function transactionsOf(condition: string): Promise<readonly number[]> {
  const found = await database.query<{ rows: number }>(`
    SELECT count(*)::int AS rows FROM ledgerd.transactions WHERE ${condition} GROUP BY xmin::text ORDER BY min(id)`);
  return found.map(({ rows }) => rows);
}

describe("a lane", () => {
  test("goes on after calls that were late when they came", async () => {
    await using service = await serveOneLane();
    const userId = await userWith(service, "1");
    const late = await Promise.allSettled(Array.from({ length: 20 }, () => service.ledger.topUp({ userId, amount: rub("1"), idempotencyKey: newKey() }, { timeoutMs: 5 })));
    expect(late.map(({ status }) => status)).toContain("rejected");
    await service.ledger.topUp({ userId, amount: rub("1"), idempotencyKey: newKey() }, patient);
    const { writeQueue } = await service.admin.getServiceStatus({});
    expect(writeQueue?.queued).toBe(0);
  });
});

describe("a group", () => {
  test("is all that was queued while the lane was busy, in one database transaction", async () => {
    await using service = await serveOneLane();
    const lane = await keepBusy(service);
    const calls = Array.from({ length: 50 }, () =>
      service.ledger.topUp({ userId: newUser(), amount: rub("1"), idempotencyKey: newKey(), description: "together" }, patient),
    );
    await lane.queued(50);
    await lane.release();
    await Promise.all(calls);
    expect(await transactionsOf("description = 'together'")).toEqual([50]);
  });

  test("with one poison command fails only that one of its 100", async () => {
    await using service = await serveOneLane();
    // What only this database knows, the service can't have refused before.
    await database.query("ALTER TABLE ledgerd.transactions ADD CONSTRAINT no_poison CHECK (description IS DISTINCT FROM 'poison')");
    const users = Array.from({ length: 10 }, newUser);
    const requests = Array.from({ length: 100 }, (_, index) => ({
      userId: users[index % users.length] ?? 0n,
      amount: rub("1"),
      idempotencyKey: newKey(),
      description: index === 42 ? "poison" : "beside poison",
    }));
    const lane = await keepBusy(service);
    const calls = Promise.allSettled(requests.map((request) => service.ledger.topUp(request, patient)));
    await lane.queued(100);
    await lane.release();
    const settled = await calls;
    expect(settled.flatMap(({ status }, index) => (status === "rejected" ? [index] : []))).toEqual([42]);
    expect((await transactionsOf("description = 'beside poison'")).length, "halved until the culprit stood alone").toBeLessThanOrEqual(7);

    const [culprit, rejected] = [requests[42] ?? {}, settled[42]];
    expect(rejected?.status === "rejected" && describeFailure(rejected.reason)).toMatchObject({
      code: Code.Internal,
      reason: "INTERNAL",
      metadata: { incident: expect.stringMatching(/^[\da-f-]{36}$/) as string },
    });
    const { userId, idempotencyKey } = { userId: 0n, idempotencyKey: "", ...culprit };
    expect(await failureOf(service.ledger.getOutcome({ userId, idempotencyKey }))).toMatchObject({ reason: "OUTCOME_NOT_FOUND" });
    await database.query("ALTER TABLE ledgerd.transactions DROP CONSTRAINT no_poison");
    expect((await service.ledger.topUp(culprit)).replayed).toBe(false);
    expect((await service.ledger.getBalance({ userId })).balance, "each of its ten calls, once").toMatchObject({ balance: rub("10.00"), sequence: 10n });
  });

  test("decides a key that it has several times once", async () => {
    await using service = await serveOneLane();
    const userId = await userWith(service, "100");
    const request = { userId, amount: rub("1"), idempotencyKey: newKey() };
    const lane = await keepBusy(service);
    const same = Array.from({ length: 5 }, () => service.ledger.deduct(request, patient));
    const other = failureOf(service.ledger.deduct({ ...request, amount: rub("2") }, patient));
    await lane.queued(6);
    await lane.release();
    const answers = await Promise.all(same);
    expect(answers.filter(({ replayed }) => !replayed)).toHaveLength(1);
    expect(new Set(answers.map(({ transaction }) => transaction?.id)).size).toBe(1);
    expect(await other).toMatchObject({ code: Code.AlreadyExists, reason: "IDEMPOTENCY_KEY_REUSED" });
    expect((await service.ledger.getBalance({ userId })).balance).toMatchObject({ balance: rub("99.00"), sequence: 2n });
  });

  test("frees a thousand expired holds, starts over for the rest, and then sees all of the money", async () => {
    await using service = await serveOneLane({ LEDGERD_GROUP_LIMIT: "2000" });
    const userId = await userWith(service, "1200");
    const lane = await keepBusy(service);
    // In one group, so that they have one time to expire at.
    const placed = [0, 600].map((from) =>
      service.ledger.batchWrite({ writes: Array.from({ length: 600 }, (_, index) => hold(userId, `hold ${from + index}`)) }, patient),
    );
    await lane.queued(1200);
    await lane.release();
    await Promise.all(placed);
    await until(async () => (await dueHolds(userId)) === 1200);
    const { balance } = await service.ledger.deduct({ userId, amount: rub("1200"), idempotencyKey: newKey() });
    expect(balance).toMatchObject({ balance: rub("0.00"), held: rub("0.00"), sequence: 2402n });
    expect(await transactionsOf(`user_id = ${userId} AND type IN ('expiry', 'deduction')`)).toEqual([1000, 201]);
  });
});

const hold = (userId: bigint, idempotencyKey: string) => ({
  write: { case: "placeHold" as const, value: { userId, amount: rub("1"), expiresIn: { seconds: 1n, nanos: 0 }, idempotencyKey } },
});

async function dueHolds(userId: bigint): Promise<number> {
  const found = await database.query(`SELECT FROM ledgerd.holds WHERE user_id = ${userId} AND state = 'open' AND expires_at <= clock_timestamp()`);
  return found.length;
}

describe("the queue", () => {
  test("refuses at once what it has no room for, loses nothing, and works on afterwards", async () => {
    await using service = await serveOneLane({ LEDGERD_QUEUE_LIMIT: "10" });
    const userId = await userWith(service, "1");
    const lane = await keepBusy(service);
    const topUp = () => service.ledger.topUp({ userId, amount: rub("1"), idempotencyKey: newKey() }, patient);
    const queued = Array.from({ length: 10 }, topUp);
    await lane.queued(10);
    const refused: unknown = await topUp().catch((error: unknown) => error);
    expect(describeFailure(refused)).toMatchObject({ code: Code.ResourceExhausted, reason: "OVERLOADED" });
    expect(refused instanceof ConnectError && refused.findDetails(RetryInfoSchema)).toMatchObject([{ retryDelay: { seconds: 0n } }]);
    const batch = { writes: [0, 1].map((index) => ({ write: { case: "topUp" as const, value: { userId, amount: rub("1"), idempotencyKey: `both ${index}` } } })) };
    expect(await failureOf(service.ledger.batchWrite(batch, patient))).toMatchObject({ reason: "OVERLOADED" });
    await lane.release();
    await Promise.all(queued);
    await service.ledger.batchWrite(batch);
    expect((await service.ledger.getBalance({ userId })).balance).toMatchObject({ balance: rub("13.00"), sequence: 13n });
  });

  test("counts long texts as several writes", async () => {
    await using service = await serveOneLane({ LEDGERD_QUEUE_LIMIT: "40" });
    const userId = await userWith(service, "10");
    const lane = await keepBusy(service);
    const create = () => service.jobs.createJob({ userId, modelId: "m", prompt: "x".repeat(100_000), cost: rub("1"), idempotencyKey: newKey() }, patient);
    const queued = create();
    await lane.queued(25);
    expect(await failureOf(create())).toMatchObject({ reason: "OVERLOADED" });
    await lane.release();
    await queued;
    await create();
  });

  test("gives a group those of one half of the users, where more wait than it takes, and the next one those of the other half: two such groups share no account", async () => {
    await using service = await serveOneLane();
    const users = Array.from({ length: 100 }, newUser);
    const lane = await keepBusy(service);
    const writes = Array.from({ length: 600 }, (_, index) => {
      const value = { userId: users[index % users.length] ?? 0n, amount: rub("1"), idempotencyKey: newKey(), description: "in halves" };
      return { write: { case: "topUp" as const, value } };
    });
    const batch = service.ledger.batchWrite({ writes }, patient);
    await lane.queued(600);
    await lane.release();
    await batch;
    const groups = await database.query<{ users: string[] }>(`
      SELECT array_agg(DISTINCT user_id::text) AS users FROM ledgerd.transactions WHERE description = 'in halves' GROUP BY xmin::text`);
    expect(groups.length).toBe(2);
    expect(groups.flatMap((group) => group.users).toSorted()).toEqual(users.map(String).toSorted());
  });

  test("drops a call whose deadline passes in it, untried", async () => {
    await using service = await serveOneLane({ LEDGERD_DEFAULT_DEADLINE: "200ms" });
    const userId = newUser();
    const request = { userId, amount: rub("1"), idempotencyKey: newKey() };
    const lane = await keepBusy(service);
    expect(await failureOf(service.ledger.topUp(request))).toMatchObject({ code: Code.DeadlineExceeded, reason: "DEADLINE_PASSED" });
    await lane.release();
    // In the same queue, so it comes after it.
    await service.ledger.topUp({ userId, amount: rub("5"), idempotencyKey: newKey() }, patient);
    expect(await failureOf(service.ledger.getOutcome({ userId, idempotencyKey: request.idempotencyKey }))).toMatchObject({ reason: "OUTCOME_NOT_FOUND" });
    expect((await service.ledger.topUp(request, patient)).replayed).toBe(false);
    expect((await service.ledger.getBalance({ userId })).balance).toMatchObject({ balance: rub("6.00"), sequence: 2n });
  });

  test("lets a write land whose client has cancelled it", async () => {
    await using service = await serveOneLane();
    const userId = await userWith(service, "10");
    const idempotencyKey = newKey();
    const locked = await lockUser(database, userId);
    const client = new AbortController();
    const call = service.ledger.deduct({ userId, amount: rub("1"), idempotencyKey }, { signal: client.signal }).catch((error: unknown) => error);
    await until(async () => (await journalsWaiting(database, "lock")) === 1);
    client.abort();
    expect(await call).toMatchObject({ code: Code.Canceled });
    // On the same connection: when it is answered, the instance knows of the cancellation as well.
    await service.admin.getServiceStatus({});
    await locked.release();
    const outcome = () => service.ledger.getOutcome({ userId, idempotencyKey });
    await until(() => outcome().then(() => true, () => false));
    expect(await outcome()).toMatchObject({ transactions: [{ userId, amount: rub("-1.00"), sequence: 2n }] });
  });

  test("keeps the order of each user's writes", async () => {
    await using service = await serve(database.url, { LEDGERD_LANES: "4" });
    const users = await Promise.all(Array.from({ length: 5 }, () => userWith(service, "1")));
    const requests = Array.from({ length: 200 }, (_, index) => ({ userId: users[index % users.length] ?? 0n, amount: rub("1"), idempotencyKey: newKey() }));
    const answers = await Promise.all(requests.map((request) => service.ledger.topUp(request)));
    for (const userId of users) {
      const sequences = answers.flatMap(({ transaction }) => (transaction?.userId === userId ? [transaction.sequence] : []));
      expect(sequences).toEqual(Array.from({ length: 40 }, (_, index) => BigInt(index + 2)));
    }
  });
});
