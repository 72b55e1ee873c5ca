// All that ledgerd keeps in a database, as it was at one moment: for a backup.
//
// This is the one transaction that may last longer than 10 seconds. It only reads, and it is easily found: its session's name in
// pg_stat_activity is `ledgerd backup`. Vacuum keeps the rows that it may still see.

import { createHash } from "node:crypto";
import type pg from "pg";
import { sql, type DatabasePool } from "slonik";
import { z } from "zod";
import { copyOut, type CopiedRows } from "../../postgres/protocol/copy.ts";
import { appliedMigrations, type AppliedMigration } from "../../postgres/schema/migrate.ts";
import { RUNTIME_ROLE } from "../../postgres/connection/pool.ts";
import { ask, openSession } from "../../postgres/protocol/session.ts";

/** A table, with the columns that have values of their own. */
export interface Table {
  readonly name: string;
  readonly columns: readonly string[];
}

/** Where a sequence stands: at a value that was drawn, or at the first one that will be. */
export interface SequenceState {
  readonly name: string;
  readonly lastValue: bigint;
  readonly isCalled: boolean;
}

/** What is known of a database beside its rows. */
export interface Origin {
  /** Eight hex digits: the same for the same database of the same server, and for hardly any other one. */
  readonly ledger: string;
  readonly database: string;
  readonly postgres: string;
  /** The snapshot's time, in milliseconds since 1970. */
  readonly time: number;
  readonly migrations: readonly AppliedMigration[];
}

/** Any number, the same in all versions: who holds its advisory lock makes a backup of this database. */
const BACKUP_LOCK = 7_091_223_344_115_002n;

/** What a digest begins with: `ledgerd verify` writes the same lines, so that the sums are the same. */
const DIGEST_FIRST_LINE = "ledgerd.digest.1\n";
const DIGEST_PART_BYTES = 256 * 1024;

const identityRow = z.object({ ledger: z.string(), database: z.string(), postgres: z.string(), time: z.coerce.bigint() });

const sequenceRow = z.object({ last_value: z.coerce.bigint(), is_called: z.boolean() });

const identity = sql.type(identityRow)`
  SELECT left(encode(sha256(format('%s %s', c.system_identifier, d.oid)::bytea), 'hex'), 8) AS ledger, d.datname AS database,
         current_setting('server_version') AS postgres, (extract(epoch FROM clock_timestamp()) * 1000)::int8 AS time
  FROM pg_control_system() AS c, pg_database d
  WHERE d.datname = current_database()
  LIMIT 1`;

/** By what the archives of a database are known, and its time, in milliseconds since 1970. */
export async function ledgerOf(pool: DatabasePool): Promise<{ readonly ledger: string; readonly time: number }> {
  const { ledger, time } = await pool.one(identity);
  return { ledger, time: Number(time) };
}

/** One moment of a database. */
export class Snapshot {
  readonly #client: pg.Client;

  private constructor(client: pg.Client) {
    this.#client = client;
  }

  /** Opens one. While another backup of this database is being made it waits, having told so. */
  static async open(url: string, onWait: () => void, signal?: AbortSignal): Promise<Snapshot> {
    // Not a plan with parallel workers, which would take more of the machine than one core.
    const settings = { role: RUNTIME_ROLE, max_parallel_workers_per_gather: 0 };
    const snapshot = new Snapshot(await openSession({ url, name: "ledgerd backup", settings, signal }));
    try {
      await snapshot.#begin(onWait);
      return snapshot;
    } catch (error) {
      await snapshot.close();
      throw error;
    }
  }

  async #begin(onWait: () => void): Promise<void> {
    const client = this.#client;
    const { rows } = await client.query<{ free: boolean }>("SELECT pg_try_advisory_lock($1) AS free", [BACKUP_LOCK]);
    if (rows[0]?.free !== true) {
      onWait();
      await client.query("SELECT pg_advisory_lock($1)", [BACKUP_LOCK]);
    }
    await client.query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
  }

  async origin(): Promise<Origin> {
    const [found] = await ask(this.#client, identity);
    if (found === undefined) throw new Error("PostgreSQL doesn't know its own database");
    const { ledger, database, postgres, time } = found;
    const migrations = await appliedMigrations(this.#client);
    return { ledger, database, postgres, time: Number(time), migrations };
  }

  tables(): Promise<readonly Table[]> {
    return tablesOf(this.#client);
  }

  /** The rows of a table, in parts of at most so many bytes. Of the log's partitions the rows come one partition after the other. */
  rows({ name, columns }: Table, partBytes: number): AsyncGenerator<CopiedRows> {
    const list = sql.join(columns.map((column) => sql.identifier([column])), sql.fragment`, `);
    // A query, because COPY takes a partitioned table in no other way.
    const statement = sql.unsafe`COPY (SELECT ${list} FROM ${sql.identifier(["ledgerd", name])}) TO STDOUT`;
    return copyOut(this.#client, statement.sql, partBytes);
  }

  /** To be asked for after the rows: a sequence is no part of a snapshot, and must not be behind what was drawn from it. */
  sequences(): Promise<readonly SequenceState[]> {
    return sequencesOf(this.#client);
  }

  /** The digest of all accounts' chain heads. */
  digest(): Promise<string> {
    return headsDigest(this.#client);
  }

  async close(): Promise<void> {
    await this.#client.end();
  }
}

/** One number for all that the log of a database holds: SHA-256 over each account's last row, by its sequence and its hash, in the order of accounts. */
export async function headsDigest(client: pg.Client): Promise<string> {
  const digest = createHash("sha256").update(DIGEST_FIRST_LINE);
  const heads = copyOut(
    client,
    `COPY (SELECT b.user_id, b.currency, b.sequence, encode(b.chain_head, 'hex') FROM ledgerd.user_balances b WHERE b.sequence > 0
           ORDER BY b.user_id, b.currency COLLATE "C") TO STDOUT WITH (DELIMITER ' ')`,
    DIGEST_PART_BYTES,
  );
  for await (const { text } of heads) digest.update(text);
  return digest.digest("hex");
}

/** The tables of the schema `ledgerd` but for the record of migrations, the partitions as part of theirs. */
export async function tablesOf(client: pg.Client): Promise<readonly Table[]> {
  const { rows } = await client.query<Table>(`
    SELECT c.relname AS name, array_agg(a.attname::text ORDER BY a.attnum) AS columns
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
    WHERE c.relnamespace = 'ledgerd'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relname <> 'schema_migrations'
      AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
    GROUP BY c.relname
    ORDER BY c.relname
    LIMIT 1000`);
  return rows;
}

/** Where the sequences of the schema `ledgerd` stand. */
export async function sequencesOf(client: pg.Client): Promise<readonly SequenceState[]> {
  const { rows: names } = await client.query<{ name: string }>(`
    SELECT c.relname AS name FROM pg_class c WHERE c.relnamespace = 'ledgerd'::regnamespace AND c.relkind = 'S' ORDER BY c.relname LIMIT 1000`);
  const states: SequenceState[] = [];
  for (const { name } of names) {
    const found = await ask(client, sql.type(sequenceRow)`SELECT s.last_value, s.is_called FROM ${sql.identifier(["ledgerd", name])} s LIMIT 1`);
    for (const { last_value: lastValue, is_called: isCalled } of found) states.push({ name, lastValue, isCalled });
  }
  return states;
}
