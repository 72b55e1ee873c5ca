// Verification of a ledger that is written to: what holds is found to hold.

import { afterAll, beforeAll, expect, test } from "vitest";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { Load } from "../harness/load.ts";
import { newKey, serve, type TestService } from "../harness/service.ts";
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

test("holds while it is written to, with accounts larger than what is read at a time", async () => {
  await userWith(2500);
  await using load = new Load({ grpcAddress: service.grpcAddress, firstUser: 500n });
  const hot = (lastUser += 1n);
  const over = new AbortController();
  const holding = (async () => {
    await service.ledger.topUp({ userId: hot, amount: rub("1000000"), idempotencyKey: newKey() });
    while (!over.signal.aborted) {
      const placed = await service.ledger.placeHold({ userId: hot, amount: rub("2"), idempotencyKey: newKey() });
      const holdId = placed.hold?.id ?? 0n;
      await service.ledger.captureHold({ userId: hot, holdId, amount: rub("1"), idempotencyKey: newKey() });
      await service.ledger.releaseHold({ userId: hot, holdId, idempotencyKey: newKey() });
      await writeSome(service, (lastUser += 10n));
    }
  })();
  for (let round = 0; round < 3; round += 1) {
    await load.goesOn();
    expect((await verify(database.url)).findings).toEqual([]);
  }
  over.abort();
  await Promise.all([holding, load.finish()]);
});

test("is gone through at the pace that was asked for", async () => {
  const { summary } = await verify(database.url, { rowsPerSecond: 20_000 });
  expect(summary.seconds).toBeGreaterThan((summary.rows - 4000) / 20_000);
});
