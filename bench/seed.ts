// The seed's own way of keeping balances, as it was specified: its tables, with rich users.

import { inSession } from "./database.ts";

/** The tables that balances lie in. */
export const BALANCE_TABLES = `
  CREATE TABLE IF NOT EXISTS user_balances (
    user_id BIGINT PRIMARY KEY, balance NUMERIC(10, 2) DEFAULT 0.00, currency VARCHAR(3) DEFAULT 'RUB',
    created_at TIMESTAMP DEFAULT NOW(), updated_at TIMESTAMP DEFAULT NOW());
  CREATE INDEX IF NOT EXISTS idx_user_balances_user_id ON user_balances (user_id);
  CREATE TABLE IF NOT EXISTS transactions (
    id SERIAL PRIMARY KEY, user_id BIGINT NOT NULL, amount NUMERIC(10, 2) NOT NULL, currency VARCHAR(3) DEFAULT 'RUB',
    type VARCHAR(20) NOT NULL, description TEXT, created_at TIMESTAMP DEFAULT NOW());
  CREATE INDEX IF NOT EXISTS idx_transactions_user_id ON transactions (user_id);
  CREATE INDEX IF NOT EXISTS idx_transactions_created_at ON transactions (created_at);`;

/** Makes the tables in an empty database. */
export async function makeSeedTables(url: string, users: number): Promise<void> {
  await inSession(url, async (client) => {
    await client.query(BALANCE_TABLES);
    await client.query("INSERT INTO user_balances (user_id, balance) SELECT n, 1000000 FROM generate_series(1, $1::int) n", [users]);
    await client.query("VACUUM ANALYZE user_balances");
  });
}
