// What the role that serves may have PostgreSQL do by functions of ours: with whose rights each of them works, and that
// none can be called so that it costs without bound.

import { afterAll, beforeAll, expect, test } from "vitest";
import { createDatabase, type TestDatabase } from "../harness/database.ts";

let database: TestDatabase;

beforeAll(async () => {
  database = await createDatabase();
});

afterAll(() => database[Symbol.asyncDispose]());

/** The functions of our schema that a role may call. */
async function callableBy(role: string, more: string): Promise<readonly string[]> {
  const rows = await database.query<{ called: string }>(
    `SELECT p.oid::regprocedure::text AS called
     FROM pg_proc p
     WHERE p.pronamespace = 'ledgerd'::regnamespace AND has_function_privilege($1, p.oid, 'EXECUTE') AND ${more}
     ORDER BY 1`,
    [role],
  );
  return rows.map(({ called }) => called);
}

test("only two functions lend it their owner's rights, each with a fixed search_path, and nobody else may call them", async () => {
  const lent = ["ledgerd.add_transaction_partitions(bigint)", "ledgerd.begin_tokens()"];
  expect(await callableBy("ledgerd_runtime", "p.prosecdef")).toEqual(lent);
  expect(await callableBy("ledgerd_runtime", "p.prosecdef AND 'search_path=pg_catalog, pg_temp' = ANY (p.proconfig)")).toEqual(lent);
  expect(await callableBy("pg_read_all_data", "p.prosecdef")).toEqual([]);
});

test("all others work with its own rights, so that none does what it couldn't do itself", async () => {
  expect(await callableBy("ledgerd_runtime", "NOT p.prosecdef AND p.prorettype <> 'trigger'::regtype")).toEqual([
    "ledgerd.assert_count(text,bigint,bigint)",
    "ledgerd.sequence_at(bigint,text,bigint)",
    "ledgerd.sequence_at(bigint,text,timestamp with time zone)",
    "ledgerd.sequence_at(bigint,text,timestamp with time zone,bigint)",
    "ledgerd.timeline()",
    "ledgerd.token_source(regclass)",
    "ledgerd.update_lock_heartbeat(bigint,character varying)",
  ]);
});

test("whatever it asks for, and however often, it gets a few partitions and no tokens", async () => {
  const client = await database.connect();
  await client.query("SET ROLE ledgerd_runtime");
  await client.query("SELECT ledgerd.begin_tokens()");
  const tokens = async () => (await client.query("SELECT last_value FROM ledgerd.fencing_token_seq UNION ALL SELECT last_value FROM ledgerd.lock_token_seq")).rows;
  const before = await tokens();
  for (const headroom of ["10000000000", "9223372036854775807", "-9223372036854775808", "100000001"]) {
    await expect(client.query("SELECT ledgerd.add_transaction_partitions($1)", [headroom])).rejects.toThrow(/must be from 0 to 100000000/);
  }
  for (const times of [1, 2, 3]) {
    await client.query("SELECT ledgerd.add_transaction_partitions(100000000)");
    await client.query("SELECT ledgerd.begin_tokens()");
    const [partitions] = (await client.query<{ count: bigint }>("SELECT count(*) FROM pg_inherits WHERE inhparent = 'ledgerd.transactions'::regclass")).rows;
    expect(partitions?.count, `after ${times} times`).toBe(11n);
  }
  expect(await tokens()).toEqual(before);
  await expect(client.query("SELECT setval('ledgerd.transactions_id_seq', 10000000000)")).rejects.toThrow(/permission denied/);
  await client.end();
});
