// One session with PostgreSQL by plain pg, for what Slonik can't do: COPY, and what must go on in the same session for long.

import type pg from "pg";
import type { QuerySqlToken } from "slonik";
import type { z } from "zod";
import { connect, cut, type SessionSettings } from "../connection/connect.ts";

/** How to connect. */
export interface SessionOptions {
  readonly url: string;
  /** As which it is seen in pg_stat_activity. */
  readonly name: string;
  readonly settings: SessionSettings;
  /** Cuts it off, whatever it is waiting for: the statement at hand fails by the signal's reason. */
  readonly signal?: AbortSignal | undefined;
}

const CONNECT_TIMEOUT_MS = 10_000;

/** Connects. */
export async function openSession({ url, name, settings, signal }: SessionOptions): Promise<pg.Client> {
  const client = await connect({ url, name, settings, timeoutMs: CONNECT_TIMEOUT_MS });
  const abort = (): void => cut(client, signal?.reason instanceof Error ? signal.reason : undefined);
  if (signal?.aborted === true) abort();
  signal?.addEventListener("abort", abort, { once: true });
  client.once("end", () => signal?.removeEventListener("abort", abort));
  return client;
}

/** Runs a statement without values; answers its rows, checked. */
export async function ask<T>(client: pg.Client, statement: QuerySqlToken<z.ZodType<T>>): Promise<readonly T[]> {
  const { rows } = await client.query(statement.sql);
  return rows.map((row) => statement.parser.parse(row));
}
