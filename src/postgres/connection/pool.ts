// The pool of connections that all statements go through but the journal's.

import { createPool, SchemaValidationError, type DatabasePool, type Interceptor, type QueryResultRow } from "slonik";
import type { SessionSettings } from "./connect.ts";
import { driverFor } from "./driver.ts";

/** How to connect, in milliseconds where it is about time. */
export interface PoolOptions {
  readonly url: string;
  /** As which its sessions are seen in pg_stat_activity; absent: `ledgerd`. */
  readonly name?: string;
  /** What its sessions have beside what all have: a role, say. */
  readonly settings?: SessionSettings;
  /** And these, on PostgreSQL 18 and later. */
  readonly settingsSince18?: SessionSettings;
  /** Whether only sessions will do that take writes. */
  readonly mustTakeWrites?: boolean;
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

/** Opens a pool. */
export async function openPool(options: PoolOptions): Promise<DatabasePool> {
  const { url, name = "ledgerd", connectTimeoutMs: timeoutMs, mustTakeWrites = false } = options;
  const settings = {
    statement_timeout: options.queryTimeoutMs,
    idle_in_transaction_session_timeout: TRANSACTION_LIMIT_MS,
    ...options.settings,
  };
  const { settingsSince18 = {} } = options;
  const pool = await createPool(url, {
    driverFactory: driverFor({ url, name, timeoutMs, settings, settingsSince18, mustTakeWrites }),
    minPoolSize: options.min,
    maxPoolSize: options.max,
    idleTimeout: options.idleTimeoutMs,
    connectionRetryLimit: 0,
    queryRetryLimit: 0,
    transactionRetryLimit: 0,
    // The default, DISCARD ALL, costs a round trip for each statement; nothing here leaves state in its session.
    resetConnection: () => Promise.resolve(),
    interceptors: [resultParser],
  });
  pool.on("error", options.onError);
  return pool;
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
