// LockService: leases with heartbeats and fencing tokens.

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Code } from "@connectrpc/connect";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { startInstance } from "../harness/instance.ts";
import { failureOf, serve, type TestService } from "../harness/service.ts";
import { until } from "../harness/until.ts";

let database: TestDatabase;
let service: TestService;
let lastKey = 0n;

beforeAll(async () => {
  database = await createDatabase();
  service = await serve(database.url, { LEDGERD_WAIT_POLL: "20ms" });
});

afterAll(async () => {
  await service.close();
  await database[Symbol.asyncDispose]();
});

const newLock = (): bigint => (lastKey += 1n);
const seconds = (count: number) => ({ seconds: BigInt(count), nanos: 0 });
const acquire = (lockKey: bigint, instanceId: string, more: object = {}) =>
  service.locks.acquireLock({ lockKey, instanceId, ttl: seconds(3600), ...more });
const stateOf = async (lockKey: bigint) => (await service.locks.getLock({ lockKey })).lock ?? expect.unreachable();

/** Lets the lease of a lock run out, as if time had passed. */
const expire = (lockKey: bigint) => database.query("UPDATE ledgerd.lock_heartbeat SET expires_at = clock_timestamp() - interval '1 second' WHERE lock_key = $1", [lockKey]);

describe("a lock", () => {
  test("is held by one instance, and others are told by whom", async () => {
    const lockKey = newLock();
    const { fencingToken, expireTime } = await acquire(lockKey, "a", { ttl: seconds(60) });
    expect(await stateOf(lockKey)).toMatchObject({ held: true, instanceId: "a", fencingToken, expireTime });
    const failed = await failureOf(acquire(lockKey, "b"));
    expect(failed).toMatchObject({ code: Code.FailedPrecondition, reason: "LOCK_HELD", metadata: { lock_key: `${lockKey}`, instance_id: "a" } });
    expect(failed.metadata["expire_time"]).toBeDefined();
    expect(await failureOf(acquire(lockKey, "a")), "its holder as well").toMatchObject({ reason: "LOCK_HELD" });
  });

  test("that nobody ever took reads as free", async () => {
    expect(await stateOf(newLock())).toMatchObject({ held: false, instanceId: "", fencingToken: 0n });
  });

  test("has tokens that grow over release and expiry", async () => {
    const lockKey = newLock();
    const tokens: bigint[] = [];
    for (const end of ["release", "expiry", "release"]) {
      const { fencingToken } = await acquire(lockKey, "a");
      tokens.push(fencingToken);
      await (end === "release" ? service.locks.releaseLock({ lockKey, fencingToken }) : expire(lockKey));
    }
    expect(new Set(tokens).size).toBe(3);
    expect(tokens).toEqual(tokens.toSorted((a, b) => Number(a - b)));
  });

  test("is extended by heartbeats, and never taken back by a late one", async () => {
    const lockKey = newLock();
    const { fencingToken, expireTime } = await acquire(lockKey, "a", { ttl: seconds(600) });
    const extended = await service.locks.heartbeatLock({ lockKey, fencingToken, ttl: seconds(3600) });
    expect((extended.expireTime?.seconds ?? 0n) - (expireTime?.seconds ?? 0n)).toBeGreaterThan(2000n);
    await expire(lockKey);
    const lost = { code: Code.FailedPrecondition, reason: "LOCK_LOST", metadata: { fencing_token: `${fencingToken}` } };
    expect(await failureOf(service.locks.heartbeatLock({ lockKey, fencingToken })), "though nobody has it").toMatchObject(lost);
    await acquire(lockKey, "b");
    expect(await failureOf(service.locks.heartbeatLock({ lockKey, fencingToken }))).toMatchObject(lost);
    expect(await failureOf(service.locks.releaseLock({ lockKey, fencingToken }))).toMatchObject(lost);
    expect((await stateOf(lockKey)).instanceId).toBe("b");
  });

  test("is released once, and a repeat is answered alike", async () => {
    const lockKey = newLock();
    const { fencingToken } = await acquire(lockKey, "a");
    await service.locks.releaseLock({ lockKey, fencingToken });
    await service.locks.releaseLock({ lockKey, fencingToken });
    expect(await stateOf(lockKey)).toMatchObject({ held: false, instanceId: "a" });
  });

  test("answers a repeated call with its own lease while that is valid", async () => {
    const lockKey = newLock();
    const first = await acquire(lockKey, "a", { requestId: "1" });
    expect(await acquire(lockKey, "a", { requestId: "1" })).toEqual(first);
    expect(await failureOf(acquire(lockKey, "a", { requestId: "2" }))).toMatchObject({ reason: "LOCK_HELD" });
    expect(await failureOf(acquire(lockKey, "b", { requestId: "1" }))).toMatchObject({ reason: "LOCK_HELD" });
    await expire(lockKey);
    expect((await acquire(lockKey, "a", { requestId: "1" })).fencingToken > first.fencingToken).toBe(true);
  });

  test("of ledgerd's own is nobody's business", async () => {
    expect(await failureOf(acquire(-(2n ** 62n) - 1n, "a"))).toMatchObject({ reason: "INVALID_REQUEST", fields: ["lock_key"] });
    await acquire(-(2n ** 62n), "a");
    const { locks } = await service.locks.listLocks({ pageSize: 1000 });
    expect(locks.every(({ lockKey }) => lockKey >= -(2n ** 62n))).toBe(true);
  });
});

