// Whether a PostgreSQL takes our connections, and how many, found out before anything else: what an operator can mend is then said in one line.

import pg from "pg";

/** The database can't be connected to. */
export class DatabaseUnreachable extends Error {}

/**
 * Connects once, and answers how many connections the server takes from whoever isn't a superuser, others' and ours together. Throws
 * `DatabaseUnreachable`, with the advice and without the password.
 */
export async function checkReachable(url: string, timeoutMs: number, advice: string): Promise<number> {
  try {
    const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: timeoutMs });
    // A connection that breaks later is found by whoever uses the database then.
    client.on("error", () => undefined);
    await client.connect();
    // PostgreSQL 15 has no reserved_connections yet.
    const { rows } = await client.query<{ room: number }>(
      `SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
              - coalesce(current_setting('reserved_connections', true)::int, 0) AS room`,
    );
    await client.end();
    return rows[0]?.room ?? 0;
  } catch (cause) {
    throw new DatabaseUnreachable(`can't connect to ${withoutSecrets(url)}: ${reasonOf(cause)}; ${advice}`, { cause });
  }
}

function withoutSecrets(url: string): string {
  const shown = new URL(url);
  shown.password = "";
  // Parameters may hold one too.
  shown.search = "";
  return shown.href;
}

function reasonOf(error: unknown): string {
  // A host of several addresses fails by an error for each.
  if (error instanceof AggregateError) return error.errors.map(reasonOf).join(", ");
  return error instanceof Error ? error.message : String(error);
}
