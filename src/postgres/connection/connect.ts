// Every connection to PostgreSQL is opened here: to the first of a URL's hosts that will do, encrypted as the URL says,
// with what a session relies on.
//
// pg reads variables of the environment for what it isn't given. It is given everything, so that a URL means the same
// everywhere.

import pg from "pg";
import { passwordOf } from "./password-file.ts";
import { tlsOf } from "./tls.ts";
import { readUrl, type Host, type Target } from "./url.ts";

/** How a value is set in a session. */
export type SessionSettings = Readonly<Record<string, string | number>>;

/** How to connect. */
export interface ConnectOptions {
  readonly url: string;
  /** As which it is seen in pg_stat_activity. */
  readonly name: string;
  /** For each of the URL's hosts, unless the URL says otherwise itself. */
  readonly timeoutMs: number;
  /** What the session has beside `reliedOn`, or instead; `none`: it has what it got. */
  readonly settings?: SessionSettings | "none";
  /** And these, on PostgreSQL 18 and later. */
  readonly settingsSince18?: SessionSettings;
  /** Whether only a session will do that takes writes; the URL may demand it as well. */
  readonly mustTakeWrites?: boolean;
  /** How values are read; absent: as pg does. */
  readonly types?: pg.CustomTypesConfig;
}

/** The server can be reached, and takes no writes. */
export class TakesNoWrites extends Error {}

/**
 * What every session relies on, whatever the server, the database or the login say: how values are written and read, that
 * warnings come, how transactions begin, and that plans are those which were measured. (With `jit`, which is on where
 * PostgreSQL was built with LLVM, lists of 64 rows took 1 to 3 s: scans that are switched off make plans look expensive
 * enough to be compiled.) Not among them: `default_transaction_read_only`, by which an operator keeps writes out, and
 * `synchronous_commit`, which `safetyProblems` judges.
 */
export const reliedOn: SessionSettings = {
  array_nulls: "on",
  bytea_output: "hex",
  client_encoding: "UTF8",
  client_min_messages: "notice",
  DateStyle: "ISO, MDY",
  default_transaction_deferrable: "off",
  default_transaction_isolation: "read committed",
  enable_bitmapscan: "on",
  enable_hashagg: "on",
  enable_hashjoin: "on",
  enable_indexonlyscan: "on",
  enable_indexscan: "on",
  enable_material: "on",
  enable_mergejoin: "on",
  enable_nestloop: "on",
  enable_partition_pruning: "on",
  enable_seqscan: "on",
  enable_sort: "on",
  enable_tidscan: "on",
  exit_on_error: "off",
  extra_float_digits: 1,
  from_collapse_limit: 8,
  idle_in_transaction_session_timeout: 0,
  idle_session_timeout: 0,
  IntervalStyle: "postgres",
  jit: "off",
  join_collapse_limit: 8,
  lock_timeout: 0,
  plan_cache_mode: "auto",
  row_security: "on",
  search_path: "pg_catalog",
  standard_conforming_strings: "on",
  statement_timeout: 0,
  TimeZone: "UTC",
  transaction_timeout: 0,
  transform_null_equals: "off",
};

/**
 * Connects: hosts are tried in their order, each time anew. Throws why the only host didn't do; of several, an
 * `AggregateError` with one error for each. Whoever uses the client later finds by its next statement that it broke.
 */
export async function connect(options: ConnectOptions): Promise<pg.Client> {
  const target = readUrl(options.url);
  const errors: unknown[] = [];
  for (const host of target.hosts) {
    try {
      return await connectTo(host, target, options);
    } catch (error) {
      errors.push(error);
    }
  }
  throw errors.length === 1 ? errors[0] : new AggregateError(errors, `none of the hosts will do: ${reasonOf(errors)}`);
}

/** Ends a connection at once, whatever it is doing; what it is doing fails by the reason. */
export function cut(client: pg.Client, reason?: Error): void {
  (client as unknown as { connection: pg.Connection }).connection.stream.destroy(reason);
}

