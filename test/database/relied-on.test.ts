// Whatever a login, a database or a server set for their sessions: each of ledgerd's has what it relies on, and works.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import pg from "pg";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { currenciesWith } from "../../src/domain/money/currency.ts";
import { backUp } from "../../src/backup/backup.ts";
import { restore } from "../../src/backup/restore.ts";
import { reliedOn } from "../../src/postgres/connection/connect.ts";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { callEverything } from "../harness/every-call.ts";
import { serve } from "../harness/service.ts";
import { verify } from "../harness/verification.ts";

/** What nobody would want, for each setting that is relied on. */
const hostile: Readonly<Record<string, string>> = {
  array_nulls: "off",
  bytea_output: "escape",
  client_encoding: "WIN1251",
  client_min_messages: "error",
  DateStyle: "German, DMY",
  default_transaction_deferrable: "on",
  default_transaction_isolation: "serializable",
  enable_bitmapscan: "off",
  enable_hashagg: "off",
  enable_hashjoin: "off",
  enable_indexonlyscan: "off",
  enable_indexscan: "off",
  enable_material: "off",
  enable_mergejoin: "off",
  enable_nestloop: "off",
  enable_partition_pruning: "off",
  enable_seqscan: "off",
  enable_sort: "off",
  enable_tidscan: "off",
  exit_on_error: "on",
  extra_float_digits: "-15",
  from_collapse_limit: "1",
  idle_in_transaction_session_timeout: "1s",
  idle_session_timeout: "1s",
  IntervalStyle: "sql_standard",
  jit: "on",
  join_collapse_limit: "1",
  lock_timeout: "1s",
  plan_cache_mode: "force_custom_plan",
  row_security: "off",
  search_path: "hostile, pg_catalog",
  standard_conforming_strings: "off",
  statement_timeout: "1s",
  TimeZone: "Asia/Kathmandu",
  transaction_timeout: "1s",
  transform_null_equals: "on",
};

const pool = { idle_in_transaction_session_timeout: "10s" };
const indexes = { enable_seqscan: "off", enable_sort: "off" };
const nestedLoops = { enable_hashjoin: "off", enable_mergejoin: "off" };

/** What sessions of each kind have of their own, by their name; of some names there are two kinds, or three. */
const own: Readonly<Record<string, readonly Readonly<Record<string, string>>[]>> = {
  ledgerd: [
    { ...pool, ...indexes, statement_timeout: "30s" },
    // As before PostgreSQL 18.
    { ...pool, enable_seqscan: "off", statement_timeout: "30s" },
    { ...pool, statement_timeout: "10s" },
  ],
  "ledgerd journal": [
    { ...pool, ...nestedLoops, enable_seqscan: "off", plan_cache_mode: "force_generic_plan", statement_timeout: "5s", lock_timeout: "2s" },
  ],
  "ledgerd verify": [{ ...pool, ...indexes, ...nestedLoops, statement_timeout: "9s" }],
  "ledgerd migrate": [{}],
  "ledgerd wait": [{}],
  "ledgerd backup": [{}],
  "ledgerd restore": [{}, { ...pool, statement_timeout: "30s" }],
};

/** What a session had when it ended, by its name. */
const seen = new Map<string, Record<string, string>[]>();
const end: (this: pg.Client) => Promise<void> = Reflect.get(pg.Client.prototype, "end");

/** The settings of these that the server knows. */
let relied: readonly string[] = [];

/** Each session of this process tells what it has before it ends. */
async function tellAndEnd(this: pg.Client): Promise<void> {
  const { rows } = await this.query<{ name: string; settings: string }>(
    `SELECT pg_catalog.current_setting('application_name') AS name,
            (SELECT pg_catalog.json_object_agg(s, pg_catalog.current_setting(s)) FROM pg_catalog.json_array_elements_text($1::pg_catalog.json) AS s)::text AS settings`,
    [JSON.stringify(relied)],
  ).catch(() => ({ rows: [] }));
  for (const { name, settings } of rows) seen.set(name, [...(seen.get(name) ?? []), JSON.parse(settings) as Record<string, string>]);
  return end.call(this);
}

let database: TestDatabase;
let login: string;
let url: string;

