// The end of the log, followed by one reader for all watchers of a process.

import { sql, type DatabasePool } from "slonik";
import { Failure } from "../../domain/failure.ts";
import { charactersOf, type Transaction } from "../../domain/journal/transaction.ts";
import type { Durability } from "../protocol/durability.ts";
import { shared } from "../sharing/gather.ts";
import { transactionColumns, type Rows } from "../rows/rows.ts";
import { settledEnd, type LogEnd } from "./settled.ts";

/** The log isn't the one any more that was read, or may not be: it went back, or PostgreSQL failed over. */
export class LogWentBack extends Error {}

/** How many of the latest rows are kept for watchers that keep up. */
const KEPT = 2000;
/** With no more characters than this together: 2000 of the largest have 150 MB. */
const KEPT_CHARACTERS = 8_000_000;

/** One run of the reader. What it knows is its own, so that a run that is being stopped can't disturb the next one. */
export class Tail {
  readonly #pool: DatabasePool;
  readonly #rows: Rows;
  readonly #durability: Durability;
  readonly #pollMs: number;
  readonly #isKept: () => boolean;
  readonly #stop = new AbortController();
  /** The last id of the log as it is now. For all who ask at once, one look. */
  readonly present = shared(async () => (await this.#settledEnd()).last);
  #timeline = "";
  #settled = 0n;
  /** All rows behind `#keptFrom`, up to `#settled`. */
  #kept: Transaction[] = [];
  #keptFrom = 0n;
  #last: Transaction | undefined;
  #moved = Promise.withResolvers<void>();
  #wake = Promise.withResolvers<void>();
  #ended: { readonly by: unknown } | undefined;

  /** `isKept` says whether anybody wants the latest rows. If not, they aren't even read. */
  constructor(pool: DatabasePool, rows: Rows, durability: Durability, pollMs: number, isKept: () => boolean) {
    this.#isKept = isKept;
    this.#pool = pool;
    this.#rows = rows;
    this.#durability = durability;
    this.#pollMs = pollMs;
  }

  /** Finds the log's end. */
  async start(): Promise<void> {
    const { last: settled, timeline } = await this.#settledEnd();
    const last = await this.#lastRow(settled);
    this.#timeline = await this.#durability.reached();
    if (timeline !== this.#timeline) throw new LogWentBack();
    this.#jump(settled, last);
  }

  /**
   * Follows the end until it is stopped. Rejects with `LogWentBack` when the log isn't the same any more, and when
   * the database is gone; and so do all who wait in `moved`.
   */
  async follow(): Promise<void> {
    try {
      for (;;) {
        await this.#nextLook();
        const { last: settled, timeline } = await this.#settledEnd();
        if (timeline !== this.#timeline) throw new LogWentBack();
        if (settled < this.#settled) throw new LogWentBack();
        if (settled === this.#settled) continue;
        await this.#extend(settled);
        this.#moved.resolve();
        this.#moved = Promise.withResolvers();
      }
    } catch (error) {
      this.#ended = { by: error };
      this.#moved.promise.catch(() => undefined);
      this.#moved.reject(error);
      if (!this.#stop.signal.aborted) throw error;
    }
  }

  stop(): void {
    this.#stop.abort();
    this.wake();
  }

  /** Look now rather than at the next poll. */
  wake(): void {
    this.#wake.resolve();
  }

  /** Throws what it ended by, if it has. */
  assertFollowing(): void {
    if (this.#ended !== undefined) throw this.#ended.by;
  }

  /** The past of the database that it follows: see `ledgerd.timeline()`. */
  get timeline(): string {
    return this.#timeline;
  }

  /** All ids up to it are settled, and durable. */
  get settled(): bigint {
    return this.#settled;
  }

  /** The last row up to `settled`. */
  get last(): Transaction | undefined {
    return this.#last;
  }

  /** Resolves when `settled` has moved on. Take it before looking at `settled`. */
  get moved(): Promise<void> {
    return this.#moved.promise;
  }

  /** Whether the rows behind an id are kept. */
  keeps(id: bigint): boolean {
    return id >= this.#keptFrom;
  }

  /** The rows behind an id, up to `settled`; undefined if they aren't kept any more. */
  behind(id: bigint): readonly Transaction[] | undefined {
    if (!this.keeps(id)) return undefined;
    let from = this.#kept.length;
    while (from > 0 && (this.#kept[from - 1]?.id ?? 0n) > id) from -= 1;
    return this.#kept.slice(from);
  }

  async #nextLook(): Promise<void> {
    const timer = setTimeout(() => this.wake(), this.#pollMs);
    await this.#wake.promise;
    clearTimeout(timer);
    this.#stop.signal.throwIfAborted();
    this.#wake = Promise.withResolvers();
  }

  async #settledEnd(): Promise<LogEnd> {
    const end = await settledEnd(this.#pool, this.#stop.signal);
    if (end.timeline === undefined) {
      throw new Failure("DATABASE_UNAVAILABLE", { cause: new Error("the server recovers, and takes no writes") });
    }
    return end;
  }

  /**
   * Takes in the rows up to a newly settled id, once they are durable. If they are too many to keep, watchers page
   * through the table. Reads the last row once more with them: a log that went back and has grown past it since has
   * another one there, or none.
   */
  async #extend(settled: bigint): Promise<void> {
    const known = this.#last;
    const most = this.#isKept() ? KEPT : 0;
    const found = await this.#pool.any(sql.type(this.#rows.transaction)`
      SELECT ${transactionColumns}
      FROM ledgerd.transactions t
      WHERE t.id >= ${known?.id ?? 0n} AND t.id <= ${settled}
      ORDER BY t.id
      LIMIT ${most + 2}`);
    if (known !== undefined && found[0]?.hash !== known.hash) throw new LogWentBack();
    const rows = known === undefined ? found : found.slice(1);
    const last = rows.length > most ? await this.#lastRow(settled) : undefined;
    if ((await this.#durability.reached()) !== this.#timeline) throw new LogWentBack();
    if (last !== undefined) return this.#jump(settled, last);
    const kept = [...this.#kept, ...rows];
    const surplus = kept.splice(0, kept.length - latest(kept));
    this.#kept = kept;
    this.#keptFrom = surplus.at(-1)?.id ?? this.#keptFrom;
    this.#last = rows.at(-1) ?? this.#last;
    this.#settled = settled;
  }

  /** All at once, so that no watcher sees a new `settled` with the rows of the old one. */
  #jump(settled: bigint, last: Transaction | undefined): void {
    this.#kept = [];
    this.#keptFrom = settled;
    this.#last = last;
    this.#settled = settled;
  }

  async #lastRow(settled: bigint): Promise<Transaction | undefined> {
    const last = await this.#pool.maybeOne(sql.type(this.#rows.transaction)`
      SELECT ${transactionColumns}
      FROM ledgerd.transactions t
      WHERE t.id <= ${settled}
      ORDER BY t.id DESC
      LIMIT 1`);
    return last ?? undefined;
  }
}

/** How many of the last rows are kept. */
function latest(rows: readonly Transaction[]): number {
  let characters = 0;
  let count = 0;
  for (let place = rows.length - 1; place >= 0 && count < KEPT; place -= 1) {
    characters += charactersOf(rows[place] as Transaction);
    if (characters > KEPT_CHARACTERS) break;
    count += 1;
  }
  return count;
}
