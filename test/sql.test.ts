// The forbidden operations of SQL are enforced, not remembered: every statement of src/ and migrations/ is parsed with PostgreSQL's own
// grammar and held to the rules. Each rule is proved on samples that break it, so that a rule which sees nothing fails here.

import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { describe, expect, test } from "vitest";
import { statementsOfMigration } from "./harness/sql-migrations.ts";
import { problemsIn } from "./harness/sql-rules.ts";
import { findSql, readSources } from "./harness/sql-statements.ts";

const sources = readSources();
const found = findSql(sources);
const folder = path.resolve(import.meta.dirname, "../migrations");
const migrations = readdirSync(folder).map((file) => ({ file, sql: readFileSync(path.join(folder, file), "utf8") }));

/** What may break a rule, and why. */
const exceptions: readonly { readonly file: string; readonly text: string; readonly why: string }[] = [
  {
    file: "src/postgres/embedded/embedded.ts",
    text: "CREATE DATABASE ledgerd",
    why: "PostgreSQL has no IF NOT EXISTS for it; it is sent to a server of one owner, after a look that found no such database",
  },
  ...["CREATE ROLE ledgerd_runtime NOLOGIN", "CREATE ROLE ledgerd_serve LOGIN IN ROLE ledgerd_runtime"].map((text) => ({
    file: "src/postgres/embedded/embedded-access.ts",
    text,
    why: "nor for this; it is sent to the same server, after a look that found no such role",
  })),
];

/**
 * What runs SQL that isn't in the source: the migrations' files, and what the tag has written: in a pipeline, for rows of texts by two sessions, for
 * a session without Slonik, for COPY, for Slonik's pool by its driver. */
const queriesOfOthers: readonly string[] = [
  "query(migration.sql)",
  "query(new Pipeline(this.#steps, this.#prepared))",
  'query({ text, values: [...statement.values], rowMode: "array" })',
  'query({ text, values: [...statement.values], rowMode: "array" })',
  "query(statement.sql)",
  "query(statement)",
  "query(copy)",
  "query(copy)",
  "query(this.#statement)",
  "query(this.#statement)",
];

const fileOf = (where: string): string => where.replace(/:\d+$/, "");

