// What a group of submissions does to the ledger: the part of a group commit that is pure.
//
// The journal locks accounts, reads a `Book` of facts about them, asks for the `Plan`, and writes it in one database transaction.

import { evolve, type Account, type Entry, type Hold, type TransactionType } from "../money/account.ts";
import { ByAccount, type ReadonlyByAccount } from "./by-account.ts";
import type { Command, Note } from "./command.ts";
import { decide, expire, type Original, type Situation } from "./ledger.ts";
import type { Job } from "../jobs/job.ts";
import type { Refusal } from "./refusal.ts";
import type { Submission } from "./submission.ts";
import { holdNamedBy, jobNamedBy, kinds, transactionNamedBy } from "./kinds.ts";

/** What is stored under a key: the log rows that were written and the job as it then was, or the refusal of the command at `culprit`. */
export interface StoredOutcome {
  readonly fingerprint: string;
  readonly createdAt: bigint;
  readonly transactionIds: readonly bigint[];
  readonly job: Job | undefined;
  readonly refused: Refused | undefined;
}

/** A refusal, and which of the submission's commands it is about. */
export interface Refused {
  readonly refusal: Refusal;
  readonly culprit: number;
}

/** The facts that a group's decisions depend on, read under the locks of its accounts. */
export interface Book {
  /** The group's time by the database's clock, in microseconds. */
  readonly time: bigint;
  readonly accounts: ReadonlyByAccount<Account>;
  /** By id: those that commands name, and all open ones of these accounts whose time is over. */
  readonly holds: ReadonlyMap<bigint, Hold>;
  /** By id: the transactions that refunds name. */
  readonly originals: ReadonlyMap<bigint, Original>;
  /** By `keyId`: the keys that are used already. */
  readonly outcomes: ReadonlyMap<string, StoredOutcome>;
  /** By `referenceId`: the unique references that are taken. */
  readonly references: ReadonlySet<string>;
  /** By id: the jobs that commands name. */
  readonly jobs: ReadonlyMap<bigint, Job>;
  /** Ids for the holds that may be placed, one for each such command. */
  readonly newHoldIds: readonly bigint[];
  /** Ids for the jobs that may be created, one for each such command. */
  readonly newJobIds: readonly bigint[];
}

/** A reference that no other transaction of this user and type may be written with. */
export interface UniqueReference {
  readonly userId: bigint;
  readonly type: TransactionType;
  readonly reference: string;
}

/** A row to write to the log, before it has its id. */
export interface PlannedRow {
  readonly entry: Entry;
  /** The account after it. */
  readonly account: Account;
  readonly note: Note;
  readonly key: string | undefined;
  readonly groupId: string | undefined;
}

/** What one submission is answered. */
export type Answer =
  /** The rows from one place of the plan to before another were written, those of each command in turn; the job, of the last one, is as it was right after. */
  | { readonly kind: "applied"; readonly from: number; readonly to: number; readonly job: Job | undefined }
  | { readonly kind: "refused"; readonly refused: Refused }
  /** The key was used for the same request before. */
  | { readonly kind: "stored"; readonly outcome: StoredOutcome }
  /** The key was used for the same request by an earlier submission of this group. */
  | { readonly kind: "same"; readonly submission: number }
  /** The key was used for another request, before or by an earlier `submission` of this group, whose transaction has no id yet. */
  | { readonly kind: "reused"; readonly refusal: Extract<Refusal, { reason: "IDEMPOTENCY_KEY_REUSED" | "LEASE_LOST" }>; readonly submission?: number };

/** All that one group commit writes and answers. */
export interface Plan {
  readonly rows: readonly PlannedRow[];
  /** The accounts that changed, as they are afterwards, with the sequence that they had. */
  readonly accounts: readonly { readonly after: Account; readonly sequenceBefore: bigint }[];
  /** The holds that were placed or changed, as they are afterwards. */
  readonly holds: readonly Hold[];
  /** The jobs that were created or changed, as they are afterwards. */
  readonly jobs: readonly Job[];
  /** The unique references that were taken. */
  readonly references: readonly UniqueReference[];
  /** One for each submission, in their order. */
  readonly answers: readonly Answer[];
}

/** Names a key within a book. */
export function keyId(userId: bigint, key: string): string {
  return `${userId} ${key}`;
}

/** Names a unique reference within a book. */
export function referenceId({ userId, type, reference }: UniqueReference): string {
  return `${userId} ${type} ${reference}`;
}

