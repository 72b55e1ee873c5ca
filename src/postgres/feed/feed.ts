// The log as a live feed. Watchers pull: one that is behind pages through the table by itself, up to where the reader of the end knows
// everything to be settled; one that keeps up shares the rows which that reader has; a slow one only falls behind.
//
// However many are behind, they take turns (see turns.ts): one page at a time is read and told, on a connection that
// no call needs, and where several are at the same place, one page serves them all.
//
// Positions are of one log. When it went back (a standby that lacks the last rows was promoted, an older copy was put
// in its place) ids are given again, to other rows: so whatever is read counts only if it is of the past that the
// reader follows, and its end is that of all watchers.

import { sql, type DatabasePool } from "slonik";
import { z } from "zod";
import type { TransactionType } from "../../domain/money/account.ts";
import { charactersOf, type Transaction } from "../../domain/journal/transaction.ts";
import type { Durability } from "../protocol/durability.ts";
import { historyOf, type History } from "../reads/history.ts";
import { transactionColumns, type Listed, type Rows } from "../rows/rows.ts";
import { logEnd } from "./settled.ts";
import { LogWentBack, Tail } from "./tail.ts";
import { oneEachTurn, restWhileBusy, Turns, type Taker } from "../sharing/turns.ts";

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
  | { readonly kind: "rows"; readonly rows: readonly Told[] }
  | { readonly kind: "caught_up"; readonly position: Position | undefined }
  | { readonly kind: "lost" };

/** A row, and the place right behind it. */
interface Told {
  readonly transaction: Transaction;
  readonly position: Position;
}

/** Rows in the order of ids, and up to which id there are no others. */
interface Page {
  readonly rows: readonly Told[];
  readonly upTo: bigint;
  /** How many rows to read behind these. */
  readonly next: number;
}

/** How many rows a watcher that is behind reads at once: with 1000, more of them outlive the young generation of the heap, with 120 the statements weigh. */
const PAGE = 500;
/** With the first page it is seen how large they are: of the largest that may be written, 500 have 38 MB. */
const FIRST_PAGE = 50;
/** About so many characters are read at once. */
const PAGE_CHARACTERS = 2_000_000;

/** So many of the last pages are kept for others that come to the same place. */
const PAGES = 4;

const hashRow = z.object({ hash: z.string() });

/** What a feed works with. */
export interface FeedOptions {
  /** For the reader of the log's end, which has at most one statement under way. */
  readonly live: DatabasePool;
  /** For watchers that are behind. */
  readonly behind: DatabasePool;
  readonly rows: Rows;
  readonly durability: Durability;
  readonly pollMs: number;
}

/** The reader of the log's end, its start, and the last pages that were read for watchers that follow it. */
interface Following {
  readonly reader: Tail;
  readonly started: Promise<void>;
  readonly pages: Map<string, Promise<Page>>;
}

/** One that watches, and its turns. */
interface Watcher {
  readonly filter: FeedFilter;
  readonly signal: AbortSignal;
  readonly catchingUp: Taker;
  readonly keepingUp: Taker;
}

/** The feed of one process. */
export class Feed {
  readonly #options: FeedOptions;
  readonly #history: History;
  readonly #catchingUp = new Turns(1, restWhileBusy());
  /** Many that keep up don't keep the event loop from all else either. */
  readonly #keepingUp = new Turns(1, oneEachTurn());
  #watchers = 0;
  /** Those that are level with the reader: they have all rows, or the next ones are among those that it keeps. */
  readonly #level = new Set<AbortSignal>();
  /** There was something to look for, but nobody level who would have been told. */
  #mayLook = false;
  /** There is one exactly while somebody watches. */
  #following: Following | undefined;

  constructor(options: FeedOptions) {
    this.#options = options;
    this.#history = historyOf(options.behind, options.rows);
  }

