// Somebody else's session that keeps a lock for longer than a group waits: the calls that need it get a conflict, and no others.
//
// Each test waits for a time limit of the journal; so they run at the same time, each in a database of its own.

import { describe, expect, test } from "vitest";
import { Code } from "@connectrpc/connect";
import { block, keepLaneBusy, lockUser } from "../harness/blocker.ts";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { checkDatabase } from "../harness/inspect.ts";
import { patient } from "../harness/patience.ts";
import { failureOf, newKey, serve, type TestService } from "../harness/service.ts";

const rub = (amount: string) => ({ currency: "RUB", amount });
const conflict = { code: Code.Aborted, reason: "TRANSACTION_CONFLICT" };

function serveOneLane(database: TestDatabase): Promise<TestService> {
  return serve(database.url, { LEDGERD_LANES: "1", LEDGERD_SWEEP_INTERVAL: "1h" });
}

describe.concurrent("while another session", () => {
  test("keeps an account locked, the other calls of its group are answered, and before it", async () => {
    await using database = await createDatabase();
    await using service = await serveOneLane(database);
    const topUp = (userId: bigint) => service.ledger.topUp({ userId, amount: rub("10"), idempotencyKey: newKey() }, patient);
    const [first, locked, free] = [1n, 2n, 3n];
    for (const userId of [first, locked, free]) await topUp(userId);
    const operator = await lockUser(database, locked);
    const lane = await keepLaneBusy(database, service, first);
    const deduction = { userId: locked, amount: rub("1"), idempotencyKey: newKey() };
    const transfer = { userId: free, toUserId: locked, amount: rub("1"), idempotencyKey: newKey() };
    const before = topUp(free);
    const conflicts = [failureOf(service.ledger.deduct(deduction, patient)), failureOf(service.ledger.transfer(transfer, patient))];
    const behind = [topUp(4n), topUp(5n)];
    await lane.queued(5);
    await lane.release();
    let conflicted = false;
    const told = Promise.all(conflicts).finally(() => (conflicted = true));
    const written = (await Promise.all([before, ...behind])).map(({ transaction }) => transaction?.id);
    expect(conflicted, "the others don't wait for the last try of these").toBe(false);
    expect(await told).toMatchObject([conflict, conflict]);
    const transactions = await database.query("SELECT DISTINCT xmin::text FROM ledgerd.transactions WHERE id = ANY($1)", [written]);
    expect(transactions, "the others were written together").toHaveLength(1);

    await operator.release();
    expect((await service.ledger.deduct(deduction)).replayed).toBe(false);
    expect((await service.ledger.transfer(transfer)).replayed).toBe(false);
    expect((await service.ledger.getBalance({ userId: locked })).balance).toMatchObject({ balance: rub("10.00"), sequence: 3n });
    await checkDatabase(database);
  });

  test.each([
    ["makes the same account", "INSERT INTO ledgerd.user_balances (user_id, currency) VALUES (1, 'RUB')"],
    ["uses the same key", "INSERT INTO ledgerd.idempotency_keys (user_id, key, fingerprint, refusal, created_at) VALUES (1, 'key', '', '{}', now())"],
  ])("%s and doesn't commit, a call gets a conflict, and works when that session has given up", async (_what, statement) => {
    await using database = await createDatabase();
    await using service = await serveOneLane(database);
    const open = await block(database, statement);
    const request = { userId: 1n, amount: rub("1"), idempotencyKey: "key" };
    expect(await failureOf(service.ledger.topUp(request, patient))).toMatchObject(conflict);
    await open.release();
    expect((await service.ledger.topUp(request)).replayed).toBe(false);
    expect((await checkDatabase(database)).log).toHaveLength(1);
  });
});
