// A session that reads the ledger to prove it: snapshots that end within seconds, rows as plain texts.
//
// Statements by Slonik's tag, run by pg, as in the journal, and for the same reason, figures: a row of the log as an array of texts takes a third of
// the time that it takes through Slonik, as an object that zod checks. What the rows hold is checked one by one afterwards: that is the point.

import type pg from "pg";
import type { QuerySqlToken } from "slonik";
import { Failure } from "../../domain/failure.ts";
import { connect } from "../../postgres/connection/connect.ts";

/** A row's columns, in the order in which they were asked for. */
export type Fields = readonly (string | null)[];

/** Runs a statement in the snapshot at hand. */
export type Ask = (statement: QuerySqlToken) => Promise<readonly Fields[]>;

/** Longer than any statement here takes, and less than any transaction may. */
const STATEMENT_LIMIT_MS = 9000;
const TRANSACTION_LIMIT_MS = 10_000;

const settings = {
  default_transaction_read_only: "on",
  statement_timeout: STATEMENT_LIMIT_MS,
  idle_in_transaction_session_timeout: TRANSACTION_LIMIT_MS,
  // Everything is read in the order of an index, and a probe for each row beside it. Plans are kept to that, with empty tables as with full ones.
  enable_seqscan: "off",
  enable_sort: "off",
  enable_hashjoin: "off",
  enable_mergejoin: "off",
  max_parallel_workers_per_gather: 0,
};

/** As PostgreSQL writes it. */
const asText = (text: string): string => text;

/** One session, on which one snapshot is read at a time. */
export class ProofSession {
  readonly #client: pg.Client;
  #lost: Error | undefined;
  /** The past of which the first snapshot was: what was read of one says nothing about another. */
  #timeline: string | null | undefined;
  /** The end of the snapshot at hand. */
  #turn: Promise<unknown> = Promise.resolve();

  private constructor(client: pg.Client) {
    this.#client = client;
    client.on("error", (error: Error) => (this.#lost = error));
  }

  /** Connects, to work as this role, or as the login; throws if that fails. */
  static async open(url: string, connectTimeoutMs: number, role?: string): Promise<ProofSession> {
    const client = await connect({
      url,
      name: "ledgerd verify",
      timeoutMs: connectTimeoutMs,
      settings: { ...settings, ...(role === undefined ? {} : { role }) },
      types: { getTypeParser: () => asText },
    });
    return new ProofSession(client);
  }

  /** Reads in one snapshot: everything is as of one moment. Whoever asks while another one is read waits for its end. */
  snapshot<T>(read: (ask: Ask) => Promise<T>): Promise<T> {
    const result = this.#turn.then(() => this.#snapshot(read));
    this.#turn = result.catch(() => undefined);
    return result;
  }

  async #snapshot<T>(read: (ask: Ask) => Promise<T>): Promise<T> {
    if (this.#lost !== undefined) throw new Error("the connection to PostgreSQL broke", { cause: this.#lost });
    const begun: unknown = await this.#client.query(`
      BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
      SELECT ledgerd.timeline() AS timeline`);
    const [, looked] = begun as readonly pg.QueryResult<{ readonly timeline: string | null }>[];
    try {
      this.#expect(looked?.rows[0]?.timeline ?? null);
      return await read((statement) => this.#ask(statement));
    } finally {
      // Nothing was written; and where the connection broke there is nothing to end.
      if (this.#lost === undefined) await this.#client.query("ROLLBACK").catch((error: Error) => (this.#lost = error));
    }
  }

  async close(): Promise<void> {
    await this.#client.end();
  }

  /**
   * Through a proxy, a session may go on with another server: what follows would seem to differ from what was read
   * before.
   */
  #expect(timeline: string | null): void {
    this.#timeline ??= timeline;
    if (timeline === this.#timeline) return;
    throw new Failure("DATABASE_UNAVAILABLE", { cause: new Error("PostgreSQL failed over meanwhile: begin anew") });
  }

  async #ask(statement: QuerySqlToken): Promise<readonly Fields[]> {
    const text = statement.sql.replaceAll("$slonik_", "$");
    const { rows } = await this.#client.query<(string | null)[]>({ text, values: [...statement.values], rowMode: "array" });
    return rows;
  }
}
