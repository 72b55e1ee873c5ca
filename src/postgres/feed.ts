// The log as a live feed. Watchers pull: one that is behind pages through the table by itself, up to where the reader of the end knows
// everything to be settled; one that keeps up shares the rows which that reader has; a slow one only falls behind.
//
// Positions are of one log. When it went back (a standby that lacks the last rows was promoted, an older copy was put
// in its place) ids are given again, to other rows: so whatever is read counts only if it is of the past that the
// reader follows, and its end is that of all watchers.

import { sql, type DatabasePool } from "slonik";
import { z } from "zod";
import type { TransactionType } from "../domain/account.ts";
import { charactersOf, type Transaction } from "../domain/transaction.ts";
import type { Durability } from "./durability.ts";
import { historyOf, type History } from "./history.ts";
import { transactionColumns, type Listed, type Rows } from "./rows.ts";
import { logEnd, settledEnd } from "./settled.ts";
import { LogWentBack, Tail } from "./tail.ts";

/** A place in the log: behind the row with this id, whose hash tells whether it is still the same log. */
export interface Position {
  readonly id: bigint;
  /** The first bytes of the row's hash, in hexadecimal. */
  readonly hash: string;
}

/** Which transactions to watch. Undefined or empty: all. */
export interface FeedFilter {
  readonly userId: bigint | undefined;
  readonly types: readonly TransactionType[];
}

/**
 * One step of the feed: rows, the mark that the present is reached, or as the last one that the log lacks the
 * position, or went back.
 */
export type FeedStep =
  | { readonly kind: "rows"; readonly rows: readonly { readonly transaction: Transaction; readonly position: Position }[] }
  | { readonly kind: "caught_up"; readonly position: Position | undefined }
  | { readonly kind: "lost" };

/** Rows in the order of ids, and up to which id there are no others. */
interface Page {
  readonly rows: readonly Transaction[];
  readonly upTo: bigint;
}

/** How many rows a watcher that is behind reads at once: with 1000, more of them outlive the young generation of the heap, with 120 the statements weigh. */
const PAGE = 500;
/** With the first page it is seen how large they are: of the largest that may be written, 500 have 38 MB. */
const FIRST_PAGE = 50;
/** About so many characters are read at once. */
const PAGE_CHARACTERS = 2_000_000;

const hashRow = z.object({ hash: z.string() });

/** The feed of one process. */
export class Feed {
  readonly #pool: DatabasePool;
  readonly #rows: Rows;
  readonly #history: History;
  readonly #durability: Durability;
  readonly #pollMs: number;
  #watchers = 0;
  /** The reader, and its start. There is one exactly while somebody watches. */
  #tail: { readonly reader: Tail; readonly started: Promise<void> } | undefined;

  constructor(pool: DatabasePool, rows: Rows, durability: Durability, pollMs: number) {
    this.#pool = pool;
    this.#rows = rows;
    this.#history = historyOf(pool, rows);
    this.#durability = durability;
    this.#pollMs = pollMs;
  }

  /** Something was committed: no need to wait for the next poll. */
  wake(): void {
    this.#tail?.reader.wake();
  }

  /** How many ids the reader is behind the last one that was drawn; zero while nobody watches. */
  async lag(): Promise<bigint> {
    return this.#tail === undefined ? 0n : (await logEnd(this.#pool)).last - this.#tail.reader.settled;
  }

