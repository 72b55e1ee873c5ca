// Migrations: what they add up to, and that they can be run by anybody who may, at any time, several times, at the same time, or not at all.

import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { afterAll, beforeAll, describe, expect, test, type TestContext } from "vitest";
import { knownMigrations, migrate, pendingMigrations } from "../../src/postgres/schema/migrate.ts";
import { olderPrograms, startBare, startBareEmbedded, type BareServer } from "../harness/bare-postgres.ts";
import { connectTo, createDatabase, type TestDatabase } from "../harness/database.ts";
import { checkDatabase } from "../harness/inspect.ts";
import { MAIN } from "../harness/instance.ts";
import { servingUrl } from "../harness/logins.ts";
import { dumpSchema } from "../harness/schema-dump.ts";
import { newKey, serve } from "../harness/service.ts";

/** The golden dump. When a new migration changes the schema: `npm test -- -u test/database/migrations.test.ts`, and review the difference. */
const SCHEMA_FILE = "schema.txt";

const known = knownMigrations();
const money = (amount: string) => ({ currency: "RUB", amount });

/** What the tables and indexes are called since before this service. */
const seed = {
  tables: {
    user_balances: ["user_id", "balance", "currency", "created_at", "updated_at"],
    transactions: ["id", "user_id", "amount", "currency", "type", "description", "created_at"],
    jobs: ["id", "user_id", "model_id", "prompt", "parameters", "status", "result_url", "error_message", "cost", "created_at", "completed_at"],
    lock_heartbeat: ["lock_key", "instance_id", "last_heartbeat"],
  },
  indexes: [
    "idx_user_balances_user_id",
    "idx_transactions_user_id",
    "idx_transactions_created_at",
    "idx_jobs_user_id",
    "idx_jobs_status",
    "idx_jobs_created_at",
  ],
};

async function migrationsOf({ query }: Pick<TestDatabase, "query">): Promise<number[]> {
  const rows = await query<{ number: number }>("SELECT number FROM ledgerd.schema_migrations ORDER BY applied_at");
  return rows.map(({ number }) => number);
}

