// As whom ledgerd may serve: as a login that could become nothing but ledgerd_runtime. Migrations have a login of their own.

import { randomBytes } from "node:crypto";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { knownMigrations } from "../../src/postgres/schema/migrate.ts";
import { logOf, runLedgerd, servesAt, startLedgerd, workersOf } from "../harness/command.ts";
import { connectTo, createDatabase, type TestDatabase } from "../harness/database.ts";
import { servingUrl } from "../harness/logins.ts";
import { clientsOf, newKey, serve } from "../harness/service.ts";
import { missingForStock, startStock, type StockServer } from "../harness/stock-server.ts";
import { fillOldTables, makeOldTables } from "../adoption/old-database.ts";

const relaxed = { LEDGERD_DURABILITY: "relaxed", LEDGERD_LOG_LEVEL: "warn" };
const INSUFFICIENT_PRIVILEGE = "42501";

const newName = (kind: string): string => `${kind}_${randomBytes(5).toString("hex")}`;

/** A login of the server that all tests share, with what these statements give it; gone afterwards. */
async function createLogin(database: TestDatabase, attributes: string, ...statements: readonly string[]) {
  const login = newName("login");
  const group = newName("group");
  const name = database.url.slice(database.url.lastIndexOf("/") + 1);
  await database.query(`CREATE ROLE ${group}`);
  await database.query(`CREATE ROLE ${login} LOGIN ${attributes} IN ROLE ledgerd_runtime`);
  for (const statement of statements) {
    const text = statement.replaceAll("$login", login).replaceAll("$group", group).replaceAll("$database", name);
    await database.query(text);
  }
  return {
    login,
    group,
    url: database.url.replace("postgres@", `${login}@`),
    [Symbol.asyncDispose]: async () => {
      await database.query(`REASSIGN OWNED BY ${login}, ${group} TO postgres`);
      await database.query(`DROP OWNED BY ${login}, ${group}`);
      await database.query(`DROP ROLE ${login}, ${group}`);
    },
  };
}

/** Each way to more than ledgerd_runtime, and how it is told. */
const ways: readonly (readonly [power: string, attributes: string, ...statements: readonly string[]])[] = [
  ["is a superuser", "SUPERUSER"],
  ["may make roles (CREATEROLE)", "CREATEROLE"],
  ["as a member of ledgerd_migrator owns the ledger", "", "GRANT ledgerd_migrator TO $login"],
  ["as a member of ledgerd_migrator owns the ledger", "NOINHERIT", "GRANT ledgerd_migrator TO $login"],
  ["as a member of ledgerd_migrator owns the ledger", "", "GRANT ledgerd_migrator TO $group", "GRANT $group TO $login"],
  ["as a member of postgres is a superuser", "", "GRANT postgres TO $login"],
  ["as a member of $group may make roles (CREATEROLE)", "", "ALTER ROLE $group CREATEROLE", "GRANT $group TO $login"],
  ["owns the database", "", "ALTER DATABASE $database OWNER TO $login"],
  ["as a member of $group owns the database", "", "GRANT $group TO $login", "ALTER DATABASE $database OWNER TO $group"],
  ["owns the schema ledgerd", "", "ALTER SCHEMA ledgerd OWNER TO $login"],
  ["owns a table of the schema ledgerd", "", "ALTER TABLE ledgerd.holds OWNER TO $login"],
  ["owns a function of the schema ledgerd", "", "ALTER FUNCTION ledgerd.begin_tokens() OWNER TO $login"],
  ["as a member of pg_write_all_data may write all tables", "", "GRANT pg_write_all_data TO $login"],
  ["as a member of pg_execute_server_program may run programs on the server", "", "GRANT pg_execute_server_program TO $login"],
  ["as a member of pg_write_server_files may write the server's files", "", "GRANT pg_write_server_files TO $login"],
  ["as a member of pg_read_server_files may read the server's files", "", "GRANT pg_read_server_files TO $login"],
  [
    "may set session_replication_role, which switches triggers off",
    "",
    "GRANT SET ON PARAMETER session_replication_role TO $login",
  ],
  ["was given UPDATE on ledgerd.user_balances", "", "GRANT UPDATE ON ledgerd.user_balances TO $login"],
  ["was given UPDATE on ledgerd.transactions", "", "GRANT UPDATE (amount) ON ledgerd.transactions TO $login"],
  ["was given TRIGGER on ledgerd.holds", "", "GRANT TRIGGER ON ledgerd.holds TO $login"],
  ["was given UPDATE on ledgerd.lock_token_seq", "", "GRANT UPDATE ON SEQUENCE ledgerd.lock_token_seq TO $login"],
];

