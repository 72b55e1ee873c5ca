// Which calls only read: they are marked in the contract, and leave every row, lock and sequence of the database as it
// was.

import { MethodOptions_IdempotencyLevel as Level } from "@bufbuild/protobuf/wkt";
import { afterAll, beforeAll, expect, test } from "vitest";
import { AdminService } from "../../src/gen/ledger/v1/admin_service_pb.ts";
import { JobService } from "../../src/gen/ledger/v1/job_service_pb.ts";
import { LedgerService } from "../../src/gen/ledger/v1/ledger_service_pb.ts";
import { LockService } from "../../src/gen/ledger/v1/lock_service_pb.ts";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { serve, type TestService } from "../harness/service.ts";

const USER = 1n;
const rub = (amount: string) => ({ currency: "RUB", amount });

let database: TestDatabase;
let service: TestService;

/**
 * A ledger with an account, an open hold, a pending job and a held lock: nothing of it is due, so that no background
 * work changes it.
 */
beforeAll(async () => {
  database = await createDatabase();
  service = await serve(database.url, { LEDGERD_VERIFY_RATE: "0" });
  await service.ledger.topUp({ userId: USER, amount: rub("100"), idempotencyKey: "top-up" });
  await service.ledger.placeHold({ userId: USER, amount: rub("1"), idempotencyKey: "hold" });
  await service.jobs.createJob({ userId: USER, modelId: "m", cost: rub("1"), idempotencyKey: "job" });
  await service.locks.acquireLock({ lockKey: 1n, instanceId: "i", ttl: { seconds: 3600n } });
});

afterAll(async () => {
  await service.close();
  await database[Symbol.asyncDispose]();
});

/**
 * The reads, each with calls of it. All other methods do something: `VerifyLedger` too, whose findings
 * `GetServiceStatus` tells.
 */
const reads: Readonly<Record<string, () => Promise<unknown>>> = {
  "LedgerService/GetBalance": () => service.ledger.getBalance({ userId: USER }),
  "LedgerService/BatchGetBalances": () =>
    service.ledger.batchGetBalances({ userIds: [USER, 2n], asOf: { case: "asOfSequence", value: 0n } }),
  "LedgerService/GetOutcome": () => service.ledger.getOutcome({ userId: USER, idempotencyKey: "hold" }),
  "LedgerService/GetHold": () => service.ledger.getHold({ holdId: 1n }),
  "LedgerService/ListHolds": () => service.ledger.listHolds({ userId: USER }),
  "LedgerService/GetTransaction": () => service.ledger.getTransaction({ name: { case: "transactionId", value: 1n } }),
  "LedgerService/ListTransactions": () => service.ledger.listTransactions({ userId: USER, pageSize: 1 }),
  "LedgerService/WatchTransactions": () => firstOf(service.ledger.watchTransactions({})),
  "LedgerService/GetStatement": () => service.ledger.getStatement({ userId: USER }),
  "AdminService/ListBalances": () => service.admin.listBalances({}),
  "AdminService/GetServiceStatus": () => service.admin.getServiceStatus({}),
  "JobService/GetJob": () => service.jobs.getJob({ jobId: 1n }),
  "JobService/BatchGetJobs": () => service.jobs.batchGetJobs({ jobIds: [1n, 2n] }),
  "JobService/ListJobs": () => service.jobs.listJobs({ userId: USER }),
  "JobService/WatchJobs": () => firstOf(service.jobs.watchJobs({ userId: USER })),
  "LockService/GetLock": () => service.locks.getLock({ lockKey: 1n }),
  "LockService/ListLocks": () => service.locks.listLocks({}),
  "LockService/WatchLock": () => firstOf(service.locks.watchLock({ lockKey: 1n })),
};

test("the contract marks all reads, and nothing else, as without side effects", () => {
  const methods = [LedgerService, AdminService, JobService, LockService].flatMap((one) => one.methods);
  const marked = methods.filter(({ idempotency }) => idempotency === Level.NO_SIDE_EFFECTS);
  expect(marked.map((method) => `${method.parent.name}/${method.name}`).toSorted()).toEqual(
    Object.keys(reads).toSorted(),
  );
});

test.each(Object.entries(reads))("%s changes nothing", async (_name, call) => {
  const before = await everythingIn(database);
  await call();
  expect(await everythingIn(database)).toEqual(before);
});

/** The first message of a stream. */
async function firstOf<T>(stream: AsyncIterable<T>): Promise<T> {
  for await (const message of stream) return message;
  throw new Error("the stream ended without a message");
}

/**
 * Each row with what PostgreSQL notes of its versions and locks, and each sequence; without the leases of ledgerd's own
 * background work.
 */
async function everythingIn({ query }: TestDatabase): Promise<Readonly<Record<string, unknown>>> {
  const found: Record<string, unknown> = {};
  const tables = await query<{ name: string }>(
    "SELECT tablename AS name FROM pg_tables WHERE schemaname = 'ledgerd' ORDER BY 1",
  );
  for (const { name } of tables) {
    const ours = name === "lock_heartbeat" ? "WHERE lock_key >= '-4611686018427387904'::int8" : "";
    found[name] = await query(
      `SELECT ctid, xmin, xmax, to_jsonb(t) AS row FROM ledgerd.${name} t ${ours} ORDER BY ctid`,
    );
  }
  const sequences = "schemaname = 'ledgerd' AND sequencename <> 'lock_token_seq'";
  return {
    ...found,
    sequences: await query(`SELECT sequencename, last_value FROM pg_sequences WHERE ${sequences} ORDER BY 1`),
  };
}
