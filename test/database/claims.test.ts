// A claim costs the same with ten jobs and with a million done, a hundred thousand waiting and as many that wait for their time.

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createPool } from "slonik";
import { ANSWER_BYTES } from "../../src/domain/answer-size.ts";
import { currenciesWith } from "../../src/domain/money/currency.ts";
import { claimsOf, type Claim } from "../../src/postgres/jobs/claims.ts";
import { RUNTIME_ROLE } from "../../src/postgres/connection/pool.ts";
import { rowsFor } from "../../src/postgres/rows/rows.ts";
import { createDatabase, type TestDatabase } from "../harness/database.ts";

const DONE = 1_000_000;
const WAITING = 100_000;
const WORKED_ON = 10_000;
const LARGE = 500;
const LARGE_SIZE = 98_000;

let database: TestDatabase;

beforeAll(async () => {
  database = await createDatabase();
  await fill("completed", DONE, "TRUE", "now() - interval '1 hour'");
  await fill("pending", WAITING, "TRUE", "now() - interval '1 hour'");
  // Of the highest priority, but not due.
  await fill("pending", WAITING, "FALSE", "now() + interval '1 hour'");
  await database.query(
    `INSERT INTO ledgerd.jobs (user_id, model_id, status, worker_id, claim_request_id, fencing_token, lease_expires_at)
     SELECT n % 1000 + 1, 'model 1', 'processing', 'worker ' || n % 100, 'claim ' || n, n, now() + interval '1 hour' FROM generate_series(1, $1::int) AS n`,
    [WORKED_ON],
  );
  await database.query(
    `INSERT INTO ledgerd.jobs (user_id, model_id, status, priority, size, parameters)
     SELECT n, 'large', 'pending', -1, $2, '{"a": [0]}' FROM generate_series(1, $1::int) AS n`,
    [LARGE, LARGE_SIZE],
  );
  await database.query("VACUUM ANALYZE ledgerd.jobs");
});

afterAll(() => database[Symbol.asyncDispose]());

async function fill(status: string, count: number, ready: string, runAt: string): Promise<void> {
  const completed = status === "completed";
  await database.query(
    `INSERT INTO ledgerd.jobs (user_id, model_id, status, priority, run_at, ready, completed_at, final_cost)
     SELECT n % 1000 + 1, 'model ' || n % 20, $1, CASE WHEN ${ready} THEN n % 5 ELSE 9 END, ${runAt} + n * interval '1 millisecond', ${ready}, $2::timestamptz, $3::numeric
     FROM generate_series(1, $4::int) AS n`,
    [status, completed ? new Date() : null, completed ? 0 : null, count],
  );
}

interface PlanNode {
  readonly "Node Type": string;
  readonly "Relation Name"?: string;
  readonly "Index Name"?: string;
  readonly "Actual Rows": number;
  readonly "Actual Loops": number;
  readonly "Rows Removed by Filter"?: number;
  readonly Output?: readonly string[];
  readonly Plans?: readonly PlanNode[];
}

/** The steps of that plan that read jobs. */
async function plan(...asked: Parameters<typeof steps>): Promise<readonly PlanNode[]> {
  return (await steps(...asked)).filter((node) => node["Relation Name"] === "jobs");
}

/** The plan of the first statement of a call that has this part, as it is executed. */
async function steps(call: (claims: ReturnType<typeof claimsOf>) => Promise<unknown>, part = ""): Promise<readonly PlanNode[]> {
  const sent: { sql: string; values: readonly unknown[] }[] = [];
  const pool = await createPool(`${database.url}?options=-c%20role%3D${RUNTIME_ROLE}`, {
    interceptors: [{ name: "seen", transformQuery: (_context, query) => (sent.push(query), query) }],
    resetConnection: () => Promise.resolve(),
  });
  await call(claimsOf(pool, rowsFor(currenciesWith([])))).catch(() => undefined);
  await pool.end();
  const statement = sent.find(({ sql }) => sql.includes(part) && /SELECT|UPDATE/.test(sql) && !sql.includes("advisory"));
  const client = await database.connect();
  await client.query("BEGIN");
  // As the service's sessions have it.
  await client.query("SET LOCAL enable_seqscan = off");
  await client.query("SET LOCAL enable_sort = off");
  const { rows } = await client.query<{ "QUERY PLAN": [{ Plan: PlanNode }] }>(`EXPLAIN (ANALYZE, VERBOSE, FORMAT JSON) ${statement?.sql ?? ""}`, [...(statement?.values ?? [])]);
  await client.query("ROLLBACK");
  await client.end();
  const nodes: PlanNode[] = [];
  const collect = (node: PlanNode): void => {
    nodes.push(node);
    node.Plans?.forEach(collect);
  };
  collect(rows[0]?.["QUERY PLAN"][0].Plan ?? expect.unreachable());
  return nodes;
}

const claim = (modelIds: readonly string[]): Claim => ({ workerId: "w", modelIds, limit: 50, lease: 30_000_000n, requestId: "" });

/** Finds jobs by this index, and reads hardly more of them than it answers. */
function expectIndex(nodes: readonly PlanNode[], index: string, most: number): void {
  expect(nodes.map((node) => node["Index Name"])).toContain(index);
  expect(nodes.filter((node) => !["ModifyTable", "Tid Scan"].includes(node["Node Type"]) && node["Index Name"] === undefined), "all by indexes, or where they lie").toEqual([]);
  const touched = nodes.map((node) => (node["Actual Rows"] + (node["Rows Removed by Filter"] ?? 0)) * node["Actual Loops"]);
  expect(Math.max(...touched)).toBeLessThanOrEqual(most);
}

describe("among a million jobs that are done and many that wait", () => {
  test("a claim reads the best ones by the index of ready jobs, and no others", async () => {
    expectIndex(await plan((claims) => claims.claim(claim([]))), "idx_jobs_ready", 50);
  });

  test("a claim of some kinds reads each kind's part of their index", async () => {
    expectIndex(await plan((claims) => claims.claim(claim(["model 1", "model 2", "model 3"]))), "idx_jobs_ready_model", 150);
  });

  test("a claim of a thousand reads the contents of no more than an answer could hold by their sizes", async () => {
    const asked = { ...claim(["large"]), limit: 1000 };
    const reading = (await steps((claims) => claims.claim(asked))).filter(({ Output: output = [] }) =>
      output.some((expression) => /parameters\)?(::text| #>)/.test(expression)),
    );
    const read = reading.map((node) => node["Actual Rows"] * node["Actual Loops"]);
    expect(Math.min(...read)).toBeGreaterThan(30);
    expect(Math.max(...read)).toBeLessThanOrEqual(1 + ANSWER_BYTES / LARGE_SIZE);
  });

  test("a look for jobs whose time has come reads none that have to wait", async () => {
    expectIndex(await plan((claims) => claims.makeReady()), "idx_jobs_scheduled", 0);
  });

  test("a look for lost leases, and the repeat of a claim, read nothing else", async () => {
    expectIndex(await plan((claims) => claims.lost(100)), "idx_jobs_leases", 0);
    expectIndex(await plan((claims) => claims.claim({ ...claim([]), requestId: "another" }), "claim_request_id"), "idx_jobs_claims", 50);
  });
});