/** ledgerd's own note on the rows that no caller asked for. */
const ownNote: Note = { description: "", metadata: [], reference: "", uniqueReference: false, actor: "ledgerd", traceId: "" };

/** Decides the submissions in order, each seeing the ones before it. */
export function planGroup(book: Book, submissions: readonly Submission[]): Plan {
  const draft = new Draft(book);
  draft.expireHolds();
  const firstWithKey = new Map<string, number>();
  const answers = submissions.map((submission, index): Answer => {
    const { userId, key, fingerprint } = submission;
    if (key === undefined) return draft.apply(submission);
    const id = keyId(userId, key);
    const outcome = book.outcomes.get(id);
    if (outcome !== undefined) return outcome.fingerprint === fingerprint ? { kind: "stored", outcome } : reused(submission, outcome);
    const first = firstWithKey.get(id);
    if (first === undefined) {
      firstWithKey.set(id, index);
      return draft.apply(submission);
    }
    if (submissions[first]?.fingerprint === fingerprint) return { kind: "same", submission: first };
    return { ...reused(submission, { transactionIds: [], createdAt: book.time }), submission: first };
  });
  return draft.plan(answers);
}

function reused({ lease }: Submission, { transactionIds, createdAt }: Pick<StoredOutcome, "transactionIds" | "createdAt">): Extract<Answer, { kind: "reused" }> {
  // Another request under the same lease: the first one has ended it.
  if (lease !== undefined) return { kind: "reused", refusal: { reason: "LEASE_LOST", ...lease } };
  return { kind: "reused", refusal: { reason: "IDEMPOTENCY_KEY_REUSED", transactionId: transactionIds[0], createdAt } };
}

/** The book as it becomes while the submissions of a group are decided. */
class Draft {
  readonly #book: Book;
  /** Those that changed. */
  readonly #accounts = new ByAccount<Account>();
  readonly #holds: Map<bigint, Hold>;
  readonly #originals: Map<bigint, Original>;
  readonly #jobs: Map<bigint, Job>;
  readonly #references = new Map<string, UniqueReference>();
  readonly #rows: PlannedRow[] = [];
  #holdsPlaced = 0;
  #jobsCreated = 0;
  /** How to take back what the atomic batch at hand has done so far, the latest last. */
  #undo: (() => void)[] | undefined;

  constructor(book: Book) {
    this.#book = book;
    this.#holds = new Map(book.holds);
    this.#originals = new Map(book.originals);
    this.#jobs = new Map(book.jobs);
  }

