// Damage to a ledger, as a superuser does it past all that guards the log.

import type { TestDatabase } from "./database.ts";

type Queried = Pick<TestDatabase, "query">;

/** Runs statements with the log's triggers off, and turns them on again. */
export async function past({ query }: Queried, ...statements: readonly string[]): Promise<void> {
  const partitions = await query<{ name: string }>("SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = 'ledgerd.transactions'::regclass");
  const tables = ["ledgerd.transactions", ...partitions.map(({ name }) => name)];
  for (const table of tables) await query(`ALTER TABLE ${table} DISABLE TRIGGER USER`);
  for (const statement of statements) await query(statement);
  for (const table of tables) {
    for (const trigger of ["transactions_append_only", "transactions_no_truncate"]) await query(`ALTER TABLE ${table} ENABLE ALWAYS TRIGGER ${trigger}`);
  }
}
