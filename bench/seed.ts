// The seed's own way of deducting money, as it was specified: its tables, and its five statements for pgbench.

import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import pg from "pg";

const TABLES = `
  CREATE TABLE IF NOT EXISTS user_balances (
    user_id BIGINT PRIMARY KEY, balance NUMERIC(10, 2) DEFAULT 0.00, currency VARCHAR(3) DEFAULT 'RUB',
    created_at TIMESTAMP DEFAULT NOW(), updated_at TIMESTAMP DEFAULT NOW());
  CREATE INDEX IF NOT EXISTS idx_user_balances_user_id ON user_balances (user_id);
  CREATE TABLE IF NOT EXISTS transactions (
    id SERIAL PRIMARY KEY, user_id BIGINT NOT NULL, amount NUMERIC(10, 2) NOT NULL, currency VARCHAR(3) DEFAULT 'RUB',
    type VARCHAR(20) NOT NULL, description TEXT, created_at TIMESTAMP DEFAULT NOW());
  CREATE INDEX IF NOT EXISTS idx_transactions_user_id ON transactions (user_id);
  CREATE INDEX IF NOT EXISTS idx_transactions_created_at ON transactions (created_at);
  CREATE TABLE IF NOT EXISTS jobs (
    id SERIAL PRIMARY KEY, user_id BIGINT NOT NULL, model_id VARCHAR(100) NOT NULL, prompt TEXT, parameters JSONB,
    status VARCHAR(20) DEFAULT 'pending', result_url TEXT, error_message TEXT, cost NUMERIC(10, 2), created_at TIMESTAMP DEFAULT NOW(),
    completed_at TIMESTAMP);
  CREATE INDEX IF NOT EXISTS idx_jobs_user_id ON jobs (user_id);
  CREATE INDEX IF NOT EXISTS idx_jobs_status ON jobs (status);
  CREATE INDEX IF NOT EXISTS idx_jobs_created_at ON jobs (created_at);`;

const DEDUCTION = `
\\set user_id random(1, :users)
BEGIN;
SELECT balance FROM user_balances WHERE user_id = :user_id FOR UPDATE;
UPDATE user_balances SET balance = balance - 0.01, updated_at = NOW() WHERE user_id = :user_id;
INSERT INTO transactions (user_id, amount, type, description) VALUES (:user_id, -0.01, 'deduction', 'a deduction');
COMMIT;
`;

/** Makes the database `seed` beside ledgerd's, with rich users; answers its URL. */
export async function createSeedDatabase(url: string, users: number): Promise<string> {
  const seedUrl = withDatabase(url, "seed");
  const admin = new pg.Client({ connectionString: url });
  await admin.connect();
  await admin.query("CREATE DATABASE seed");
  await admin.end();
  const client = new pg.Client({ connectionString: seedUrl });
  await client.connect();
  await client.query(TABLES);
  await client.query("INSERT INTO user_balances (user_id, balance) SELECT n, 1000000 FROM generate_series(1, $1::int) n", [users]);
  await client.query("VACUUM ANALYZE");
  await client.end();
  return seedUrl;
}

/** The same server's other database. */
export function withDatabase(url: string, database: string): string {
  return url.replace(/\/[^/]*$/, `/${database}`);
}

/** Where pgbench is, if it is on this machine: on the PATH, or where Debian puts it. */
export function findPgbench(): string | undefined {
  const debian = "/usr/lib/postgresql";
  const versions = existsSync(debian) ? readdirSync(debian).map((version) => path.join(debian, version, "bin")) : [];
  const folders = [...(process.env["PATH"] ?? "").split(":"), ...versions];
  return folders.map((folder) => path.join(folder, "pgbench")).find((file) => existsSync(file));
}

/** Deductions per second by pgbench, with prepared statements and this many clients. */
export function runPgbench(pgbench: string, seedUrl: string, clients: number, seconds: number, users: number): number {
  const folder = mkdtempSync(path.join(tmpdir(), "ledgerd-pgbench-"));
  try {
    const script = path.join(folder, "deduction.sql");
    writeFileSync(script, DEDUCTION);
    const { username, hostname, port, pathname } = new URL(seedUrl);
    const connection = ["-h", decodeURIComponent(hostname), "-p", port || "5432", "-U", username];
    const load = ["-n", "-M", "prepared", "-c", String(clients), "-j", "2", "-T", String(seconds), "-D", `users=${users}`, "-f", script];
    const output = execFileSync(pgbench, [...connection, ...load, pathname.slice(1)], { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] });
    const rate = /tps = ([\d.]+)/.exec(output)?.[1];
    if (rate === undefined) throw new Error(`pgbench told no rate:\n${output}`);
    return Number(rate);
  } finally {
    rmSync(folder, { recursive: true });
  }
}