describe("the migrations", () => {
  test("add up to the schema of schema.txt", async () => {
    await using database = await createDatabase();
    await expect(await dumpSchema(database)).toMatchFileSnapshot(SCHEMA_FILE);
  });

  test("keep the seed's names of tables, columns, indexes and of the function", async () => {
    await using database = await createDatabase();
    for (const [table, columns] of Object.entries(seed.tables)) {
      const found = await database.query<{ name: string }>("SELECT attname AS name FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0", [`ledgerd.${table}`]);
      expect(found.map(({ name }) => name), table).toEqual(expect.arrayContaining(columns));
    }
    const indexes = await database.query<{ name: string }>("SELECT indexname AS name FROM pg_indexes WHERE schemaname = 'ledgerd'");
    expect(indexes.map(({ name }) => name)).toEqual(expect.arrayContaining(seed.indexes));
    await database.query("SELECT ledgerd.update_lock_heartbeat(p_lock_key => 1, p_instance_id => 'a')");
    await database.query("SELECT ledgerd.update_lock_heartbeat(p_lock_key => 1, p_instance_id => 'a')");
    expect(await database.query("SELECT lock_key, instance_id FROM ledgerd.lock_heartbeat")).toEqual([{ lock_key: 1n, instance_id: "a" }]);
  });

  test("are refused where tables of the old application lie in the way, with what to do", async () => {
    await using database = await createDatabase("empty");
    await database.query("CREATE SCHEMA ledgerd; CREATE TABLE ledgerd.user_balances (user_id BIGINT PRIMARY KEY, balance NUMERIC(10, 2))");
    await expect(migrate(database.url)).rejects.toThrow(/has others named user_balances, .*: rename it \(ALTER SCHEMA ledgerd RENAME TO old_application\), and adopt them from there/);
    await database.query("ALTER SCHEMA ledgerd RENAME TO old_application");
    expect(await migrate(database.url)).toEqual(known);
  });

  test("change nothing the second time", async () => {
    await using database = await createDatabase("empty");
    expect(await migrate(database.url)).toEqual(known);
    const first = await dumpSchema(database);
    expect(await migrate(database.url)).toEqual([]);
    expect(await pendingMigrations(database.url)).toEqual([]);
    expect(await dumpSchema(database)).toBe(first);
  });

  test("change nothing where they ran already but weren't recorded", async () => {
    await using database = await createDatabase();
    const first = await dumpSchema(database);
    await database.query("DELETE FROM ledgerd.schema_migrations WHERE number > 0");
    expect(await migrate(database.url)).toEqual(known);
    expect(await dumpSchema(database)).toBe(first);
  });

  test("are applied once each by five migrators at once", async () => {
    await using database = await createDatabase("empty");
    const applied = await Promise.all(Array.from({ length: 5 }, () => migrate(database.url)));
    const numbers = applied.flat().map(({ number }) => number);
    expect(numbers.toSorted((a, b) => a - b)).toEqual(known.map(({ number }) => number));
    expect(await migrationsOf(database)).toEqual(known.map(({ number }) => number));
  });

  test("are refused on a schema that is newer than they are", async () => {
    await using database = await createDatabase();
    await database.query("INSERT INTO ledgerd.schema_migrations (number, name, checksum) VALUES (9999, '9999_later', 'x')");
    const refusal = /has migration 9999, this ledgerd knows \d+: it was migrated by a newer version/;
    await expect(migrate(database.url)).rejects.toThrow(refusal);
    await expect(pendingMigrations(database.url)).rejects.toThrow(refusal);
    await expect(serve(database.url)).rejects.toThrow(refusal);
  });

  test("are refused where one was applied with another text", async () => {
    await using database = await createDatabase();
    await database.query("UPDATE ledgerd.schema_migrations SET checksum = 'x' WHERE number = 2");
    const refusal = /migration 0002_log was applied with another text/;
    await expect(migrate(database.url)).rejects.toThrow(refusal);
    await expect(pendingMigrations(database.url)).rejects.toThrow(refusal);
  });

  test("leave nothing half done: one that fails is undone whole, and the next run goes on there", async () => {
    await using database = await createDatabase("empty");
    // The third one makes user_balances, and then stumbles over a sequence that it may not take.
    await database.query("CREATE SCHEMA ledgerd AUTHORIZATION ledgerd_migrator");
    await database.query("CREATE SEQUENCE ledgerd.holds_id_seq");
    await expect(migrate(database.url)).rejects.toThrow(/migration 0003_balances_and_holds was not applied: .*holds_id_seq/);
    expect(await migrationsOf(database)).toEqual([1, 2]);
    expect(await database.query("SELECT to_regclass('ledgerd.user_balances')::text AS found")).toEqual([{ found: null }]);
    await database.query("DROP SEQUENCE ledgerd.holds_id_seq");
    expect(await migrate(database.url)).toEqual(known.slice(2));
    await expect(await dumpSchema(database)).toMatchFileSnapshot(SCHEMA_FILE);
  });
});

/** Runs the command line to its end. */
async function ledgerd(args: readonly string[], env: Readonly<Record<string, string>>): Promise<{ code: number; printed: string; complained: string }> {
  return new Promise((resolve) => {
    const child = execFile(process.execPath, [MAIN, ...args], { env: { PATH: process.env["PATH"], ...env } }, (_error, printed, complained) =>
      resolve({ code: child.exitCode ?? -1, printed, complained }),
    );
  });
}

