// All that a database holds of a ledger, table by table, to be compared with another one.

import type { TestDatabase } from "./database.ts";

/** For each table, how many rows it has and a checksum over all of them, whatever their order; of migrations, without the times. */
export async function tablesIn({ query }: Pick<TestDatabase, "query">): Promise<Readonly<Record<string, string>>> {
  const tables = await query<{ name: string }>(`
    SELECT c.relname AS name FROM pg_class c
    WHERE c.relnamespace = 'ledgerd'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition ORDER BY c.relname`);
  const contents: Record<string, string> = {};
  for (const { name } of tables) {
    const [found] = await query<{ rows: string }>(`
      SELECT count(*) || ' rows, ' || coalesce(md5(string_agg(row, '' ORDER BY row COLLATE "C")), '') AS rows
      FROM (SELECT (to_jsonb(t) - ${name === "schema_migrations" ? "'applied_at'" : "''"})::text AS row FROM ledgerd.${name} t) AS found`);
    contents[name] = found?.rows ?? "";
  }
  return contents;
}
