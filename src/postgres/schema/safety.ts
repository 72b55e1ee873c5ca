// What must be true of a database before money is entrusted to it.

import { sql, type DatabasePool } from "slonik";
import { z } from "zod";

const settingsRow = z.object({
  server_version_num: z.number(),
  fsync: z.string(),
  full_page_writes: z.string(),
  synchronous_commit: z.string(),
  may_change_log: z.boolean(),
  is_adopting: z.boolean(),
});

/** Why this database, with the role of these connections, must not be served from; empty if it may. */
export async function safetyProblems(pool: DatabasePool, durability: "required" | "relaxed"): Promise<readonly string[]> {
  const found = await pool.one(sql.type(settingsRow)`
    SELECT current_setting('server_version_num')::int AS server_version_num,
           current_setting('fsync') AS fsync,
           current_setting('full_page_writes') AS full_page_writes,
           current_setting('synchronous_commit') AS synchronous_commit,
           has_table_privilege('ledgerd.transactions', 'DELETE, TRUNCATE') OR has_any_column_privilege('ledgerd.transactions', 'UPDATE')
             OR pg_has_role('ledgerd_migrator', 'USAGE') AS may_change_log,
           EXISTS (SELECT FROM ledgerd.adoptions a WHERE a.finished_at IS NULL) AS is_adopting`);
  const problems: string[] = [];
  const major = Math.floor(found.server_version_num / 10_000);
  if (major < 15) problems.push(`PostgreSQL is version ${major}; ledgerd needs 15 or later`);
  if (found.may_change_log) problems.push("the role of the connections may change the log; it must be ledgerd_runtime, or a member of nothing but that");
  if (found.is_adopting) problems.push("an adoption isn't finished: run the same `ledgerd adopt` again, to its end; balances may be incomplete until then");
  if (durability === "relaxed") return problems;
  const remedy = "turn it on, or set LEDGERD_DURABILITY=relaxed if losing acknowledged writes is acceptable";
  if (found.fsync !== "on") problems.push(`fsync is ${found.fsync}: a crash can lose or damage everything; ${remedy}`);
  if (found.full_page_writes !== "on") problems.push(`full_page_writes is ${found.full_page_writes}: a crash can damage pages; ${remedy}`);
  if (!["on", "remote_apply"].includes(found.synchronous_commit)) {
    problems.push(`synchronous_commit is ${found.synchronous_commit}: a crash can lose acknowledged writes; ${remedy}`);
  }
  return problems;
}
