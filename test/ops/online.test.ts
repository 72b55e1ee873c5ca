// Verification of a ledger that is written to: what holds is found to hold.

import { afterAll, beforeAll, expect, test } from "vitest";
import { block } from "../harness/blocker.ts";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { Load } from "../harness/load.ts";
import { newKey, serve, type TestService } from "../harness/service.ts";
import { until } from "../harness/until.ts";
import { verify, writeSome } from "../harness/verification.ts";

let database: TestDatabase;
let service: TestService;
let lastUser = 1_000_000n;

beforeAll(async () => {
  database = await createDatabase();
  service = await serve(database.url, { LEDGERD_VERIFY_RATE: "0" });
});

afterAll(async () => {
  await service.close();
  await database[Symbol.asyncDispose]();
});

const rub = (amount: string) => ({ currency: "RUB", amount });

/** A user with so many top-ups of 1. */
async function userWith(rows: number): Promise<bigint> {
  const userId = (lastUser += 10n);
  for (let from = 0; from < rows; from += 500) {
    const writes = Array.from({ length: Math.min(500, rows - from) }, () => ({ write: { case: "topUp" as const, value: { userId, amount: rub("1"), idempotencyKey: newKey() } } }));
    await service.ledger.batchWrite({ writes });
  }
  return userId;
}

/** Places holds on a user's account, and ends each one a while later, until it is told to end. */
async function keepHolding(userId: bigint, signal: AbortSignal): Promise<void> {
  const open: bigint[] = [];
  while (!signal.aborted) {
    const { hold } = await service.ledger.placeHold({ userId, amount: rub("2"), idempotencyKey: newKey() });
    open.push(hold?.id ?? 0n);
    const holdId = open.length > 20 ? open.shift() : undefined;
    if (holdId === undefined) continue;
    await service.ledger.captureHold({ userId, holdId, amount: rub("1"), idempotencyKey: newKey() });
    await service.ledger.releaseHold({ userId, holdId, idempotencyKey: newKey() });
  }
}

test("holds while it is written to, with accounts larger than what is read at a time, whose holds come and go", async () => {
  const hot = await userWith(6000);
  await using load = new Load({ grpcAddress: service.grpcAddress, firstUser: 500n });
  const over = new AbortController();
  const holding = [1, 2, 3, 4].map(() => keepHolding(hot, over.signal));
  const everything = (async () => {
    while (!over.signal.aborted) await writeSome(service, (lastUser += 10n));
  })();
  for (let round = 0; round < 4; round += 1) {
    await load.goesOn();
    expect((await verify(database.url)).findings).toEqual([]);
  }
  over.abort();
  await Promise.all([...holding, everything, load.finish()]);
});

test("is gone through once all have ended who may yet commit below its last id", async () => {
  await userWith(1);
  const writer = await block(database, `
    INSERT INTO ledgerd.transactions (user_id, amount, type, sequence, balance_after, held_after, credit_limit_after, hash)
    VALUES (900, 1, 'topup', 1, 1, 0, 0, '')`);
  const verification = verify(database.url);
  const asked = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE '%FROM pg_locks%'";
  await until(async () => (await database.query(asked)).length > 0);
  await writer.release();
  expect((await verification).findings).toEqual([]);
});

test("is gone through at the pace that was asked for", async () => {
  const { summary } = await verify(database.url, { rowsPerSecond: 20_000 });
  expect(summary.seconds).toBeGreaterThan((summary.rows - 4000) / 20_000);
});
