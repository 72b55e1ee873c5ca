// One group of submissions in one database transaction: lock, read, decide, write, commit. And what to do when that fails.
//
//   pipeline 1   BEGIN, lock the accounts, read what the decisions depend on
//   in memory    decide command by command, each seeing the ones before it
//   pipeline 2   write log, balances, holds and outcomes of keys, COMMIT
//
// Two round trips and one flush, for one submission as for five hundred.

import pg from "pg";
import { setTimeout as delay } from "node:timers/promises";
import type { AccountName } from "../../domain/account.ts";
import { Failure } from "../../domain/failure.ts";
import { planGroup, type Plan, type Submission } from "../../domain/group.ts";
import type { Outcome } from "../../domain/transaction.ts";
import type { Rows } from "../rows.ts";
import { ConnectionLost, NotCommitted, type JournalConnection } from "./connection.ts";
import { bookOf, EXPIRY_LIMIT, hasRest, lacksProbe, mustProbe, readRest, sendProbe, sendReads, type Found, type Rest } from "./facts.ts";
import { accountsOfAll, allAmong, holdsNamedBy, insertMissingAccounts, readNamed, transactionsNamedBy, type LockMode, type Named } from "./lock.ts";
import { outcomesOf, storedIdsOf } from "./outcomes.ts";
import { emitMessage, selectHoldsOf, selectRowTypes, selectTransactions, writesOf, type RowTypes, type Writes } from "./write.ts";

/** What a submission is answered, or the error that kept it from being carried out. */
export type Committed = Outcome | Error;

/** How often a group that lost against other sessions starts over, and for how long. */
const ATTEMPTS = 8;
const GROUP_LIMIT_MS = 10_000;
/** After a key that was used already, so many groups are probed for used ones: where one call is repeated, others are. */
const PROBED_AFTER_REPEAT = 32;
/** The longest random pause before it does, doubled each time. */
const FIRST_PAUSE_MS = 4;

const nothingNamed: Named = { holdAccounts: new Map(), originals: new Map() };
const noRest: Rest = { outcomes: new Map(), expired: [] };

interface Connected {
  readonly session: JournalConnection;
  readonly types: RowTypes;
}

/** Commits groups, one at a time, on a connection of its own, which it opens anew when it is lost. */
export class Committer {
  readonly #open: () => Promise<JournalConnection>;
  readonly #rows: Rows;
  #connection: Connected | undefined;
  /** How many groups more are probed for used keys. */
  #toProbe = 0;

  constructor(open: () => Promise<JournalConnection>, rows: Rows) {
    this.#open = open;
    this.#rows = rows;
  }

  close(): void {
    this.#connection?.session.close();
  }

