// The database that a command works on: the one of DATABASE_URL, or an embedded one.

import type { Logger } from "pino";
import type { DatabasePool } from "slonik";
import type { Config } from "../config.ts";
import { migrateWithBackup } from "../backup/before-migration.ts";
import { runningEmbedded, startEmbedded } from "../postgres/embedded/embedded.ts";
import { pendingMigrations, SchemaProblem, type Migration } from "../postgres/schema/migrate.ts";
import { openPool } from "../postgres/connection/pool.ts";
import { checkReachable, type Use } from "../postgres/connection/reachable.ts";
import { version } from "../version.ts";

/** A database that can be connected to. */
export interface Database {
  /** By the login that serves, or does what the command does. */
  readonly url: string;
  /** By the login that may change the schema; undefined: none is known. */
  readonly ownerUrl: string | undefined;
  /** Ends what was started for it. */
  readonly close: () => Promise<void>;
}

/** By which login a command works: the one of DATABASE_URL, or the one that may change the schema. */
export type Login = "serving" | "owner";

/** What PostgreSQL allows by itself. */
const DEFAULT_CONNECTIONS = 100;
/** An embedded server has so many more than are needed: for its own use, `ledgerd migrate`, a look by psql. */
const SPARE_CONNECTIONS = 20;

/** The database to use, by so many connections. An embedded one is started, and must not be running already. */
export async function openDatabase(
  config: Config,
  log: Logger,
  connections: number,
  use: Use,
  login: Login = "serving",
): Promise<Database> {
  if (config.postgres.url === undefined) return openEmbedded(config, log, connections, use, login);
  const { url, ownerUrl, setting } = loginsOf(config, config.postgres.url, use, login);
  const advice = `see that PostgreSQL runs there and that ${setting} is right`;
  const isRefused = config.postgres.separation === "required";
  const onPowers = isRefused ? undefined : (problem: string) => log.warn(problem);
  const room = await checkReachable({ url, use, timeoutMs: config.postgres.connectTimeoutMs, advice, onPowers });
  const remedy = "calls will fail when it is full: lower LEDGERD_POOL_MAX or LEDGERD_WORKERS, or raise max_connections";
  if (connections > room) log.warn({ connections, room }, `PostgreSQL has room for fewer connections than may be needed; ${remedy}`);
  return { url, ownerUrl, close: () => Promise.resolve() };
}

/** Who logs in, and which setting says so. Who serves may not migrate as well, unless that is relaxed. */
function loginsOf(config: Config, url: string, use: Use, login: Login) {
  const { migrationUrl, separation } = config.postgres;
  const ownerUrl = migrationUrl ?? (use === "serve" && separation === "required" ? undefined : url);
  return login === "owner" && migrationUrl !== undefined
    ? { url: migrationUrl, ownerUrl, setting: "LEDGERD_MIGRATION_URL" }
    : { url, ownerUrl, setting: "DATABASE_URL" };
}

async function openEmbedded(
  config: Config,
  log: Logger,
  connections: number,
  use: Use,
  login: Login,
): Promise<Database> {
  await using opened = new AsyncDisposableStack();
  const settings = { max_connections: String(Math.max(DEFAULT_CONNECTIONS, connections + SPARE_CONNECTIONS)) };
  const starting = startEmbedded({ folder: config.postgres.dataFolder, settings, log: (message) => log.warn(message) });
  const server = opened.adopt(await starting, (started) => started.stop());
  const url = login === "serving" ? server.servingUrl : server.url;
  const advice = "it is ledgerd's own: see what it has logged";
  await checkReachable({ url, use, timeoutMs: config.postgres.connectTimeoutMs, advice });
  const running = opened.move();
  return { url, ownerUrl: server.url, close: () => running.disposeAsync() };
}

