// What may be told as final: what a failover can't take back.
//
// A commit that waits for its synchronous standby can't be seen by others until it ends. But when the server restarts
// while it waits, or an administrator cancels the wait, it can be, and the standby, once promoted, doesn't have it.
// So whoever answers what a caller may act on as final reads it, and then waits as writes do: once a commit after it
// in the server's log is acknowledged, all that was read is where it was to be. Where no standby is demanded there is
// nothing to wait for: what can be seen lies on the server's own disk.
//
// One wait serves all who came before it began, so it costs little. And it tells of which past it was: behind a proxy
// it may have reached another server than the read.

import { sql } from "slonik";
import { z } from "zod";
import { Failure } from "../../domain/failure.ts";
import { ConnectionLost, JournalConnection } from "./connection.ts";
import { RUNTIME_ROLE } from "../connection/pool.ts";

/**
 * After so many reads, each of another past than the wait after it, something is wrong with the way to the database.
 */
const ATTEMPTS = 3;

const reachedRow = z.object({ timeline: z.string().nullable() });

/**
 * A message in the server's log makes a transaction that writes nothing wait at its commit as a write does. A server
 * that recovers takes none.
 */
const reach = sql.prepared("reach", reachedRow)`
  SELECT p.timeline,
         CASE WHEN p.timeline IS NOT NULL AND current_setting('synchronous_standby_names') <> ''
           THEN pg_logical_emit_message(true, 'ledgerd', 'read') END AS message
  FROM (SELECT ledgerd.timeline() AS timeline) AS p`;

/** Waits for durability, for all callers of one process, on a connection of its own. */
export class Durability {
  readonly #open: () => Promise<JournalConnection>;
  #connection: JournalConnection | undefined;
  #underWay: Promise<string> | undefined;
  #next: Promise<string> | undefined;
  /** The past of the last wait. */
  #timeline: string | undefined;

  constructor(url: string, connectTimeoutMs: number) {
    this.#open = () => JournalConnection.open(url, { role: RUNTIME_ROLE }, connectTimeoutMs, "ledgerd wait");
  }

  /**
   * What a read answers, once that is durable; at once, if it isn't among what `isFinal` says must be. Throws
   * `Failure` if the standby doesn't answer in time.
   */
  async durably<T>(read: () => Promise<T>, isFinal: (found: T) => boolean): Promise<T> {
    for (let attempt = 1; attempt <= ATTEMPTS; attempt++) {
      const before = this.#timeline;
      const found = await read();
      // Of one past before and after, a read is of that past, too.
      if (!isFinal(found) || (await this.reached()) === before) return found;
    }
    throw new Failure("DATABASE_UNAVAILABLE", { cause: new Error("each connection leads to another server") });
  }

  /**
   * Returns once all is durable that was committed when it was called; answers of which past (see
   * `ledgerd.timeline()`).
   */
  reached(): Promise<string> {
    this.#next ??= this.#afterThis();
    return this.#next;
  }

  close(): void {
    this.#connection?.close();
  }

  /** The wait under way began before its callers read; it is the next one that is theirs. */
  async #afterThis(): Promise<string> {
    await this.#underWay?.catch(() => undefined);
    this.#underWay = this.#wait();
    this.#next = undefined;
    return this.#underWay;
  }

  /** A connection that breaks is replaced, once: nothing was changed on it. */
  async #wait(): Promise<string> {
    try {
      return await this.#waitOnce();
    } catch (error) {
      if (!(error instanceof ConnectionLost)) throw error;
    }
    try {
      return await this.#waitOnce();
    } catch (error) {
      throw error instanceof ConnectionLost ? new Failure("DATABASE_UNAVAILABLE", { cause: error }) : error;
    }
  }

  async #waitOnce(): Promise<string> {
    try {
      const connection = await this.#connected();
      const { told } = await connection.pipeline((send) => ({
        begun: connection.begin(),
        told: send(reach),
        committed: connection.commit(),
      }));
      const timeline = told[0]?.timeline ?? undefined;
      if (timeline === undefined) throw new ConnectionLost("it leads to a server that recovers, and takes no writes");
      this.#timeline = timeline;
      return timeline;
    } catch (error) {
      // It may be within a transaction that failed.
      this.#connection?.close();
      this.#connection = undefined;
      throw error;
    }
  }

  async #connected(): Promise<JournalConnection> {
    if (this.#connection?.usable !== true) this.#connection = await this.#open();
    return this.#connection;
  }
}
