// Rebuilding: what hangs on the log is repaired from it while it is written to, and an account whose own rows are wrong is left as it is.

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { runLedgerd } from "../harness/command.ts";
import { past } from "../harness/damage.ts";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { checkDatabase } from "../harness/inspect.ts";
import { Load } from "../harness/load.ts";
import { newKey, serve, type TestService } from "../harness/service.ts";
import { verify, writeSome } from "../harness/verification.ts";

let database: TestDatabase;
let service: TestService;
let lastUser = 0n;

beforeAll(async () => {
  database = await createDatabase();
  service = await serve(database.url);
});

afterAll(async () => {
  await service.close();
  await database[Symbol.asyncDispose]();
});

const rub = (amount: string) => ({ currency: "RUB", amount });

/** A user with something of each kind. */
async function someUser(): Promise<bigint> {
  const userId = (lastUser += 10n);
  await writeSome(service, userId);
  return userId;
}

interface Line {
  readonly event: string;
  readonly [name: string]: unknown;
}

/** Rebuilds; answers its exit code, and its lines by their events. */
async function rebuild(...options: readonly string[]) {
  const { code, stdout, stderr } = await runLedgerd(["rebuild", ...options], { DATABASE_URL: database.url });
  const lines = stdout.split("\n").slice(0, -1).map((line) => JSON.parse(line) as Line);
  const of = (event: string): readonly Line[] => lines.filter((line) => line.event === event);
  return { code, stderr, repaired: of("repaired"), left: of("left"), summary: lines.at(-1) };
}

