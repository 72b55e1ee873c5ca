// Adopting a database of the old application: everybody keeps the old balance, whatever the rows beside it say.

import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { failureOf, newKey, serve } from "../harness/service.ts";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { runLedgerd, startLedgerd } from "../harness/command.ts";
import { until } from "../harness/until.ts";
import { JobStatus } from "../../src/gen/ledger/v1/job_service_pb.ts";
import { TransactionType } from "../../src/gen/ledger/v1/account_pb.ts";
import { adoptDatabase, adoptedLog, checkAdopted, rehearseDatabase } from "./adopting.ts";
import { fillOldTables, makeOldTables } from "./old-database.ts";

let old: TestDatabase;
let ledger: TestDatabase;

beforeEach(async () => {
  [old, ledger] = await Promise.all([createDatabase("empty"), createDatabase()]);
  await makeOldTables(old.query);
});

afterEach(async () => {
  await Promise.all([old[Symbol.asyncDispose](), ledger[Symbol.asyncDispose]()]);
});

/** Writes an old transaction. */
async function oldTransaction(userId: number, amount: string, type: string, values: { readonly currency?: string | null; readonly at?: string | null; readonly description?: string } = {}): Promise<void> {
  const { currency = "RUB", at = "2024-01-01", description = "d" } = values;
  await old.query("INSERT INTO transactions (user_id, amount, currency, type, description, created_at) VALUES ($1, $2, $3, $4, $5, $6)", [userId, amount, currency, type, description, at]);
}

async function oldBalance(userId: number, balance: string | null, currency: string | null = "RUB", at: string | null = "2023-01-01"): Promise<void> {
  await old.query("INSERT INTO user_balances (user_id, balance, currency, created_at) VALUES ($1, $2, $3, $4)", [userId, balance, currency, at]);
}

/** What the log says of a user, short: sequence, type, amount and balance of each row. */
async function historyOf(userId: number, currency = "RUB"): Promise<readonly string[]> {
  const rows = await ledger.query<{ line: string }>(
    "SELECT concat_ws(' ', sequence, type, amount, balance_after) AS line FROM ledgerd.transactions WHERE user_id = $1 AND currency = $2 ORDER BY sequence",
    [userId, currency],
  );
  return rows.map(({ line }) => line);
}

/** Serves from the ledger, once. */
async function serveOnce(use: (service: Awaited<ReturnType<typeof serve>>) => Promise<void> = async () => undefined): Promise<string> {
  await using service = await serve(ledger.url);
  await use(service);
  return "served";
}

async function metadataOf(reference: string): Promise<unknown> {
  const [row] = await ledger.query("SELECT metadata FROM ledgerd.transactions WHERE reference = $1", [reference]);
  return row?.["metadata"];
}

