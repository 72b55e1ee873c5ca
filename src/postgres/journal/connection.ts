// The journal's own connection: statements by Slonik's tag, so that parameters are enforced, run by pg, so that several go to the
// server in one round trip, which Slonik can't.

import { Socket } from "node:net";
import pg from "pg";
import type { QuerySqlToken } from "slonik";
import type { z } from "zod";

/** Sends a statement with the others of its pipeline; its rows come with theirs. */
export type Send = <T>(statement: QuerySqlToken<z.ZodType<T>>) => Promise<readonly T[]>;

/** The server ended a transaction otherwise than it was asked to. */
export class NotCommitted extends Error {}

/** The connection broke, or can't be trusted any more. */
export class ConnectionLost extends Error {}

/** How long all statements of one pipeline may take before the connection is given up. */
const PIPELINE_LIMIT_MS = 10_000;

/** The type `int8[]`, as pg_type numbers it. */
const INT8_ARRAY = 1016;

const parsers = new Map<number, (text: string) => unknown>([
  [pg.types.builtins.INT8, BigInt],
  [pg.types.builtins.NUMERIC, (text) => text],
  [INT8_ARRAY, (text) => text.slice(1, -1).split(",").filter(Boolean).map(BigInt)],
]);

/** `$slonik_1` as PostgreSQL writes it, by statement name: the text of a named statement never changes. */
const texts = new Map<string, string>();

/** One session, on which one pipeline runs at a time. */
export class JournalConnection {
  readonly #client: pg.Client;
  readonly #socket: Socket;
  #lost: Error | undefined;
  #warned = false;

  private constructor(client: pg.Client, socket: Socket) {
    this.#client = client;
    this.#socket = socket;
    client.on("error", (error: Error) => (this.#lost = error));
    client.on("end", () => (this.#lost ??= new Error("the server closed the connection")));
    // A wait for replication that is cut short ends in a warning, and a COMMIT that may not be durable.
    client.on("notice", ({ severity }) => (this.#warned ||= severity === "WARNING"));
  }

  /** Connects; throws `ConnectionLost` if that fails. */
  static async open(url: string, connectTimeoutMs: number): Promise<JournalConnection> {
    const socket = new Socket();
    const client = new pg.Client({
      connectionString: url,
      application_name: "ledgerd journal",
      connectionTimeoutMillis: connectTimeoutMs,
      keepAlive: true,
      pipeline: true,
      stream: () => socket,
      types: { getTypeParser: (oid: number) => parsers.get(oid) ?? pg.types.getTypeParser(oid) },
    });
    const connection = new JournalConnection(client, socket);
    try {
      await client.connect();
    } catch (cause) {
      throw new ConnectionLost("PostgreSQL can't be reached", { cause });
    }
    return connection;
  }

  /** Whether statements can still be sent. */
  get usable(): boolean {
    return this.#lost === undefined;
  }

  /**
   * Sends all statements that `build` sends, in one write, and waits for all of them. If one fails, those behind it fail as well
   * (they are part of its transaction), and its error is thrown.
   */
  async pipeline<P extends Readonly<Record<string, Promise<unknown>>>>(build: (send: Send) => P): Promise<{ [K in keyof P]: Awaited<P[K]> }> {
    if (this.#lost !== undefined) throw new ConnectionLost("the connection is lost", { cause: this.#lost });
    const timer = setTimeout(() => this.#socket.destroy(new Error("the statements took too long")), PIPELINE_LIMIT_MS);
    try {
      this.#socket.cork();
      const sent = Object.entries(build((statement) => this.#send(statement)));
      this.#socket.uncork();
      const settled = await Promise.allSettled(sent.map(([, result]) => result));
      const failed = settled.find((result) => result.status === "rejected");
      if (failed !== undefined) throw this.#explain(failed.reason);
      const values = sent.map(([name], index) => [name, (settled[index] as PromiseFulfilledResult<unknown>).value] as const);
      return Object.fromEntries(values) as { [K in keyof P]: Awaited<P[K]> };
    } finally {
      clearTimeout(timer);
    }
  }

  async begin(): Promise<void> {
    await this.#client.query("BEGIN ISOLATION LEVEL READ COMMITTED");
  }

  /** Commits; throws `NotCommitted` if the server rolled back instead, which it says by the tag of its answer alone. */
  async commit(): Promise<void> {
    this.#warned = false;
    const { command } = await this.#client.query("COMMIT");
    if (command !== "COMMIT") throw new NotCommitted(`PostgreSQL answered ${command} to COMMIT`);
    if (this.#warned) throw new ConnectionLost("PostgreSQL committed with a warning");
  }

  async rollback(): Promise<void> {
    await this.#client.query("ROLLBACK");
  }

  close(): void {
    this.#client.end().catch(() => undefined);
    this.#socket.destroySoon();
  }

  async #send<T>(statement: QuerySqlToken<z.ZodType<T>>): Promise<readonly T[]> {
    const { name, sql: text, values, parser } = statement;
    const { rows } = await this.#client.query<object>({ ...(name === undefined ? {} : { name }), text: textOf(name, text), values: [...values] });
    return rows.map((row) => parser.parse(row));
  }

  #explain(error: unknown): unknown {
    if (error instanceof NotCommitted || error instanceof ConnectionLost) return error;
    // Class 08: the connection's own errors. 57P01 to 57P03: the server is going down, or not up yet.
    const lost = this.#lost !== undefined || (error instanceof pg.DatabaseError && /^(08...|57P0[123])$/.test(error.code ?? ""));
    if (!lost) return error;
    this.#lost ??= error instanceof Error ? error : new Error(String(error));
    this.close();
    return new ConnectionLost("the connection broke", { cause: error });
  }
}

function textOf(name: string | undefined, text: string): string {
  if (name === undefined) return text.replaceAll("$slonik_", "$");
  const known = texts.get(name) ?? text.replaceAll("$slonik_", "$");
  texts.set(name, known);
  return known;
}
