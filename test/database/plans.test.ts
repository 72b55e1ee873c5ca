// Every statement of the service finds its rows by an index, with empty tables as with full ones: not one reads a whole table, or walks
// through a whole index.
//
// PostgreSQL itself tells how it carried out what a real service sent while one call of each kind was made. That every statement of the source
// was among it is checked against the source, so that a new one can't be forgotten here.

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { lockUser } from "../harness/blocker.ts";
import { connectTo } from "../harness/database.ts";
import { callEverything } from "../harness/every-call.ts";
import { startPlanningPostgres, type Executed, type PlanningPostgres, type PlanNode } from "../harness/executed-plans.ts";
import { newKey, serve } from "../harness/service.ts";
import { findSql, readSources } from "../harness/sql-statements.ts";
import { until } from "../harness/until.ts";

let server: PlanningPostgres;
/** The first column of each index, and which tables there are. */
let leading: ReadonlyMap<string, string>;
let tables: ReadonlySet<string>;
/** The predicate of each partial index. */
let predicates: ReadonlyMap<string, string>;

beforeAll(async () => {
  server = await startPlanningPostgres();
});

afterAll(async () => {
  await server[Symbol.asyncDispose]();
});

/** Learns what there is; the service makes partitions. */
async function readCatalog(): Promise<void> {
  const found = await server.query<{ table: string; index: string | null; column: string | null; predicate: string | null }>(
    `SELECT c.relname AS table, x.relname AS index, a.attname AS column, pg_get_expr(i.indpred, i.indrelid) AS predicate
     FROM pg_class c
     LEFT JOIN pg_index i ON i.indrelid = c.oid
     LEFT JOIN pg_class x ON x.oid = i.indexrelid
     LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[0]
     WHERE c.relnamespace = 'ledgerd'::regnamespace AND c.relkind IN ('r', 'p')`,
  );
  tables = new Set(found.map(({ table }) => table));
  predicates = new Map(found.flatMap(({ index, predicate }) => (index === null || predicate === null ? [] : [[index, predicate]])));
  leading = new Map(found.flatMap(({ index, column }) => (index === null || column === null ? [] : [[index, column]])));
}

/** What a new instance executes when it is called in every way, and a write finds its account locked for so long that the journal goes around it. */
async function executedBy(userId: bigint): Promise<readonly Executed[]> {
  await using service = await serve(server.url);
  // Of the other lane, so that it holds nobody up.
  const topUp = () => service.ledger.topUp({ userId: userId + 101n, amount: { currency: "RUB", amount: "1" }, idempotencyKey: newKey() });
  await topUp();
  await callEverything(service, userId);
  const blocker = await lockUser({ connect: () => connectTo(server.url) }, userId + 101n);
  const answered = topUp();
  const executed: Executed[] = [];
  await until(async () => {
    executed.push(...(await server.executed()));
    return executed.some(({ text }) => text.includes("SKIP LOCKED"));
  });
  await blocker.release();
  await answered;
  await readCatalog();
  return executed;
}

/** The steps of a plan that read a table of ours otherwise than by probing an index for what they look for, or taking the first entries of it. */
function walks(node: PlanNode, above?: PlanNode): readonly PlanNode[] {
  // Rows are locked on their way to the limit.
  const deeper = (node.Plans ?? []).flatMap((below) => walks(below, node["Node Type"] === "LockRows" ? above : node));
  const isLimited = above?.["Node Type"] === "Limit" && asksNothing(node);
  return isWalk(node) && !isLimited ? [node, ...deeper] : deeper;
}

/** Whether all that a step asks for is true of the whole index anyway; rows that are locked are asked again. */
function asksNothing({ Filter: filter = "", "Index Cond": condition = "", "Index Name": index = "" }: PlanNode): boolean {
  const parts = (text: string): readonly string[] => text.replaceAll(/[()]/g, "").split(" AND ").filter((part) => part !== "");
  const known = parts(predicates.get(index) ?? "");
  return [...parts(filter), ...parts(condition)].every((part) => known.includes(part));
}

function isWalk(node: PlanNode): boolean {
  const { "Node Type": type, "Relation Name": table = "", "Index Name": index } = node;
  if (index !== undefined) {
    // A condition on the index's first column: one on others alone would look at each entry.
    const column = leading.get(index);
    return column !== undefined && !new RegExp(`\\((\\w+\\.)?${column}\\b`).test(node["Index Cond"] ?? "");
  }
  if (!tables.has(table) || type === "ModifyTable" || type === "Bitmap Heap Scan") return false;
  return type !== "Tid Scan" || node["TID Cond"] === undefined;
}

