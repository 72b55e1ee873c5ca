// Verification: what holds is found to hold, whatever is written meanwhile; and each damage is named.

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { serve, type TestService } from "../harness/service.ts";
import { verify, writeSome } from "../harness/verification.ts";

let database: TestDatabase;
let service: TestService;

beforeAll(async () => {
  database = await createDatabase();
  service = await serve(database.url, { LEDGERD_JOB_SWEEP_INTERVAL: "50ms", LEDGERD_WAIT_POLL: "20ms" });
  for (const first of [100n, 200n, 300n]) await writeSome(service, first);
});

afterAll(async () => {
  await service.close();
  await database[Symbol.asyncDispose]();
});

describe("a ledger that nobody damaged", () => {
  test("holds in all its parts, each of which was gone through", async () => {
    const { findings, summary } = await verify(database.url);
    expect(findings).toEqual([]);
    const [counted] = await database.query(`
      SELECT (SELECT count(*)::int FROM ledgerd.transactions) AS rows, (SELECT count(*)::int FROM ledgerd.user_balances WHERE sequence > 0) AS accounts,
             (SELECT count(*)::int FROM ledgerd.holds) AS holds, (SELECT count(*)::int FROM ledgerd.jobs) AS jobs,
             (SELECT count(*)::int FROM ledgerd.idempotency_keys) AS keys`);
    expect(summary).toMatchObject({ ...counted, differences: 0 });
  });
});