/** A database, and a login, that set what nobody would want; every second setting comes from the one, the others from the other. */
beforeAll(async () => {
  database = await createDatabase();
  login = `login_${database.url.slice(-12)}`;
  url = database.url.replace("postgres@", `${login}@`);
  const name = database.url.slice(database.url.lastIndexOf("/") + 1);
  await database.query(`CREATE ROLE ${login} LOGIN SUPERUSER`);
  await database.query("CREATE SCHEMA hostile");
  await database.query("CREATE FUNCTION hostile.set_config(text, text, boolean) RETURNS text LANGUAGE sql AS 'SELECT NULL'");
  await database.query("CREATE FUNCTION hostile.current_setting(text) RETURNS text LANGUAGE sql AS 'SELECT NULL'");
  await database.query("GRANT USAGE ON SCHEMA hostile TO PUBLIC");
  const known = await database.query<{ name: string }>("SELECT name FROM pg_settings");
  const names = new Set(known.map((setting) => setting.name));
  // Each version has some that others lack.
  relied = Object.keys(reliedOn).filter((setting) => names.has(setting));
  for (const [index, [setting, value]] of Object.entries(hostile).filter(([one]) => names.has(one)).entries()) {
    const target = index % 2 === 0 ? `DATABASE ${name}` : `ROLE ${login}`;
    await database.query(`ALTER ${target} SET ${setting} = ${setting === "search_path" ? value : `'${value}'`}`);
  }
  pg.Client.prototype.end = tellAndEnd;
});

afterAll(async () => {
  pg.Client.prototype.end = end;
  await database[Symbol.asyncDispose]();
});

test("each setting that is relied on is another one here, in a session that sets nothing", async () => {
  expect(Object.keys(reliedOn).toSorted()).toEqual(Object.keys(hostile).toSorted());
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  const { rows } = await client.query<{ name: string; value: string }>(
    "SELECT s.name, pg_catalog.current_setting(s.name) AS value FROM pg_catalog.pg_settings s",
  );
  await end.call(client);
  const values = new Map(rows.map(({ name, value }) => [name, value]));
  const same = Object.entries(reliedOn).filter(([name, value]) => values.get(name) === String(value));
  expect(same.map(([name]) => name), "pg names its encoding itself").toEqual(["client_encoding"]);
});

describe("where a database and a login set what nobody would want", () => {
  test("every call is answered, the ledger is proved, and each kind of session has what it relies on", async () => {
    const service = await serve(url, { LEDGERD_SEPARATION: "relaxed" });
    await callEverything(service, 1n);
    await service.close();
    expect((await verify(url)).findings).toEqual([]);
    expect([...seen.keys()].toSorted()).toEqual(["ledgerd", "ledgerd journal", "ledgerd migrate", "ledgerd start", "ledgerd verify", "ledgerd wait"]);
    expectReliedOn();
  });

  test("a backup is taken and restored", async () => {
    await using target = await createDatabase("empty");
    const folder = mkdtempSync(path.join(tmpdir(), "ledgerd-relied-"));
    const name = target.url.slice(target.url.lastIndexOf("/") + 1);
    for (const [setting, value] of Object.entries(hostile).filter(([one]) => relied.includes(one))) {
      await target.query(`ALTER ROLE ${login} IN DATABASE ${name} SET ${setting} = ${setting === "search_path" ? value : `'${value}'`}`);
    }
    const there = target.url.replace("postgres@", `${login}@`);
    const { file, manifest } = await backUp({ url, folder, keepDays: 1, version: "test", progress: () => undefined });
    const limits = { connectTimeoutMs: 10_000, queryTimeoutMs: 30_000, signal: new AbortController().signal };
    const restored = await restore({
      url: there, file, verifies: true, currencies: currenciesWith([]), ...limits,
      progress: () => undefined, onFinding: () => undefined,
    });
    rmSync(folder, { recursive: true });
    expect(restored.manifest.digest).toBe(manifest.digest);
    expect([...seen.keys()]).toEqual(expect.arrayContaining(["ledgerd backup", "ledgerd restore"]));
    expectReliedOn();
  });
});

/** Of all sessions that have ended by now: they have what is relied on, or have it otherwise on purpose. */
function expectReliedOn(): void {
  for (const [name, sessions] of seen) {
    // It only looks whether the database will do, behind a pooler too, whose sessions it must not change.
    if (name === "ledgerd start") continue;
    const kinds = (own[name] ?? []).map((settings) =>
      Object.fromEntries(relied.map((setting) => [setting, String({ ...reliedOn, ...settings }[setting])])),
    );
    for (const settings of sessions) expect.soft(kinds, name).toContainEqual(settings);
  }
}