/** The database to administer: if a `ledgerd serve` runs an embedded one, that. */
export async function openDatabaseBeside(config: Config, log: Logger, use: Use, login: Login): Promise<Database> {
  const running = config.postgres.url === undefined ? runningEmbedded(config.postgres.dataFolder) : undefined;
  if (running === undefined) return openDatabase(config, log, 1, use, login);
  const advice = "the ledgerd that runs it may still be starting; try again";
  await checkReachable({ url: running, use, timeoutMs: config.postgres.connectTimeoutMs, advice });
  return { url: running, ownerUrl: running, close: () => Promise.resolve() };
}

/** A ledger to administer: its database, of the schema that this version has, and connections with the rights of the login. */
export interface Ledger extends AsyncDisposable {
  readonly url: string;
  readonly pool: DatabasePool;
}

/** A command that administers does one thing at a time. */
const ADMIN_CONNECTIONS = 2;

/** Opens the ledger to administer. Throws if its schema isn't up to date: what it holds would be misread. */
export async function openLedger(config: Config, log: Logger, use: Use, login: Login): Promise<Ledger> {
  await using opened = new AsyncDisposableStack();
  const database = opened.adopt(await openDatabaseBeside(config, log, use, login), ({ close }) => close());
  const pending = await pendingMigrations(database.url);
  if (pending.length > 0) throw new SchemaProblem(`the database lacks the migrations ${pending.map(({ name }) => name).join(", ")}: run \`ledgerd migrate\` first`);
  const pool = await openPool({
    url: database.url,
    min: 0,
    max: ADMIN_CONNECTIONS,
    connectTimeoutMs: config.postgres.connectTimeoutMs,
    queryTimeoutMs: config.postgres.queryTimeoutMs,
    idleTimeoutMs: config.postgres.idleTimeoutMs,
    onError: (error) => log.warn({ err: error }, "an idle connection failed"),
  });
  opened.adopt(pool, (open) => open.end());
  const running = opened.move();
  return { url: database.url, pool, [Symbol.asyncDispose]: () => running.disposeAsync() };
}

/** Applies pending migrations, or throws if that isn't wanted, or no login is known that may. */
export async function bringUpToDate({ url, ownerUrl }: Database, config: Config, log: Logger): Promise<void> {
  const pending = await pendingMigrations(url);
  if (pending.length === 0) return;
  const names = pending.map(({ name }) => name).join(", ");
  if (config.postgres.migrate === "never") {
    throw new SchemaProblem(`the database lacks the migrations ${names}: run \`ledgerd migrate\` with a role that may`);
  }
  if (ownerUrl === undefined) {
    throw new SchemaProblem(
      `the database lacks the migrations ${names}, which the login that serves may not make: set ` +
        "LEDGERD_MIGRATION_URL to one that may, or run `ledgerd migrate` as such a one",
    );
  }
  if (ownerUrl === config.postgres.migrationUrl) {
    const advice = "see that PostgreSQL runs there and that LEDGERD_MIGRATION_URL is right";
    await checkReachable({ url: ownerUrl, use: "write", timeoutMs: config.postgres.connectTimeoutMs, advice });
  }
  for (const { name } of await applyMigrations(ownerUrl, config, log)) log.info({ migration: name }, "migrated");
  if ((await pendingMigrations(url)).length > 0) {
    const wrong = "must lead to the database of DATABASE_URL: that one still lacks migrations";
    throw new SchemaProblem(`LEDGERD_MIGRATION_URL ${wrong}`);
  }
}

/** Applies pending migrations, with a backup before them if one is major, unless that isn't wanted; answers what it applied. */
export async function applyMigrations(url: string, config: Config, log: Logger, noBackup = false): Promise<readonly Migration[]> {
  return migrateWithBackup({
    url,
    folder: config.backups.folder,
    keepDays: config.backups.keepDays,
    version: version(),
    noBackup,
    progress: (phase, rows) => log.debug({ phase, rows }, "backup before a major migration"),
    onBackup: ({ file }) => log.info({ file }, "took a backup before a major migration"),
  });
}
