// try
import { expect, test } from "vitest";
import { currenciesWith } from "../../src/domain/currency.ts";
import { adopt } from "../../src/ops/adopt.ts";
import { createDatabase } from "../harness/database.ts";
import { fillOldTables, makeOldTables } from "./old-database.ts";

test("try", async () => {
  await using old = await createDatabase("empty");
  await using ledger = await createDatabase();
  await makeOldTables(old.query);
  await fillOldTables(old.query, { users: 10000, transactions: 100000, jobs: 2000, hot: 12000 });
  const t = performance.now();
  const options = {
    source: { url: old.url, schema: "public", timeZone: "Europe/Moscow", connectTimeoutMs: 5000, queryTimeoutMs: 30000 },
    currencies: currenciesWith([]), fallback: "RUB", renamed: new Map<string,string>(), ignoreSessions: true, tell: () => undefined,
  };
  const report = await adopt(ledger.url, options, () => Promise.resolve());
  console.log(performance.now() - t, JSON.stringify(report, null, 1));
  expect((await adopt(ledger.url, options, () => Promise.resolve())).outcome).toBe("already_adopted");
});