describe("who waits for a lock", () => {
  test("gets it when it is released", async () => {
    const lockKey = newLock();
    const { fencingToken } = await acquire(lockKey, "a", { ttl: seconds(3600) });
    const waiting = acquire(lockKey, "b", { wait: seconds(30) });
    await service.locks.releaseLock({ lockKey, fencingToken });
    expect((await waiting).fencingToken > fencingToken).toBe(true);
  });

  test("gets it when its holder has died", async () => {
    const lockKey = newLock();
    await acquire(lockKey, "a", { ttl: seconds(1) });
    await acquire(lockKey, "b", { wait: seconds(30) });
    expect((await stateOf(lockKey)).instanceId).toBe("b");
  });

  test("gets it from another instance of ledgerd as well", async () => {
    await using other = await startInstance(database.url);
    const lockKey = newLock();
    const { fencingToken } = await acquire(lockKey, "a", { ttl: seconds(3600) });
    const waiting = other.locks.acquireLock({ lockKey, instanceId: "b", wait: seconds(30) });
    await service.locks.releaseLock({ lockKey, fencingToken });
    await waiting;
    expect((await stateOf(lockKey)).instanceId).toBe("b");
  });

  test("is told by whom it is held when the wait is over", async () => {
    const lockKey = newLock();
    await acquire(lockKey, "a");
    expect(await failureOf(acquire(lockKey, "b", { wait: { seconds: 0n, nanos: 100_000_000 } }))).toMatchObject({ reason: "LOCK_HELD", metadata: { instance_id: "a" } });
  });

  test("is one of many: a lock goes from one to the next, and each has it alone", async () => {
    const lockKey = newLock();
    let holders = 0;
    const tokens: bigint[] = [];
    await Promise.all(
      Array.from({ length: 16 }, async (_, index) => {
        const { fencingToken } = await acquire(lockKey, `instance ${index}`, { wait: seconds(30) });
        holders += 1;
        expect(holders).toBe(1);
        tokens.push(fencingToken);
        await new Promise((resolve) => setImmediate(resolve));
        holders -= 1;
        await service.locks.releaseLock({ lockKey, fencingToken });
      }),
    );
    expect(tokens).toEqual(tokens.toSorted((a, b) => Number(a - b)));
  });
});

