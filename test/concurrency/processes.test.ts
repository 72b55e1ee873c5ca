// Several processes of one command on one pair of ports: the connections are spread over them, and what one writes the others' callers learn at once.

import { Agent } from "node:http";
import { createConnectTransport, createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { JobStatus } from "../../src/gen/ledger/v1/job_service_pb.ts";
import { servesAt, startLedgerd, workersOf, type Command } from "../harness/command.ts";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { checkDatabase } from "../harness/inspect.ts";
import { clientsOf, clientsOver, newKey, serve, type Clients } from "../harness/service.ts";

const WORKERS = 3;
const rub = (amount: string) => ({ currency: "RUB", amount });
const seconds = (count: number) => ({ seconds: BigInt(count), nanos: 0 });

/** Less than a poll takes here: it would come too late. */
const LIMIT = { timeoutMs: 50_000 };

let database: TestDatabase;
let command: Command;
let at: { readonly grpc: string; readonly http: string };

beforeAll(async () => {
  database = await createDatabase();
  // Whoever is told within the test's time wasn't told by a poll.
  const patient = { LEDGERD_FEED_POLL: "1m", LEDGERD_WAIT_POLL: "1m", LEDGERD_SWEEP_INTERVAL: "1h", LEDGERD_JOB_SWEEP_INTERVAL: "1h" };
  command = startLedgerd(["serve", "--workers", String(WORKERS)], { DATABASE_URL: database.url, LEDGERD_DURABILITY: "relaxed", LEDGERD_WORKERS: "64", ...patient });
  at = await servesAt(command);
});

afterAll(async () => {
  command.process.kill("SIGTERM");
  expect(await command.ended).toBe(0);
  await checkDatabase(database);
  await database[Symbol.asyncDispose]();
});

const processOf = async ({ admin }: Clients): Promise<number> => (await admin.getServiceStatus({})).processId;

/** Clients on the web port, over one connection. */
function webClients(): Clients {
  return clientsOver(createConnectTransport({ baseUrl: `http://${at.http}`, httpVersion: "1.1", nodeOptions: { agent: new Agent({ keepAlive: true, maxSockets: 1 }) } }));
}

test.each([
  ["gRPC", () => clientsOf(at.grpc)],
  ["the web", webClients],
])("of connections for %s that come at once, each process gets as many, and keeps them", async (_door, connect) => {
  const clients = Array.from({ length: WORKERS * 3 }, connect);
  const first = await Promise.all(clients.map(processOf));
  const counts = workersOf(command).map((pid) => first.filter((one) => one === pid).length);
  expect(counts).toEqual(Array.from({ length: WORKERS }, () => 3));
  expect(await Promise.all(clients.map(processOf))).toEqual(first);
});

test("a process whose callers have gone gets the next ones", async () => {
  const baseUrl = `http://${at.grpc}`;
  const callers = await Promise.all(
    Array.from({ length: WORKERS * 3 }, async () => {
      const sessionManager = new Http2SessionManager(baseUrl);
      return { sessionManager, pid: await processOf(clientsOver(createGrpcTransport({ baseUrl, sessionManager }))) };
    }),
  );
  const [{ pid: quiet } = expect.unreachable()] = callers;
  for (const { sessionManager, pid } of callers) if (pid === quiet) sessionManager.abort();
  // Each of the others may get one more before all have heard that it is quiet.
  let got = 0;
  for (let count = 0; count < 3 + (WORKERS - 1); count++) if ((await processOf(clientsOf(at.grpc))) === quiet) got += 1;
  expect(got).toBeGreaterThanOrEqual(3);
});

test("each process commits one group at a time, and one that serves alone two", async () => {
  const sessions = async (): Promise<number> => {
    const [row] = await database.query<{ count: number }>("SELECT count(*)::int FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'ledgerd journal'");
    return row?.count ?? 0;
  };
  const write = async ({ ledger }: Clients): Promise<unknown> =>
    Promise.all(Array.from({ length: 40 }, (_, n) => ledger.topUp({ userId: BigInt(1000 + n), amount: rub("1"), idempotencyKey: newKey() })));
  await Promise.all(Array.from({ length: WORKERS * 2 }, () => write(clientsOf(at.grpc))));
  expect(await sessions()).toBe(WORKERS);
  await using alone = await serve(database.url);
  await write(alone);
  expect(await sessions()).toBe(WORKERS + 2);
});

describe("where one process writes, a caller of another one that waits learns it without a poll", () => {
  /** Who writes, and who waits, at two processes. */
  async function two(): Promise<readonly [Clients, Clients]> {
    const writer = clientsOf(at.grpc);
    const one = await processOf(writer);
    for (;;) {
      const waiter = clientsOf(at.grpc);
      if ((await processOf(waiter)) !== one) return [writer, waiter];
    }
  }

  async function newUser({ ledger }: Clients): Promise<bigint> {
    const userId = BigInt(Math.floor(Math.random() * 2 ** 40)) + 1n;
    await ledger.topUp({ userId, amount: rub("100"), idempotencyKey: newKey() });
    return userId;
  }

  const newModel = (): string => `model-${newKey()}`;

  test("a transaction, by WatchTransactions", async () => {
    const [writer, waiter] = await two();
    const userId = await newUser(writer);
    const seen: string[] = [];
    for await (const { event } of waiter.ledger.watchTransactions({ userId }, LIMIT)) {
      if (event.case === "caughtUp") await writer.ledger.deduct({ userId, amount: rub("1"), idempotencyKey: newKey() });
      if (event.case === "transaction") seen.push(event.value.amount?.amount ?? "");
      if (seen.length === 2) break;
    }
    expect(seen).toEqual(["100.00", "-1.00"]);
  });

  test("a job, by a worker that waits in ClaimJobs", async () => {
    const [writer, waiter] = await two();
    const userId = await newUser(writer);
    const modelId = newModel();
    const claimed = waiter.jobs.claimJobs({ workerId: "waiter", modelIds: [modelId], wait: seconds(30) }, LIMIT);
    // It waits: another look of the same kind at its process has come to its end.
    await waiter.jobs.claimJobs({ workerId: "other", modelIds: [modelId] });
    const { job } = await writer.jobs.createJob({ userId, modelId, cost: rub("1"), idempotencyKey: newKey() });
    expect((await claimed).jobs.map((one) => one.job?.id)).toEqual([job?.id]);
  });

  test("a job's state, by WatchJobs", async () => {
    const [writer, waiter] = await two();
    const userId = await newUser(writer);
    const { job } = await writer.jobs.createJob({ userId, modelId: newModel(), cost: rub("1"), idempotencyKey: newKey() });
    const jobId = job?.id ?? 0n;
    const seen: (JobStatus | undefined)[] = [];
    for await (const state of waiter.jobs.watchJobs({ jobId }, LIMIT)) {
      if (seen.push(state.job?.status) === 1) await writer.jobs.cancelJob({ jobId, idempotencyKey: newKey() });
    }
    expect(seen).toEqual([JobStatus.PENDING, JobStatus.CANCELLED]);
  });

  test("a lock that is free, by AcquireLock", async () => {
    const [writer, waiter] = await two();
    const lockKey = BigInt(Math.floor(Math.random() * 2 ** 40));
    const { fencingToken } = await writer.locks.acquireLock({ lockKey, instanceId: "writer", ttl: seconds(3600) });
    const acquired = waiter.locks.acquireLock({ lockKey, instanceId: "waiter", wait: seconds(30) }, LIMIT);
    // It waits: another look at its process has come to its end.
    await waiter.locks.getLock({ lockKey });
    await writer.locks.releaseLock({ lockKey, fencingToken });
    await acquired;
    expect((await writer.locks.getLock({ lockKey })).lock?.instanceId).toBe("waiter");
  });
});