/** Each different way in which a statement walked. */
function walksOf(executed: readonly Executed[]): readonly string[] {
  return [...new Set(executed.flatMap(({ text, plan }) => walks(plan).map((node) => `${stepOf(node)} in ${plain(text)}`)))];
}

function stepOf(node: PlanNode): string {
  return [node["Node Type"], node["Relation Name"], node["Index Name"], node["Index Cond"]].filter((part) => part !== undefined).join(" ");
}

const plain = (text: string): string => text.replaceAll(/\$\d+/g, "$").replaceAll(/\s+/g, " ").trim();

/**
 * The statements of the source that aren't among these in any of their forms; aside from those without a plan, from what runs before a service
 * does, adoptions too, and from proofs and backups, which go through whole tables because that is what they are for.
 */
function notSeen(executed: readonly Executed[]): readonly string[] {
  const seen = new Set(executed.map(({ text }) => plain(text)));
  const { statements } = findSql(readSources());
  const planned = statements.filter(({ where, texts: [text = ""] }) => /^\s*(SELECT|INSERT|UPDATE|DELETE|WITH)\b/.test(text) && !/(migrate|embedded|embedded-access|reachable|powers)\.ts:|\/sql\//.test(where));
  return planned.filter(({ texts }) => !texts.some((text) => seen.has(plain(text)))).map(({ where }) => where);
}

/** 100,000 accounts with two rows each, over two partitions; 20,000 of them with an open hold. */
async function fillTables(): Promise<void> {
  for (const statement of [
    "SELECT setval('ledgerd.transactions_id_seq', 9900000)",
    `INSERT INTO ledgerd.transactions (user_id, sequence, type, amount, balance_after, held_after, credit_limit_after, reference, refunded_transaction_id, hash)
     SELECT 1000000 + i % 100000, 1 + i / 100000, CASE WHEN i % 10 = 0 THEN 'refund' ELSE 'topup' END, 1, 1, 0, 0,
            CASE WHEN i % 4 = 0 THEN i::text END, CASE WHEN i % 10 = 0 THEN i END, sha256(i::text::bytea)
     FROM generate_series(0, 199999) i`,
    `INSERT INTO ledgerd.user_balances (user_id, balance, held, sequence, chain_head)
     SELECT 1000000 + i, 10, CASE WHEN i < 20000 THEN 1 ELSE 0 END, 2, sha256(i::text::bytea) FROM generate_series(0, 99999) i`,
    `INSERT INTO ledgerd.holds (id, user_id, currency, amount, expires_at, created_at)
     SELECT nextval('ledgerd.holds_id_seq'), 1000000 + i, 'RUB', 1, now() + interval '1 day' + i * interval '1 second', now() FROM generate_series(0, 19999) i`,
    `INSERT INTO ledgerd.idempotency_keys (user_id, key, fingerprint, transaction_id, created_at)
     SELECT 1000000 + i % 100000, i::text, '', i, now() FROM generate_series(0, 199999) i`,
    "INSERT INTO ledgerd.unique_references (user_id, type, reference) SELECT 1000000 + i, 'topup', i::text FROM generate_series(0, 49999) i",
  ]) {
    await server.query(statement);
  }
}

describe("every statement of the service probes indexes", () => {
  let userId = 1_000_010n;

  test("while the tables are empty, and each one of the source is among them", async () => {
    const executed = await executedBy(1n);
    expect(walksOf(executed)).toEqual([]);
    expect(notSeen(executed)).toEqual([]);
  });

  test("once the tables are full, though the planner wasn't told yet", async () => {
    await fillTables();
    expect(walksOf(await executedBy((userId += 2n)))).toEqual([]);
  });

  test("once it was, of all that has rows, as autovacuum tells it", async () => {
    const filled = await server.query<{ name: string }>(
      "SELECT oid::regclass::text AS name FROM pg_class WHERE relnamespace = 'ledgerd'::regnamespace AND relkind = 'r' AND pg_relation_size(oid) > 0 ORDER BY 1",
    );
    expect(filled.map(({ name }) => name)).toEqual(expect.arrayContaining(["ledgerd.transactions_000000", "ledgerd.transactions_000001", "ledgerd.user_balances"]));
    await server.query(`ANALYZE ${filled.map(({ name }) => name).join(", ")}`);
    expect(walksOf(await executedBy((userId += 2n)))).toEqual([]);
  });

  test("in the journal, which keeps its plans, also after somebody had the empty partition analyzed, which will be the next one to fill", async () => {
    await server.query("ANALYZE");
    const executed = await executedBy((userId += 2n));
    expect(walksOf(executed.filter(({ sender }) => sender === "ledgerd journal"))).toEqual([]);
  });
});