describe("a login that could do more than serve is refused, with what to do about it:", () => {
  let database: TestDatabase;

  beforeAll(async () => {
    database = await createDatabase();
  });

  afterAll(async () => {
    await database[Symbol.asyncDispose]();
  });

  test.each(ways)("it %s (%s %s)", async (power, attributes, ...statements) => {
    await using login = await createLogin(database, attributes, ...statements);
    await expect(serve(login.url)).rejects.toThrow(
      `can't be used: the login ${login.login} ${power.replace("$group", login.group)}, so that a session that serves could ` +
        "change the log: serve as a login that is a member of ledgerd_runtime alone (CREATE ROLE ledgerd_serve LOGIN " +
        "PASSWORD '…' IN ROLE ledgerd_runtime), and give one that may migrate to LEDGERD_MIGRATION_URL; or set " +
        "LEDGERD_SEPARATION=relaxed to serve as this one nevertheless",
    );
  });

  test("it may give itself ledgerd_migrator", async (context) => {
    const [version] = await database.query<{ major: number }>("SELECT current_setting('server_version_num')::int / 10000 AS major");
    if ((version?.major ?? 0) < 16) context.skip("before PostgreSQL 16 each member may become the role");
    const statement = "GRANT ledgerd_migrator TO $login WITH ADMIN TRUE, INHERIT FALSE, SET FALSE";
    await using login = await createLogin(database, "", statement);
    await expect(serve(login.url)).rejects.toThrow(`${login.login} as a member of ledgerd_migrator owns the ledger`);
  });

  test.each(["1", "2"])("in one line, before it has changed anything, by processes: %s", async (workers) => {
    await using empty = await createDatabase("empty");
    await using login = await createLogin(empty, "", "GRANT ledgerd_migrator TO $login");
    const settings = { DATABASE_URL: login.url, LEDGERD_WORKERS: workers, ...relaxed };
    const { code, stdout, stderr } = await runLedgerd(["serve"], settings);
    expect([code, stdout]).toEqual([1, ""]);
    expect(stderr).toMatch(/^ledgerd: postgres:\S+ can't be used: the login [^\n]*LEDGERD_SEPARATION=relaxed[^\n]*\n$/);
    expect(await empty.query("SELECT nspname FROM pg_namespace WHERE nspname = 'ledgerd'")).toEqual([]);
  });

  test("where that is relaxed it migrates and serves, and a warning says how to do better", async () => {
    await using empty = await createDatabase("empty");
    const settings = { DATABASE_URL: empty.url, LEDGERD_SEPARATION: "relaxed", ...relaxed };
    await using command = startLedgerd(["serve"], settings);
    await servesAt(command);
    expect(logOf(command)).toEqual([
      expect.objectContaining({
        level: 40,
        msg: expect.stringMatching(/^the login postgres is a superuser, .* to LEDGERD_MIGRATION_URL$/),
      }),
    ]);
  });
});

describe("a login that is a member of ledgerd_runtime alone", () => {
  test("serves, and none of its sessions can become the owner", async () => {
    await using database = await createDatabase();
    await using login = await createLogin(database, "");
    await using service = await serve(login.url);
    await service.ledger.topUp({ userId: 1n, amount: { amount: "1" }, idempotencyKey: newKey() });
    const sessions = await database.query<{ login: string }>(
      `SELECT DISTINCT usename AS login FROM pg_stat_activity
       WHERE datname = current_database() AND application_name ~ '^ledgerd'`,
    );
    expect(sessions).toEqual([{ login: login.login }]);
    const session = await connectTo(login.url);
    for (const refused of ["SET ROLE ledgerd_migrator", "SET ROLE NONE; ALTER TABLE ledgerd.transactions DISABLE TRIGGER ALL"]) {
      await expect(session.query(refused), refused).rejects.toMatchObject({ code: INSUFFICIENT_PRIVILEGE });
    }
    await session.end();
  });

  test("is told what is missing where the schema is old and there is no login for migrations", async () => {
    await using database = await createDatabase("empty");
    await using login = await createLogin(database, "");
    await expect(serve(login.url)).rejects.toThrow(
      /^the database lacks the migrations 0001_schema, .*: set LEDGERD_MIGRATION_URL to one that may, or run `ledgerd migrate` as such a one$/,
    );
    const { code, stderr } = await runLedgerd(["migrate"], { DATABASE_URL: login.url });
    expect([code, stderr]).toEqual([1, expect.stringContaining("migration 0001_schema was not applied: ")]);
  });

  test("serves from what the login for migrations has migrated, which its processes don't know", async () => {
    await using database = await createDatabase("empty");
    const urls = { DATABASE_URL: servingUrl(database.url), LEDGERD_MIGRATION_URL: database.url };
    await using command = startLedgerd(["serve"], { ...urls, ...relaxed, LEDGERD_WORKERS: "2", LEDGERD_LOG_LEVEL: "info" });
    const { grpc } = await servesAt(command);
    await clientsOf(grpc).ledger.topUp({ userId: 1n, amount: { amount: "1" }, idempotencyKey: newKey() });
    expect(logOf(command).filter(({ msg }) => msg === "migrated")).toHaveLength(knownMigrations().length);
    expect(workersOf(command)).toHaveLength(2);
    if (!existsSync("/proc")) return;
    for (const pid of workersOf(command)) {
      expect(readFileSync(`/proc/${pid}/environ`, "utf8")).toMatch(/\0LEDGERD_MIGRATION_URL=\0/);
    }
  });

  test("is told where the login for migrations is that of another database, or leads nowhere", async () => {
    await using database = await createDatabase("empty");
    await using other = await createDatabase("empty");
    const url = servingUrl(database.url);
    await expect(serve(url, { LEDGERD_MIGRATION_URL: other.url })).rejects.toThrow(
      "LEDGERD_MIGRATION_URL must lead to the database of DATABASE_URL: that one still lacks migrations",
    );
    await expect(serve(url, { LEDGERD_MIGRATION_URL: database.url.replace(/\w+$/, "nowhere") })).rejects.toThrow(
      /^can't connect to .*"nowhere" does not exist; see that .* and that LEDGERD_MIGRATION_URL is right$/,
    );
  });
});

const root = path.resolve(import.meta.dirname, "../..");
const missing = missingForStock();

describe.skipIf(missing !== undefined)(`the set-up of the README${missing === undefined ? "" : ` (${missing})`}`, () => {
  const readme = readFileSync(path.join(root, "README.md"), "utf8");
  const [, statements = ""] = /```sql\n([\s\S]*?)```/.exec(readme) ?? [];
  const [, started = ""] = /```\n(DATABASE_URL=[\s\S]*?)```/.exec(readme) ?? [];
  const folder = mkdtempSync(path.join(tmpdir(), "ledgerd-logins-"));
  let server: StockServer;
  let urls: Readonly<Record<"DATABASE_URL" | "LEDGERD_MIGRATION_URL", string>>;

  beforeAll(async () => {
    server = await startStock(["host all ledgerd_serve,ledgerd_migrate all scram-sha-256"], { fsync: "off" });
    await server.query("DROP ROLE ledgerd_serve");
    await server.query("DROP ROLE ledgerd_runtime");
    for (const statement of statements.split(/;\n/)) await server.query(statement);
    const urlIn = (name: string): string => {
      const [, url = ""] = new RegExp(`\\b${name}=(\\S+)`).exec(started) ?? [];
      return url.replace(/@[^/]*/, `@localhost:${server.port}`);
    };
    urls = { DATABASE_URL: urlIn("DATABASE_URL"), LEDGERD_MIGRATION_URL: urlIn("LEDGERD_MIGRATION_URL") };
  });

  afterAll(async () => {
    await server[Symbol.asyncDispose]();
    rmSync(folder, { recursive: true });
  });

  test("ends in two logins: one that migrates, and one that serves and can't become the other", async () => {
    await using command = startLedgerd(["serve"], { ...urls, ...relaxed });
    const { grpc } = await servesAt(command);
    await clientsOf(grpc).ledger.topUp({ userId: 1n, amount: { amount: "1" }, idempotencyKey: newKey() });
    expect(logOf(command), "no warning").toEqual([]);
    const session = await connectTo(urls.DATABASE_URL);
    const { rows } = await session.query<{ name: string }>(
      "SELECT rolname AS name FROM pg_roles WHERE pg_has_role(session_user, oid, 'MEMBER') ORDER BY 1",
    );
    await session.end();
    expect(rows.map(({ name }) => name)).toEqual(["ledgerd_runtime", "ledgerd_serve"]);
  });

  test("is all that each command needs: who serves verifies, rebuilds and backs up; who migrates restores and adopts", async () => {
    const asServing = { DATABASE_URL: urls.DATABASE_URL };
    const commands = [["verify"], ["rebuild"], ["backup", "--to", folder], ["migrate", "--plan"]];
    const ended = await Promise.all(commands.map((args) => runLedgerd(args, asServing)));
    expect(ended.map(({ code, stderr }) => [code, stderr])).toEqual(commands.map(() => [0, ""]));
    const [archive = ""] = readdirSync(folder);
    for (const name of ["restored", "adopted", "old"]) {
      await server.query(`CREATE DATABASE ${name} TEMPLATE template0`);
      await server.query(`GRANT CREATE ON DATABASE ${name} TO ledgerd_migrator`);
    }
    const at = (name: string) =>
      Object.fromEntries(Object.entries(urls).map(([setting, url]) => [setting, url.replace(/\w+$/, name)]));
    expect(await runLedgerd(["restore", "--from", path.join(folder, archive)], at("restored"))).toMatchObject({ code: 0 });
    const old = await connectTo(server.socketUrl("old"));
    const query: TestDatabase["query"] = async (text, values = []) => (await old.query(text, [...values])).rows;
    await makeOldTables(query);
    await fillOldTables(query, { users: 2, transactions: 2, jobs: 1, hot: 0 });
    await old.end();
    const adopt = ["adopt", "--from", server.socketUrl("old"), "--ignore-sessions"];
    expect(await runLedgerd(adopt, at("adopted"))).toMatchObject({ code: 0 });
    writeFileSync(path.join(folder, "url"), urls.LEDGERD_MIGRATION_URL);
    const byFile = { ...asServing, LEDGERD_MIGRATION_URL_FILE: path.join(folder, "url") };
    expect(await runLedgerd(["migrate"], byFile)).toMatchObject({ code: 0 });
  });
});