describe("the command `ledgerd migrate`", () => {
  test("prints with --plan the SQL that it would run, and changes nothing; runs it; and then has nothing to do", async () => {
    await using database = await createDatabase("empty");
    const environment = { DATABASE_URL: database.url };
    const planned = await ledgerd(["migrate", "--plan"], environment);
    expect(planned).toEqual({ code: 0, printed: known.map(({ name, sql }) => `-- ${name}\n${sql}\n`).join(""), complained: "" });
    expect(await database.query("SELECT nspname FROM pg_namespace WHERE nspname = 'ledgerd'")).toEqual([]);

    const applied = await ledgerd(["migrate"], environment);
    expect(applied).toEqual({ code: 0, printed: known.map(({ name }) => `applied ${name}\n`).join(""), complained: "" });
    expect(await migrationsOf(database)).toEqual(known.map(({ number }) => number));

    expect(await ledgerd(["migrate"], environment)).toMatchObject({ code: 0, printed: "the schema is up to date\n" });
    expect(await ledgerd(["migrate", "--plan"], environment)).toMatchObject({ code: 0, printed: "-- the schema is up to date\n" });
  });

  test("is what `serve` asks for on an old schema under LEDGERD_MIGRATE=never, ending with 1", async () => {
    await using database = await createDatabase();
    await database.query("DELETE FROM ledgerd.schema_migrations WHERE number = $1", [known.length]);
    const served = await ledgerd(["serve"], { DATABASE_URL: servingUrl(database.url), LEDGERD_MIGRATE: "never", LEDGERD_DURABILITY: "relaxed" });
    expect(served).toEqual({ code: 1, printed: "", complained: `ledgerd: the database lacks the migrations ${known.at(-1)?.name}: run \`ledgerd migrate\` with a role that may\n` });
  });
});

const programs = olderPrograms();

const servers = [
  { kind: "the embedded PostgreSQL", start: startBareEmbedded, absent: false },
  { kind: "an older PostgreSQL", start: () => startBare(programs ?? ""), absent: programs === undefined },
];