  /**
   * Commits a group, and answers each of its submissions, by its place. Those that need an account which another session keeps locked don't hold
   * up the answers of the others: they get a second chance by themselves, and then `TRANSACTION_CONFLICT`.
   */
  async commit(submissions: readonly Submission[], answer: (place: number, committed: Committed) => void): Promise<void> {
    const open: number[] = [];
    (await this.#tryAll(submissions)).forEach((committed, place) => {
      if (committed === undefined) open.push(place);
      else answer(place, committed);
    });
    if (open.length === 0) return;
    const second = await this.#tryAll(open.flatMap((place) => submissions[place] ?? []));
    for (const [index, place] of open.entries()) answer(place, second[index] ?? conflict());
  }

  /**
   * If the database refuses a group for a reason that isn't another session's doing, halves of it are tried on their own, until the
   * culprit alone gets its error: one poison command must not fail the others.
   */
  async #tryAll(submissions: readonly Submission[]): Promise<readonly (Committed | undefined)[]> {
    try {
      return await this.#persist(submissions);
    } catch (error) {
      const cause = error instanceof Error ? error : new Error(String(error));
      if (cause instanceof Failure || submissions.length === 1) return submissions.map(() => cause);
      const middle = submissions.length >> 1;
      return [...(await this.#tryAll(submissions.slice(0, middle))), ...(await this.#tryAll(submissions.slice(middle)))];
    }
  }

  /** Tries until a transaction is committed; submissions without an outcome need an account that another session keeps locked. */
  async #persist(submissions: readonly Submission[]): Promise<readonly (Committed | undefined)[]> {
    const until = performance.now() + GROUP_LIMIT_MS;
    let mode: LockMode = "wait";
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.#attempt(submissions, mode);
      } catch (error) {
        if (error instanceof Failure) throw error;
        const state = error instanceof pg.DatabaseError ? error.code : undefined;
        const lost = error instanceof ConnectionLost;
        // Where a connection was lost, callers repeat what they don't know the outcome of.
        if (lost || isTaken(error, state)) this.#toProbe = PROBED_AFTER_REPEAT;
        if (state === LOCK_NOT_AVAILABLE && mode === "wait") {
          mode = "skip";
        } else if (!lost && !startsOver(error, state)) {
          throw waitedTooLong(state) && submissions.length === 1 ? conflict(error) : error;
        } else if (attempt >= ATTEMPTS || performance.now() > until) {
          throw lost ? new Failure("DATABASE_UNAVAILABLE", { cause: error }) : conflict(error);
        }
        // What has taken a key is committed: there is nothing to wait for.
        if (!isTaken(error, state)) await delay(Math.random() * FIRST_PAUSE_MS * 2 ** attempt);
      }
    }
  }

  async #attempt(submissions: readonly Submission[], mode: LockMode): Promise<readonly (Committed | undefined)[]> {
    const { session: connection, types } = await this.#connected();
    const probing = this.#toProbe > 0 || mustProbe(submissions, mode);
    if (this.#toProbe > 0) this.#toProbe -= 1;
    try {
      const named = await this.#named(connection, submissions);
      const accounts = accountsOfAll(submissions, named);
      for (const until = performance.now() + GROUP_LIMIT_MS; performance.now() < until; ) {
        const found = await this.#lock(connection, submissions, accounts, mode, probing);
        const rest = await this.#rest(connection, submissions, found);
        const book = bookOf(found, rest, named, [], this.#rows);
        const locked = found.accounts.length === accounts.length ? submissions : submissions.filter((submission) => allAmong(submission, named, book.accounts));
        const expiryFirst = rest.expired.length === EXPIRY_LIMIT;
        const decided = expiryFirst ? [] : locked;
        const plan = planGroup(book, decided);
        if (expiryFirst && plan.rows.length === 0) throw conflict();
        const writes = writesOf(plan, decided, found.accounts, book.time, this.#rows, types);
        const outcomes = await this.#write(connection, plan, decided, writes);
        if (!expiryFirst) return inOrderOf(submissions, decided, outcomes);
      }
      // So many holds have expired that what was asked must wait: what was freed so far stays free.
      throw conflict();
    } catch (error) {
      await undo(connection);
      throw error;
    }
  }

  async #connected(): Promise<Connected> {
    if (this.#connection?.session.usable === true) return this.#connection;
    const session = await this.#open();
    try {
      const { types } = await session.pipeline((send) => ({ types: send(selectRowTypes) }));
      const [found] = types;
      if (found === undefined) throw new Error("PostgreSQL did not tell the types of rows");
      return (this.#connection = { session, types: found });
    } catch (error) {
      session.close();
      throw error;
    }
  }

  async #named(connection: JournalConnection, submissions: readonly Submission[]): Promise<Named> {
    if (holdsNamedBy(submissions).length === 0 && transactionsNamedBy(submissions).length === 0) return nothingNamed;
    const { named } = await connection.pipeline((send) => ({ named: readNamed(send, this.#rows, submissions) }));
    return named;
  }

  /**
   * Begins, locks and reads. Accounts that don't exist yet are made first, in a second try that holds no lock while it waits for
   * another session to make the same one.
   */
  async #lock(connection: JournalConnection, submissions: readonly Submission[], accounts: readonly AccountName[], mode: LockMode, probing: boolean): Promise<Found> {
    const found = await connection.pipeline((send) => ({
      begun: connection.begin(),
      ...sendReads(send, this.#rows, submissions, accounts, mode, probing),
    }));
    if (found.accounts.length === accounts.length) return this.#probed(connection, submissions, accounts, found);
    const again = await connection.pipeline((send) => ({
      undone: connection.rollback(),
      begun: connection.begin(),
      made: send(insertMissingAccounts(accounts)),
      ...sendReads(send, this.#rows, submissions, accounts, mode, probing),
    }));
    return this.#probed(connection, submissions, accounts, again);
  }

  /** With the probe, where the locked accounts turn out to need it. */
  async #probed(connection: JournalConnection, submissions: readonly Submission[], accounts: readonly AccountName[], found: Found): Promise<Found> {
    if (!lacksProbe(found)) return found;
    return { ...found, ...(await connection.pipeline((send) => ({ probe: sendProbe(send, submissions, accounts) }))) };
  }

  async #rest(connection: JournalConnection, submissions: readonly Submission[], found: Found): Promise<Rest> {
    if (!hasRest(found)) return noRest;
    const { rest } = await connection.pipeline((send) => ({ rest: readRest(send, this.#rows, submissions, found) }));
    return rest;
  }

  async #write(connection: JournalConnection, plan: Plan, submissions: readonly Submission[], writes: Writes): Promise<readonly Outcome[]> {
    // A connection that is known to be lost has not seen the COMMIT: that is no unknown outcome.
    if (!connection.usable) throw new ConnectionLost("the connection was lost before the commit");
    const storedIds = storedIdsOf(plan);
    const nothing = Promise.resolve([]);
    try {
      const { written, stored, storedHolds } = await connection.pipeline((send) => ({
        written: writes.any ? send(writes.main) : nothing,
        holds: writes.holds === undefined ? nothing : send(writes.holds),
        references: writes.references === undefined ? nothing : send(writes.references),
        jobs: writes.jobs === undefined ? nothing : send(writes.jobs),
        stored: storedIds.length === 0 ? nothing : send(selectTransactions(this.#rows, storedIds)),
        storedHolds: storedIds.length === 0 ? nothing : send(selectHoldsOf(this.#rows, storedIds)),
        durable: writes.any ? nothing : send(emitMessage),
        committed: connection.commit(),
      }));
      const ids = written[0]?.ids ?? [];
      const transactions = writes.logged.map(({ posting, hash }, index) => ({ ...posting, id: assertId(ids[index]), hash }));
      return outcomesOf(plan, submissions, { transactions, stored, storedHolds });
    } catch (error) {
      throw error instanceof ConnectionLost ? new Failure("COMMIT_OUTCOME_UNKNOWN", { cause: error }) : error;
    }
  }
}

const LOCK_NOT_AVAILABLE = "55P03";
const QUERY_CANCELED = "57014";
const UNIQUE_VIOLATION = "23505";

/** Whether another session was in the way, and the group as a whole may succeed if it starts over. */
function startsOver(error: unknown, state: string | undefined): boolean {
  return error instanceof NotCommitted || state?.startsWith("40") === true || isTaken(error, state);
}

/** Whether a key was used before, or another group took one or a reference meanwhile, under another account of the same user: it will be found now. */
function isTaken(error: unknown, state: string | undefined): boolean {
  const ofOutcomes = error instanceof pg.DatabaseError && /^(idempotency_keys|unique_references)_pkey$/.test(error.constraint ?? "");
  return state === UNIQUE_VIOLATION && ofOutcomes;
}

/** Whether a statement gave up on something that another session keeps: a key, say, that it may yet commit. */
function waitedTooLong(state: string | undefined): boolean {
  return state === LOCK_NOT_AVAILABLE || state === QUERY_CANCELED;
}

/** Ends the transaction of a failed pipeline, if its connection still lives. */
async function undo(connection: JournalConnection): Promise<void> {
  if (!connection.usable) return;
  try {
    await connection.pipeline(() => ({ undone: connection.rollback() }));
  } catch (error) {
    // It died of it: the server has rolled back by itself, and the next group gets another connection.
    if (!(error instanceof ConnectionLost)) throw error;
  }
}

function conflict(cause?: unknown): Failure {
  return new Failure("TRANSACTION_CONFLICT", { cause });
}

/** The outcomes by the places of all submissions, of which some were decided, in the same order. */
function inOrderOf(submissions: readonly Submission[], decided: readonly Submission[], outcomes: readonly Outcome[]): readonly (Outcome | undefined)[] {
  let next = 0;
  return submissions.map((submission) => (submission === decided[next] ? outcomes[next++] : undefined));
}

function assertId(id: bigint | undefined): bigint {
  if (id === undefined) throw new Error("PostgreSQL answered fewer ids than rows were written");
  return id;
}
