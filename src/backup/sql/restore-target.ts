// A database that an archive is restored into, part by part, each in a transaction of its own.
//
// While it is incomplete, `schema_migrations` holds marks: one for the archive, and one for each part that is there, with its checksum. They keep
// every ledgerd from serving, and let a restore that was cut off go on where it was.

import type pg from "pg";
import { sql } from "slonik";
import { z } from "zod";
import { copyIn } from "../../postgres/protocol/copy.ts";
import { appliedMigrations, FIRST_RESTORE_MARK, type AppliedMigration } from "../../postgres/schema/migrate.ts";
import { addPartitions, idWithoutPartition } from "../../postgres/schema/partitions.ts";
import { noColumns } from "../../postgres/rows/rows.ts";
import { ask, openSession } from "../../postgres/protocol/session.ts";
import { headsDigest, sequencesOf, tablesOf, type SequenceState, type Table } from "./snapshot.ts";
import { Problem } from "../../domain/problem.ts";

/** The database isn't one that can be restored into. */
export class TargetProblem extends Problem {}

/** Some rows of a table, as they come from an archive. */
export interface Part {
  /** By which it is known, and its checksum. */
  readonly name: string;
  readonly checksum: string;
  readonly table: Table;
  readonly text: Buffer;
  readonly rows: number;
}

/** Any number, the same in all versions: who holds its advisory lock restores into this database. */
const RESTORE_LOCK = 7_091_223_344_115_003n;

/**
 * What was drawn of these after the snapshot nobody knows, and a token must never be given twice: others compare
 * them. So a restored ledger goes on far behind, as `ledgerd.begin_tokens` has it do over a failover. (That one
 * doesn't notice a restore into the very database that the archive is of. Ids that were drawn later are lost together
 * with what they were the ids of.)
 */
const tokenSequences = new Set(["fencing_token_seq", "lock_token_seq"]);
const TOKEN_GAP = 1_000_000_000n;

const nowRow = z.object({ micros: z.coerce.bigint() });
const filledRow = z.object({ filled: z.boolean() });
const countRow = z.object({ rows: z.coerce.number() });

/** One session in the database. */
export class RestoreTarget {
  readonly #client: pg.Client;

  private constructor(client: pg.Client) {
    this.#client = client;
  }

  /** Opens it; throws `TargetProblem` if another restore is at work, or a ledgerd serves. */
  static async open(url: string, signal: AbortSignal): Promise<RestoreTarget> {
    const client = await openSession({ url, name: "ledgerd restore", settings: {}, signal });
    const target = new RestoreTarget(client);
    try {
      const { rows } = await client.query<{ free: boolean }>("SELECT pg_try_advisory_lock($1) AS free", [RESTORE_LOCK]);
      if (rows[0]?.free !== true) throw new TargetProblem("another `ledgerd restore` works on this database");
      await target.refuseServed();
      return target;
    } catch (error) {
      await target.close();
      throw error;
    }
  }

  /** Throws `TargetProblem` if a ledgerd serves from this database. */
  async refuseServed(): Promise<void> {
    const { rows } = await this.#client.query<{ pids: string }>(`
      SELECT string_agg(pid::text, ', ') AS pids
      FROM pg_stat_activity
      WHERE datname = current_database() AND application_name IN ('ledgerd', 'ledgerd journal', 'ledgerd wait')`);
    const pids = rows[0]?.pids ?? null;
    if (pids !== null) throw new TargetProblem(`a ledgerd serves from this database (its sessions: ${pids}): stop it first`);
  }

  /** The migrations that it has, and the marks of what is restored already, both in order. */
  async recorded(): Promise<{ readonly migrations: readonly AppliedMigration[]; readonly marks: readonly AppliedMigration[] }> {
    const all = await appliedMigrations(this.#client);
    return { migrations: all.filter(({ number }) => number < FIRST_RESTORE_MARK), marks: all.filter(({ number }) => number >= FIRST_RESTORE_MARK) };
  }

  /** The tables that hold rows. To be asked for when it is migrated. */
  async filled(): Promise<readonly string[]> {
    const filled: string[] = [];
    for (const { name } of await tablesOf(this.#client)) {
      const [found] = await ask(this.#client, sql.type(filledRow)`SELECT EXISTS (SELECT FROM ${sql.identifier(["ledgerd", name])}) AS filled`);
      if (found?.filled === true) filled.push(name);
    }
    return filled;
  }

  /** Throws `TargetProblem` unless these are tables of a ledger: an archive may name any. */
  async refuseStrangers(names: readonly string[]): Promise<void> {
    const known = new Set((await tablesOf(this.#client)).map(({ name }) => name));
    const stranger = names.find((name) => !known.has(name));
    if (stranger !== undefined) throw new TargetProblem(`the archive has a table ${stranger}, which a ledger doesn't have`);
  }

