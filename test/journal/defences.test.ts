// The last lines of defence, in the database: each stops a write on an account that has moved on since it was read, though the lock and the
// other defences are gone.

import { expect, test } from "vitest";
import { Code } from "@connectrpc/connect";
import { createDatabase } from "../harness/database.ts";
import { checkDatabase } from "../harness/inspect.ts";
import { failureOf, newKey, serve } from "../harness/service.ts";
import { startWireProxy, textOf, withText, type Message } from "../harness/wire-proxy.ts";

const rub = (amount: string) => ({ currency: "RUB", amount });

/** Parts of the journal's statements, with what takes their place. */
const lock = ["FOR UPDATE", ""] as const;
const comparison = ["b.ctid = a.row AND b.sequence = a.sequence_before", "TRUE"] as const;
const uniqueIndex = "DROP INDEX ledgerd.transactions_000000_account";

test.each([
  ["the comparison of its balance's place and sequence", [lock], [uniqueIndex]],
  ["the unique sequence of the log's rows", [lock, comparison], []],
])("a stale write is stopped by %s", async (_defence, removed, sabotage) => {
  await using database = await createDatabase();
  for (const statement of sabotage) await database.query(statement);
  await using proxy = await startWireProxy(database.url);
  await using behindProxy = await serve(proxy.url);
  await using direct = await serve(database.url);
  const topUp = () => direct.ledger.topUp({ userId: 1n, amount: rub("1"), idempotencyKey: newKey() });
  await topUp();

  const gone = new Set<string>();
  const decided = Promise.withResolvers<void>();
  const moved = Promise.withResolvers<void>();
  const client = async (message: Message) => {
    if (textOf(message)?.includes("INSERT INTO ledgerd.transactions") === true) {
      decided.resolve();
      await moved.promise;
    }
    return withText(message, (text) => {
      for (const [part] of removed) if (text.includes(part)) gone.add(part);
      return removed.reduce((changed, [part, instead]) => changed.replace(part, instead), text);
    });
  };
  proxy.tamper({ client });
  const stale = failureOf(behindProxy.ledger.deduct({ userId: 1n, amount: rub("1"), idempotencyKey: newKey() }));
  await decided.promise;
  await topUp();
  moved.resolve();
  expect(await stale).toMatchObject({ code: Code.Internal, reason: "INTERNAL" });
  expect(gone, "what was to be taken out of the statements").toEqual(new Set(removed.map(([part]) => part)));
  expect((await checkDatabase(database)).log).toHaveLength(2);
});
