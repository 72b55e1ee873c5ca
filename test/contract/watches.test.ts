// Many readers at once, on an instance that has two connections for calls: it stays ready and the work in the
// background goes on, whatever they read and however long that takes; and each watch is told the whole log.

import { createHash } from "node:crypto";
import { setTimeout as delay } from "node:timers/promises";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { CallOptions } from "@connectrpc/connect";
import { framed, GrpcConnection } from "../../bench/wire/http2.ts";
import { fieldAt } from "../../bench/wire/protobuf.ts";
import { ownLocks } from "../../src/domain/lock.ts";
import { block } from "../harness/blocker.ts";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { readinessOf } from "../harness/health.ts";
import { startInstance, type Instance } from "../harness/instance.ts";
import { newKey, serve, type Clients } from "../harness/service.ts";
import { until } from "../harness/until.ts";

const WATCHES = 300;
const CONNECTIONS = 6;
const ROWS = 600;
/** More often than a probe would. */
const PROBE_MS = 100;
const rub = (amount: string) => ({ currency: "RUB", amount });

let database: TestDatabase;
let instance: Instance;

beforeAll(async () => {
  database = await createDatabase();
  instance = await startInstance(database.url, { LEDGERD_POOL_MIN: "1", LEDGERD_POOL_MAX: "2" });
  const writes = Array.from({ length: ROWS }, (_, index) => {
    const value = { userId: BigInt(1 + (index % 50)), amount: rub("1"), idempotencyKey: newKey() };
    return { write: { case: "topUp" as const, value } };
  });
  await instance.ledger.batchWrite({ writes });
});

afterAll(async () => {
  expect(await instance.end("SIGTERM")).toBe(0);
  await database[Symbol.asyncDispose]();
});

/** Watches from the beginning to the mark that the present is reached; answers a digest of all that was told. */
function watchAll(connection: GrpcConnection, onRow: (message: Buffer) => void): Promise<string> {
  const TRANSACTION = 1;
  const digest = createHash("sha256");
  const level = Promise.withResolvers<string>();
  let isLevel = false;
  const stream = connection.stream({
    onMessage: (message) => {
      if (message.readUInt8(0) >> 3 !== TRANSACTION) {
        isLevel = true;
        return level.resolve(digest.digest("hex"));
      }
      onRow(message);
      if (!isLevel) digest.update(message);
    },
    onEnd: () => level.reject(new Error("a watch ended")),
    onError: level.reject,
  });
  stream.write(framed(Buffer.alloc(0)));
  stream.end();
  return level.promise;
}

/** The leases of the work in the background: by which token each is held. */
async function leases(): Promise<readonly string[]> {
  const keys = [ownLocks.expireHolds, ownLocks.rescueJobs, ownLocks.addPartitions];
  const held = await database.query<{ lease: string }>(
    `SELECT format('%s by token %s', lock_key, fencing_token) AS lease FROM ledgerd.lock_heartbeat
     WHERE lock_key = ANY($1) AND expires_at > clock_timestamp() ORDER BY lock_key`,
    [keys],
  );
  return held.map(({ lease }) => lease);
}

async function probe(path: string, { httpAddress }: Pick<Instance, "httpAddress"> = instance): Promise<number> {
  return (await fetch(`http://${httpAddress}${path}`)).status;
}