  /** Something was committed: no need to wait for the next poll. */
  wake(): void {
    if (this.#level.size > 0) this.#following?.reader.wake();
    else this.#mayLook = true;
  }

  /** How many ids the reader is behind the last one that was drawn; zero while nobody watches. */
  async lag(): Promise<bigint> {
    const { reader } = this.#following ?? {};
    return reader === undefined ? 0n : (await logEnd(this.#options.live)).last - reader.settled;
  }

  /**
   * All rows behind a position (undefined: all of the log), and then those to come, until the signal or a step `lost`
   * ends it.
   */
  async *watch(from: Position | undefined, filter: FeedFilter, signal: AbortSignal): AsyncGenerator<FeedStep> {
    const takers = { catchingUp: this.#catchingUp.taker(signal), keepingUp: this.#keepingUp.taker(signal) };
    this.#watchers += 1;
    try {
      const following = await orAbort(this.#follow(), signal);
      const known = from === undefined || (await orAbort(this.#ofPast(following.reader, this.#knows(from)), signal));
      if (!known) throw new LogWentBack();
      yield* this.#behind(from, following, { filter, signal, ...takers });
    } catch (error) {
      if (!(error instanceof LogWentBack)) throw error;
      yield { kind: "lost" };
    } finally {
      takers.catchingUp.leave();
      takers.keepingUp.leave();
      this.#watchers -= 1;
      this.#level.delete(signal);
      if (this.#watchers === 0) this.#leave();
    }
  }

  async *#behind(from: Position | undefined, following: Following, watcher: Watcher) {
    const { signal, catchingUp, keepingUp } = watcher;
    const { reader: tail } = following;
    const present = await orAbort(presentOf(tail), signal);
    let at = from?.id ?? 0n;
    let caughtUp = false;
    let limit = FIRST_PAGE;
    let ahead: Promise<Page> | undefined;
    for (;;) {
      const { moved } = tail;
      while (at < tail.settled) {
        signal.throwIfAborted();
        const { rows, upTo, next } = await (ahead ?? this.#next(following, at, limit, watcher));
        tail.assertFollowing();
        at = upTo;
        limit = next;
        // Where nobody else waits, the next page is read while this one is sent: reading it is a tenth of the time.
        const isAhead = at < tail.settled && !tail.keeps(at) && catchingUp.mayReadAhead;
        ahead = isAhead ? this.#next(following, at, limit, watcher) : undefined;
        // It fails where it is taken, or for nobody.
        ahead?.catch(() => undefined);
        if (rows.length > 0) yield { kind: "rows" as const, rows };
      }
      if (!caughtUp && at >= present) {
        caughtUp = true;
        const { last } = tail;
        const isNew = last !== undefined && last.id >= (from?.id ?? 0n);
        yield { kind: "caught_up" as const, position: isNew ? positionOf(last) : from };
      }
      catchingUp.leave();
      keepingUp.leave();
      this.#level.add(signal);
      if (this.#mayLook) tail.wake();
      this.#mayLook = false;
      await orAbort(moved, signal);
    }
  }

  /** Whether the log has the row that a position names. */
  async #knows({ id, hash }: Position): Promise<boolean> {
    const found = await this.#options.behind.maybeOneFirst(sql.type(hashRow)`
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
    if ((await logEnd(this.#options.behind)).timeline !== tail.timeline) throw new LogWentBack();
    return found;
  }

  /** The reader that all watchers share, once it knows the log's end. */
  async #follow(): Promise<Following> {
    if (this.#following === undefined) {
      const { live, rows, durability, pollMs } = this.#options;
      const reader = new Tail(live, rows, durability, pollMs, () => this.#level.size > 0);
      const started = reader.start();
      this.#following = { reader, started, pages: new Map() };
      // When it fails, its watchers are told by `moved`, and the next one gets a new reader.
      started.then(() => reader.follow()).catch(() => this.#leave(reader));
    }
    const following = this.#following;
    await following.started;
    return following;
  }

  #leave(reader = this.#following?.reader): void {
    reader?.stop();
    if (this.#following?.reader === reader) this.#following = undefined;
  }

  /** The next rows behind an id, when it is the watcher's turn: those that are kept, or a page of the table. */
  async #next(following: Following, after: bigint, limit: number, watcher: Watcher): Promise<Page> {
    const { filter, signal, catchingUp, keepingUp } = watcher;
    const { reader } = following;
    const kept = reader.keeps(after) ? await keepingUp.take(() => keptPage(reader, after, filter)) : undefined;
    if (kept !== undefined) return kept;
    keepingUp.leave();
    this.#level.delete(signal);
    return orAbort(catchingUp.take(() => this.#sharedPage(following, after, filter, limit)), signal);
  }

  /** A page that another watcher has read lately, or else from the table. */
  #sharedPage({ reader, pages }: Following, after: bigint, filter: FeedFilter, limit: number): Promise<Page> {
    const key = [after, limit, filter.userId, ...filter.types].join(" ");
    const known = pages.get(key);
    if (known !== undefined) return known;
    const page = this.#page(reader, after, filter, limit);
    pages.set(key, page);
    page.catch(() => pages.delete(key));
    const [oldest] = pages.keys();
    if (pages.size > PAGES && oldest !== undefined) pages.delete(oldest);
    return page;
  }

  async #page(tail: Tail, after: bigint, { userId, types }: FeedFilter, limit: number): Promise<Page> {
    const upTo = tail.settled;
    const reading =
      userId === undefined ? this.#everyones(after, upTo, types, limit) : this.#ofUser(userId, after, upTo, types);
    const { rows, isWhole } = await this.#ofPast(tail, reading);
    const last = rows.at(-1);
    return { rows: rows.map(told), upTo: !isWhole && last !== undefined ? last.id : upTo, next: pageBehind(rows) };
  }

  async #everyones(after: bigint, upTo: bigint, types: readonly TransactionType[], limit: number): Promise<Listed> {
    const ofType = types.length === 0 ? sql.fragment`TRUE` : sql.fragment`t.type = ANY(${sql.array(types, "text")})`;
    const rows = await this.#options.behind.any(sql.type(this.#options.rows.transaction)`
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

/** The last id of the log as it is now. Where the reader has ended meanwhile, what it ended by counts. */
async function presentOf(tail: Tail): Promise<bigint> {
  try {
    return await tail.present();
  } catch (error) {
    tail.assertFollowing();
    throw error;
  }
}

/** The next rows behind an id out of those that the reader keeps; undefined if it doesn't any more. */
function keptPage(tail: Tail, after: bigint, { userId, types }: FeedFilter): Page | undefined {
  const kept = tail.behind(after);
  if (kept === undefined) return undefined;
  const some = kept.slice(0, PAGE);
  const last = some.at(-1);
  const isOfUser = (row: Transaction): boolean => userId === undefined || row.userId === userId;
  const isOfType = (row: Transaction): boolean => types.length === 0 || types.includes(row.type);
  const rows = some.filter((row) => isOfUser(row) && isOfType(row)).map(told);
  const upTo = some.length < kept.length && last !== undefined ? last.id : tail.settled;
  return { rows, upTo, next: pageBehind(some) };
}

function told(transaction: Transaction): Told {
  return { transaction, position: positionOf(transaction) };
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
