// Reads the old application's users one after another, each with balance and transactions, in parts that fit into memory: two tables in the
// order of users, merged.

import { addTotals, BEFORE_ALL, type AdoptionRules, type OldBalance, type OldTransaction, type OldUser, type Total } from "./rules/adoption.ts";
import type { Source } from "./sql/source.ts";

/** Behind all transactions of a user. */
export const AFTER_ALL = 2n ** 63n - 1n;

/** Behind which transaction of which user to go on. */
export interface Place {
  readonly userId: bigint;
  readonly transactionId: bigint;
}

/** Some users, and the place behind them. */
export interface Chunk {
  readonly users: readonly OldUser[];
  readonly rows: number;
  readonly end: Place;
}

type OldSource = Pick<Source, "balances" | "transactions">;

/** All users behind a place, in chunks of about so many rows, or users; as many are read at once. */
export async function* chunksOf(source: OldSource, rules: AdoptionRules, from: Place, size: number): AsyncGenerator<Chunk> {
  let users: OldUser[] = [];
  let rows = 0;
  for await (const user of usersOf(source, rules, from, size)) {
    users.push(user);
    rows += user.rows.length;
    if (rows < size && users.length < size) continue;
    yield chunkOf(users, rows);
    [users, rows] = [[], 0];
  }
  if (users.length > 0) yield chunkOf(users, rows);
}

function chunkOf(users: readonly OldUser[], rows: number): Chunk {
  const last = users.at(-1);
  if (last === undefined) throw new Error("a chunk of no users");
  return { users, rows, end: { userId: last.userId, transactionId: last.isLast ? AFTER_ALL : (last.rows.at(-1)?.id ?? BEFORE_ALL) } };
}

async function* usersOf(source: OldSource, rules: AdoptionRules, from: Place, size: number): AsyncGenerator<OldUser> {
  const isDone = from.transactionId === AFTER_ALL;
  const transactions = new Pages<OldTransaction>((last) => source.transactions(last?.userId ?? from.userId, last?.id ?? from.transactionId, size));
  const balances = new Pages<OldBalance>((last) => source.balances(last?.userId ?? (isDone || from.userId === BEFORE_ALL ? from.userId : from.userId - 1n), size));
  /** The user whose rows are being read in several parts, and what all of them come to. */
  let long: { readonly userId: bigint; readonly totals: ReadonlyMap<string, Total> } | undefined;
  for (;;) {
    const [row, balance] = [await transactions.first(), await balances.first()];
    if (row === undefined && balance === undefined) return;
    const userId = row === undefined || (balance !== undefined && balance.userId < row.userId) ? (balance?.userId ?? 0n) : row.userId;
    const rows: OldTransaction[] = [];
    let next = row;
    while (next?.userId === userId && rows.length < size) {
      rows.push(next);
      transactions.shift();
      next = transactions.ready ?? (await transactions.first());
    }
    const isLast = next?.userId !== userId;
    if (!isLast && long?.userId !== userId) long = { userId, totals: await totalsOf(source, rules, userId, size) };
    // Of a user's last rows after a cut, their own totals do: an account that they begin has no others.
    const totals = long?.userId === userId ? long.totals : addTotals(rules, rows);
    const own = balance?.userId === userId ? balance : undefined;
    if (isLast && own !== undefined) balances.shift();
    yield { userId, balance: own, rows, isLast, totals };
  }
}

/** What all of a user's rows come to, page by page. */
async function totalsOf(source: OldSource, rules: AdoptionRules, userId: bigint, size: number): Promise<ReadonlyMap<string, Total>> {
  const totals = new Map<string, Total>();
  for (let after = BEFORE_ALL; ; ) {
    const page = await source.transactions(userId, after, size);
    const own = page.filter((row) => row.userId === userId);
    addTotals(rules, own, totals);
    const last = own.at(-1);
    if (own.length < size || last === undefined) return totals;
    after = last.id;
  }
}

/** A table, read a page at a time; the next page is asked for when one is begun. */
class Pages<T> {
  readonly #read: (last: T | undefined) => Promise<readonly T[]>;
  #page: readonly T[] = [];
  #at = 0;
  #next: Promise<readonly T[]>;

  constructor(read: (last: T | undefined) => Promise<readonly T[]>) {
    this.#read = read;
    this.#next = this.#ask(undefined);
  }

  /** The first row, if it is there without waiting. */
  get ready(): T | undefined {
    return this.#page[this.#at];
  }

  /** The first row; undefined behind the last. */
  async first(): Promise<T | undefined> {
    if (this.#at < this.#page.length) return this.#page[this.#at];
    const page = await this.#next;
    const last = page.at(-1);
    if (last === undefined) return undefined;
    [this.#page, this.#at] = [page, 0];
    this.#next = this.#ask(last);
    return page[0];
  }

  shift(): void {
    this.#at += 1;
  }

  #ask(last: T | undefined): Promise<readonly T[]> {
    const asked = this.#read(last);
    // Whoever asks for it is told; until then it isn't unhandled.
    asked.catch(() => undefined);
    return asked;
  }
}