describe("the SQL of the service", () => {
  test("is found whole: as many templates as there are tags, and some plain statements", () => {
    const tags = [...sources.values()].flatMap((text) => text.match(/\bsql\.((type|prepared)\((?:[^()]|\([^()]*\))*\)|unsafe)`/g) ?? []);
    const tagged = found.statements.filter(({ where }) => /\bsql\./.test(lineAt(where)));
    expect(tags.length).toBeGreaterThan(30);
    expect(tagged).toHaveLength(tags.length);
    expect(found.statements.length).toBeGreaterThan(tagged.length);
  });

  test("does nothing that is forbidden", () => {
    const problems = found.statements.flatMap(({ where, texts }) => texts.flatMap((text) => problemsIn(text).map((problem) => ({ where, problem, text }))));
    const isException = ({ where, text }: (typeof problems)[number]): boolean => exceptions.some((one) => one.file === fileOf(where) && one.text === text);
    expect(problems.filter((problem) => !isException(problem))).toEqual([]);
    expect(problems.filter(isException), "each exception is still needed").toHaveLength(exceptions.length);
  });

  test("is written by Slonik's tag, or constant: nothing is put together", () => {
    expect(found.misuses.map((misuse) => misuse.replace(/^\S+ /, "")).toSorted()).toEqual(queriesOfOthers.toSorted());
  });

  test("lies in src/postgres and in the folders sql/ alone", () => {
    expect(found.statements.map(({ where }) => where).filter((where) => !/^src\/(postgres|\w+\/sql)\//.test(where))).toEqual([]);
  });
});

function lineAt(where: string): string {
  const [file = "", line = "0"] = where.split(":");
  return sources.get(file)?.split("\n")[Number(line) - 1] ?? "";
}

describe("the SQL of the migrations", () => {
  test.each(migrations)("$file does nothing that is forbidden, in its functions neither", ({ file, sql }) => {
    const problems = statementsOfMigration(file, sql).flatMap((statement) => problemsIn(statement.text, statement).map((problem) => [statement.where, problem, statement.text]));
    expect(problems).toEqual([]);
  });
});

describe("the rules see", () => {
  test.each([
    ["SELECT *", "SELECT * FROM ledgerd.holds LIMIT 1"],
    ["SELECT *", "SELECT h.* FROM ledgerd.holds h LIMIT 1"],
    ["SELECT *", "SELECT EXISTS (SELECT * FROM ledgerd.holds)"],
    ["SELECT *", "INSERT INTO ledgerd.holds (id) VALUES (1) RETURNING *"],
    ["DELETE without WHERE", "DELETE FROM ledgerd.holds"],
    ["DELETE without WHERE", "WITH gone AS (DELETE FROM ledgerd.holds RETURNING id) SELECT count(*) FROM gone"],
    ["UPDATE without WHERE", "UPDATE ledgerd.holds SET state = 'open'"],
    ["TRUNCATE", "TRUNCATE ledgerd.holds"],
    ["DROP", "DROP TABLE IF EXISTS ledgerd.holds"],
    ["DROP", "DROP ROLE ledgerd_runtime"],
    ["DROP", "ALTER TABLE ledgerd.holds DROP COLUMN state"],
    ["DROP", "ALTER TABLE ledgerd.holds DROP CONSTRAINT holds_state"],
    ["CREATE without IF NOT EXISTS", "CREATE TABLE ledgerd.other (id BIGINT)"],
    ["CREATE without IF NOT EXISTS", "CREATE INDEX other ON ledgerd.holds (state)"],
    ["CREATE without IF NOT EXISTS", "CREATE SCHEMA other"],
    ["CREATE without IF NOT EXISTS", "CREATE SEQUENCE other"],
    ["CREATE without IF NOT EXISTS", "CREATE FUNCTION other() RETURNS INT LANGUAGE sql AS 'SELECT 1'"],
    ["CREATE without IF NOT EXISTS", "CREATE TRIGGER other BEFORE UPDATE ON ledgerd.holds FOR EACH ROW EXECUTE FUNCTION other()"],
    ["CREATE without IF NOT EXISTS", "CREATE VIEW other AS SELECT 1"],
    ["CREATE without IF NOT EXISTS", "CREATE TYPE other AS (id BIGINT)"],
    ["CREATE without IF NOT EXISTS", "CREATE TYPE other AS ENUM ('a')"],
    ["CREATE without IF NOT EXISTS", "CREATE ROLE other"],
    ["ADD without IF NOT EXISTS", "ALTER TABLE ledgerd.holds ADD COLUMN other INT"],
    ["ADD without IF NOT EXISTS", "ALTER TABLE ledgerd.holds ADD CONSTRAINT other CHECK (id > 0)"],
    ["not SQL: syntax error at or near \"ledgerd\"", "SELECT id FORM ledgerd.holds"],
  ])("%s: %s", (problem, text) => {
    expect(problemsIn(text)).toEqual([problem]);
  });

  test.each([
    "SELECT h.id FROM ledgerd.holds h",
    "SELECT h.id FROM ledgerd.holds h LIMIT ALL",
    "SELECT h.id FROM ledgerd.holds h WHERE h.user_id = $1",
    "SELECT h.id FROM ledgerd.holds h WHERE h.id = h.id",
    "SELECT h.id FROM ledgerd.holds h WHERE h.id = job_id",
    "SELECT h.id FROM ledgerd.holds h WHERE h.id > $1",
    "SELECT h.id FROM ledgerd.holds h WHERE h.id = $1 OR h.user_id = $2",
    "SELECT b.user_id FROM ledgerd.user_balances b WHERE b.user_id = ANY($1::int8[])",
    "SELECT h.user_id, count(*) FROM ledgerd.holds h GROUP BY h.user_id",
    "SELECT h.state, count(*) FROM ledgerd.holds h WHERE h.user_id = $1 GROUP BY h.state",
    "SELECT sum(h.amount) OVER () FROM ledgerd.holds h",
    "SELECT DISTINCT h.state FROM ledgerd.holds h",
    "SELECT h.id FROM ledgerd.holds h JOIN ledgerd.transactions t ON t.hold_id = h.id",
    "SELECT h.id FROM ledgerd.transactions t LEFT JOIN ledgerd.holds h ON t.id = $1",
    "SELECT h.id FROM unnest($1::int8[]) AS u (id) CROSS JOIN ledgerd.holds h",
    "SELECT f.id FROM unnest($1::int8[]) AS u (id) CROSS JOIN LATERAL (SELECT h.id FROM ledgerd.holds h WHERE h.user_id = u.id) AS f",
    "SELECT f.id FROM (SELECT h.id FROM ledgerd.holds h) AS f",
    "WITH f AS (SELECT h.id FROM ledgerd.holds h) SELECT f.id FROM f",
    "SELECT h.id FROM ledgerd.holds h WHERE h.id = 1 UNION ALL SELECT t.id FROM ledgerd.transactions t",
    "SELECT x.id FROM some_function($1) AS x (id)",
    "SELECT h.id FROM ledgerd.holds h WHERE h.id IN (SELECT t.hold_id FROM ledgerd.transactions t)",
  ])("a list without LIMIT: %s", (text) => {
    expect(problemsIn(text)).toEqual(["a list without LIMIT"]);
  });

  test("an array of a list without LIMIT", () => {
    expect(problemsIn("SELECT ARRAY (SELECT h.id FROM ledgerd.holds h) AS ids")).toEqual(["an array of a list without LIMIT"]);
  });

  test.each([
    "SELECT h.id FROM ledgerd.holds h LIMIT $1",
    "SELECT h.id FROM ledgerd.holds h WHERE h.id = $1",
    "SELECT h.id FROM ledgerd.holds h WHERE $1 = h.id AND h.state = 'open'",
    "SELECT h.id FROM ledgerd.holds h WHERE h.id = ANY($1::int8[])",
    "SELECT id FROM ledgerd.holds WHERE id = $1",
    "SELECT count(*), coalesce(max(h.id), 0) FROM ledgerd.holds h",
    "SELECT h.id, count(*) FROM ledgerd.holds h WHERE h.id = ANY($1::int8[]) GROUP BY h.id",
    "SELECT t.id FROM ledgerd.transactions t WHERE t.user_id = $1 AND t.currency = $2 AND t.sequence = $3",
    "SELECT h.id FROM ledgerd.transactions t JOIN ledgerd.holds h ON h.id = t.hold_id WHERE t.id = $1",
    "SELECT f.id FROM unnest($1::int8[]) AS u (id) CROSS JOIN LATERAL (SELECT h.id FROM ledgerd.holds h WHERE h.id = u.id) AS f",
    "SELECT last_value FROM ledgerd.holds_id_seq",
    "SELECT EXISTS (SELECT FROM ledgerd.holds h WHERE h.user_id = $1)",
    "DELETE FROM ledgerd.holds WHERE id = $1",
    "UPDATE ledgerd.holds SET state = 'open' WHERE id = $1 RETURNING id",
    "CREATE TABLE IF NOT EXISTS ledgerd.other (id BIGINT); CREATE OR REPLACE VIEW other AS SELECT 1",
    "ALTER TABLE ledgerd.holds ADD COLUMN IF NOT EXISTS other INT",
  ])("nothing wrong in: %s", (text) => {
    expect(problemsIn(text)).toEqual([]);
  });
});

describe("of a migration, the rules see", () => {
  const problemsOf = (sql: string) => statementsOfMigration("sample.sql", sql).flatMap((statement) => problemsIn(statement.text, statement));
  const block = (...statements: readonly string[]) => `DO $$ DECLARE v BIGINT; BEGIN ${statements.join("; ")}; END $$`;

  test("what its functions and blocks do, in conditions, loops, handlers and dynamic SQL", () => {
    expect(problemsOf(block("DELETE FROM t"))).toEqual(["DELETE without WHERE"]);
    expect(problemsOf(block("IF EXISTS (SELECT * FROM t) THEN TRUNCATE t; END IF"))).toEqual(["SELECT *", "TRUNCATE"]);
    expect(problemsOf(block("FOR v IN SELECT h.id FROM ledgerd.holds h LOOP PERFORM 1; END LOOP"))).toEqual(["a list without LIMIT"]);
    expect(problemsOf(block("EXECUTE format('DROP TABLE %I', 'a')"))).toEqual(["DROP"]);
    expect(problemsOf("CREATE OR REPLACE FUNCTION f() RETURNS INT LANGUAGE sql AS 'SELECT h.id FROM ledgerd.holds h'")).toEqual(["a list without LIMIT"]);
    expect(problemsOf("CREATE OR REPLACE FUNCTION f() RETURNS VOID LANGUAGE plpgsql AS 'BEGIN UPDATE t SET a = 1; END'")).toEqual(["UPDATE without WHERE"]);
    expect(() => problemsOf(block("EXECUTE 'DROP TABLE ' || v"))).toThrow(/neither a constant nor format\(\) of one/);
  });

  test("that a variable gives a key, and a column of the same name doesn't", () => {
    expect(problemsOf(block("SELECT h.user_id INTO v FROM ledgerd.holds h WHERE h.id = v"))).toEqual([]);
    expect(problemsOf(block("SELECT h.user_id INTO v FROM ledgerd.holds h WHERE h.id = job_id"))).toEqual(["a list without LIMIT"]);
  });

  test("that what can't say IF NOT EXISTS is made where its being there is taken care of", () => {
    const made = "CREATE TYPE other AS (id BIGINT)";
    expect(problemsOf(block(made))).toEqual(["CREATE without IF NOT EXISTS"]);
    expect(problemsOf(block(`BEGIN ${made}; EXCEPTION WHEN duplicate_object THEN NULL; END`))).toEqual([]);
    expect(problemsOf(block(`BEGIN ${made}; EXCEPTION WHEN division_by_zero THEN NULL; END`))).toEqual(["CREATE without IF NOT EXISTS"]);
    expect(problemsOf(block(`BEGIN NULL; EXCEPTION WHEN duplicate_object THEN ${made}; END`))).toEqual(["CREATE without IF NOT EXISTS"]);
  });
});

describe("in the source, the rules see", () => {
  const misusesIn = (code: string) => findSql(new Map([["src/a.ts", code]])).misuses;
  const textsIn = (...files: readonly string[]) => findSql(new Map(files.map((code, index) => [`src/${"ab"[index]}.ts`, code]))).statements.flatMap(({ texts }) => texts);

  test.each([
    ["SQL with values in its text", "f(`SELECT id FROM t WHERE id = ${id}`)"],
    ["SQL with values in its text", "f(`insert into ${table} (id) values (1)`)"],
    ["SQL put together with +", "f('DELETE FROM t WHERE id = ' + id)"],
    ["SQL put together with +", "f(`update t set a = 1 ` + where)"],
    ["query(text)", "client.query(text)"],
    ["query({ text, values })", "client.query({ text, values })"],
    ["sql.unsafe used otherwise than as a tag", "const text = sql.unsafe([`SELECT ${id}`])"],
    ["sql.fragment used otherwise than as a tag", "const tag = sql.fragment; tag`a`"],
    ["sql.literalValue, which puts a value into the text", "sql.unsafe`SELECT ${sql.literalValue(id)}`"],
    ["a fragment of no statement", "const where = sql.fragment`WHERE id = ${id}`"],
  ])("%s: %s", (misuse, code) => {
    expect(misusesIn(code)).toContain(`src/a.ts:1: ${misuse}`);
  });

  test("nothing wrong in sentences, in constant queries and in the tag", () => {
    expect(misusesIn("f(`the update of ${id} set nothing`); client.query('SELECT 1'); pool.query(sql.unsafe`SELECT ${id}`); 'select one of ' + them")).toEqual([]);
  });

  test("each statement as it is sent, in all its forms", () => {
    expect(textsIn("sql.type(row)`SELECT ${1}, ${a.b}, ${f(c)}`")).toEqual(["SELECT $1, $2, $3"]);
    expect(textsIn("const list = sql.join(names.map((name) => sql.identifier([name])), sql.fragment`, `); sql.unsafe`SELECT ${list} FROM ${sql.identifier([a])}`")).toEqual(["SELECT x FROM x"]);
    expect(textsIn("sql.prepared('n', row)`SELECT ${sql.array(ids, 'int8')}`")).toEqual(['SELECT $1::"int8"[]']);
    expect(textsIn("client.query('SELECT 1')", "f(`delete from t`)")).toEqual(["SELECT 1", "delete from t"]);
    const order = "const order = down ? sql.fragment`DESC` : sql.fragment`ASC`;";
    expect(textsIn(`function f(down) { ${order} return sql.type(row)\`SELECT a ORDER BY \${order}, b \${order}\`; }`)).toEqual(["SELECT a ORDER BY DESC, b DESC", "SELECT a ORDER BY ASC, b ASC"]);
    expect(textsIn("const lock = { a: sql.fragment`A`, b: sql.fragment`B` }[mode]; sql.unsafe`SELECT ${lock}`")).toEqual(["SELECT A", "SELECT B"]);
  });

  test("fragments from functions and other files, and values where a parameter has the name of one", () => {
    const columns = "export const columns = sql.fragment`a, b`; export function byId(id: bigint) { return sql.fragment`id = ${id}`; }";
    const statement = "import { byId, columns } from './b.ts'; sql.unsafe`SELECT ${columns} FROM t WHERE ${byId(1n)} AND c = ${2}`";
    expect(textsIn(statement, columns)).toEqual(["SELECT a, b FROM t WHERE id = $1 AND c = $2"]);
    expect(textsIn("const part = sql.fragment`a`; function f(part: string) { return sql.unsafe`SELECT ${part}`; }")).toEqual(["SELECT $1"]);
  });
});