test("300 watches from the beginning are told all of the log by an instance that stays ready and holds its leases", async () => {
  await until(async () => (await leases()).length === 3);
  const before = await leases();
  const isReady = readinessOf(instance.grpcAddress);
  const ids: (number | undefined)[] = [];
  const noteId = (message: Buffer): number => ids.push(fieldAt(message, 1, 1)?.value);
  const method = "/ledger.v1.LedgerService/WatchTransactions";
  const opening = Array.from({ length: CONNECTIONS }, () => GrpcConnection.open(instance.grpcAddress, method));
  const connections = await Promise.all(opening);
  const each = Array.from({ length: WATCHES }, (_, index) =>
    watchAll(connections[index % CONNECTIONS] as GrpcConnection, index === 0 ? noteId : () => undefined),
  );
  const watching = Promise.all(each);
  while ((await Promise.race([watching, delay(PROBE_MS, "still" as const)])) === "still") {
    const probes = await Promise.all([isReady(), probe("/healthz"), probe("/readyz"), probe("/livez")]);
    expect(probes).toEqual([true, 200, 200, 200]);
    expect((await instance.ledger.getBalance({ userId: 1n })).balance?.sequence).toBe(12n);
    expect(await leases()).toEqual(before);
  }
  const digests = await watching;
  const rows = await database.query<{ id: bigint }>("SELECT id FROM ledgerd.transactions ORDER BY id");
  expect(ids).toEqual(rows.map(({ id }) => Number(id)));
  expect(new Set(digests).size, "all were told the same").toBe(1);

  // All of them are level now: what is written is told to each.
  const { transaction } = await instance.ledger.topUp({ userId: 1n, amount: rub("1"), idempotencyKey: newKey() });
  await until(() => ids.at(-1) === Number(transaction?.id));
  for (const connection of connections) connection.close();
});

/** Calls of all kinds that read otherwise than by the connections for calls, each of some user. */
const readers: readonly ((clients: Clients, userId: bigint, options: CallOptions) => Promise<unknown>)[] = [
  ({ ledger }, _, options) => drained(ledger.watchTransactions({}, options)),
  ({ ledger }, userId, options) => drained(ledger.watchTransactions({ userId }, options)),
  ({ jobs }, userId, options) => drained(jobs.watchJobs({ userId }, options)),
  ({ jobs }, jobId, options) => drained(jobs.watchJobs({ jobId }, options)),
  ({ jobs }, userId, options) => jobs.claimJobs({ workerId: `${userId}`, maxJobs: 1, wait: { seconds: 20n } }, options),
  ({ admin }, _, options) => admin.getServiceStatus({}, options),
];

async function drained(stream: AsyncIterable<unknown>): Promise<void> {
  for await (const _ of stream);
}

test("300 calls that read, and stand still, hold up neither readiness nor the leases of the background", async () => {
  // No other instance has the leases.
  await using alone = await createDatabase();
  await using service = await serve(alone.url, { LEDGERD_POOL_MIN: "1", LEDGERD_POOL_MAX: "2" });
  await service.ledger.topUp({ userId: 1n, amount: rub("1"), idempotencyKey: newKey() });
  const gone = new AbortController();
  const options: CallOptions = { signal: gone.signal, timeoutMs: 60_000 };
  // Somebody is level with the log: so others read what lies before that, which is where they are to stand still.
  const first = service.ledger.watchTransactions({}, options)[Symbol.asyncIterator]();
  for (let step = await first.next(); step.value?.event.case !== "caughtUp"; ) step = await first.next();
  const blocker = await block(alone, "LOCK TABLE ledgerd.transactions, ledgerd.jobs, ledgerd.verifications");
  const calls = Array.from({ length: WATCHES }, (_, index) => {
    const call = readers[index % readers.length] ?? expect.unreachable();
    return call(service, BigInt(1 + index), options).catch(() => undefined);
  });
  const waits = `SELECT FROM pg_locks WHERE NOT granted AND relation::regclass::text IN
                 ('ledgerd.transactions', 'ledgerd.jobs', 'ledgerd.verifications')`;
  await until(async () => (await alone.query(waits)).length >= 4);
  const isReady = readinessOf(service.grpcAddress);
  const ready: boolean[] = [];
  for (let beats = 0; beats < 3; beats += 1) {
    const before = await lastBeat(alone);
    await until(async () => {
      ready.push(await isReady());
      return (await lastBeat(alone)) > before;
    });
  }
  expect(new Set(ready)).toEqual(new Set([true]));
  expect(await probe("/livez", service)).toBe(200);
  await blocker.release();
  gone.abort();
  await Promise.all(calls);
});

/** When a lease was extended last, in milliseconds: that of expired holds, which needs none of those tables. */
async function lastBeat({ query }: TestDatabase): Promise<number> {
  const [found] = await query<{ beat: number }>(
    `SELECT (extract(epoch FROM last_heartbeat) * 1000)::float8 AS beat
     FROM ledgerd.lock_heartbeat WHERE lock_key = $1`,
    [ownLocks.expireHolds],
  );
  return found?.beat ?? 0;
}
