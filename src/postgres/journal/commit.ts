// One group of submissions in one database transaction: lock, read, decide, write, commit. And what to do when that fails.
//
//   pipeline 1   BEGIN, lock the accounts, read what the decisions depend on
//   in memory    decide command by command, each seeing the ones before it
//   pipeline 2   write log, balances, holds and outcomes of keys, COMMIT
//
// Two round trips and one flush, for one submission as for five hundred.

import pg from "pg";
import { setTimeout as delay } from "node:timers/promises";
import type { AccountName } from "../../domain/money/account.ts";
import { Failure } from "../../domain/failure.ts";
import { type Plan, planGroup } from "../../domain/journal/group.ts";
import { type Submission, usersOf } from "../../domain/journal/submission.ts";
import type { Outcome } from "../../domain/journal/transaction.ts";
import { troubleOf } from "../connection/errors.ts";
import { addPartitions, lacksPartition } from "../schema/partitions.ts";
import type { Rows } from "../rows/rows.ts";
import { ConnectionLost, NotCommitted, type JournalConnection } from "../protocol/connection.ts";
import { bookOf, EXPIRY_LIMIT, hasRest, lacksProbe, mustProbe, readRest, sendProbe, sendReads, type Found, type Rest } from "./read.ts";
import { accountsOfAll, holdsNamedBy, insertMissingAccounts, readNamed, transactionsNamedBy, waitsOf, type LockMode, type Named, type Wait } from "./lock.ts";
import { Undecided, type Sourced } from "./order.ts";
import { outcomesOf, storedIdsOf } from "./outcomes.ts";
import { emitMessage, selectHoldsOf, selectRowTypes, selectTransactions, writesOf, type RowTypes, type Writes } from "./write.ts";

/** What a submission is answered, or the error that kept it from being carried out. */
export type Committed = Outcome | Error;
/** What became of a try. */
type Tried = Committed | Wait;

