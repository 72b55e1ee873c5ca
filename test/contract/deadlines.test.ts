// Deadlines of any length, by every protocol: a call waits as long as it may, and answers in time.

import type { Transport } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport, createGrpcWebTransport } from "@connectrpc/connect-node";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { clientsOver, failureOf, newKey, serve, type Clients, type TestService } from "../harness/service.ts";
import { WriteStream } from "../harness/write-stream.ts";

let database: TestDatabase;
let service: TestService;

beforeAll(async () => {
  database = await createDatabase();
  service = await serve(database.url, { LEDGERD_WAIT_POLL: "20ms" });
});

afterAll(async () => {
  await service.close();
  await database[Symbol.asyncDispose]();
});

const ofGrpc = {
  unit: "m",
  short: "300m",
  long: "20S",
  extreme: ["0n", "1n", "1u", "999u", "1m", "99999999n", "99999999S", "99999999H"],
};
const ofConnect = {
  unit: "",
  short: "300",
  long: "20000",
  extreme: ["0", "1", "2147483647", "2147483648", "9999999999"],
};
const protocols = {
  gRPC: {
    transport: (): Transport => createGrpcTransport({ baseUrl: `http://${service.grpcAddress}` }),
    header: "grpc-timeout",
    ...ofGrpc,
  },
  "gRPC-Web": {
    transport: (): Transport =>
      createGrpcWebTransport({ baseUrl: `http://${service.httpAddress}`, httpVersion: "1.1" }),
    header: "grpc-timeout",
    ...ofGrpc,
  },
  Connect: {
    transport: (): Transport =>
      createConnectTransport({ baseUrl: `http://${service.httpAddress}`, httpVersion: "1.1" }),
    header: "connect-timeout-ms",
    ...ofConnect,
  },
};

const wait = { seconds: 25n };
let lastLock = 0n;

async function toEnd(steps: AsyncIterable<unknown>): Promise<void> {
  for await (const _ of steps);
}

/** Why a call failed; empty: it didn't. */
const reasonOf = (call: Promise<unknown>): Promise<string> =>
  call.then(
    () => "",
    async () => (await failureOf(call)).reason,
  );

describe.each(Object.entries(protocols))("by %s", (_name, { transport, header, unit, short, long, extreme }) => {
  let clients: Clients;
  beforeAll(() => {
    clients = clientsOver(transport());
  });

  /** By the header alone: a client that knew of the deadline would end the call by itself. */
  const within = (timeout: string) => ({ headers: { [header]: timeout } });

  const createJob = async (modelId: string) =>
    clients.jobs.createJob({ userId: 1n, modelId, cost: { amount: "0" }, idempotencyKey: newKey() });

  async function heldLock(): Promise<{ lockKey: bigint; fencingToken: bigint }> {
    const lockKey = (lastLock += 1n);
    const { fencingToken } = await clients.locks.acquireLock({ lockKey, instanceId: "holder" });
    return { lockKey, fencingToken };
  }

  test("a wait that is longer than the deadline ends before it: with nothing, or with who holds the lock", async () => {
    const { lockKey } = await heldLock();
    const inTime = async (ms: number) => {
      const timeout = within(`${ms}${unit}`);
      const modelIds = [newKey()];
      const [claimed, acquired] = await Promise.allSettled([
        clients.jobs.claimJobs({ workerId: "w", modelIds, wait }, timeout),
        failureOf(clients.locks.acquireLock({ lockKey, instanceId: "other", wait }, timeout)),
      ]);
      if (claimed.status === "rejected" || acquired.status === "rejected") return undefined;
      if (acquired.value.reason === "DEADLINE_PASSED") return undefined;
      return { claimed: claimed.value, failed: acquired.value };
    };
    // A busy machine may need as long to begin: it gets longer then.
    const found = (await inTime(300)) ?? (await inTime(3000)) ?? (await inTime(20_000));
    expect(found?.claimed.jobs).toEqual([]);
    expect(found?.failed).toMatchObject({ reason: "LOCK_HELD", metadata: { instance_id: "holder" } });
  });

  test("until then it gets what comes, however long the deadline is", async () => {
    for (const timeout of [long, extreme.at(-1) ?? ""]) {
      const modelId = newKey();
      const { lockKey, fencingToken } = await heldLock();
      const claimed = clients.jobs.claimJobs({ workerId: "w", modelIds: [modelId], wait }, within(timeout));
      const acquired = clients.locks.acquireLock({ lockKey, instanceId: "other", wait }, within(timeout));
      // Both look once when they come, and wait then: a round trip on the same connection is behind that.
      await clients.jobs.claimJobs({ workerId: "w", modelIds: [newKey()], wait: { nanos: 50_000_000 } });
      await createJob(modelId);
      await clients.locks.releaseLock({ lockKey, fencingToken });
      expect((await claimed).jobs).toHaveLength(1);
      expect((await acquired).fencingToken).toBeGreaterThan(fencingToken);
    }
  });

  test("a deadline that is over, or beyond all timers, is one like any other", async () => {
    const told = new Set<string>();
    const { lockKey } = await heldLock();
    for (const timeout of extreme) {
      const calls = [
        clients.ledger.getBalance({ userId: 1n }, within(timeout)),
        clients.ledger.topUp({ userId: 1n, amount: { amount: "1" }, idempotencyKey: newKey() }, within(timeout)),
        clients.jobs.claimJobs({ workerId: "w", modelIds: [newKey()] }, within(timeout)),
        clients.locks.acquireLock({ lockKey, instanceId: "other", wait: { nanos: 1 } }, within(timeout)),
      ];
      for (const reason of await Promise.all(calls.map(reasonOf))) told.add(reason);
    }
    expect([...told].toSorted()).toEqual(["", "DEADLINE_PASSED", "LOCK_HELD"]);
  });

  test("watches end at their deadline with that reason, and not before", async () => {
    const { job } = await createJob(newKey());
    const watches = (timeout: string) => [
      clients.ledger.watchTransactions({ userId: 404n }, within(timeout)),
      clients.jobs.watchJobs({ jobId: job?.id ?? 0n }, within(timeout)),
      clients.locks.watchLock({ lockKey: 1n }, within(timeout)),
    ];
    // All at once: Node takes a stream for broken ("Premature close") that is read only when all of it has arrived.
    const ends = await Promise.all(watches(short).map((watch) => failureOf(toEnd(watch))));
    for (const end of ends) expect(end).toMatchObject({ reason: "DEADLINE_PASSED" });
    for (const watch of watches(extreme.at(-1) ?? "")) {
      const steps = watch[Symbol.asyncIterator]();
      expect((await steps.next()).done).toBe(false);
      await steps.return?.();
    }
  });
});

test.each(["1n", "99999999H"])(
  "a stream of writes with a deadline of %s is answered, or told that it has passed",
  async (timeout) => {
    const stream = new WriteStream(service, { "grpc-timeout": timeout });
    stream.send({ case: "topUp", value: { userId: 1n, amount: { amount: "1" }, idempotencyKey: newKey() } });
    const read = stream.read(1);
    const reason = await reasonOf(read);
    stream.cancel();
    expect(reason).toBe(timeout === "1n" ? "DEADLINE_PASSED" : "");
  },
);
