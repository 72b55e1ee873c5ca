// The database that a command works on: the one of DATABASE_URL, or an embedded one.

import type { Logger } from "pino";
import type { DatabasePool } from "slonik";
import type { Config } from "./config.ts";
import { migrateWithBackup } from "./ops/major.ts";
import { runningEmbedded, startEmbedded } from "./postgres/embedded.ts";
import { pendingMigrations, SchemaProblem, type Migration } from "./postgres/migrate.ts";
import { openPool } from "./postgres/pool.ts";
import { checkReachable, type Use } from "./postgres/reachable.ts";
import { version } from "./version.ts";

/** A database that can be connected to. */
export interface Database {
  readonly url: string;
  /** Ends what was started for it. */
  readonly close: () => Promise<void>;
}

/** What PostgreSQL allows by itself. */
const DEFAULT_CONNECTIONS = 100;
/** An embedded server has so many more than are needed: for its own use, `ledgerd migrate`, a look by psql. */
const SPARE_CONNECTIONS = 20;

/** The database to use, by so many connections. An embedded one is started, and must not be running already. */
export async function openDatabase(config: Config, log: Logger, connections: number, use: Use): Promise<Database> {
  const url = config.DATABASE_URL;
  if (url !== undefined) {
    const advice = "see that PostgreSQL runs there and that DATABASE_URL is right";
    const room = await checkReachable({ url, use, timeoutMs: config.LEDGERD_CONNECT_TIMEOUT, advice });
    const remedy = "calls will fail when it is full: lower LEDGERD_POOL_MAX or LEDGERD_WORKERS, or raise max_connections";
    if (connections > room) log.warn({ connections, room }, `PostgreSQL has room for fewer connections than may be needed; ${remedy}`);
    return { url, close: () => Promise.resolve() };
  }
  const settings = { max_connections: String(Math.max(DEFAULT_CONNECTIONS, connections + SPARE_CONNECTIONS)) };
  const server = await startEmbedded({ folder: config.LEDGERD_DATA_DIR, settings, log: (message) => log.warn(message) });
  return { url: server.url, close: () => server.stop() };
}

/** The database to administer: if a `ledgerd serve` runs an embedded one, that. */
export async function openDatabaseBeside(config: Config, log: Logger, use: Use): Promise<Database> {
  const running = config.DATABASE_URL === undefined ? runningEmbedded(config.LEDGERD_DATA_DIR) : undefined;
  if (running === undefined) return openDatabase(config, log, 1, use);
  const advice = "the ledgerd that runs it may still be starting; try again";
  await checkReachable({ url: running, use, timeoutMs: config.LEDGERD_CONNECT_TIMEOUT, advice });
  return { url: running, close: () => Promise.resolve() };
}

/** A ledger to administer: its database, of the schema that this version has, and connections with the rights of the login. */
export interface Ledger extends AsyncDisposable {
  readonly url: string;
  readonly pool: DatabasePool;
}

/** A command that administers does one thing at a time. */
const ADMIN_CONNECTIONS = 2;

/** Opens the ledger to administer. Throws if its schema isn't up to date: what it holds would be misread. */
export async function openLedger(config: Config, log: Logger, use: Use): Promise<Ledger> {
  await using opened = new AsyncDisposableStack();
  const database = opened.adopt(await openDatabaseBeside(config, log, use), ({ close }) => close());
  const pending = await pendingMigrations(database.url);
  if (pending.length > 0) throw new SchemaProblem(`the database lacks the migrations ${pending.map(({ name }) => name).join(", ")}: run \`ledgerd migrate\` first`);
  const pool = await openPool({
    url: database.url,
    min: 0,
    max: ADMIN_CONNECTIONS,
    connectTimeoutMs: config.LEDGERD_CONNECT_TIMEOUT,
    queryTimeoutMs: config.LEDGERD_QUERY_TIMEOUT,
    idleTimeoutMs: config.LEDGERD_IDLE_TIMEOUT,
    onError: (error) => log.warn({ err: error }, "an idle connection failed"),
  });
  opened.adopt(pool, (open) => open.end());
  const running = opened.move();
  return { url: database.url, pool, [Symbol.asyncDispose]: () => running.disposeAsync() };
}

/** Applies pending migrations, or throws if that isn't wanted. */
export async function bringUpToDate(url: string, config: Config, log: Logger): Promise<void> {
  const pending = await pendingMigrations(url);
  if (pending.length === 0) return;
  const names = pending.map(({ name }) => name).join(", ");
  if (config.LEDGERD_MIGRATE === "never") {
    throw new SchemaProblem(`the database lacks the migrations ${names}: run \`ledgerd migrate\` with a role that may`);
  }
  for (const { name } of await applyMigrations(url, config, log)) log.info({ migration: name }, "migrated");
}

/** Applies pending migrations, with a backup before them if one is major, unless that isn't wanted; answers what it applied. */
export async function applyMigrations(url: string, config: Config, log: Logger, noBackup = false): Promise<readonly Migration[]> {
  return migrateWithBackup({
    url,
    folder: config.LEDGERD_BACKUP_DIR,
    keepDays: config.LEDGERD_BACKUP_KEEP_DAYS,
    version: version(),
    noBackup,
    progress: (phase, rows) => log.debug({ phase, rows }, "backup before a major migration"),
    onBackup: ({ file }) => log.info({ file }, "took a backup before a major migration"),
  });
}