  /** Sets free what open holds reserve whose time is over, in the order in which they expired. */
  expireHolds(): void {
    const isDue = (hold: Hold): boolean => hold.state === "open" && hold.expiresAt <= this.#timeOn(this.#account(hold.userId, hold.currency));
    const due = [...this.#holds.values()].filter(isDue);
    due.sort((a, b) => Number(a.expiresAt - b.expiresAt || a.id - b.id));
    for (const hold of due) this.#write(expire(hold), ownNote, undefined, undefined);
  }

  /** Applies all commands of a submission, or none and says which one was refused. */
  apply(submission: Submission): Answer {
    const { commands, key, groupId, batch, lease } = submission;
    this.#undo = batch ? [] : undefined;
    const from = this.#rows.length;
    let job: Job | undefined;
    let culprit = 0;
    for (const command of commands) {
      const decision = decide(this.#situation(command), command);
      if ("refusal" in decision) {
        this.#takeBack();
        return { kind: "refused", refused: { refusal: decision.refusal, culprit } };
      }
      const grouped = batch || decision.entries.length > 1;
      for (const entry of decision.entries) {
        // The key is its user's: not on the rows of others, and of an atomic batch on none.
        const hasKey = !batch && lease === undefined && entry.userId === submission.userId;
        this.#write(entry, command.note, hasKey ? key : undefined, grouped ? groupId : undefined);
      }
      this.#takeReference(command);
      if (command.kind === "create_job") this.#jobsCreated += 1;
      if (decision.job !== undefined) this.#set(this.#jobs, decision.job.id, (job = decision.job));
      culprit += 1;
    }
    return { kind: "applied", from, to: this.#rows.length, job };
  }

  plan(answers: readonly Answer[]): Plan {
    const { accounts, holds, jobs } = this.#book;
    return {
      rows: this.#rows,
      accounts: this.#accounts.values().map((after) => ({ after, sequenceBefore: accounts.get(after.userId, after.currency)?.sequence ?? 0n })),
      holds: changed(this.#holds, holds),
      jobs: changed(this.#jobs, jobs),
      references: [...this.#references.values()],
      answers,
    };
  }

  #situation(command: Command): Situation {
    const { userId, note } = command;
    const jobId = jobNamedBy(command);
    const job = jobId === undefined ? undefined : this.#jobs.get(jobId);
    const holdId = holdNamedBy(command) ?? job?.holdId;
    const hold = holdId === undefined ? undefined : ofUser(userId, this.#holds.get(holdId));
    const originalId = transactionNamedBy(command);
    const original = originalId === undefined ? undefined : ofUser(userId, this.#originals.get(originalId));
    const currency = hold?.currency ?? original?.currency ?? command.currency;
    const account = this.#account(userId, currency);
    const recipient = command.kind === "transfer" ? this.#account(command.toUserId, currency) : undefined;
    const referenceUsed = note.uniqueReference && this.#isTaken(referenceId(uniqueReferenceOf(command)));
    const newHoldId = this.#book.newHoldIds[this.#holdsPlaced] ?? 0n;
    const newJobId = this.#book.newJobIds[this.#jobsCreated] ?? 0n;
    const times = { time: this.#timeOn(account), now: this.#book.time };
    return { account, recipient, hold, original, job, referenceUsed, newHoldId, newJobId, ...times };
  }

  #account(userId: bigint, currency: string): Account {
    const account = this.#accounts.get(userId, currency) ?? this.#book.accounts.get(userId, currency);
    if (account === undefined) throw new Error(`the account ${currency} of user ${userId} was not locked`);
    return account;
  }

  /** The time of a row on this account: the group's, but never before the account's last one. */
  #timeOn({ time }: Account): bigint {
    return time > this.#book.time ? time : this.#book.time;
  }

  /** Adds the row of an entry. */
  #write(entry: Entry, note: Note, key: string | undefined, groupId: string | undefined): void {
    const before = this.#account(entry.userId, entry.currency);
    const account = evolve(before, entry, this.#timeOn(before));
    this.#move(account);
    if (entry.hold !== undefined) this.#set(this.#holds, entry.hold.id, entry.hold);
    const original = entry.refundedTransactionId === undefined ? undefined : this.#originals.get(entry.refundedTransactionId);
    if (original !== undefined) this.#set(this.#originals, original.id, { ...original, refunded: original.refunded + entry.amount });
    if (entry.type === "hold") {
      this.#holdsPlaced += 1;
      this.#undo?.push(() => (this.#holdsPlaced -= 1));
    }
    this.#undo?.push(() => this.#rows.pop());
    this.#rows.push({ entry, account, note, key, groupId });
  }

  #move(account: Account): void {
    const { userId, currency } = account;
    const before = this.#undo === undefined ? undefined : this.#accounts.get(userId, currency);
    this.#undo?.push(() => (before === undefined ? this.#accounts.delete(userId, currency) : this.#accounts.set(userId, currency, before)));
    this.#accounts.set(userId, currency, account);
  }

  #isTaken(reference: string): boolean {
    return this.#book.references.has(reference) || this.#references.has(reference);
  }

  #takeReference(command: Command): void {
    if (!command.note.uniqueReference) return;
    const taken = uniqueReferenceOf(command);
    this.#set(this.#references, referenceId(taken), taken);
  }

  #set<K, V>(map: Map<K, V>, id: K, value: V): void {
    const before = map.get(id);
    this.#undo?.push(() => (before === undefined ? map.delete(id) : map.set(id, before)));
    map.set(id, value);
  }

  #takeBack(): void {
    for (const step of this.#undo?.toReversed() ?? []) step();
  }
}

/** The values that are new or other than before. */
function changed<K, V>(now: ReadonlyMap<K, V>, before: ReadonlyMap<K, V>): V[] {
  return [...now].filter(([id, value]) => before.get(id) !== value).map(([, value]) => value);
}

/** What belongs to another user doesn't exist for this one. */
function ofUser<T extends { readonly userId: bigint }>(userId: bigint, found: T | undefined): T | undefined {
  return found?.userId === userId ? found : undefined;
}

function uniqueReferenceOf({ userId, kind, note }: Command): UniqueReference {
  return { userId, type: kinds[kind].type, reference: note.reference };
}
