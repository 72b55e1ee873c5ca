// The pool of connections that all statements go through but the journal's.

import { createPool, SchemaValidationError, type DatabasePool, type Interceptor, type QueryResultRow } from "slonik";
import { pgDriver } from "./driver.ts";

/** How to connect, in milliseconds where it is about time. */
export interface PoolOptions {
  readonly url: string;
  readonly min: number;
  readonly max: number;
  readonly connectTimeoutMs: number;
  readonly queryTimeoutMs: number;
  readonly idleTimeoutMs: number;
  /** Is told of connections that broke while they were idle; the pool replaces them. */
  readonly onError: (error: Error) => void;
}

/** The role that serving connections work as: it can't change the log, nor the schema. */
export const RUNTIME_ROLE = "ledgerd_runtime";

/** The seed's limit: no transaction takes longer. Of the reading ones, those with several statements are held to it. */
const TRANSACTION_LIMIT_MS = 10_000;

/** Opens a pool. Throws while the database can't be reached. */
export async function openPool(options: PoolOptions): Promise<DatabasePool> {
  const pool = await createPool(options.url, {
    minPoolSize: options.min,
    maxPoolSize: options.max,
    connectionTimeout: options.connectTimeoutMs,
    statementTimeout: options.queryTimeoutMs,
    idleTimeout: options.idleTimeoutMs,
    idleInTransactionSessionTimeout: TRANSACTION_LIMIT_MS,
    connectionRetryLimit: 0,
    queryRetryLimit: 0,
    transactionRetryLimit: 0,
    // The default, DISCARD ALL, costs a round trip for each statement; nothing here leaves state in its session.
    resetConnection: () => Promise.resolve(),
    driverFactory: pgDriver,
    interceptors: [resultParser],
  });
  pool.on("error", options.onError);
  return pool;
}

/** The same database, with these settings in each session: a role, say, or limits. */
export function withSession(url: string, settings: Readonly<Record<string, string | number>>): string {
  const target = new URL(url);
  const given = target.searchParams.get("options");
  const ours = Object.entries(settings).map(([name, value]) => `-c ${name}=${String(value).replaceAll(" ", "\\ ")}`);
  target.searchParams.set("options", [...(given === null ? [] : [given]), ...ours].join(" "));
  return target.href;
}

/** Slonik checks rows against a statement's schema only where an interceptor does it. */
const resultParser: Interceptor = {
  name: "result-parser",
  transformRow: ({ resultParser: schema }, query, row): QueryResultRow => {
    if (schema === undefined) return row;
    const checked = schema["~standard"].validate(row);
    if (checked instanceof Promise) throw new TypeError("the schema of a row must be synchronous");
    if (checked.issues) throw new SchemaValidationError(query, row, checked.issues);
    return checked.value as QueryResultRow;
  },
};