describe("an account", () => {
  test("keeps its history where the balance is the sum of it", async () => {
    await oldTransaction(7, "100.00", "topup");
    await oldTransaction(7, "-30.50", "deduction");
    await oldTransaction(7, "0.50", "refund");
    await oldBalance(7, "70.00");
    await adoptDatabase(old, ledger);
    expect(await historyOf(7)).toEqual(["1 topup 100.00 100.00", "2 deduction -30.50 69.50", "3 refund 0.50 70.00"]);
    expect(await metadataOf("transactions/1"), "nothing of it had to be changed").toBeNull();
    await checkAdopted(old, ledger);
  });

  test("begins with an opening of what its transactions don't explain, so that what was spent of it stays a deduction", async () => {
    await oldTransaction(7, "-30", "deduction");
    await oldBalance(7, "70");
    await oldTransaction(8, "50", "topup");
    await oldBalance(8, "-20");
    await oldBalance(9, "5.5");
    await adoptDatabase(old, ledger);
    expect(await historyOf(7)).toEqual(["1 opening 100.00 100.00", "2 deduction -30.00 70.00"]);
    expect(await historyOf(8)).toEqual(["1 opening -70.00 -70.00", "2 topup 50.00 -20.00"]);
    expect(await historyOf(9)).toEqual(["1 opening 5.50 5.50"]);
    await checkAdopted(old, ledger);
  });

  test("has what the old application read: nothing without a balance row, nothing in other currencies than the balance's", async () => {
    await oldTransaction(7, "100", "topup");
    await oldTransaction(8, "100", "topup", { currency: "RUB" });
    await oldTransaction(8, "40", "topup", { currency: "usd" });
    await oldBalance(8, "40", "USD");
    await oldBalance(9, null);
    await adoptDatabase(old, ledger);
    expect(await historyOf(7)).toEqual(["1 opening -100.00 -100.00", "2 topup 100.00 0.00"]);
    expect(await historyOf(8, "RUB")).toEqual(["1 opening -100.00 -100.00", "2 topup 100.00 0.00"]);
    expect(await historyOf(8, "USD")).toEqual(["1 topup 40.00 40.00"]);
    expect(await historyOf(9)).toEqual([]);
    await checkAdopted(old, ledger);
  });

  test("has adjustments for what obeys no law of the ledger, and says what each was", async () => {
    await oldTransaction(7, "10", " Topup");
    await oldTransaction(7, "-4", "topup");
    await oldTransaction(7, "3", "deduction");
    await oldTransaction(7, "-2", "refund");
    await oldTransaction(7, "1", "bonus");
    await oldTransaction(7, "0", "topup");
    await oldTransaction(7, "NaN", "topup");
    await oldTransaction(7, "-20", "Deduction");
    await oldTransaction(7, "12", "topup");
    await oldBalance(7, "0");
    const report = await adoptDatabase(old, ledger);
    expect(await historyOf(7)).toEqual([
      "1 topup 10.00 10.00", "2 adjustment -4.00 6.00", "3 adjustment 3.00 9.00", "4 adjustment -2.00 7.00", "5 adjustment 1.00 8.00",
      "6 adjustment 0.00 8.00", "7 adjustment 0.00 8.00", "8 adjustment -20.00 -12.00", "9 topup 12.00 0.00",
    ]);
    expect(await metadataOf("transactions/1")).toEqual({ "adopted.type": " Topup" });
    expect(await metadataOf("transactions/5")).toEqual({ "adopted.type": "bonus" });
    expect(await metadataOf("transactions/7")).toEqual({ "adopted.type": "topup", "adopted.amount": "NaN" });
    expect(report.transactions).toMatchObject({ sign_against_type: { count: 3 }, type_unknown: { count: 1, examples: ["5"] }, below_floor: { count: 1, examples: ["8"] }, amount_zero: { count: 2 } });
    await checkAdopted(old, ledger);
  });

  test("has times that never go back, in the time zone that was named, and the old ones beside those that were changed", async () => {
    await oldTransaction(7, "1", "topup", { at: null });
    await oldTransaction(7, "1", "topup", { at: "2021-03-28 01:30" });
    await oldTransaction(7, "1", "topup", { at: "2021-03-28 02:30" });
    await oldTransaction(7, "1", "topup", { at: "2020-01-01" });
    await oldTransaction(7, "1", "topup", { at: "2999-01-01" });
    await oldTransaction(7, "1", "topup", { at: "infinity" });
    await oldBalance(7, "6", "RUB", null);
    await adoptDatabase(old, ledger, { timeZone: "europe/berlin" });
    const [begun] = await ledger.query<{ started_at: Date }>("SELECT started_at FROM ledgerd.adoptions");
    const rows = await ledger.query<{ created_at: Date; metadata: unknown }>("SELECT created_at, metadata FROM ledgerd.transactions ORDER BY sequence");
    const start = begun?.started_at.toISOString();
    expect(rows.map(({ created_at: at, metadata }) => [at.toISOString(), metadata])).toEqual([
      ["2021-03-28T00:30:00.000Z", { "adopted.time": "null" }],
      ["2021-03-28T00:30:00.000Z", null],
      // An hour that Berlin skipped.
      ["2021-03-28T01:30:00.000Z", null],
      ["2021-03-28T01:30:00.000Z", { "adopted.time": "2020-01-01 00:00:00" }],
      [start, { "adopted.time": "2999-01-01 00:00:00" }],
      [start, { "adopted.time": "infinity" }],
    ]);
    await checkAdopted(old, ledger);
  });

  test("has its amounts cut where the currency has fewer digits, and its balance nevertheless", async () => {
    await oldTransaction(7, "100.70", "topup", { currency: "JPY" });
    await oldTransaction(7, "-0.40", "deduction", { currency: "JPY" });
    await oldBalance(7, "100", "JPY");
    await adoptDatabase(old, ledger);
    expect(await historyOf(7, "JPY")).toEqual(["1 topup 100 100", "2 adjustment 0 100"]);
    expect(await metadataOf("transactions/1")).toEqual({ "adopted.amount": "100.70" });
    await checkAdopted(old, ledger);
  });

  test("has descriptions of at most 2,000 characters", async () => {
    await oldTransaction(7, "1", "topup", { description: "🙂".repeat(2001) });
    await adoptDatabase(old, ledger);
    const [row] = await ledger.query<{ length: number }>("SELECT char_length(description) AS length FROM ledgerd.transactions WHERE reference <> ''");
    expect(row?.length).toBe(2000);
    expect(await metadataOf("transactions/1")).toEqual({ "adopted.description": "cut" });
  });
});

describe("currencies", () => {
  test("that the ledger doesn't know, and balances that it can't hold, are refused all at once, with the remedies, before anything is written", async () => {
    await oldTransaction(7, "1", "topup", { currency: "RUR" });
    await oldBalance(8, "1.50", "JPY");
    await oldBalance(9, "NaN", "USD");
    await old.query("ALTER TABLE user_balances ALTER COLUMN balance TYPE NUMERIC");
    await oldBalance(10, "-Infinity", "USD");
    await expect(adoptDatabase(old, ledger)).rejects.toThrow(/"RUR".* \(transaction 1\): .*--rename-currency RUR=RUB.*balances in JPY with more fraction digits than the 0 that it has \(user 8\): .*balances in USD that are NaN or Infinity \(user 9, user 10\)/);
    expect(await ledger.query("SELECT FROM ledgerd.adoptions")).toEqual([]);
  });

  test("can be renamed, and what is missing is the one that was named", async () => {
    await oldTransaction(7, "1", "topup", { currency: "rur" });
    await oldBalance(7, "1", "RUR");
    await oldTransaction(8, "2", "topup", { currency: null });
    await oldBalance(8, "2", null);
    const report = await adoptDatabase(old, ledger, { renamed: new Map([["RUR", "RUB"]]), fallback: "USD" });
    expect([await historyOf(7), await historyOf(8, "USD")]).toEqual([["1 topup 1.00 1.00"], ["1 topup 2.00 2.00"]]);
    expect(await metadataOf("transactions/1")).toEqual({ "adopted.currency": "rur" });
    expect(await metadataOf("transactions/2")).toEqual({ "adopted.currency": "null" });
    expect(report.transactions).toMatchObject({ currency_renamed: { count: 1 }, currency_missing: { count: 1 } });
  });
});