  /**
   * All rows behind a position (undefined: all of the log), and then those to come, until the signal or a step `lost`
   * ends it.
   */
  async *watch(from: Position | undefined, filter: FeedFilter, signal: AbortSignal): AsyncGenerator<FeedStep> {
    this.#watchers += 1;
    try {
      const tail = await orAbort(this.#follow(), signal);
      if (from !== undefined && !(await this.#ofPast(tail, this.#knows(from)))) throw new LogWentBack();
      yield* this.#behind(from, tail, filter, signal);
    } catch (error) {
      if (!(error instanceof LogWentBack)) throw error;
      yield { kind: "lost" };
    } finally {
      this.#watchers -= 1;
      if (this.#watchers === 0) this.#leave();
    }
  }

  async *#behind(from: Position | undefined, tail: Tail, filter: FeedFilter, signal: AbortSignal) {
    const { last: present } = await settledEnd(this.#pool, signal);
    let at = from?.id ?? 0n;
    let caughtUp = false;
    let limit = FIRST_PAGE;
    let ahead: Promise<Page> | undefined;
    for (;;) {
      const { moved } = tail;
      while (at < tail.settled) {
        signal.throwIfAborted();
        const { rows, upTo } = await (ahead ?? this.#page(tail, at, filter, limit));
        tail.assertFollowing();
        at = upTo;
        limit = pageBehind(rows);
        // The next page is read while this one is sent: reading it is a tenth of the time.
        ahead = at < tail.settled ? this.#page(tail, at, filter, limit) : undefined;
        // It fails where it is taken, or for nobody.
        ahead?.catch(() => undefined);
        const found = rows.map((transaction) => ({ transaction, position: positionOf(transaction) }));
        if (found.length > 0) yield { kind: "rows" as const, rows: found };
      }
      if (!caughtUp && at >= present) {
        caughtUp = true;
        const { last } = tail;
        const isNew = last !== undefined && last.id >= (from?.id ?? 0n);
        yield { kind: "caught_up" as const, position: isNew ? positionOf(last) : from };
      }
      await orAbort(moved, signal);
    }
  }

  /** Whether the log has the row that a position names. */
  async #knows({ id, hash }: Position): Promise<boolean> {
    const found = await this.#pool.maybeOneFirst(sql.type(hashRow)`
      SELECT t.hash FROM ledgerd.transactions t WHERE t.id = ${id}`);
    return found !== null && hashPrefix(found) === hash;
  }

  /**
   * What is being read, if it is of the past that the reader follows: else `LogWentBack`. Behind a proxy each
   * statement may reach another server; one that was of that past at the reader's look, and is after the read, was at
   * the read.
   */
  async #ofPast<T>(tail: Tail, reading: Promise<T>): Promise<T> {
    const found = await reading;
    if ((await logEnd(this.#pool)).timeline !== tail.timeline) throw new LogWentBack();
    return found;
  }

  /** The reader that all watchers share, once it knows the log's end. */
  async #follow(): Promise<Tail> {
    if (this.#tail === undefined) {
      const reader = new Tail(this.#pool, this.#rows, this.#durability, this.#pollMs);
      const started = reader.start();
      this.#tail = { reader, started };
      // When it fails, its watchers are told by `moved`, and the next one gets a new reader.
      started.then(() => reader.follow()).catch(() => this.#leave(reader));
    }
    const { reader, started } = this.#tail;
    await started;
    return reader;
  }

  #leave(reader = this.#tail?.reader): void {
    reader?.stop();
    if (this.#tail?.reader === reader) this.#tail = undefined;
  }

  /** The next rows behind an id. */
  async #page(tail: Tail, after: bigint, { userId, types }: FeedFilter, limit: number): Promise<Page> {
    const upTo = tail.settled;
    const kept = tail.behind(after);
    if (kept !== undefined) {
      const matches = (row: Transaction): boolean => (userId === undefined || row.userId === userId) && (types.length === 0 || types.includes(row.type));
      return { rows: kept.filter(matches), upTo };
    }
    const reading =
      userId === undefined ? this.#everyones(after, upTo, types, limit) : this.#ofUser(userId, after, upTo, types);
    const { rows, isWhole } = await this.#ofPast(tail, reading);
    const last = rows.at(-1);
    return { rows, upTo: !isWhole && last !== undefined ? last.id : upTo };
  }

  async #everyones(after: bigint, upTo: bigint, types: readonly TransactionType[], limit: number): Promise<Listed> {
    const ofType = types.length === 0 ? sql.fragment`TRUE` : sql.fragment`t.type = ANY(${sql.array(types, "text")})`;
    const rows = await this.#pool.any(sql.type(this.#rows.transaction)`
      SELECT ${transactionColumns}
      FROM ledgerd.transactions t
      WHERE t.id > ${after} AND t.id <= ${upTo} AND ${ofType}
      ORDER BY t.id
      LIMIT ${limit}`);
    return { rows, isWhole: rows.length < limit };
  }

  /** By the user's accounts, so that it reads nobody else's rows. */
  async #ofUser(userId: bigint, after: bigint, upTo: bigint, types: readonly TransactionType[]): Promise<Listed> {
    const ranges = await this.#history.rangesOfIds(userId, after, upTo);
    const { rows, isWhole } = await this.#history.list(userId, ranges, "oldest", { types, reference: "" }, PAGE);
    return { rows, isWhole: isWhole && rows.length < PAGE };
  }
}

/** How many rows to read behind these, if they are as large. */
function pageBehind(rows: readonly Transaction[]): number {
  let characters = 0;
  for (const row of rows) characters += charactersOf(row);
  const asMany = Math.floor((PAGE_CHARACTERS * rows.length) / characters);
  return characters === 0 ? PAGE : Math.max(1, Math.min(PAGE, asMany));
}

/** The place right behind a row. */
function positionOf({ id, hash }: Pick<Transaction, "id" | "hash">): Position {
  return { id, hash: hashPrefix(hash) };
}

function hashPrefix(hash: string): string {
  return hash.slice(0, 16);
}

/** A promise's value, unless the signal comes first. */
async function orAbort<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  signal.throwIfAborted();
  const aborted = Promise.withResolvers<never>();
  const abort = (): void => aborted.reject(signal.reason);
  signal.addEventListener("abort", abort, { once: true });
  try {
    return await Promise.race([promise, aborted.promise]);
  } finally {
    signal.removeEventListener("abort", abort);
  }
}
