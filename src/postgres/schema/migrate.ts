// Brings the database's schema to what this version knows: numbered SQL files, forward only.
//
// With pg rather than Slonik: a file holds many statements, which only the simple protocol takes as one text.

import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import pg from "pg";
import { connect } from "../connection/connect.ts";
import { Problem } from "../../domain/problem.ts";

/** A migration that a database has. */
export interface AppliedMigration {
  readonly number: number;
  readonly name: string;
  readonly checksum: string;
}

/** One file of migrations/. It is never edited once it has landed; `checksum` shows an edit. */
export interface Migration extends AppliedMigration {
  readonly sql: string;
  /** Whether it says so of itself, by the line `-- major` above its first statement: then a backup is taken before it. */
  readonly major: boolean;
}

/** What to migrate to, and when. */
export interface Migrating {
  /** All migrations that there are; absent: those of this version. */
  readonly known?: readonly Migration[];
  /** A database that is being restored is left alone by all but the restore. */
  readonly restoring?: boolean;
}

/** The database's schema is not one that this version can work with. */
export class SchemaProblem extends Problem {}

const FOLDER = path.resolve(import.meta.dirname, "../../../migrations");

/** Migrators wait for each other this long, and no statement of theirs waits longer for a lock that writes need as well. */
const LOCK_TIMEOUT = "10s";

const CONNECT_TIMEOUT_MS = 10_000;

/** Any number, the same in all versions: who holds its advisory lock migrates this database. */
const MIGRATION_LOCK = 7_091_223_344_115_001n;

/**
 * Numbers from here on are no migrations: a restore records in the same table what it has loaded, and takes that out again when it is done. Each
 * version of ledgerd, an older one too, takes them for migrations that it doesn't know, and so refuses a ledger that is restored in part.
 */
export const FIRST_RESTORE_MARK = 2_000_000_000;

const INSUFFICIENT_PRIVILEGE = "42501";

/** All migrations that a folder has, in order; that of this version, unless another one is named. */
export function knownMigrations(folder = FOLDER): readonly Migration[] {
  const files = readdirSync(folder).filter((file) => file.endsWith(".sql")).toSorted();
  return files.map((file, index) => {
    const number = Number.parseInt(file, 10);
    if (number !== index + 1) throw new Error(`migrations/${file} should have the number ${index + 1}`);
    const sql = readFileSync(path.join(folder, file), "utf8");
    const major = /^(--.*\n|\s*\n)*-- major\s*\n/.test(sql);
    return { number, name: path.basename(file, ".sql"), sql, checksum: createHash("sha256").update(sql).digest("hex"), major };
  });
}

/** The migrations that the database lacks. Throws `SchemaProblem` if it has newer ones, or other ones, than this version. */
export async function pendingMigrations(url: string, migrating: Migrating = {}): Promise<readonly Migration[]> {
  return withClient(url, (client) => pending(client, migrating));
}

/** Applies what is pending, each migration in a transaction of its own; answers what it applied. Safe to run several times at once. */
export async function migrate(url: string, migrating: Migrating = {}): Promise<readonly Migration[]> {
  return withClient(url, async (client) => {
    const applied: Migration[] = [];
    for (const migration of await pending(client, migrating)) {
      if (await apply(client, migration)) applied.push(migration);
    }
    return applied;
  });
}

async function apply(client: pg.Client, migration: Migration): Promise<boolean> {
  try {
    await client.query("BEGIN");
    await client.query("SELECT set_config('lock_timeout', $1, true)", [LOCK_TIMEOUT]);
    await client.query("SELECT pg_advisory_xact_lock($1)", [MIGRATION_LOCK]);
    // Another migrator may have been faster while we waited.
    const done = (await appliedMigrations(client)).some(({ number }) => number === migration.number);
    if (!done) {
      // The first one makes the role that all others run as.
      if (migration.number > 1) await client.query("SET LOCAL ROLE ledgerd_migrator");
      await client.query(migration.sql);
      const { number, name, checksum } = migration;
      await client.query("INSERT INTO ledgerd.schema_migrations (number, name, checksum) VALUES ($1, $2, $3)", [number, name, checksum]);
    }
    const { command } = await client.query("COMMIT");
    if (command !== "COMMIT") throw new Error(`PostgreSQL answered ${command} to COMMIT`);
    return !done;
  } catch (cause) {
    // Of a connection that broke there is nothing to take back.
    await client.query("ROLLBACK").catch(() => undefined);
    throw new SchemaProblem(`migration ${migration.name} was not applied: ${explain(cause)}`, { cause });
  }
}

