// Previews (validate_only): they read what a write would, one statement after the other, and stand in nobody's way.

import { expect, test } from "vitest";
import { Code } from "@connectrpc/connect";
import { block } from "../harness/blocker.ts";
import { createDatabase } from "../harness/database.ts";
import { startInstance } from "../harness/instance.ts";
import { failureOf, newKey } from "../harness/service.ts";

const rub = (amount: string) => ({ currency: "RUB", amount });

test("a preview whose first statement fails fails as a whole, and the instance lives on", async () => {
  await using database = await createDatabase();
  const settings = { LEDGERD_QUERY_TIMEOUT: "1s", LEDGERD_SWEEP_INTERVAL: "1h" };
  await using instance = await startInstance(database.url, settings);
  const preview = { userId: 1n, amount: rub("1"), idempotencyKey: newKey(), validateOnly: true };
  const operator = await block(database, "LOCK TABLE ledgerd.user_balances");
  expect(await failureOf(instance.ledger.topUp(preview))).toMatchObject({ code: Code.DeadlineExceeded, reason: "DEADLINE_PASSED" });
  await operator.release();
  expect((await instance.ledger.topUp(preview)).balance?.balance).toMatchObject(rub("1.00"));
});
