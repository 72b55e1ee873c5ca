// Random small databases of the old application, adopted in batches of a few rows, cut off anywhere and begun again: always as in one go.

import fc from "fast-check";
import { expect, test } from "vitest";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { adoptDatabase, adoptedLog, checkAdopted } from "./adopting.ts";
import { makeOldTables } from "./old-database.ts";

const userId = fc.oneof(fc.integer({ min: 1, max: 4 }), fc.constantFrom(-5, 0, 9_000_000_000));
const currency = fc.constantFrom("RUB", "RUB", "RUB", null, "", "usd", "USD", "JPY");
const time = fc.constantFrom("2024-01-01", "2024-01-02 03:04:05.678901", "2020-05-05", null, "infinity", "-infinity", "1950-01-01", "2999-12-31");

const transaction = fc.record({
  userId,
  amount: fc.oneof({ weight: 9, arbitrary: fc.integer({ min: -10_000, max: 10_000 }).map((minor) => (minor / 100).toFixed(2)) }, { weight: 1, arbitrary: fc.constantFrom("NaN", "0", "99999999.99", "-99999999.99") }),
  currency,
  type: fc.constantFrom("topup", "deduction", "refund", "Topup", " deduction", "bonus", ""),
  description: fc.constantFrom(null, "", "a picture", "naïve — ünïcode"),
  time,
});
const balance = fc.record({
  amount: fc.oneof(fc.constantFrom(null, "0", "-3", "99999999"), fc.integer({ min: -500, max: 20_000 }).map(String)),
  currency,
  time,
});
const job = fc.record({
  userId,
  status: fc.constantFrom("pending", "processing", "completed", "failed", "Failed", "cancelled", "queued", null),
  parameters: fc.constantFrom(null, "{}", '{"a": [1]}', "[]", "null", '"x"'),
  cost: fc.constantFrom(null, "0", "5", "-1", "NaN"),
  time,
});
const contents = fc.record({ transactions: fc.array(transaction, { maxLength: 25 }), balances: fc.dictionary(userId.map(String), balance, { maxKeys: 6 }), jobs: fc.array(job, { maxLength: 5 }) });

type Contents = typeof contents extends fc.Arbitrary<infer T> ? T : never;

async function fill({ query }: TestDatabase, { transactions, balances, jobs }: Contents): Promise<void> {
  await makeOldTables(query);
  for (const one of transactions) {
    await query("INSERT INTO transactions (user_id, amount, currency, type, description, created_at) VALUES ($1, $2, $3, $4, $5, $6)", [one.userId, one.amount, one.currency, one.type, one.description, one.time]);
  }
  for (const [id, one] of Object.entries(balances)) await query("INSERT INTO user_balances (user_id, balance, currency, created_at) VALUES ($1, $2, $3, $4)", [id, one.amount, one.currency, one.time]);
  for (const one of jobs) {
    await query("INSERT INTO jobs (user_id, model_id, parameters, status, cost, created_at, completed_at) VALUES ($1, 'm', $2, $3, $4, $5, $5)", [one.userId, one.parameters, one.status, one.cost, one.time]);
  }
}

/** Adopts, cut off each time it tells how far it is for the `cuts`th time, as often as that happens. */
async function adoptCut(old: TestDatabase, ledger: TestDatabase, batch: number, cuts: readonly number[]): Promise<void> {
  for (const cut of cuts) {
    let left = cut;
    const tell = (): void => {
      if (left-- === 0) throw new Error("cut off");
    };
    try {
      await adoptDatabase(old, ledger, { batch, tell });
      return;
    } catch (error) {
      if (!(error instanceof Error && error.message === "cut off")) throw error;
    }
  }
  await adoptDatabase(old, ledger, { batch });
}

test("whatever the old database holds, everybody keeps the old balance, however often it is cut off", async () => {
  await fc.assert(
    fc.asyncProperty(contents, fc.integer({ min: 1, max: 6 }), fc.array(fc.nat(6), { maxLength: 4 }), async (generated, batch, cuts) => {
      // The ledger lies in the old database, as it may.
      await using ledger = await createDatabase();
      const old = ledger;
      await using inOneGo = await createDatabase();
      await fill(old, generated);
      await adoptCut(old, ledger, batch, cuts);
      await checkAdopted(old, ledger);
      await adoptDatabase(old, inOneGo);
      expect(await adoptedLog(ledger)).toEqual(await adoptedLog(inOneGo));
      expect((await adoptDatabase(old, ledger, { batch })).outcome).toBe("already_adopted");
    }),
    // To make a failing case smaller would take longer than a test may: its seed is told.
    { numRuns: 12, endOnFailure: true },
  );
});
