// The writes of one batch or stream see the ones before them, or aren't tried: whatever other sessions lock, and whatever breaks in between.
//
// Some tests wait for a time limit of the journal; so they run at the same time, each in a database of its own.

import { describe, expect, test } from "vitest";
import fc from "fast-check";
import type { WriteResult } from "../../src/gen/ledger/v1/ledger_service_pb.ts";
import { block, journalsWaiting, keepLaneBusy, lockUser } from "../harness/blocker.ts";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { checkDatabase } from "../harness/inspect.ts";
import { patient } from "../harness/patience.ts";
import { newKey, serve, type Clients, type TestService } from "../harness/service.ts";
import { until } from "../harness/until.ts";
import { inShort, streamWrites, WriteStream, type OneWrite } from "../harness/write-stream.ts";

const rub = (amount: string) => ({ currency: "RUB", amount });
/** A has nothing, B has 10, C and D have nothing to do with them. */
const [A, B, C, D] = [1n, 2n, 3n, 4n];

const topUp = (userId: bigint, amount = "1", description = ""): OneWrite => ({ case: "topUp", value: { userId, amount: rub(amount), description, idempotencyKey: newKey() } });
const deduct = (userId: bigint, amount: string): OneWrite => ({ case: "deduct", value: { userId, amount: rub(amount), idempotencyKey: newKey() } });
const transfer = (userId: bigint, toUserId: bigint, amount: string): OneWrite => ({ case: "transfer", value: { userId, toUserId, amount: rub(amount), idempotencyKey: newKey() } });

/** The two ways in for several writes of which each stands alone. */
const ways = {
  batch: async ({ ledger }: Clients, writes: readonly OneWrite[]): Promise<readonly WriteResult[]> =>
    (await ledger.batchWrite({ writes: writes.map((write) => ({ write })) }, patient)).results,
  stream: (clients: Clients, writes: readonly OneWrite[]): Promise<readonly WriteResult[]> => streamWrites(clients, writes),
};
type Way = keyof typeof ways;
const both = ["batch", "stream"] as const satisfies readonly Way[];

async function short(way: Way, clients: Clients, writes: readonly OneWrite[]): Promise<readonly string[]> {
  return (await ways[way](clients, writes)).map(inShort);
}

interface World {
  readonly database: TestDatabase;
  readonly service: TestService;
}

/** A ledger in which B has 10, served by one lane, whose groups are whatever is queued while it is busy. */
async function world(work: (world: World) => Promise<void>): Promise<void> {
  await using database = await createDatabase();
  await using service = await serve(database.url, { LEDGERD_LANES: "1", LEDGERD_SWEEP_INTERVAL: "1h" });
  await short("batch", service, [topUp(B, "10"), topUp(D, "1")]);
  await work({ database, service });
  await checkDatabase(database);
}