/** How often what must wait for accounts that other sessions keep locked is tried: all of it, what is left, and what was only behind that. */
const ROUNDS = 3;
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
   * Commits a group, and answers each of its writes, by its place. Those that need an account which another session keeps locked, and those behind them that
   * share a user with one, don't hold up the answers of the others. They are tried again by themselves; what is locked
   * then as well gets `TRANSACTION_CONFLICT`, and what was only behind that is tried once more, unless it comes from
   * the same source.
   */
  async commit(group: readonly Sourced[], answer: (answers: readonly (Committed | undefined)[]) => void): Promise<void> {
    const undecided = new Undecided();
    let open = [...group.keys()];
    for (let round = 1; open.length > 0; round++) {
      const tried = await this.#tryAll(round === 1 ? group : open.flatMap((place) => group[place] ?? []));
      const answers: (Committed | undefined)[] = [];
      open = open.filter((place, index) => {
        const write = group[place];
        const result = tried[index];
        if (write === undefined || result === undefined) throw new Error("a write was not tried");
        const committed = finalOf(result, round, undecided.any && undecided.precede(write));
        if (committed instanceof Error) undecided.add(write);
        answers[place] = committed;
        return committed === undefined;
      });
      answer(answers);
    }
  }

  /**
   * If the database refuses a group for a reason that isn't another session's doing, halves of it are tried on their own, until the
   * culprit alone gets its error: one poison command must not fail the others.
   */
  async #tryAll(group: readonly Sourced[]): Promise<readonly Tried[]> {
    if (group.length === 0) return [];
    try {
      return await this.#persist(group.map(({ submission }) => submission));
    } catch (error) {
      const cause = error instanceof Error ? error : new Error(String(error));
      if (cause instanceof Failure || group.length === 1) return group.map(() => cause);
      return this.#tryHalves(group.slice(0, group.length >> 1), group.slice(group.length >> 1));
    }
  }

  /** The second half without what is behind writes of the first one that have no outcome. */
  async #tryHalves(one: readonly Sourced[], other: readonly Sourced[]): Promise<readonly Tried[]> {
    const first = await this.#tryAll(one);
    const isBehind = behind(one, first);
    const waits = other.map(isBehind);
    const second = await this.#tryAll(other.filter((_write, index) => waits[index] === false));
    return [...first, ...inPlaces(waits.map((wait) => (wait ? "behind" : undefined)), second)];
  }

  /** Tries until a transaction is committed. */
  async #persist(submissions: readonly Submission[]): Promise<readonly Tried[]> {
    const until = performance.now() + GROUP_LIMIT_MS;
    let mode: LockMode = "wait";
    let unplaced = false;
    for (let attempt = 1; ; attempt++) {
      try {
        if (unplaced) await this.#addPartitions();
        return await this.#attempt(submissions, mode);
      } catch (error) {
        if (error instanceof Failure) throw error;
        const state = error instanceof pg.DatabaseError ? error.code : undefined;
        const trouble = troubleOf(error);
        // Another connection may lead to a server that takes writes.
        const lost = error instanceof ConnectionLost || trouble?.session !== undefined;
        // Nothing was changed, and no part of the group would fare better now.
        if (trouble !== undefined && !lost) throw new Failure("DATABASE_UNAVAILABLE", { cause: error });
        unplaced = lacksPartition(error);
        // Where a connection was lost, callers repeat what they don't know the outcome of.
        if (lost || isTaken(error, state)) this.#toProbe = PROBED_AFTER_REPEAT;
        if (state === LOCK_NOT_AVAILABLE && mode === "wait") {
          mode = "skip";
        } else if (!lost && !unplaced && !startsOver(error, state)) {
          throw waitedTooLong(state) && submissions.length === 1 ? conflict(error) : error;
        } else if (attempt >= ATTEMPTS || performance.now() > until) {
          throw lost ? new Failure("DATABASE_UNAVAILABLE", { cause: error }) : conflict(error);
        }
        // What has taken a key is committed, and partitions are made: there is nothing to wait for.
        if (!unplaced && !isTaken(error, state)) await delay(Math.random() * FIRST_PAUSE_MS * 2 ** attempt);
      }
    }
  }

  /** The ids have jumped past the last partition. */
  async #addPartitions(): Promise<void> {
    const { session } = await this.#connected();
    await session.pipeline((send) => ({ made: send(addPartitions) }));
  }

  async #attempt(submissions: readonly Submission[], mode: LockMode): Promise<readonly Tried[]> {
    const { session: connection, types } = await this.#connected();
    const probing = this.#toProbe > 0 || mustProbe(submissions, mode);
    if (this.#toProbe > 0) this.#toProbe -= 1;
    try {
      const named = await this.#named(connection, submissions);
      const accounts = accountsOfAll(submissions, named);
      for (const until = performance.now() + GROUP_LIMIT_MS; performance.now() < until; ) {
        const found = await this.#lock(connection, submissions, accounts, mode, probing);
        const rest = await this.#rest(connection, submissions, found);
        const book = bookOf(found, rest, [], this.#rows);
        const expiryFirst = rest.expired.length === EXPIRY_LIMIT;
        const waits = found.accounts.length === accounts.length ? undefined : waitsOf(submissions, named, book.accounts);
        const decided = expiryFirst ? [] : waits === undefined ? submissions : submissions.filter((_submission, index) => waits[index] === undefined);
        const plan = planGroup(book, decided);
        if (expiryFirst && plan.rows.length === 0) throw conflict();
        const writes = writesOf(plan, decided, found.accounts, book.time, this.#rows, types);
        const outcomes = await this.#write(connection, plan, decided, writes);
        if (!expiryFirst) return waits === undefined ? outcomes : inPlaces(waits, outcomes);
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
    const { named } = await connection.pipeline((send) => ({ named: readNamed(send, submissions) }));
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

  /**
   * With the probe, where the locked accounts turn out to need it; and with another one where some are left out, whose
   * expired holds would fill the first one.
   */
  async #probed(connection: JournalConnection, submissions: readonly Submission[], accounts: readonly AccountName[], found: Found): Promise<Found> {
    const isPart = found.accounts.length < accounts.length;
    if (!isPart && !lacksProbe(found)) return found;
    const locked = isPart ? found.accounts.map(({ account }) => account) : accounts;
    return { ...found, ...(await connection.pipeline((send) => ({ probe: sendProbe(send, submissions, locked) }))) };
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

/** What a write is answered after a try; undefined: it is tried again. */
function finalOf(tried: Tried, round: number, isBehindUndecided: boolean): Committed | undefined {
  if (typeof tried === "object") return tried;
  if (isBehindUndecided) return new Failure("NOT_TRIED");
  return round === ROUNDS || (round > 1 && tried === "locked") ? conflict() : undefined;
}

/**
 * Whether a write must not be tried after others of which these results are known: it shares a user with one that waits, or is behind one of its own source that
 * has no outcome. To be asked about all that are behind, in their order: what waits holds back others in turn.
 */
function behind(writes: readonly Sourced[], results: readonly Tried[]): (write: Sourced) => boolean {
  const undecided = new Undecided();
  const waiting = new Set<bigint>();
  const wait = ({ submission }: Sourced): void => usersOf(submission).forEach((user) => waiting.add(user));
  for (const [index, write] of writes.entries()) {
    const result = results[index];
    if (result instanceof Error) undecided.add(write);
    else if (typeof result === "string") wait(write);
  }
  return (write) => {
    const isBehind = undecided.precede(write) || usersOf(write.submission).some((user) => waiting.has(user));
    if (isBehind) wait(write);
    return isBehind;
  };
}

/** Results of those that don't wait, in their places among all. */
function inPlaces(waits: readonly (Wait | undefined)[], results: readonly Tried[]): readonly Tried[] {
  let next = 0;
  return waits.map((wait) => {
    const result = wait ?? results[next++];
    if (result === undefined) throw new Error("a write was not answered");
    return result;
  });
}

function assertId(id: bigint | undefined): bigint {
  if (id === undefined) throw new Error("PostgreSQL answered fewer ids than rows were written");
  return id;
}
