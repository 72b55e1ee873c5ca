// The journal's own connection: statements by Slonik's tag, so that parameters are enforced, run by pg, so that several go to the
// server in one round trip, which Slonik can't. (On this machine's PostgreSQL, a lone deduction in two round trips takes 1.1 to 1.3 ms; the same
// statements one by one, as Slonik sends them, take 1.9.)

import type pg from "pg";
import type { QuerySqlToken } from "slonik";
import type { z } from "zod";
import { connect, cut, type SessionSettings } from "../connection/connect.ts";
import { troubleOf } from "../connection/errors.ts";
import { parserOf } from "../connection/parsers.ts";
import type { Texts } from "../rows/rows.ts";
import { Pipeline, type Answer, type Prepared, type Step } from "./pipeline.ts";

/** Sends a statement with the others of its pipeline; its rows come with theirs, read by the statement's schema or straight from their texts. */
export type Send = <T>(statement: QuerySqlToken<z.ZodType<T>>, read?: (texts: Texts) => T) => Promise<readonly T[]>;

/** The server ended a transaction otherwise than it was asked to. */
export class NotCommitted extends Error {}

/** The connection broke, or can't be trusted any more. */
export class ConnectionLost extends Error {}

/** How long all statements of one pipeline may take before the connection is given up. */
const PIPELINE_LIMIT_MS = 10_000;

/** `$slonik_1` as PostgreSQL writes it, by statement name: the text of a named statement never changes. */
const texts = new Map<string, string>();

/** One session, on which one pipeline runs at a time. */
export class JournalConnection {
  readonly #client: pg.Client;
  readonly #prepared: Prepared = new Map();
  #steps: Step[] = [];
  #lost: Error | undefined;
  #warned = false;

  private constructor(client: pg.Client) {
    this.#client = client;
    client.on("error", (error: Error) => (this.#lost = error));
    client.on("end", () => (this.#lost ??= new Error("the server closed the connection")));
    // A wait for replication that is cut short ends in a warning, and a COMMIT that may not be durable.
    client.on("notice", ({ severity }) => (this.#warned ||= severity === "WARNING"));
  }

  /** Connects; throws `ConnectionLost` if that fails. */
  static async open(
    url: string,
    settings: SessionSettings,
    timeoutMs: number,
    name = "ledgerd journal",
  ): Promise<JournalConnection> {
    try {
      return new JournalConnection(await connect({ url, name, settings, timeoutMs, mustTakeWrites: true }));
    } catch (cause) {
      throw new ConnectionLost("PostgreSQL can't be reached", { cause });
    }
  }

  /** Whether statements can still be sent. */
  get usable(): boolean {
    return this.#lost === undefined;
  }

  /**
   * Sends all statements that `build` sends, in one round trip, and waits for all of them. If one fails, those behind it are not
   * executed, and its error is thrown.
   */
  async pipeline<P extends Readonly<Record<string, Promise<unknown>>>>(build: (send: Send) => P): Promise<{ [K in keyof P]: Awaited<P[K]> }> {
    if (this.#lost !== undefined) throw new ConnectionLost("the connection is lost", { cause: this.#lost });
    this.#steps = [];
    const sent = Object.entries(build((statement, read) => this.#send(statement, read)));
    const timer = setTimeout(() => this.#giveUp(), PIPELINE_LIMIT_MS);
    this.#client.query(new Pipeline(this.#steps, this.#prepared));
    const settled = await Promise.allSettled(sent.map(([, result]) => result));
    clearTimeout(timer);
    const failed = settled.find((result) => result.status === "rejected");
    if (failed !== undefined) throw this.#explain(failed.reason);
    const values = sent.map(([name], index) => [name, (settled[index] as PromiseFulfilledResult<unknown>).value] as const);
    return Object.fromEntries(values) as { [K in keyof P]: Awaited<P[K]> };
  }

  /** Within a pipeline: begins a transaction. */
  async begin(): Promise<void> {
    await this.#step("begin", "BEGIN ISOLATION LEVEL READ COMMITTED");
  }

  /**
   * Within a pipeline: commits. Throws `NotCommitted` if the server rolled back instead, which it tells by the tag of its answer alone, and
   * `ConnectionLost` if it warns: what is committed may not be where it was to be.
   */
  async commit(): Promise<void> {
    this.#warned = false;
    const { tag } = await this.#step("commit", "COMMIT");
    if (tag !== "COMMIT") throw new NotCommitted(`PostgreSQL answered ${tag} to COMMIT`);
    if (this.#warned) throw new ConnectionLost("PostgreSQL committed with a warning");
  }

  /** Within a pipeline: rolls back. */
  async rollback(): Promise<void> {
    await this.#step("rollback", "ROLLBACK");
  }

  close(): void {
    this.#client.end().catch(() => undefined);
  }

  async #send<T>({ name, sql: text, values, parser }: QuerySqlToken<z.ZodType<T>>, read?: (texts: Texts) => T): Promise<readonly T[]> {
    if (name === undefined) throw new Error("the journal's statements have names");
    const answer = await this.#step(name, textOf(name, text), values);
    return read === undefined ? objectsOf(answer).map((row) => parser.parse(row)) : answer.rows.map(read);
  }

  #step(name: string, text: string, values: readonly unknown[] = []): Promise<Answer> {
    return new Promise((resolve, reject) => this.#steps.push({ name, text, values, resolve, reject }));
  }

  /** The server, or the way to it, is stuck. */
  #giveUp(): void {
    cut(this.#client, new Error(`the statements took longer than ${PIPELINE_LIMIT_MS} ms`));
  }

  #explain(error: unknown): unknown {
    // A session that does otherwise than it was asked is given up as well: it would go on so.
    const untrusted = error instanceof NotCommitted || error instanceof ConnectionLost;
    const state = troubleOf(error)?.session;
    const broken = this.#lost !== undefined || state === "over";
    if (!untrusted && !broken && state === undefined) return error;
    this.#lost ??= error instanceof Error ? error : new Error(String(error));
    this.close();
    return broken && !untrusted ? new ConnectionLost("the connection broke", { cause: error }) : error;
  }
}

/** The rows by the names of their columns, each value read as its type says. */
function objectsOf({ columns, rows }: Answer): readonly object[] {
  const readers = columns.map(({ name, dataTypeID }) => ({ name, read: parserOf(dataTypeID) }));
  return rows.map((fields) => {
    const row: Record<string, unknown> = {};
    readers.forEach(({ name, read }, index) => {
      const text = fields[index];
      row[name] = text === null || text === undefined ? null : read(text);
    });
    return row;
  });
}

function textOf(name: string, text: string): string {
  const known = texts.get(name) ?? text.replaceAll("$slonik_", "$");
  texts.set(name, known);
  return known;
}
