// One session with PostgreSQL by plain pg, for what Slonik can't do: COPY, and what must go on in the same session for long.

import pg from "pg";
import type { QuerySqlToken } from "slonik";
import type { z } from "zod";
import { withSession } from "./pool.ts";

/** How to connect. */
export interface SessionOptions {
  readonly url: string;
  /** As which it is seen in pg_stat_activity. */
  readonly name: string;
  readonly settings: Readonly<Record<string, string | number>>;
  /** Cuts it off, whatever it is waiting for: the statement at hand fails by the signal's reason. */
  readonly signal?: AbortSignal | undefined;
}

const CONNECT_TIMEOUT_MS = 10_000;

/** Connects. */
export async function openSession({ url, name, settings, signal }: SessionOptions): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: withSession(url, settings), application_name: name, connectionTimeoutMillis: CONNECT_TIMEOUT_MS });
  // A connection that breaks makes the statement at hand fail, which says it.
  client.on("error", () => undefined);
  await client.connect();
  const cut = (): void => void streamOf(client).destroy(signal?.reason instanceof Error ? signal.reason : undefined);
  signal?.addEventListener("abort", cut, { once: true });
  client.once("end", () => signal?.removeEventListener("abort", cut));
  return client;
}

/** Runs a statement without values; answers its rows, checked. */
export async function ask<T>(client: pg.Client, statement: QuerySqlToken<z.ZodType<T>>): Promise<readonly T[]> {
  const { rows } = await client.query(statement.sql);
  return rows.map((row) => statement.parser.parse(row));
}

function streamOf(client: pg.Client): pg.Connection["stream"] {
  return (client as unknown as { connection: pg.Connection }).connection.stream;
}