describe.each(servers)("on a fresh server of $kind", ({ start, absent }) => {
  let server: BareServer;

  beforeAll(async () => {
    if (!absent) server = await start();
  });

  afterAll(async () => {
    if (!absent) await server[Symbol.asyncDispose]();
  });

  function needsServer(context: TestContext): void {
    if (absent) context.skip("no PostgreSQL 15, 16 or 17 in /usr/lib/postgresql");
  }

  /** Runs statements as the administrator. */
  async function administer(database: string, ...statements: readonly string[]): Promise<void> {
    const admin = await connectTo(server.url("postgres", database));
    for (const statement of statements) await admin.query(statement);
    await admin.end();
  }

  /** A login with these attributes, its database, and afterwards none of these, nor ledgerd's roles. */
  async function createOwner(attributes: string) {
    const name = `owner_${randomBytes(4).toString("hex")}`;
    await administer("postgres", `CREATE ROLE ${name} LOGIN ${attributes}`, `CREATE DATABASE ${name} OWNER ${name}`);
    const dispose = () => administer("postgres", `DROP DATABASE ${name} WITH (FORCE)`, "DROP ROLE IF EXISTS ledgerd_migrator, ledgerd_runtime", `DROP ROLE ${name}`);
    return { name, url: server.url(name, name), adminUrl: server.url("postgres", name), [Symbol.asyncDispose]: dispose };
  }

  test("migrations give the schema of schema.txt, which takes every kind of write and stays right", async (context) => {
    needsServer(context);
    await using owner = await createOwner("SUPERUSER");
    await useLedger(owner.url);
    const client = await connectTo(owner.adminUrl);
    const query: TestDatabase["query"] = async (text, values = []) => (await client.query(text, [...values])).rows;
    await expect(await dumpSchema({ query })).toMatchFileSnapshot(SCHEMA_FILE);
    const { log } = await checkDatabase({ query });
    expect(new Set(log.map(({ type }) => type)).size).toBe(10);
    await client.end();
  });

  test("two databases can be migrated at once, though the roles are common to both", async (context) => {
    needsServer(context);
    await using one = await createOwner("CREATEROLE");
    await administer("postgres", `CREATE DATABASE other OWNER ${one.name}`);
    const urls = [one.url, server.url(one.name, "other")];
    const applied = await Promise.all([...urls, ...urls].map((url) => migrate(url)));
    expect(applied.flat()).toHaveLength(2 * known.length);
    await administer("postgres", "DROP DATABASE other");
  });

  test("a login with CREATEROLE migrates the database that it owns, and serves from it where that is relaxed", async (context) => {
    needsServer(context);
    await using owner = await createOwner("CREATEROLE");
    expect(await migrate(owner.url)).toEqual(known);
    await useLedger(owner.url);
  });

  test("a login without that right is told what an administrator must run, and after that it can", async (context) => {
    needsServer(context);
    await using owner = await createOwner("");
    const asked: string[] = [];
    for (let told = await refusalOf(migrate(owner.url)); told !== undefined; told = await refusalOf(migrate(owner.url))) {
      const [, statements = ""] = /let an administrator run: (.*;)/.exec(told) ?? [];
      expect(asked, told).not.toContain(statements);
      asked.push(statements);
      await administer("postgres", statements);
    }
    expect(asked).toEqual(["ledgerd_migrator", "ledgerd_runtime"].map((role) => `CREATE ROLE ${role} NOLOGIN; GRANT ${role} TO ${owner.name};`));
    await useLedger(owner.url);
  });

  test("a login that is no member of roles which are there is told so, too", async (context) => {
    needsServer(context);
    await using owner = await createOwner("");
    await administer("postgres", "CREATE ROLE ledgerd_migrator NOLOGIN", "CREATE ROLE ledgerd_runtime NOLOGIN");
    const told = await refusalOf(migrate(owner.url));
    expect(told).toMatch(`let an administrator run: GRANT ledgerd_migrator TO ${owner.name};`);
    await administer("postgres", `GRANT ledgerd_migrator, ledgerd_runtime TO ${owner.name}`);
    expect(await migrate(owner.url)).toEqual(known);
  });
});

async function refusalOf(work: Promise<unknown>): Promise<string | undefined> {
  return work.then(
    () => undefined,
    (error: unknown) => String(error),
  );
}

/** A write of every kind. */
async function useLedger(url: string): Promise<void> {
  await using service = await serve(url, { LEDGERD_SEPARATION: "relaxed" });
  const { ledger, admin } = service;
  await ledger.topUp({ userId: 1n, amount: money("100"), idempotencyKey: newKey() });
  const { transaction } = await ledger.deduct({ userId: 1n, amount: money("10"), idempotencyKey: newKey() });
  await ledger.refund({ userId: 1n, transactionId: transaction?.id ?? 0n, idempotencyKey: newKey() });
  await ledger.transfer({ userId: 1n, toUserId: 2n, amount: money("5"), idempotencyKey: newKey() });
  const { hold } = await ledger.placeHold({ userId: 1n, amount: money("20"), idempotencyKey: newKey() });
  await ledger.captureHold({ userId: 1n, holdId: hold?.id ?? 0n, amount: money("8"), idempotencyKey: newKey() });
  await ledger.releaseHold({ userId: 1n, holdId: hold?.id ?? 0n, idempotencyKey: newKey() });
  await ledger.adjust({ userId: 1n, amount: money("-1"), reason: "a test", idempotencyKey: newKey() });
  await admin.setCreditLimit({ userId: 1n, creditLimit: money("50"), idempotencyKey: newKey() });
  const { balance } = await ledger.getBalance({ userId: 1n });
  expect(balance).toMatchObject({ balance: money("86.00"), held: money("0.00"), available: money("136.00"), sequence: 9n });
  const { transactions } = await ledger.listTransactions({ userId: 1n });
  expect(transactions).toHaveLength(9);
}