/** What PostgreSQL, or the way to it, says of an error, or of several. */
export function reasonOf(error: unknown): string {
  if (Array.isArray(error)) return error.map(reasonOf).join(", ");
  // A host of several addresses fails by an error for each.
  if (error instanceof AggregateError) return reasonOf(error.errors);
  return error instanceof Error ? error.message : String(error);
}

/** With `prefer`, what an encrypted connection is refused is tried once more without; the way to the server isn't. */
async function connectTo(host: Host, target: Target, options: ConnectOptions): Promise<pg.Client> {
  const tls = tlsOf(host.host, target.tls);
  try {
    return await open(host, target, options, tls);
  } catch (error) {
    const isTold = error instanceof Error && !("syscall" in error) && !(error instanceof TimedOut);
    if (tls === false || target.tls.mode !== "prefer" || !isTold || error instanceof TakesNoWrites) throw error;
    return open(host, target, options, false);
  }
}

class TimedOut extends Error {}

async function open(
  { host, port }: Host,
  target: Target,
  { name, timeoutMs, settings, settingsSince18, mustTakeWrites = false, types }: ConnectOptions,
  ssl: pg.ClientConfig["ssl"],
): Promise<pg.Client> {
  const { user, database, options, tls } = target;
  const client = new pg.Client({
    host,
    port,
    user,
    database,
    password: () => passwordOf(target, host, port),
    ssl,
    sslnegotiation: tls.isDirect && ssl !== false ? "direct" : "postgres",
    application_name: name,
    client_encoding: "UTF8",
    keepAlive: true,
    ...(types === undefined ? {} : { types }),
  });
  // What isn't there pg takes from the environment instead; and any text, an empty one too, a pooler refuses.
  (client as unknown as { connectionParameters: { options: string | undefined } }).connectionParameters.options = options;
  // A connection that breaks makes the statement at hand fail, which says it.
  client.on("error", () => undefined);
  const limitMs = target.connectTimeoutMs ?? timeoutMs;
  const timer = setTimeout(() => cut(client, new TimedOut(`timeout: no answer within ${limitMs} ms`)), limitMs);
  try {
    await client.connect();
    if (mustTakeWrites || target.mustTakeWrites) await refuseReadOnly(client);
    if (settings !== "none") await set(client, { ...reliedOn, ...settings }, settingsSince18);
    return client;
  } catch (error) {
    cut(client);
    throw error;
  } finally {
    clearTimeout(timer);
  }
}

/** Before the session's own settings, which may be to write nothing. */
async function refuseReadOnly(client: pg.Client): Promise<void> {
  const { rows } = await client.query<{ standby: boolean; read_only: boolean }>(`
    SELECT pg_catalog.pg_is_in_recovery() AS standby,
           pg_catalog.current_setting('transaction_read_only') = 'on' AS read_only`);
  if (rows[0]?.standby === true) throw new TakesNoWrites("the database is a standby, which takes no writes");
  if (rows[0]?.read_only === true) {
    throw new TakesNoWrites("the database takes no writes: default_transaction_read_only is on");
  }
}

/**
 * By a statement rather than by the startup packet's options: a pooler passes those on to no server, and each version
 * refuses the settings that it doesn't know.
 */
async function set(client: pg.Client, settings: SessionSettings, since18: SessionSettings = {}): Promise<void> {
  await client.query(
    `SELECT pg_catalog.set_config(s.key, s.value, false)
     FROM pg_catalog.json_each_text(
       CASE WHEN pg_catalog.current_setting('server_version_num')::int < 180000 THEN $1 ELSE $2 END::pg_catalog.json
     ) AS s
     WHERE pg_catalog.current_setting(s.key, true) IS NOT NULL
     LIMIT 100`,
    [JSON.stringify(settings), JSON.stringify({ ...settings, ...since18 })],
  );
}