  /** From now on it is being restored. */
  async begin(archive: Omit<AppliedMigration, "number">): Promise<void> {
    await this.#client.query("SET ROLE ledgerd_migrator");
    await this.#mark(0, archive);
  }

  /** As `begin`, where that was done before. */
  async resume(): Promise<void> {
    await this.#client.query("SET ROLE ledgerd_migrator");
  }

  /**
   * Loads one part, the `index`th from 1 on, or nothing of it. Partitions are made for the ids that have none: not for
   * all up to the last one, since ids may have gaps of any size.
   */
  async load(index: number, part: Part): Promise<void> {
    for (;;) {
      try {
        return await this.#loadOnce(index, part);
      } catch (error) {
        const id = idWithoutPartition(error);
        if (id === undefined || (await this.#addPartitions(id)) === 0) throw error;
      }
    }
  }

  /** Makes the partitions for an id and those behind it; answers how many. */
  async #addPartitions(id: bigint): Promise<number> {
    // They are made for the id that the sequence gives next.
    const lastValue = id > 1n ? id - 1n : 1n;
    await this.#setSequence({ name: "transactions_id_seq", lastValue, isCalled: id > 1n });
    const [found] = await ask(this.#client, addPartitions);
    return found?.made ?? 0;
  }

  async #loadOnce(index: number, { name, checksum, table, text, rows }: Part): Promise<void> {
    const columns = sql.join(table.columns.map((column) => sql.identifier([column])), sql.fragment`, `);
    const statement = sql.unsafe`COPY ${sql.identifier(["ledgerd", table.name])} (${columns}) FROM STDIN`;
    await this.#transaction(async () => {
      const taken = await copyIn(this.#client, statement.sql, text);
      if (taken !== rows) throw new Error(`PostgreSQL took ${taken} rows of ${name}, which has ${rows}`);
      await this.#mark(index, { name, checksum });
    });
  }

  /** Has the sequences go on where they were, with partitions for that, and those of tokens far behind that. */
  async setSequences(states: readonly SequenceState[]): Promise<void> {
    const [now] = await ask(this.#client, sql.type(nowRow)`
      SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8 AS micros`);
    for (const state of states) {
      await this.#setSequence(tokenSequences.has(state.name) ? behindAll(state, now?.micros ?? 0n) : state);
    }
    await ask(this.#client, addPartitions);
  }

  /** Where the sequences stand. */
  sequences(): Promise<readonly SequenceState[]> {
    return sequencesOf(this.#client);
  }

  /** How many rows a table has. */
  async count(name: string): Promise<number> {
    const [found] = await ask(this.#client, sql.type(countRow)`SELECT count(*) AS rows FROM ${sql.identifier(["ledgerd", name])}`);
    return found?.rows ?? 0;
  }

  /** The digest of all accounts' chain heads. */
  digest(): Promise<string> {
    return headsDigest(this.#client);
  }

  /** Has the planner know what is there now. */
  async analyze(): Promise<void> {
    for (const { name } of await tablesOf(this.#client)) {
      await ask(this.#client, sql.type(noColumns)`ANALYZE ${sql.identifier(["ledgerd", name])}`);
    }
  }

  /** It is complete, and can be served from. */
  async end(): Promise<void> {
    await this.#transaction(async () => {
      await this.#client.query("DELETE FROM ledgerd.schema_migrations WHERE number >= $1", [FIRST_RESTORE_MARK]);
    });
  }

  async close(): Promise<void> {
    await this.#client.end();
  }

  async #mark(index: number, { name, checksum }: Omit<AppliedMigration, "number">): Promise<void> {
    await this.#client.query("INSERT INTO ledgerd.schema_migrations (number, name, checksum) VALUES ($1, $2, $3)", [FIRST_RESTORE_MARK + index, name, checksum]);
  }

  async #setSequence({ name, lastValue, isCalled }: SequenceState): Promise<void> {
    await this.#client.query("SELECT setval(format('ledgerd.%I', $1::text)::regclass, $2::int8, $3)", [name, lastValue, isCalled]);
  }

  async #transaction(work: () => Promise<void>): Promise<void> {
    await this.#client.query("BEGIN");
    try {
      await work();
    } catch (error) {
      // One that broke with its connection is rolled back by the server.
      await this.#client.query("ROLLBACK").catch(() => undefined);
      throw error;
    }
    const { command } = await this.#client.query("COMMIT");
    if (command !== "COMMIT") throw new Error(`PostgreSQL answered ${command} to COMMIT`);
  }
}

/** Behind all that may have been drawn, in a restore of the same archive before this one, too. */
function behindAll(state: SequenceState, micros: bigint): SequenceState {
  const least = state.lastValue + TOKEN_GAP;
  return { ...state, lastValue: least > micros ? least : micros };
}