/** The old application's tables, should they lie in our schema: a table of ours with such a name has this column. */
const ownColumns = { transactions: "hash", user_balances: "chain_head", jobs: "hold_id", lock_heartbeat: "fencing_token" };

/** Throws `SchemaProblem` if tables that aren't ours are where ours are to be: `IF NOT EXISTS` would take them for ours. */
async function refuseStrangeTables(client: pg.Client): Promise<void> {
  const { rows } = await client.query<{ name: string }>(
    `SELECT t.name
     FROM unnest($1::text[], $2::text[]) AS t (name, own)
     WHERE EXISTS (SELECT FROM pg_tables p WHERE p.schemaname = 'ledgerd' AND p.tablename = t.name)
       AND NOT EXISTS (SELECT FROM information_schema.columns c WHERE c.table_schema = 'ledgerd' AND c.table_name = t.name AND c.column_name = t.own)`,
    [Object.keys(ownColumns), Object.values(ownColumns)],
  );
  if (rows.length === 0) return;
  throw new SchemaProblem(
    `the schema ledgerd, where ledgerd keeps its tables, has others named ${rows.map(({ name }) => name).join(", ")}, the old application's perhaps: ` +
      "rename it (ALTER SCHEMA ledgerd RENAME TO old_application), and adopt them from there (--schema old_application)",
  );
}

async function pending(client: pg.Client, { known = knownMigrations(), restoring = false }: Migrating): Promise<readonly Migration[]> {
  const recorded = await appliedMigrations(client).catch((cause: unknown) => {
    if (!(cause instanceof pg.DatabaseError && cause.code === INSUFFICIENT_PRIVILEGE)) throw cause;
    const login = client.user ?? "it";
    throw new SchemaProblem(`${login} may not use this database (let an administrator run: GRANT ledgerd_runtime TO ${login};): ${cause.message}`, { cause });
  });
  const applied = new Map(recorded.filter(({ number }) => number < FIRST_RESTORE_MARK).map(({ number, checksum }) => [number, checksum]));
  if (!restoring && applied.size < recorded.length) {
    throw new SchemaProblem("this database holds a part of an archive that is being restored, or whose restore was cut off, or a whole one that wasn't found to hold: run that `ledgerd restore` again (with --no-verify it may be served as it is), or take an empty database");
  }
  if (applied.size === 0) await refuseStrangeTables(client);
  const newest = Math.max(0, ...applied.keys());
  if (newest > known.length) {
    throw new SchemaProblem(
      `the database has migration ${newest}, this ledgerd knows ${known.length}: it was migrated by a newer version; run that one`,
    );
  }
  const edited = known.find(({ number, checksum }) => applied.has(number) && applied.get(number) !== checksum);
  if (edited !== undefined) {
    throw new SchemaProblem(`migration ${edited.name} was applied with another text than this ledgerd has: migrations are never edited`);
  }
  return known.filter(({ number }) => !applied.has(number));
}

/** The migrations that a database has, in order; none, if it has never been migrated. */
export async function appliedMigrations(client: pg.Client): Promise<readonly AppliedMigration[]> {
  // Not to_regclass: in the transaction that just got the lock it may still answer from a cache of before.
  const table = await client.query("SELECT FROM pg_tables WHERE schemaname = 'ledgerd' AND tablename = 'schema_migrations'");
  if (table.rowCount === 0) return [];
  const { rows } = await client.query<AppliedMigration>("SELECT number, name, checksum FROM ledgerd.schema_migrations ORDER BY number LIMIT 1000000");
  return rows;
}

async function withClient<T>(url: string, work: (client: pg.Client) => Promise<T>): Promise<T> {
  const client = await connect({ url, name: "ledgerd migrate", timeoutMs: CONNECT_TIMEOUT_MS });
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}

/** What PostgreSQL says of an error, with its hint. */
function explain(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  if ("hint" in error && typeof error.hint === "string") return `${error.message} (${error.hint})`;
  if (!("code" in error && error.code === INSUFFICIENT_PRIVILEGE)) return error.message;
  const needed = "a login that is a member of ledgerd_migrator and ledgerd_runtime";
  return `${error.message} (it takes ${needed}: LEDGERD_MIGRATION_URL)`;
}
