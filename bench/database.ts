// Sessions of the benchmark itself, beside what it measures.

import pg from "pg";
import { SERVING_LOGIN } from "../src/postgres/embedded/embedded-access.ts";

/** Does some work in a session of its own. */
export async function inSession<T>(url: string, work: (client: pg.Client) => Promise<T>): Promise<T> {
  const client = new pg.Client({ connectionString: url });
  // One that breaks fails the statement at hand, which says it.
  client.on("error", () => undefined);
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}

/** The same database by the login that serves. */
export function servedAt(url: string): string {
  return url.replace("//postgres@", `//${SERVING_LOGIN}@`);
}

/** The same server's other database. */
export function databaseAt(url: string, database: string): string {
  return url.replace(/\/[^/]*$/, `/${database}`);
}
