// No N+1: a call takes the same number of statements however many things it is about.

import { afterAll, beforeAll, expect, test } from "vitest";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { newKey, serve, type TestService } from "../harness/service.ts";

let database: TestDatabase;
let service: TestService;

beforeAll(async () => {
  database = await createDatabase();
  await database.query("CREATE EXTENSION pg_stat_statements");
  const rarely = { LEDGERD_SWEEP_INTERVAL: "1h", LEDGERD_JOB_SWEEP_INTERVAL: "1h" };
  service = await serve(database.url, { LEDGERD_VERIFY_RATE: "0", ...rarely });
});

afterAll(async () => {
  await service.close();
  await database[Symbol.asyncDispose]();
});

const rub = (amount: string) => ({ currency: "RUB", amount });

/** What the background sends meanwhile: looks at the database, leases of its work, and the first round of each. */
const BACKGROUND =
  "pg_is_in_recovery|lock_heartbeat|add_transaction_partitions|AS due$|lease_expires_at <= statement_timestamp";

/** How many statements a call sends; those of the background aside. */
async function statementsOf(call: () => Promise<unknown>): Promise<number> {
  const thisDatabase = "(SELECT oid FROM pg_database WHERE datname = current_database())";
  await database.query(`SELECT pg_stat_statements_reset(0, ${thisDatabase}, 0)`);
  await call();
  const [counted] = await database.query<{ calls: bigint }>(
    `SELECT coalesce(sum(calls), 0)::int8 AS calls FROM pg_stat_statements
     WHERE dbid = ${thisDatabase} AND query !~ $1`,
    [`pg_stat_statements|${BACKGROUND}`],
  );
  return Number(counted?.calls);
}

const topUps = (users: readonly bigint[]) => users.map((userId) => ({ write: { case: "topUp" as const, value: { userId, amount: rub("10"), idempotencyKey: newKey() } } }));
const deductions = (users: readonly bigint[]) => users.map((userId) => ({ write: { case: "deduct" as const, value: { userId, amount: rub("1"), idempotencyKey: newKey() } } }));
const usersUpTo = (count: number): readonly bigint[] => Array.from({ length: count }, (_, index) => BigInt(index + 1));

const calls: Readonly<Record<string, (count: number) => Promise<unknown>>> = {
  BatchWrite: (count) => service.ledger.batchWrite({ writes: deductions(usersUpTo(count)) }),
  "an atomic BatchWrite": (count) =>
    service.ledger.batchWrite({ atomic: true, idempotencyKey: newKey(), writes: deductions(usersUpTo(count)).map(({ write }) => ({ write: { ...write, value: { ...write.value, idempotencyKey: "" } } })) }),
  BatchGetBalances: (count) => service.ledger.batchGetBalances({ userIds: [...usersUpTo(count)] }),
  "BatchGetBalances as of a sequence": (count) => service.ledger.batchGetBalances({ userIds: [...usersUpTo(count)], asOf: { case: "asOfSequence", value: 1n } }),
  ListTransactions: (count) => service.ledger.listTransactions({ userId: 1n, pageSize: count }),
  GetStatement: (count) => service.ledger.getStatement({ userId: 1n, pageSize: count }),
  ListHolds: (count) => service.ledger.listHolds({ userId: 1n, pageSize: count }),
  ListBalances: (count) => service.admin.listBalances({ pageSize: count }),
};

test.each(Object.keys(calls))("%s takes as many statements for forty as for two", async (name) => {
  const call = calls[name] ?? expect.unreachable();
  await service.ledger.batchWrite({ writes: topUps(usersUpTo(40)) });
  await service.ledger.batchWrite({ writes: topUps(Array.from({ length: 40 }, () => 1n)) });
  const holds = Array.from({ length: 40 }, () => ({ write: { case: "placeHold" as const, value: { userId: 1n, amount: rub("0.01"), idempotencyKey: newKey() } } }));
  await service.ledger.batchWrite({ writes: holds });
  const ofTwo = await statementsOf(() => call(2));
  expect(ofTwo, "it was counted").toBeGreaterThan(0);
  expect(await statementsOf(() => call(40))).toBe(ofTwo);
});

test("a lone write takes three statements: the lock, the probe, the write", async () => {
  const deduct = () => service.ledger.deduct({ userId: 1n, amount: rub("0.01"), idempotencyKey: newKey() });
  await deduct();
  expect(await statementsOf(deduct)).toBe(3);
});