test("locks that are held are listed by key, in pages", async () => {
  const keys = [newLock(), newLock(), newLock()].map((key) => key + 1_000_000n);
  for (const key of keys) await acquire(key, "lister");
  const held: bigint[] = [];
  let pageToken = "";
  do {
    const page = await service.locks.listLocks({ pageSize: 2, pageToken });
    held.push(...page.locks.map(({ lockKey }) => lockKey));
    ({ nextPageToken: pageToken } = page);
  } while (pageToken !== "");
  expect(held.filter((key) => key > 1_000_000n)).toEqual(keys);
  expect(held).toEqual(held.toSorted((a, b) => Number(a - b)));
});

test("WatchLock tells who has the lock, and when nobody has", async () => {
  const lockKey = newLock();
  const seen: [boolean | undefined, string | undefined][] = [];
  const { fencingToken } = await acquire(lockKey, "a");
  for await (const { lock } of service.locks.watchLock({ lockKey })) {
    seen.push([lock?.held, lock?.instanceId]);
    if (seen.length === 1) void service.locks.releaseLock({ lockKey, fencingToken });
    if (seen.length === 2) void acquire(lockKey, "b");
    if (seen.length === 3) break;
  }
  expect(seen).toEqual([[true, "a"], [false, "a"], [true, "b"]]);
});

describe("the seed's function", () => {
  const beat = (lockKey: bigint, instanceId: string) => database.query("SELECT ledgerd.update_lock_heartbeat($1, $2)", [lockKey, instanceId]);

  test("takes a free lock, extends its caller's own, and never takes over a valid one", async () => {
    const lockKey = newLock();
    await beat(lockKey, "old application");
    const before = await stateOf(lockKey);
    expect(before).toMatchObject({ held: true, instanceId: "old application" });
    await beat(lockKey, "old application");
    const after = await stateOf(lockKey);
    expect(after.fencingToken, "the same lease").toBe(before.fencingToken);
    await expect(beat(lockKey, "another")).rejects.toMatchObject({ code: "55P03" });
    expect(await failureOf(acquire(lockKey, "ledgerd's client"))).toMatchObject({ reason: "LOCK_HELD" });
    await expire(lockKey);
    await beat(lockKey, "another");
    expect((await stateOf(lockKey)).fencingToken > after.fencingToken).toBe(true);
  });

  test("that waits behind a release takes the lock anew, with a larger token", async () => {
    const lockKey = newLock();
    await beat(lockKey, "old application");
    const { fencingToken } = await stateOf(lockKey);
    const releasing = await database.connect();
    await releasing.query("BEGIN");
    await releasing.query("UPDATE ledgerd.lock_heartbeat SET released = TRUE, expires_at = clock_timestamp() WHERE lock_key = $1", [lockKey]);
    const waiting = beat(lockKey, "old application");
    const other = await database.connect();
    const waits = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    await until(async () => (await other.query(waits)).rows.length === 1);
    // Its moment must not be that of its call.
    await releasing.query("UPDATE ledgerd.lock_heartbeat SET expires_at = clock_timestamp() WHERE lock_key = $1", [lockKey]);
    await releasing.query("COMMIT");
    await waiting;
    expect((await stateOf(lockKey)).fencingToken > fencingToken).toBe(true);
    await releasing.end();
    await other.end();
  });

  test("doesn't take over what the service's callers hold", async () => {
    const lockKey = newLock();
    await acquire(lockKey, "a");
    await expect(beat(lockKey, "old application")).rejects.toMatchObject({ code: "55P03" });
  });
});

test("background work is one instance's, and another one's when that is gone", async () => {
  const holders = async () => (await database.query<{ instance_id: string }>("SELECT DISTINCT instance_id FROM ledgerd.lock_heartbeat WHERE lock_key < -(2::numeric ^ 62) AND expires_at > clock_timestamp()")).map(({ instance_id: id }) => id);
  await until(async () => (await holders()).length === 1);
  const [first] = await holders();
  await using other = await startInstance(database.url, { LEDGERD_SWEEP_INTERVAL: "50ms", LEDGERD_JOB_SWEEP_INTERVAL: "50ms" });
  await service.close();
  await until(async () => (await holders()).some((id) => id !== first));
  await other.end("SIGKILL");
  service = await serve(database.url);
  await until(async () => (await holders()).length > 0);
});