describe.concurrent("the writes of a batch or stream", () => {
  describe("what is behind a write whose account another session keeps locked", () => {
    test.each(both)("in a %s is decided after it, when the lock is gone", async (way) => {
      await world(async ({ database, service }) => {
        const lane = await keepLaneBusy(database, service, D);
        const lock = await lockUser(database, B);
        const answered = short(way, service, [transfer(B, A, "10"), deduct(A, "5"), deduct(A, "5")]);
        await lane.queued(3);
        const free = service.ledger.topUp({ userId: C, amount: rub("1"), idempotencyKey: newKey() }, patient);
        await lane.queued(4);
        await lane.release();
        // It is in the same group, and doesn't wait for what is locked: so the group was tried once.
        await free;
        await lock.release();
        expect(await answered).toEqual([`${B} has 0.00, 0.00 held, at 2`, `${A} has 5.00, 0.00 held, at 2`, `${A} has 0.00, 0.00 held, at 3`]);
      });
    });

    test.each(both)("in a %s isn't tried where it stays locked, nor is what is behind that; all of it can be sent again", async (way) => {
      await world(async ({ database, service }) => {
        const lock = await lockUser(database, B);
        const writes = [transfer(B, A, "10"), topUp(C, "2"), transfer(A, D, "5"), deduct(D, "6"), deduct(C, "1")];
        const untried = ["TRANSACTION_CONFLICT", `${C} has 2.00, 0.00 held, at 1`, "NOT_TRIED", "NOT_TRIED", `${C} has 1.00, 0.00 held, at 2`];
        expect(await short(way, service, writes)).toEqual(untried);
        await lock.release();
        const replayed = [`${C} has 2.00, 0.00 held, at 1, replayed`, `${C} has 1.00, 0.00 held, at 2, replayed`];
        const [first, second] = [`${B} has 0.00, 0.00 held, at 2`, `${A} has 5.00, 0.00 held, at 2`];
        expect(await short(way, service, writes)).toEqual([first, replayed[0], second, `${D} has 0.00, 0.00 held, at 3`, replayed[1]]);
      });
    });

    test.each(both)("in a %s waits in another currency, too: keys and unique references are the user's", async (way) => {
      await world(async ({ database, service }) => {
        const once = (currency: string): OneWrite => ({
          case: "topUp",
          value: { userId: B, amount: { currency, amount: "7" }, reference: "order", uniqueReference: true, idempotencyKey: newKey() },
        });
        const [first, second] = [once("RUB"), once("USD")];
        await short("batch", service, [{ case: "topUp", value: { userId: B, amount: { currency: "USD", amount: "1" }, idempotencyKey: newKey() } }]);
        const lock = await block(database, `SELECT FROM ledgerd.user_balances WHERE user_id = ${B} AND currency = 'RUB' FOR UPDATE`);
        expect(await short(way, service, [first, second, topUp(C)])).toEqual(["TRANSACTION_CONFLICT", "NOT_TRIED", `${C} has 1.00, 0.00 held, at 1`]);
        await lock.release();
        expect(await short(way, service, [first, second])).toEqual([`${B} has 17.00, 0.00 held, at 2`, "REFERENCE_ALREADY_USED"]);
      });
    });

    test("with more expired holds than one group sets free, holds up nobody else", async () => {
      await world(async ({ database, service }) => {
        const holds = Array.from({ length: 1000 }, (): OneWrite => ({ case: "placeHold", value: { userId: B, amount: rub("0.01"), expiresIn: { seconds: 3n }, idempotencyKey: newKey() } }));
        await short("batch", service, holds);
        const due = "SELECT FROM ledgerd.holds WHERE state = 'open' AND expires_at <= clock_timestamp()";
        await until(async () => (await database.query(due)).length === holds.length);
        const lock = await lockUser(database, B);
        expect(await short("batch", service, [topUp(B), topUp(C)])).toEqual(["TRANSACTION_CONFLICT", `${C} has 1.00, 0.00 held, at 1`]);
        await lock.release();
      });
    });

    test("among calls by themselves is held back until that one is answered, and then decided", async () => {
      await world(async ({ database, service }) => {
        const lane = await keepLaneBusy(database, service, D);
        const lock = await lockUser(database, B);
        const blocked = short("stream", service, [transfer(B, A, "10")]);
        await lane.queued(1);
        const behind = service.ledger.topUp({ userId: A, amount: rub("5"), idempotencyKey: newKey() }, patient);
        await lane.queued(2);
        await lane.release();
        expect(await Promise.race([blocked, behind]), "in the order in which they came").toEqual(["TRANSACTION_CONFLICT"]);
        expect((await behind).balance).toMatchObject({ balance: rub("5.00"), sequence: 1n });
        await lock.release();
      });
    });
  });

  describe("what is behind a write that is found by halves to be the culprit", () => {
    test.each(both)("in a %s isn't tried, if it shares a user with it; the rest is", async (way) => {
      await world(async ({ database, service }) => {
        // What only this database knows, the service can't have refused before.
        await database.query("ALTER TABLE ledgerd.transactions ADD CONSTRAINT no_poison CHECK (description IS DISTINCT FROM 'poison')");
        const writes = [topUp(C), topUp(A, "5", "poison"), topUp(C), deduct(A, "3"), topUp(C)];
        expect(await short(way, service, writes)).toEqual([`${C} has 1.00, 0.00 held, at 1`, "INTERNAL", `${C} has 2.00, 0.00 held, at 2`, "NOT_TRIED", `${C} has 3.00, 0.00 held, at 3`]);
        await database.query("ALTER TABLE ledgerd.transactions DROP CONSTRAINT no_poison");
        expect((await short(way, service, writes)).filter((result) => !result.endsWith("replayed"))).toEqual([`${A} has 5.00, 0.00 held, at 1`, `${A} has 2.00, 0.00 held, at 2`]);
      });
    });

    test("isn't tried either, where the culprit waits for an account that another session makes and doesn't commit", async () => {
      await world(async ({ database, service }) => {
        const open = await block(database, `INSERT INTO ledgerd.user_balances (user_id, currency) VALUES (${A}, 'RUB')`);
        const writes = [topUp(C), transfer(B, A, "10"), deduct(B, "1"), topUp(C)];
        expect(await short("batch", service, writes)).toEqual([`${C} has 1.00, 0.00 held, at 1`, "TRANSACTION_CONFLICT", "NOT_TRIED", `${C} has 2.00, 0.00 held, at 2`]);
        await open.release();
        expect((await short("batch", service, writes)).slice(1, 3)).toEqual([`${B} has 0.00, 0.00 held, at 2`, "INSUFFICIENT_FUNDS"]);
      });
    });
  });

  test("what waits in the queue behind a group without an outcome isn't tried, if it shares a source and a user with it", async () => {
    await using database = await createDatabase();
    await using service = await serve(database.url, { LEDGERD_LANES: "1", LEDGERD_GROUP_LIMIT: "2", LEDGERD_SWEEP_INTERVAL: "1h" });
    await short("batch", service, [topUp(B, "10"), topUp(D)]);
    const lane = await keepLaneBusy(database, service, D);
    const lock = await lockUser(database, B);
    const answered = both.map((way) => short(way, service, [deduct(B, "1"), topUp(C), topUp(C), topUp(C), topUp(B), topUp(A)]));
    await lane.queued(12);
    const another = service.ledger.topUp({ userId: B, amount: rub("1"), idempotencyKey: newKey() }, patient);
    await lane.queued(13);
    await lane.release();
    for (const results of await Promise.all(answered)) {
      expect([results[0], results[4]]).toEqual(["TRANSACTION_CONFLICT", "NOT_TRIED"]);
      expect(results.filter((result) => / has /.test(result))).toHaveLength(4);
    }
    await lock.release();
    await another;
    await checkDatabase(database);
  });

  test("what a stream sends before it can know of a write without an outcome isn't tried, if it shares a user with it", async () => {
    await using database = await createDatabase();
    await using service = await serve(database.url, { LEDGERD_LANES: "2", LEDGERD_SWEEP_INTERVAL: "1h" });
    await short("batch", service, [topUp(A), topUp(B)]);
    await database.query("ALTER TABLE ledgerd.transactions ADD CONSTRAINT no_poison CHECK (description IS DISTINCT FROM 'poison')");
    const lock = await lockUser(database, B);
    const stream = new WriteStream(service);
    stream.send(topUp(B), topUp(A, "1", "poison"));
    await until(async () => (await journalsWaiting(database, "lock")) === 1);
    // In the other lane, behind the one that fails; whose result can't leave before that of the first one.
    await service.ledger.topUp({ userId: A, amount: rub("1"), idempotencyKey: newKey() }, patient);
    stream.send(deduct(A, "3"), topUp(C));
    await until(async () => (await database.query("SELECT FROM ledgerd.transactions WHERE user_id = $1", [C])).length === 1);
    await lock.release();
    expect((await stream.read(4)).map(inShort)).toEqual([`${B} has 2.00, 0.00 held, at 2`, "INTERNAL", "NOT_TRIED", `${C} has 1.00, 0.00 held, at 1`]);
    stream.send(deduct(A, "2"));
    stream.close();
    expect((await stream.read()).map(inShort), "once it can know, it is decided").toEqual([`${A} has 0.00, 0.00 held, at 3`]);
  });

  test("what arrives with a write that ends without an outcome isn't tried, though its turn comes when that was told", async () => {
    await world(async ({ database, service }) => {
      await database.query("ALTER TABLE ledgerd.transactions ADD CONSTRAINT no_poison CHECK (description IS DISTINCT FROM 'poison')");
      // All that a stream takes before it has told of the first ones, some of it long, and counted as several writes.
      const metadata = Object.fromEntries(Array.from({ length: 16 }, (_, index) => [`${index}`, "x".repeat(512)]));
      const value = { userId: D, amount: rub("1"), metadata, idempotencyKey: newKey() };
      const others = Array.from({ length: 997 }, () => topUp(D));
      const writes: OneWrite[] = [topUp(A, "5", "poison"), { case: "topUp", value }, ...others, deduct(A, "3")];
      const results = await short("stream", service, writes);
      const told = ["INTERNAL", `${D} has 999.00, 0.00 held, at 999`, "NOT_TRIED"];
      expect([results[0], ...results.slice(-2)]).toEqual(told);
    });
  });

  describe("at random, with accounts that others lock for a while and sessions that are cut", () => {
    const user = fc.constantFrom(11n, 12n, 13n, 14n);
    const amount = fc.integer({ min: 1, max: 9 }).map(String);
    const one = fc.oneof(fc.tuple(user, amount).map(([of, many]) => topUp(of, many)), fc.tuple(user, amount).map(([of, many]) => deduct(of, many)), fc.tuple(user, user, amount).map(([from, to, many]) => transfer(from, to, many)));
    const caller = fc.record({ way: fc.constantFrom(...both), writes: fc.array(one, { minLength: 2, maxLength: 25 }) });
    const plan = fc.record({ callers: fc.array(caller, { minLength: 2, maxLength: 5 }), locked: fc.subarray([11n, 12n, 13n, 14n], { minLength: 1 }), cut: fc.boolean() });

    type Plan = typeof plan extends fc.Arbitrary<infer T> ? T : never;

    /** Those of a caller's writes that were decided behind one of its own without an outcome that shares a user with them. */
    function outOfOrder(writes: readonly OneWrite[], results: readonly WriteResult[]): readonly string[] {
      const lost = new Set<bigint>();
      return results.flatMap((result, index) => {
        const users = usersOf(writes[index]);
        const isDecided = result.result.case !== "refusal" || result.result.value.stored;
        if (isDecided) return users.some((id) => lost.has(id)) ? [`${index}: ${inShort(result)}`] : [];
        for (const id of users) lost.add(id);
        return [];
      });
    }

    function usersOf(write: OneWrite | undefined): readonly bigint[] {
      if (write === undefined || write.case === undefined) return [];
      const { userId = 0n } = write.value ?? {};
      return write.case === "transfer" ? [userId, write.value?.toUserId ?? 0n] : [userId];
    }

    test("no write is decided without one before it, all are when they are sent again, and each once", async () => {
      const run = async ({ callers, locked, cut }: Plan): Promise<void> => {
        await using database = await createDatabase();
        await using service = await serve(database.url, { LEDGERD_LANES: "2", LEDGERD_GROUP_LIMIT: "10", LEDGERD_SWEEP_INTERVAL: "1h" });
        await short("batch", service, [topUp(11n), topUp(12n), topUp(13n)]);
        const locks = await Promise.all(locked.map((id) => lockUser(database, id)));
        const answered = callers.map(({ way, writes }) => ways[way](service, writes).catch(() => undefined));
        // The first who is answered while some accounts are locked has been told that it conflicts, or needs none of them.
        await Promise.race(answered);
        if (cut) await database.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'ledgerd journal'");
        for (const lock of locks) await lock.release();
        const results = await Promise.all(answered);
        expect(callers.map(({ writes }, index) => outOfOrder(writes, results[index] ?? []))).toEqual(callers.map(() => []));
        for (const [index, { way, writes }] of callers.entries()) {
          const again = await ways[way](service, writes);
          const decided = again.every(({ result }) => result.case !== "refusal" || result.value.stored);
          expect(decided, "each has its outcome now").toBe(true);
          const kept = (results[index] ?? []).flatMap((result, at) => (result.result.case === "refusal" && result.result.value.stored ? [[inShort(result), inShort(again[at] ?? result)]] : []));
          for (const [first, second] of kept) expect(second).toBe(first);
        }
        await checkDatabase(database);
      };
      // All at once: each waits for time limits of the journal.
      const together = fc.asyncProperty(fc.array(plan, { minLength: 8, maxLength: 8 }), (plans) => Promise.all(plans.map(run)).then(() => undefined));
      await fc.assert(together, { numRuns: 1, endOnFailure: true });
    });
  });
});
