// Verifies accounts: each row of the log against the one before, and balance rows and holds against what the rows come to.

import { accountId, type Hold } from "../domain/money/account.ts";
import { readLogPage, readOpenHolds, START, type Cursor, type LogPage, type Projection, type StoredHold } from "./sql/log-pages.ts";
import { AccountFold } from "./account-fold.ts";
import type { ChainHead } from "./digest.ts";
import type { Finding } from "./finding.ts";
import type { Context, VerifyEvent } from "./events.ts";

/** An account that may go on behind its page. */
interface Carried {
  readonly fold: AccountFold;
  /** Its balance row in the snapshot in which it was begun, up to whose last row it is read. */
  readonly projection: Projection | undefined;
}

/** How many holds are looked up at a time. */
const HOLDS_AT_A_TIME = 1000;

/** Goes through all accounts; counts in `counted` the rows of which the verification is about. */
export async function* verifyAccounts(context: Context, counted: { rows: number }, onHead: (head: ChainHead) => Promise<void> | void): AsyncGenerator<VerifyEvent, void> {
  const walk = new AccountWalk(context, counted, onHead);
  let findings: Finding[] = [];
  let page = walk.read(START);
  for (;;) {
    const startedAt = performance.now();
    const read = await page;
    // PostgreSQL reads the next page while this one is hashed here. A failure of it is met when it is awaited.
    if (read.next !== undefined) (page = walk.read(read.next)).catch(() => undefined);
    findings = await walk.take(read);
    for (const finding of findings) yield { kind: "finding", finding };
    yield { kind: "progress", phase: "accounts", done: context.counts.rows, total: Number(context.lastId) };
    if (read.next === undefined) return;
    await context.rest(read.rows.length, startedAt);
  }
}

/** The walk through all accounts. */
class AccountWalk {
  readonly #context: Context;
  readonly #counted: { rows: number };
  readonly #onHead: (head: ChainHead) => Promise<void> | void;
  #carried: Carried | undefined;
  #findings: Finding[] = [];

  constructor(context: Context, counted: { rows: number }, onHead: (head: ChainHead) => Promise<void> | void) {
    this.#context = context;
    this.#counted = counted;
    this.#onHead = onHead;
  }

  read(from: Cursor): Promise<LogPage> {
    const { session, currencies, size } = this.#context;
    return size.measure((limit) => readLogPage(session, currencies, from, limit));
  }

  /** Goes through a page; answers what it found. */
  async take(page: LogPage): Promise<Finding[]> {
    this.#findings = [];
    const untouched = new Map(page.projections);
    let fold = this.#carried?.fold;
    for (const row of page.rows) {
      if (fold === undefined || fold.userId !== row.userId || fold.currency !== row.currency) {
        if (fold !== undefined) await this.#end(fold, page, untouched);
        fold = this.#newFold(row.userId, row.currency);
      }
      fold.add(row);
      this.#context.counts.rows += 1;
      if (row.id <= this.#context.lastId) this.#counted.rows += 1;
    }
    if (fold !== undefined && page.next?.last === undefined) await this.#end(fold, page, untouched);
    else if (fold !== undefined) this.#carry(fold, page, untouched);
    for (const { userId, currency, ...projection } of untouched.values()) {
      this.#newFold(userId, currency).compare({ userId, currency, ...projection }, this.#digits(currency));
    }
    return this.#findings;
  }

  #newFold(userId: bigint, currency: string): AccountFold {
    return new AccountFold(userId, currency, (finding) => this.#findings.push(finding));
  }

  /** The last account of a full page: the next one goes on within it, if only with a row that has a sequence for the second time. */
  #carry(fold: AccountFold, page: LogPage, untouched: Map<string, Projection>): void {
    const id = accountId(fold.userId, fold.currency);
    this.#carried ??= { fold, projection: untouched.get(id) };
    untouched.delete(id);
    // What has ended never changes again.
    this.#compareHolds(fold, fold.takeEnded(), page.holds);
  }

  async #end(fold: AccountFold, page: LogPage, untouched: Map<string, Projection>): Promise<void> {
    const id = accountId(fold.userId, fold.currency);
    const carried = this.#carried?.fold === fold ? this.#carried : undefined;
    fold.compare(carried === undefined ? untouched.get(id) : carried.projection, this.#digits(fold.currency));
    untouched.delete(id);
    this.#compareHolds(fold, fold.takeEnded(), page.holds);
    if (carried === undefined) this.#compareHolds(fold, [...fold.open.values()], page.holds);
    else await this.#compareOpen(fold);
    this.#carried = undefined;
    this.#context.counts.accounts += 1;
    const { userId, currency, account, head } = fold;
    if (head !== undefined) await this.#onHead({ userId, currency, sequence: account.sequence, hash: head });
  }

  /** The open holds of an account that was read in several snapshots, but for those that have moved on since its last row. */
  async #compareOpen(fold: AccountFold): Promise<void> {
    const open = [...fold.open.values()];
    for (let at = 0; at < open.length; at += HOLDS_AT_A_TIME) {
      const some = open.slice(at, at + HOLDS_AT_A_TIME);
      const { holds, moved } = await readOpenHolds(this.#context.session, fold, fold.account.sequence, some.map(({ id }) => id));
      this.#compareHolds(fold, some.filter(({ id }) => !moved.has(id)), holds);
    }
  }

  #compareHolds(fold: AccountFold, holds: readonly Hold[], stored: ReadonlyMap<bigint, StoredHold>): void {
    const digits = this.#digits(fold.currency);
    if (digits !== undefined) for (const hold of holds) fold.compareHold(hold, stored.get(hold.id), digits);
  }

  #digits(currency: string): number | undefined {
    return this.#context.currencies.get(currency)?.digits;
  }
}