describe("ledgerd rebuild", () => {
  test("changes nothing where everything holds", async () => {
    await someUser();
    const before = await database.query("SELECT xmin::text, * FROM ledgerd.user_balances ORDER BY user_id, currency");
    for (const options of [[], ["--trust-log"]]) {
      const { code, repaired, left, summary } = await rebuild(...options);
      expect([code, repaired, left]).toEqual([0, [], []]);
      expect(summary).toMatchObject({ event: "summary", command: "rebuild", repairedBalances: 0, repairedHolds: 0, left: 0 });
    }
    expect(await database.query("SELECT xmin::text, * FROM ledgerd.user_balances ORDER BY user_id, currency")).toEqual(before);
  });

  test("repairs balance rows and holds, restores missing ones, and tells what it changed", async () => {
    const [one, two, three] = [await someUser(), await someUser(), await someUser()];
    await database.query("UPDATE ledgerd.user_balances SET balance = 1, chain_head = sha256('') WHERE user_id = $1 AND currency = 'RUB'", [one]);
    await database.query("DELETE FROM ledgerd.user_balances WHERE user_id = $1", [two]);
    await database.query("UPDATE ledgerd.holds SET state = 'released', captured = 0 WHERE user_id = $1", [three]);
    await database.query("DELETE FROM ledgerd.holds WHERE user_id = $1", [two]);
    const { code, repaired, left, summary } = await rebuild();
    expect([code, left]).toEqual([0, []]);
    const balances = repaired.filter(({ holdId }) => holdId === undefined);
    expect(balances.map(({ userId, currency }) => [userId, currency])).toEqual([[String(one), "RUB"], [String(two), "JPY"], [String(two), "RUB"]]);
    expect(balances[0]?.["columns"]).toEqual([expect.objectContaining({ what: "balance", before: "1" }), expect.objectContaining({ what: "chainHead" })]);
    expect(summary).toMatchObject({ repairedBalances: 3, repairedHolds: repaired.length - 3, left: 0 });
    expect((await verify(database.url)).findings).toEqual([]);
    await checkDatabase(database);
  });

  test("repairs balance rows alone, by the last rows, where it is told to trust the log", async () => {
    const [one, two] = [await someUser(), await someUser()];
    await database.query("UPDATE ledgerd.user_balances SET held = 500 WHERE user_id = $1", [one]);
    await database.query("DELETE FROM ledgerd.user_balances WHERE user_id = $1", [two]);
    expect(await rebuild("--trust-log")).toMatchObject({ code: 0, left: [], summary: { repairedBalances: 4, repairedHolds: 0 } });
    await checkDatabase(database);
  });

  test("leaves an account whose own rows are wrong, and names it, until it is told to trust the log", async () => {
    const [altered, cut] = [await someUser(), await someUser()];
    await past(
      database,
      `CREATE TABLE public.kept AS SELECT * FROM ledgerd.transactions WHERE user_id IN (${altered}, ${cut})`,
      `UPDATE ledgerd.transactions SET amount = amount + 1 WHERE user_id = ${altered} AND currency = 'RUB' AND sequence = 1`,
      `DELETE FROM ledgerd.transactions t WHERE user_id = ${cut} AND currency = 'JPY' AND sequence = 1`,
      `UPDATE ledgerd.user_balances SET balance = 9 WHERE user_id IN (${altered}, ${cut}) AND currency IN ('RUB', 'JPY')`,
    );
    const { code, left, repaired } = await rebuild();
    expect(code).toBe(1);
    expect(repaired, "the accounts whose rows are right").toMatchObject([{ userId: String(altered), currency: "JPY" }, { userId: String(cut), currency: "RUB" }]);
    expect(left.map(({ kind, userId }) => [kind, userId])).toEqual(
      expect.arrayContaining([["row_altered", String(altered)], ["balance_wrong", String(altered)], ["log_truncated", String(cut)]]),
    );
    expect(await database.query("SELECT balance FROM ledgerd.user_balances WHERE user_id IN ($1, $2) AND balance = 9", [altered, cut])).toHaveLength(2);
    expect(await rebuild("--trust-log")).toMatchObject({ code: 0, repaired: [{ userId: String(altered), currency: "RUB" }] });
    await past(database, `DELETE FROM ledgerd.transactions WHERE user_id IN (${altered}, ${cut})`, "INSERT INTO ledgerd.transactions SELECT * FROM public.kept", "DROP TABLE public.kept");
    expect((await rebuild("--trust-log")).code).toBe(0);
    await checkDatabase(database);
  });

  test("repairs while writes go on, on the same accounts", async () => {
    const resting = await someUser();
    const firstUser = (lastUser += 100n);
    await using load = new Load({ grpcAddress: service.grpcAddress, firstUser });
    await load.goesOn();
    for (let round = 0; round < 3; round += 1) {
      // A write that came before the repair would be decided by a wrong balance: of accounts that are written to, only what decides nothing is changed.
      await database.query("UPDATE ledgerd.user_balances SET updated_at = updated_at - interval '1 hour' WHERE user_id >= $1", [firstUser]);
      await database.query("UPDATE ledgerd.user_balances SET balance = 1 WHERE user_id = $1", [resting]);
      const { code, repaired } = await rebuild(...(round === 1 ? ["--trust-log"] : []));
      expect(code).toBe(0);
      expect(repaired.filter(({ userId }) => userId === String(resting))).toHaveLength(2);
      await load.goesOn();
    }
    await load.finish();
    load.check(await checkDatabase(database));
    expect((await verify(database.url)).findings).toEqual([]);
  });

  test("brings an account back to work whose balance row was lost or set back", async () => {
    const userId = await someUser();
    await database.query("UPDATE ledgerd.user_balances SET sequence = 1 WHERE user_id = $1 AND currency = 'RUB'", [userId]);
    await expect(service.ledger.topUp({ userId, amount: rub("1"), idempotencyKey: newKey() })).rejects.toThrow();
    expect(await rebuild()).toMatchObject({ code: 0, summary: { repairedBalances: 1 } });
    const { balance } = await service.ledger.topUp({ userId, amount: rub("1"), idempotencyKey: newKey() });
    const [stored] = await database.query<{ sequence: bigint }>("SELECT max(sequence) AS sequence FROM ledgerd.transactions WHERE user_id = $1 AND currency = 'RUB'", [userId]);
    expect(balance?.sequence).toBe(stored?.sequence);
    await checkDatabase(database);
  });
});
