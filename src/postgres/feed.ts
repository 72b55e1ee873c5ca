// The log as a live feed. Watchers pull: one that is behind pages through the table by itself, up to where the reader of the end knows
// everything to be settled; one that keeps up shares the rows which that reader has; a slow one only falls behind.

import { sql, type DatabasePool } from "slonik";
import { z } from "zod";
import type { TransactionType } from "../domain/account.ts";
import { charactersOf, type Transaction } from "../domain/transaction.ts";
import { historyOf, type History } from "./history.ts";
import { transactionColumns, type Listed, type Rows } from "./rows.ts";
import { lastId, settledId } from "./settled.ts";
import { Tail } from "./tail.ts";

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

/** One step of the feed: rows, or the mark that the present is reached. */
export type FeedStep =
  | { readonly kind: "rows"; readonly rows: readonly { readonly transaction: Transaction; readonly position: Position }[] }
  | { readonly kind: "caught_up"; readonly position: Position | undefined };

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
  readonly #pollMs: number;
  #watchers = 0;
  /** The reader, and its start. There is one exactly while somebody watches. */
  #tail: { readonly reader: Tail; readonly started: Promise<void> } | undefined;

  constructor(pool: DatabasePool, rows: Rows, pollMs: number) {
    this.#pool = pool;
    this.#rows = rows;
    this.#history = historyOf(pool, rows);
    this.#pollMs = pollMs;
  }

  /** Something was committed: no need to wait for the next poll. */
  wake(): void {
    this.#tail?.reader.wake();
  }

  /** How many ids the reader is behind the last one that was drawn; zero while nobody watches. */
  async lag(): Promise<bigint> {
    return this.#tail === undefined ? 0n : (await lastId(this.#pool)) - this.#tail.reader.settled;
  }

  /** Whether the log has the row that a position names. */
  async knows({ id, hash }: Position): Promise<boolean> {
    const found = await this.#pool.maybeOneFirst(sql.type(hashRow)`
      SELECT t.hash FROM ledgerd.transactions t WHERE t.id = ${id}`);
    return found !== null && hashPrefix(found) === hash;
  }

  /** All rows behind a position (undefined: all of the log), and then those to come, until the signal ends it. */
  async *watch(from: Position | undefined, filter: FeedFilter, signal: AbortSignal): AsyncGenerator<FeedStep> {
    this.#watchers += 1;
    try {
      const tail = await orAbort(this.#follow(), signal);
      const present = await settledId(this.#pool, signal);
      let at = from?.id ?? 0n;
      let caughtUp = false;
      let limit = FIRST_PAGE;
      let ahead: Promise<Page> | undefined;
      for (;;) {
        const { moved } = tail;
        while (at < tail.settled) {
          signal.throwIfAborted();
          const { rows, upTo } = await (ahead ?? this.#page(tail, at, filter, limit));
          at = upTo;
          limit = pageBehind(rows);
          // The next page is read while this one is sent: reading it is a tenth of the time.
          ahead = at < tail.settled ? this.#page(tail, at, filter, limit) : undefined;
          // It fails where it is taken, or for nobody.
          ahead?.catch(() => undefined);
          if (rows.length > 0) yield { kind: "rows", rows: rows.map((transaction) => ({ transaction, position: positionOf(transaction) })) };
        }
        if (!caughtUp && at >= present) {
          caughtUp = true;
          const { last } = tail;
          yield { kind: "caught_up", position: last === undefined || last.id < (from?.id ?? 0n) ? from : positionOf(last) };
        }
        await orAbort(moved, signal);
      }
    } finally {
      this.#watchers -= 1;
      if (this.#watchers === 0) this.#leave();
    }
  }

  /** The reader that all watchers share, once it knows the log's end. */
  async #follow(): Promise<Tail> {
    if (this.#tail === undefined) {
      const reader = new Tail(this.#pool, this.#rows, this.#pollMs);
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
    const { rows, isWhole } = userId === undefined ? await this.#everyones(after, upTo, types, limit) : await this.#ofUser(userId, after, upTo, types);
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
  return characters === 0 ? PAGE : Math.max(1, Math.min(PAGE, Math.floor((PAGE_CHARACTERS * rows.length) / characters)));
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
