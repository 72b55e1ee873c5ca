// Rebuilding: what hangs on the log is repaired from it while it is written to, and an account whose own rows are wrong is left as it is.

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { AccountName } from "../../src/domain/money/account.ts";
import { openPool } from "../../src/postgres/connection/pool.ts";
import { differingAccounts } from "../../src/verification/sql/repair.ts";
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
    expect(await rebuild("--trust-log"), "of an account without any rows, the balance row alone tells").toMatchObject({
      code: 1,
      repaired: [{ userId: String(altered), currency: "RUB" }],
      left: [{ kind: "log_truncated", userId: String(cut), currency: "JPY", sequence: "1", actual: "0" }],
    });
    await past(database, `DELETE FROM ledgerd.transactions WHERE user_id IN (${altered}, ${cut})`, "INSERT INTO ledgerd.transactions SELECT * FROM public.kept", "DROP TABLE public.kept");
    expect((await rebuild("--trust-log")).code).toBe(0);
    await checkDatabase(database);
  });

  test.each([[[]], [["--trust-log"]]])("takes back a balance that no row of the log tells of, behind accounts that rightly have none: rebuild %j", async (options) => {
    const userId = (lastUser += 10n);
    await database.query("INSERT INTO ledgerd.user_balances (user_id, currency, balance, chain_head) VALUES ($1, 'EUR', 0, NULL), ($1, 'RUB', 1000, sha256(''))", [userId]);
    const columns = [{ what: "balance", before: "1000", after: "0.00" }, { what: "chainHead", after: "" }];
    expect(await rebuild(...options)).toMatchObject({ code: 0, left: [], repaired: [{ userId: String(userId), currency: "RUB", columns }] });
    await checkDatabase(database);
  });

  test("looks on behind accounts without rows, however many there are", async () => {
    const first = (lastUser += 10n);
    await someUser();
    await database.query("INSERT INTO ledgerd.user_balances (user_id, currency) SELECT $1, unnest(ARRAY['EUR', 'RUB', 'USD'])", [first]);
    const pool = await openPool({ url: database.url, min: 0, max: 1, connectTimeoutMs: 5000, queryTimeoutMs: 10_000, idleTimeoutMs: 10_000, onError: () => undefined });
    const seen: AccountName[] = [];
    for (let from: AccountName | undefined = { userId: first, currency: "" }; from !== undefined; from = seen.at(-1)) {
      const { next } = await differingAccounts(pool, from, 2);
      if (next === undefined) break;
      seen.push(next);
    }
    await pool.end();
    const accounts = await database.query("SELECT user_id, currency FROM ledgerd.user_balances ORDER BY user_id DESC, currency DESC LIMIT 1");
    expect(accounts).toEqual([{ user_id: seen.at(-1)?.userId, currency: seen.at(-1)?.currency }]);
  });

  test("repairs while writes go on, on the same accounts", async () => {
    const resting = await someUser();
    const firstUser = (lastUser += 100n);
    await using load = new Load({ grpcAddress: service.grpcAddress, firstUser });
    await load.goesOn();
    for (let round = 0; round < 3; round += 1) {
      // A write that came before the repair would be decided by a wrong balance: of accounts that are written to, only what decides nothing is changed.
      // The rows are locked in the order in which writes lock them: else the two could wait for each other.
      const locked = "SELECT user_id, currency FROM ledgerd.user_balances WHERE user_id >= $1 ORDER BY user_id, currency FOR UPDATE";
      const setBack = "UPDATE ledgerd.user_balances b SET updated_at = b.updated_at - interval '1 hour' FROM locked l WHERE b.user_id = l.user_id AND b.currency = l.currency";
      await database.query(`WITH locked AS MATERIALIZED (${locked}) ${setBack}`, [firstUser]);
      await database.query("UPDATE ledgerd.user_balances SET balance = 1 WHERE user_id = $1", [resting]);
      const { code, repaired, left } = await rebuild(...(round === 1 ? ["--trust-log"] : []));
      expect([code, left]).toEqual([0, []]);
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