test("20,000 transactions of 2,000 users with every oddity, killed twice on the way: the same as in one go, and nothing the second time", async () => {
  await fillOldTables(old.query, { users: 2000, transactions: 20_000, jobs: 1000, hot: 6000 });
  const settings = { DATABASE_URL: ledger.url, LEDGERD_LOG_LEVEL: "error" };
  const args = ["adopt", "--from", old.url, "--time-zone", "Europe/Moscow", "--ignore-sessions"];
  const stepOf = async (): Promise<bigint> => (await ledger.query<{ step: bigint }>("SELECT step FROM ledgerd.adoptions"))[0]?.step ?? 0n;
  for (const step of [1n, 6n]) {
    await using command = startLedgerd(args, settings);
    await until(async () => (await stepOf()) >= step || command.process.exitCode !== null);
    command.process.kill("SIGKILL");
    await command.ended;
    await expect(serve(ledger.url), "nothing half adopted is served").rejects.toThrow(/an adoption isn't finished/);
  }
  await using last = startLedgerd(args, settings);
  expect([await last.ended, last.printed.stderr]).toEqual([0, ""]);
  expect(JSON.parse(last.printed.stdout.trim().split("\n").at(-1) ?? "")).toMatchObject({ event: "summary", outcome: "adopted", transactions: { adopted: { count: 20_000 } } });
  await checkAdopted(old, ledger);

  await using inOneGo = await createDatabase();
  await adoptDatabase(old, inOneGo, { timeZone: "Europe/Moscow", batch: 20_000 });
  expect(await adoptedLog(ledger)).toEqual(await adoptedLog(inOneGo));

  const before = await adoptedLog(ledger);
  expect(await adoptDatabase(old, ledger, { timeZone: "Europe/Moscow" })).toMatchObject({ outcome: "already_adopted", transactions: { adopted: { count: 20_000 } } });
  expect(await adoptedLog(ledger)).toEqual(before);
});

describe("what the old application does meanwhile", () => {
  test("is noticed at the end: nothing is served, and the next run takes over what changed", async () => {
    await oldTransaction(7, "10", "topup");
    await oldBalance(7, "10");
    await oldBalance(8, "5");
    let told = 0;
    const meddle = async (): Promise<void> => {
      await oldTransaction(7, "-4", "deduction");
      await old.query("UPDATE user_balances SET balance = 6 WHERE user_id = 7");
      await old.query("UPDATE user_balances SET balance = 3 WHERE user_id = 8");
      await oldBalance(9, "1");
    };
    let meddled = Promise.resolve();
    const tell = (phase: string): void => {
      if (phase === "users" && told++ === 1) meddled = meddle();
    };
    await old.query("INSERT INTO jobs (user_id, model_id) SELECT 7, 'm' FROM generate_series(1, 300)");
    await expect(adoptDatabase(old, ledger, { tell })).rejects.toThrow(/changed while it was being adopted: stop the old application, and run this again/);
    await meddled;
    await expect(serve(ledger.url)).rejects.toThrow(/an adoption isn't finished: run the same `ledgerd adopt` again/);
    expect(await adoptDatabase(old, ledger)).toMatchObject({ outcome: "adopted", passes: 2, users: { corrected: { count: 1, examples: ["8"] } } });
    expect(await historyOf(7)).toEqual(["1 topup 10.00 10.00", "2 deduction -4.00 6.00"]);
    expect(await historyOf(8)).toEqual(["1 opening 5.00 5.00", "2 adjustment -2.00 3.00"]);
    await checkAdopted(old, ledger);
  });

  test("is followed where it deletes users and jobs that were adopted: the users come to 0, the jobs are cancelled, and what came late is told", async () => {
    await oldBalance(7, "10");
    await oldBalance(8, "5");
    await oldTransaction(8, "2", "topup");
    for (const id of [5, 9]) await old.query("INSERT INTO transactions (id, user_id, amount, type) VALUES ($1, 7, 1, 'topup')", [id]);
    await old.query("INSERT INTO jobs (user_id, model_id, status) SELECT 7, 'm', s FROM unnest(ARRAY['pending', 'completed', 'pending']) s");
    const cut = (phase: string): void => {
      if (phase === "jobs") throw new Error("cut off");
    };
    await expect(adoptDatabase(old, ledger, { tell: cut })).rejects.toThrow("cut off");
    await old.query("DELETE FROM user_balances WHERE user_id = 8");
    await old.query("DELETE FROM transactions WHERE user_id = 8");
    await old.query("DELETE FROM jobs WHERE id IN (1, 2)");
    for (const id of [6, 7]) await old.query("INSERT INTO transactions (id, user_id, amount, type) VALUES ($1, 7, 1, 'topup')", [id]);
    const report = await adoptDatabase(old, ledger);
    expect(report).toMatchObject({ passes: 2, unmatched: 1, users: { vanished: { count: 1, examples: ["8"] } }, jobs: { vanished: { count: 1, examples: ["1"] } } });
    expect(await historyOf(8)).toEqual(["1 opening 3.00 3.00", "2 topup 2.00 5.00", "3 adjustment -5.00 0.00"]);
    expect((await historyOf(7)).at(-1)).toBe("3 topup 1.00 10.00");
    expect(await ledger.query("SELECT id::int, status FROM ledgerd.jobs ORDER BY id")).toEqual([{ id: 1, status: "cancelled" }, { id: 2, status: "completed" }, { id: 3, status: "pending" }]);
    expect(await adoptDatabase(old, ledger)).toMatchObject({ outcome: "already_adopted", unmatched: 1 });
    expect(await serveOnce()).toBe("served");
  });

  test("is looked at from the start where nothing was written yet: the ledger is checked against the users that are there now", async () => {
    await serveOnce(async (service) => {
      await service.ledger.topUp({ userId: 8n, amount: { currency: "RUB", amount: "1" }, idempotencyKey: newKey() });
    });
    await oldBalance(7, "10");
    const cut = (phase: string): void => {
      if (phase === "users") throw new Error("cut off");
    };
    await expect(adoptDatabase(old, ledger, { tell: cut })).rejects.toThrow("cut off");
    expect(await ledger.query("SELECT step::int FROM ledgerd.adoptions")).toEqual([{ step: 0 }]);
    await oldBalance(8, "5");
    await expect(adoptDatabase(old, ledger)).rejects.toThrow(/user 8 of the old application has an account in this ledger already/);
    expect(await serveOnce()).toBe("served");
  });

  test("is noticed in any block of a table, however many statements it takes to look at all of them", async () => {
    await old.query("INSERT INTO transactions (user_id, amount, type, description) SELECT 7, 1, 'topup', repeat('d', 1000) FROM generate_series(1, 50)");
    await oldBalance(7, "50");
    const report = await adoptDatabase(old, ledger, { surveyBlocks: 1 });
    expect(report.transactions).toMatchObject({ adopted: { count: 50 } });
    await old.query("UPDATE transactions SET type = 'refund' WHERE id = 50");
    await expect(adoptDatabase(old, ledger, { surveyBlocks: 1 })).rejects.toThrow(/has changed since it was adopted/);
  });

  test("is found where it gave two transactions of a user one id, before anything is written", async () => {
    await old.query("ALTER TABLE transactions DROP CONSTRAINT transactions_pkey");
    for (const amount of [1, 2]) await old.query("INSERT INTO transactions (id, user_id, amount, type) VALUES (1, 7, $1, 'topup')", [amount]);
    await expect(adoptDatabase(old, ledger, { batch: 1 })).rejects.toThrow("transactions has several rows of the same user_id and id (such as 7 1): give them ids of their own");
    expect(await ledger.query("SELECT FROM ledgerd.adoptions")).toEqual([]);
  });

  test("and a connection that breaks, are told in one sentence; it goes on when it is run again", async () => {
    await oldTransaction(7, "10", "topup");
    await old.query("INSERT INTO jobs (user_id, model_id) SELECT 7, 'm' FROM generate_series(1, 250)");
    let broken: Promise<unknown> = Promise.resolve();
    const breakOff = (phase: string): void => {
      if (phase === "jobs") broken = old.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'ledgerd adopt' AND datname = current_database()");
    };
    await expect(adoptDatabase(old, ledger, { tell: breakOff })).rejects.toThrow(/^(the connection to the old database broke|the old database can't be read \(57P01).*run it again/);
    await broken;
    expect((await adoptDatabase(old, ledger)).outcome).toBe("adopted");
    await checkAdopted(old, ledger);
  });

  test("after it was adopted is refused: the ledger may have moved on", async () => {
    await oldBalance(7, "10");
    await adoptDatabase(old, ledger);
    await oldTransaction(7, "1", "topup");
    await expect(adoptDatabase(old, ledger)).rejects.toThrow(/has changed since it was adopted.*nothing was taken over/);
    expect(await historyOf(7)).toEqual(["1 opening 10.00 10.00"]);
  });

  test("is asked first: others who are connected are named, unless that is to be ignored", async () => {
    await expect(adoptDatabase(old, ledger, { ignoreSessions: false })).rejects.toThrow(/others are connected to the old database, pid \d+ \(postgres, .*stop the old application/);
  });
});

describe("the ledger", () => {
  test("must not be served from meanwhile, and is let alone then", async () => {
    await oldBalance(7, "10");
    await using service = await serve(ledger.url);
    await expect(adoptDatabase(old, ledger)).rejects.toThrow(/a ledgerd works on this ledger: stop it first/);
    expect(await ledger.query("SELECT FROM ledgerd.adoptions")).toEqual([]);
    expect(service.grpcAddress).not.toBe("");
  });

  test("must not be served from by another login either, nor may others be connected to the old database, where the kinds of their sessions are hidden", async () => {
    const login = `owner_${ledger.url.slice(-12)}`;
    await ledger.query(`CREATE ROLE ${login} LOGIN`);
    await ledger.query(`GRANT ledgerd_migrator TO ${login}`);
    await old.query(`GRANT SELECT ON user_balances, transactions, jobs TO ${login}`);
    const by = ({ url }: TestDatabase) => ({ url: url.replace("postgres@", `${login}@`) });
    await oldBalance(7, "10");
    const service = await serve(ledger.url);
    await expect(adoptDatabase(by(old), by(ledger))).rejects.toThrow(/a ledgerd works on this ledger: stop it first/);
    await service.close();
    await expect(adoptDatabase(by(old), by(ledger), { ignoreSessions: false })).rejects.toThrow(/others are connected to the old database, pid \d+ \(postgres/);
    expect((await adoptDatabase(by(old), by(ledger))).outcome).toBe("adopted");
    await checkAdopted(old, ledger);
    await Promise.all([old.query(`DROP OWNED BY ${login}`), ledger.query(`DROP OWNED BY ${login}`)]);
    await ledger.query(`DROP ROLE ${login}`);
  });

  test("may have other users' accounts, but none of the old application's users; it can be served from as before then", async () => {
    await oldBalance(7, "10");
    const topUp = async (userId: bigint): Promise<void> => {
      await using service = await serve(ledger.url);
      await service.ledger.topUp({ userId, amount: { currency: "RUB", amount: "1" }, idempotencyKey: newKey() });
    };
    await topUp(6n);
    await adoptDatabase(old, ledger);
    await topUp(8n);
    await using other = await createDatabase("empty");
    await makeOldTables(other.query);
    await other.query("INSERT INTO transactions (user_id, amount, type) VALUES (8, 1, 'topup')");
    await expect(adoptDatabase(other, ledger)).rejects.toThrow(/user 8 of the old application has an account in this ledger already/);
    await topUp(9n);
  });

  test("must hold before anything is written: what it can't prove is told at once, and it can be served as before", async () => {
    await serveOnce(async (service) => {
      await service.ledger.topUp({ userId: 6n, amount: { currency: "RUB", amount: "1" }, idempotencyKey: newKey() });
    });
    await ledger.query("UPDATE ledgerd.user_balances SET balance = 2 WHERE user_id = 6");
    await oldBalance(7, "10");
    await expect(adoptDatabase(old, ledger)).rejects.toThrow(/verification finds nothing/);
    expect(await ledger.query("SELECT FROM ledgerd.adoptions")).toEqual([]);
    expect(await historyOf(7)).toEqual([]);
    expect(await serveOnce()).toBe("served");
  });

  test("must not have jobs of its own with the ids of old ones", async () => {
    await old.query("INSERT INTO jobs (user_id, model_id) SELECT 7, 'm' FROM generate_series(1, 5)");
    const service = await serve(ledger.url);
    const { job } = await service.jobs.createJob({ userId: 3n, modelId: "m", cost: { currency: "RUB", amount: "0" }, idempotencyKey: newKey() });
    await service.close();
    await expect(adoptDatabase(old, ledger)).rejects.toThrow(`the ledger has jobs of its own, such as ${job?.id}, with ids of old ones (up to 5)`);
    await using again = await serve(ledger.url);
    expect(again.grpcAddress).not.toBe("");
  });

  test("must not have one behind ten thousand others either: they are looked at in pages", async () => {
    await old.query("INSERT INTO jobs (id, user_id, model_id) VALUES (10001, 7, 'm')");
    await ledger.query(
      `INSERT INTO ledgerd.jobs (id, user_id, model_id, adopted)
       SELECT i, 3, 'm', CASE WHEN i < 10001 THEN '{"adoption": 1}'::jsonb END FROM generate_series(1, 10001) i`,
    );
    await ledger.query("SELECT setval('ledgerd.jobs_id_seq', 10001)");
    await expect(adoptDatabase(old, ledger)).rejects.toThrow("the ledger has jobs of its own, such as 10001,");
  });

  test("can lie in the old application's database, and the old tables in any schema of it", async () => {
    await ledger.query("CREATE SCHEMA \"Old App\"");
    await ledger.query("SET search_path TO \"Old App\"");
    await makeOldTables(ledger.query);
    await ledger.query("INSERT INTO user_balances (user_id, balance) VALUES (7, 10)");
    await adoptDatabase(ledger, ledger, { schema: "Old App" });
    expect(await historyOf(7)).toEqual(["1 opening 10.00 10.00"]);
    await expect(adoptDatabase(ledger, ledger, { schema: "ledgerd" })).rejects.toThrow(/are ledgerd's own/);
    await expect(adoptDatabase(ledger, ledger, { schema: "elsewhere" })).rejects.toThrow(/lacks user_balances.user_id/);
  });

  test("is adopted into once by two at the same time", async () => {
    await oldTransaction(7, "10", "topup");
    await oldBalance(7, "12");
    const reports = await Promise.all([adoptDatabase(old, ledger), adoptDatabase(old, ledger)]);
    expect(reports.map(({ outcome }) => outcome).toSorted()).toEqual(["adopted", "already_adopted"]);
    expect(await historyOf(7)).toEqual(["1 opening 2.00 2.00", "2 topup 10.00 12.00"]);
  });

  test("refuses other options, and another database, while an adoption isn't finished", async () => {
    await oldBalance(7, "10");
    await old.query("INSERT INTO jobs (user_id, model_id) VALUES (7, 'm')");
    const cut = (phase: string): void => {
      if (phase === "jobs") throw new Error("cut off");
    };
    await expect(adoptDatabase(old, ledger, { tell: cut })).rejects.toThrow("cut off");
    await expect(adoptDatabase(old, ledger, { timeZone: "Europe/Moscow" })).rejects.toThrow(/begun with other options/);
    await using other = await createDatabase("empty");
    await makeOldTables(other.query);
    await expect(adoptDatabase(other, ledger)).rejects.toThrow(/the adoption of another database .* isn't finished/);
    expect((await adoptDatabase(old, ledger)).outcome).toBe("adopted");
  });
});

test("a table of transactions that was partitioned later is adopted as well, and so is a database without jobs", async () => {
  await old.query("DROP TABLE jobs");
  await old.query("ALTER TABLE transactions RENAME TO before");
  await old.query("CREATE TABLE transactions (LIKE before INCLUDING DEFAULTS) PARTITION BY RANGE (created_at)");
  await old.query("CREATE TABLE transactions_2023 PARTITION OF transactions FOR VALUES FROM ('2023-01-01') TO ('2024-01-01')");
  await old.query("CREATE TABLE transactions_other PARTITION OF transactions DEFAULT");
  await old.query("CREATE INDEX ON transactions (user_id)");
  for (const at of ["2023-05-05", null, "2024-05-05"]) await oldTransaction(7, "1", "topup", { at });
  await oldBalance(7, "3");
  const report = await adoptDatabase(old, ledger, { batch: 2 });
  expect(await historyOf(7)).toEqual(["1 topup 1.00 1.00", "2 topup 1.00 2.00", "3 topup 1.00 3.00"]);
  expect([report.transactions["adopted"]?.count, report.jobs]).toEqual([3, {}]);
});

test("jobs with long texts are written some megabytes at a time", async () => {
  await old.query("INSERT INTO jobs (user_id, model_id, prompt) SELECT 7, 'm', CASE WHEN i > 2 THEN repeat('x', 1000000) END FROM generate_series(1, 22) i");
  const written: number[] = [];
  await adoptDatabase(old, ledger, { tell: (phase, done) => phase === "jobs" && written.push(done) });
  expect(written).toEqual([10, 18, 22]);
});

test("a dry run in small batches finds what an adoption finds", async () => {
  await fillOldTables(old.query, { users: 20, transactions: 400, jobs: 10, hot: 100 });
  const rehearsed = await rehearseDatabase(old, { batch: 7 });
  expect({ ...rehearsed, outcome: "adopted" }).toEqual(await adoptDatabase(old, ledger, { batch: 7 }));
});

test("told to stop, it ends between two batches, and goes on when it is run again", async () => {
  await fillOldTables(old.query, { users: 500, transactions: 20_000, jobs: 0, hot: 5000 });
  const args = ["adopt", "--from", old.url, "--ignore-sessions"];
  await using command = startLedgerd(args, { DATABASE_URL: ledger.url, LEDGERD_LOG_LEVEL: "error" });
  await until(() => command.printed.stdout.includes('"phase":"users"'));
  command.process.kill("SIGTERM");
  expect([await command.ended, command.printed.stderr]).toEqual([1, "ledgerd: ended by SIGTERM; run it again to go on\n"]);
  expect(await ledger.query("SELECT phase FROM ledgerd.adoptions")).toEqual([{ phase: "users" }]);
  expect((await adoptDatabase(old, ledger)).outcome).toBe("adopted");
  await checkAdopted(old, ledger);
});

test("a dry run finds what an adoption finds, and writes nothing; both are told as JSON, and to a file", async () => {
  await fillOldTables(old.query, { users: 50, transactions: 500, jobs: 50, hot: 100 });
  const folder = mkdtempSync(path.join(tmpdir(), "ledgerd-adopt-"));
  const file = path.join(folder, "report.json");
  const reportOf = async (...more: readonly string[]) => {
    const { code, stdout, stderr } = await runLedgerd(["adopt", "--from", old.url, "--ignore-sessions", "--report", file, ...more], { DATABASE_URL: ledger.url });
    expect([code, stderr]).toEqual([0, ""]);
    const { event, command, ...summary } = JSON.parse(stdout.trim().split("\n").at(-1) ?? "") as Record<string, unknown>;
    expect([event, command, JSON.parse(readFileSync(file, "utf8"))]).toEqual(["summary", "adopt", summary]);
    return summary;
  };
  const found = await reportOf("--dry-run");
  expect(await ledger.query("SELECT FROM ledgerd.adoptions")).toEqual([]);
  expect(await reportOf()).toEqual({ ...found, outcome: "adopted" });
  expect(await reportOf()).toEqual({ ...found, outcome: "already_adopted" });
  rmSync(folder, { recursive: true });
});

test.each([
  [["--from", "postgres://127.0.0.1:1/none"], 1, /can't connect to postgres:.*--from is right/],
  [["--from", "OLD", "--time-zone", "Mars/Olympus"], 1, /--time-zone must be a name that PostgreSQL knows, such as Europe\/Moscow; it is "Mars\/Olympus"/],
  [["--from", "OLD", "--currency", "RUR"], 1, /RUR is no currency/],
  [["--from", "OLD", "--schema", "ledgerd"], 1, /lacks user_balances.user_id/],
  [["--from", "old"], 2, /--from must be a URL/],
  [["--from", "OLD", "--rename-currency", "RUR"], 2, /--rename-currency must be an old code and ours, such as RUR=RUB; it is "RUR"/],
  [[], 2, /adopt needs --from-file/],
  [["--from", "OLD", "--from-file", "FILE"], 2, /--from-file must not be given beside --from: one or the other says it/],
  [["--from-file", "/nowhere/url"], 2, /--from-file must be a file with the database's URL: ENOENT/],
  [["--from-file", "FILE"], 2, /--from-file must hold the database's URL, which must be a URL such as/],
] as const)("ledgerd adopt %j ends with %d, and says in one line why", async (args, code, problem) => {
  const given = args.map((arg) => (arg === "OLD" ? old.url : arg === "FILE" ? import.meta.filename : arg));
  const ended = await runLedgerd(["adopt", ...given], { DATABASE_URL: ledger.url, LEDGERD_LOG_LEVEL: "error" });
  expect(ended).toEqual({ code, stdout: "", stderr: expect.stringMatching(problem) as string });
  expect(ended.stderr.split("\n")[1]).toMatch(/^(ledgerd: see `ledgerd help`)?$/);
});

describe("a password in the old database's URL", () => {
  const withPassword = (url: string): string => url.replace(/\/\/(\w+)@/, "//$1:swordfish@");
  const dryRun = ["adopt", "--ignore-sessions", "--dry-run"];

  test("is seen by nobody where the URL comes by a file, by standard input, or by the environment", async () => {
    const folder = mkdtempSync(path.join(tmpdir(), "ledgerd-adopt-"));
    const file = path.join(folder, "url");
    const url = withPassword(old.url);
    writeFileSync(file, `${url}\n`, { mode: 0o600 });
    const settings = { DATABASE_URL: ledger.url };
    const piped = startLedgerd([...dryRun, "--from-file", "-"], settings, "ours", url);
    const runs = await Promise.all([
      runLedgerd([...dryRun, "--from-file", file], settings),
      piped.ended.then((code) => ({ code, ...piped.printed })),
      runLedgerd(dryRun, { ...settings, LEDGERD_ADOPT_FROM: url }),
      runLedgerd(dryRun, { ...settings, LEDGERD_ADOPT_FROM_FILE: file }),
    ]);
    for (const { code, stdout, stderr } of runs) {
      expect([code, stderr]).toEqual([0, ""]);
      expect(stdout).toContain('"outcome":"rehearsed"');
      expect(stdout).not.toContain("swordfish");
    }
    const beside = await runLedgerd([...dryRun, "--from-file", file], { ...settings, LEDGERD_ADOPT_FROM: url });
    expect([beside.code, beside.stderr]).toEqual([2, expect.stringContaining("--from-file must not be given beside LEDGERD_ADOPT_FROM")]);
    const report = path.join(folder, "report.json");
    await runLedgerd([...dryRun, "--from-file", file, "--report", report], settings);
    expect(statSync(report).mode & 0o077, "nobody else reads the report").toBe(0);
    rmSync(folder, { recursive: true });
  });

  test("is warned of where it is on the command line, without being told", async () => {
    const { code, stdout, stderr } = await runLedgerd([...dryRun, "--from", withPassword(old.url)], { DATABASE_URL: ledger.url });
    expect([code, JSON.parse(stderr)]).toEqual([0, expect.objectContaining({ level: 40, msg: expect.stringContaining("--from-file") as string })]);
    expect(stdout + stderr).not.toContain("swordfish");
    const wrong = await runLedgerd([...dryRun, "--from", "postgres://u:swordfish@127.0.0.1:1/d"], { DATABASE_URL: ledger.url });
    expect(wrong.code).toBe(1);
    expect(wrong.stdout + wrong.stderr).not.toContain("swordfish");
  });
});

test("what the ledger can't hold ends a dry run and a run alike, with one line and a remedy that works", async () => {
  await oldBalance(7, "1", "₽");
  const remedy = "--rename-currency '₽=RUB'";
  for (const more of [["--dry-run"], []]) {
    const { code, stderr } = await runLedgerd(["adopt", "--from", old.url, "--ignore-sessions", ...more], { DATABASE_URL: ledger.url, LEDGERD_LOG_LEVEL: "error" });
    expect([code, stderr]).toEqual([1, `ledgerd: money in "₽", which is no currency of the ledger (user 7): say which one it is with ${remedy}\n`]);
  }
  const mended = await runLedgerd(["adopt", "--from", old.url, "--ignore-sessions", "--rename-currency", "₽=RUB"], { DATABASE_URL: ledger.url, LEDGERD_LOG_LEVEL: "error" });
  expect([mended.code, mended.stderr, await historyOf(7)]).toEqual([0, "", ["1 opening 1.00 1.00"]]);
});

describe("once it is adopted", () => {
  test("the service serves the accounts: balances, spending, refunds of old deductions, lists by old ids, the feed", async () => {
    await oldTransaction(7, "100", "topup");
    await oldTransaction(7, "-30", "deduction", { description: "a picture" });
    await oldBalance(7, "70");
    await oldBalance(8, "-5");
    await adoptDatabase(old, ledger);
    await using service = await serve(ledger.url);
    const rub = (amount: string) => ({ currency: "RUB", amount });
    expect((await service.ledger.getBalance({ userId: 7n })).balance).toMatchObject({ balance: rub("70.00"), available: rub("70.00"), sequence: 2n });
    const { transactions: [spent] } = await service.ledger.listTransactions({ userId: 7n, reference: "transactions/2" });
    expect(spent).toMatchObject({ type: TransactionType.DEDUCTION, amount: rub("-30.00"), description: "a picture", actor: "ledgerd adopt" });
    await service.ledger.refund({ userId: 7n, transactionId: spent?.id ?? 0n, idempotencyKey: newKey() });
    expect((await service.ledger.deduct({ userId: 7n, amount: rub("100"), idempotencyKey: newKey() })).balance?.balance).toMatchObject(rub("0.00"));
    expect((await failureOf(service.ledger.deduct({ userId: 8n, amount: rub("1"), idempotencyKey: newKey() }))).reason).toBe("INSUFFICIENT_FUNDS");
    await service.ledger.topUp({ userId: 8n, amount: rub("6"), idempotencyKey: newKey() });
    const then = { seconds: BigInt(Date.UTC(2024, 0, 2) / 1000), nanos: 0 };
    expect((await service.ledger.getBalance({ userId: 7n, asOf: { case: "asOfTime", value: then } })).balance?.balance).toMatchObject(rub("70.00"));
    const feed: bigint[] = [];
    for await (const { event } of service.ledger.watchTransactions({ position: "" })) {
      if (event.case === "caughtUp") break;
      if (event.case === "transaction") feed.push(event.value.userId);
    }
    expect(feed).toEqual([7n, 7n, 8n, 7n, 7n, 8n]);
  });

  test("jobs have their old ids and go on: those that waited or were cut off are claimed, free of charge; new ones come behind them", async () => {
    await oldBalance(7, "10");
    const job = async (status: string | null, cost: string | null, values: { readonly parameters?: string; readonly completedAt?: string | null; readonly resultUrl?: string } = {}): Promise<void> => {
      const { parameters = '{"steps": 3}', completedAt = null, resultUrl = null } = values;
      await old.query(
        "INSERT INTO jobs (user_id, model_id, prompt, parameters, status, cost, created_at, completed_at, result_url) VALUES (7, 'sdxl', 'a cat', $1, $2, $3, '2024-01-01', $4, $5)",
        [parameters, status, cost, completedAt, resultUrl],
      );
    };
    await job("pending", "5");
    await job("Processing", "5", { completedAt: "2024-01-02" });
    await job("completed", "5", { completedAt: "2024-01-02", resultUrl: "https://example.org/1" });
    await job("completed", null, { parameters: "[1]" });
    await job("queued", "5");
    await job(null, "-5", { resultUrl: `data:${"x".repeat(1_100_000)}` });
    const report = await adoptDatabase(old, ledger);
    expect(report.jobs).toMatchObject({ adopted: { count: 6 }, interrupted: { examples: ["2"] }, status_unknown: { examples: ["5", "6"] }, cost_dropped: { count: 5 }, cost_missing: { count: 1 }, end_missing: { examples: ["4", "5", "6"] }, parameters_wrapped: { examples: ["4"] }, texts_cut: { examples: ["6"] } });
    await checkAdopted(old, ledger);
    await using service = await serve(ledger.url);
    const { jobs } = await service.jobs.listJobs({ userId: 7n });
    expect(jobs.map(({ id, status, parameters }) => [id, status, parameters])).toEqual([
      [6n, JobStatus.FAILED, undefined], [5n, JobStatus.FAILED, { steps: 3 }], [4n, JobStatus.COMPLETED, { value: [1] }],
      [3n, JobStatus.COMPLETED, { steps: 3 }], [2n, JobStatus.PENDING, { steps: 3 }], [1n, JobStatus.PENDING, { steps: 3 }],
    ]);
    expect(await ledger.query("SELECT adopted FROM ledgerd.jobs WHERE id = 2")).toEqual([{ adopted: { adoption: 1, status: "Processing", cost: "5.00" } }]);
    const claimed = await service.jobs.claimJobs({ workerId: "w", maxJobs: 10 });
    expect(claimed.jobs.map(({ job: one }) => one?.id)).toEqual([1n, 2n]);
    for (const { job: one, fencingToken } of claimed.jobs) await service.jobs.completeJob({ jobId: one?.id ?? 0n, fencingToken, resultUrl: "https://example.org/2" });
    expect((await service.ledger.getBalance({ userId: 7n })).balance?.available).toMatchObject({ amount: "10.00" });
    const { job: next } = await service.jobs.createJob({ userId: 7n, modelId: "m", cost: { currency: "RUB", amount: "1" }, idempotencyKey: newKey() });
    expect(next?.id).toBe(7n);
  });
});

test("where ids jump past the last partition while it works, it makes those that are missing", async () => {
  await fillOldTables(old.query, { users: 5, transactions: 20, jobs: 0, hot: 0 });
  await ledger.query(`
    CREATE FUNCTION public.jump() RETURNS TRIGGER LANGUAGE plpgsql SECURITY DEFINER AS $$
    BEGIN
      PERFORM setval('ledgerd.transactions_id_seq', 1000000000000);
      RETURN NULL;
    END $$`);
  await ledger.query(`
    CREATE TRIGGER jump AFTER UPDATE ON ledgerd.adoptions
    FOR EACH ROW WHEN (NEW.step = 1) EXECUTE FUNCTION public.jump()`);
  await adoptDatabase(old, ledger, { batch: 2 });
  const { log } = await checkAdopted(old, ledger);
  expect(log.filter(({ id }) => id > 1_000_000_000_000n).length).toBeGreaterThan(0);
});
