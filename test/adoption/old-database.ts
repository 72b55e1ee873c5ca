// A database of the old application: its tables as they were specified, and rows as years of use leave them, the odd ones too.

import { BALANCE_TABLES } from "../../bench/seed.ts";
import type { TestDatabase } from "../harness/database.ts";

type Query = Pick<TestDatabase, "query">["query"];

const TABLES = `
  ${BALANCE_TABLES}
  CREATE TABLE IF NOT EXISTS jobs (
    id SERIAL PRIMARY KEY, user_id BIGINT NOT NULL, model_id VARCHAR(100) NOT NULL, prompt TEXT, parameters JSONB, status VARCHAR(20) DEFAULT 'pending',
    result_url TEXT, error_message TEXT, cost NUMERIC(10, 2), created_at TIMESTAMP DEFAULT NOW(), completed_at TIMESTAMP);
  CREATE INDEX IF NOT EXISTS idx_jobs_user_id ON jobs (user_id);
  CREATE INDEX IF NOT EXISTS idx_jobs_status ON jobs (status);
  CREATE INDEX IF NOT EXISTS idx_jobs_created_at ON jobs (created_at);
  CREATE TABLE IF NOT EXISTS lock_heartbeat (
    lock_key BIGINT PRIMARY KEY, instance_id VARCHAR(100) NOT NULL, last_heartbeat TIMESTAMP DEFAULT NOW());`;

/** How much to make. */
export interface Size {
  readonly users: number;
  readonly transactions: number;
  readonly jobs: number;
  /** Of the transactions, those that belong to one user alone. */
  readonly hot: number;
}

/** Makes the tables. */
export async function makeOldTables(query: Query): Promise<void> {
  await query(TABLES);
}

/**
 * Fills them: most rows as the application writes them, and among them all that it, its predecessors and people with psql have left. Most balances
 * are the sums of their rows, a tenth isn't. The same rows each time.
 */
export async function fillOldTables(query: Query, { users, transactions, jobs, hot }: Size): Promise<void> {
  await query("SELECT setseed(0.5)");
  await query(
    `INSERT INTO transactions (user_id, amount, currency, type, description, created_at)
     SELECT CASE WHEN i <= $3 THEN 1 ELSE 1 + floor(random() * $2::int)::int END,
            CASE WHEN i % 97 = 0 THEN 0 WHEN i % 89 = 0 THEN 'NaN'::numeric WHEN i % 3 = 0 THEN round((random() * 100)::numeric, 2) + 50 ELSE -round((random() * 50)::numeric, 2) END,
            CASE WHEN i % 31 = 0 THEN NULL WHEN i % 37 = 0 THEN 'USD' WHEN i % 41 = 0 THEN 'usd' WHEN i % 43 = 0 THEN 'JPY' WHEN i % 47 = 0 THEN '' ELSE 'RUB' END,
            CASE WHEN i % 53 = 0 THEN 'Topup' WHEN i % 59 = 0 THEN ' deduction' WHEN i % 61 = 0 THEN 'bonus' WHEN i % 67 = 0 THEN '' WHEN i % 10 = 0 THEN 'refund'
                 WHEN i % 3 = 0 THEN 'topup' ELSE 'deduction' END,
            CASE WHEN i % 71 = 0 THEN NULL WHEN i % 7919 = 0 THEN repeat('долго ', 1000) ELSE 'model ' || i END,
            CASE WHEN i % 73 = 0 THEN NULL WHEN i % 79 = 0 THEN TIMESTAMP '2999-01-01' WHEN i % 83 = 0 THEN TIMESTAMP '1969-07-20' WHEN i % 101 = 0 THEN 'infinity'
                 WHEN i % 103 = 0 THEN TIMESTAMP '2021-03-28 02:30' ELSE TIMESTAMP '2020-01-01' + i * interval '37 seconds' + random() * interval '60 seconds' END
     FROM generate_series(1, $1::int) i`,
    [transactions, users, hot],
  );
  // Every 50th user has transactions and no balance row; some have a balance row alone.
  await query(
    `INSERT INTO user_balances (user_id, balance, currency, created_at)
     SELECT u, CASE WHEN u % 211 = 0 THEN NULL WHEN u % 10 = 0 THEN round((random() * 1000)::numeric, 2) - 300 ELSE coalesce(s.sum, 0) END,
            CASE WHEN u % 23 = 0 THEN NULL WHEN u % 29 = 0 THEN 'eur' ELSE 'RUB' END,
            CASE WHEN u % 19 = 0 THEN NULL ELSE TIMESTAMP '2020-01-01' + u * interval '1 second' END
     FROM generate_series(1, $1::int) u
     LEFT JOIN (
       SELECT user_id, sum(amount) AS sum FROM transactions WHERE coalesce(nullif(currency, ''), 'RUB') = 'RUB' AND amount <> 'NaN' GROUP BY user_id
     ) s ON s.user_id = u
     WHERE u % 50 <> 0`,
    [users + Math.ceil(users / 10)],
  );
  await query(
    `INSERT INTO jobs (user_id, model_id, prompt, parameters, status, result_url, error_message, cost, created_at, completed_at)
     SELECT 1 + floor(random() * $2::int)::int, CASE WHEN i % 97 = 0 THEN '' ELSE 'sdxl' END, 'a cat ' || i,
            CASE WHEN i % 5 = 0 THEN NULL WHEN i % 17 = 0 THEN '[1, 2]'::jsonb WHEN i % 19 = 0 THEN 'null'::jsonb ELSE jsonb_build_object('steps', i) END,
            CASE WHEN i % 11 = 0 THEN 'pending' WHEN i % 13 = 0 THEN 'processing' WHEN i % 7 = 0 THEN 'failed' WHEN i % 23 = 0 THEN 'queued' WHEN i % 29 = 0 THEN NULL
                 WHEN i % 31 = 0 THEN 'Completed' ELSE 'completed' END,
            CASE WHEN i % 499 = 0 THEN 'data:' || repeat('x', 1100000) ELSE 'https://example.org/' || i END, CASE WHEN i % 7 = 0 THEN 'out of memory' END,
            CASE WHEN i % 37 = 0 THEN NULL ELSE round((random() * 10)::numeric, 2) END,
            CASE WHEN i % 41 = 0 THEN NULL ELSE TIMESTAMP '2020-01-01' + i * interval '1 minute' END,
            CASE WHEN i % 43 = 0 THEN NULL ELSE TIMESTAMP '2020-01-02' + i * interval '1 minute' END
     FROM generate_series(1, $1::int) i`,
    [jobs, users],
  );
  await query("ANALYZE user_balances, transactions, jobs");
}
