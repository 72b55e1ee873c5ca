// The queues before the database: calls that come while a group is being committed make up the next group.
//
// A lane commits one group at a time. An idle one starts at once with what is there, so a lone call waits for nothing; while it
// commits, its queue grows, and the next group takes all of it up to a bound (over it: see queue.ts). Nothing sleeps to fill a group.

import type { Command } from "../../domain/journal/command.ts";
import { Failure } from "../../domain/failure.ts";
import type { Outcome } from "../../domain/journal/transaction.ts";
import type { Committed } from "./commit.ts";
import { Undecided, type Source, type Sourced } from "./order.ts";
import { halfOf, Queue, type Queued } from "./queue.ts";
import type { Submission } from "../../domain/journal/submission.ts";

/** Commits one group. */
export interface GroupCommitter {
  /** Answers each write once, by its place; those that are answered together at once. */
  commit(group: readonly Sourced[], answer: (answers: readonly (Committed | undefined)[]) => void): Promise<void>;
}

interface Waiting extends Queued, Sourced {
  /** Whose lane it is in: see `#enter`. */
  readonly whose: bigint | Source;
  /** In milliseconds of `performance.now()`: not started after it. */
  readonly deadline: number;
  readonly resolve: (outcome: Outcome) => void;
  readonly reject: (error: Error) => void;
}

interface Lane {
  readonly committer: GroupCommitter;
  readonly queue: Queue<Waiting>;
  working: Promise<void> | undefined;
}

/** All lanes of one instance. */
export class Lanes {
  readonly #lanes: readonly Lane[];
  readonly #groupLimit: number;
  readonly #queueLimit: number;
  /** Which lane has the writes under way of a user, or of a source whose writes are in line, and how many they are. */
  readonly #underWay = new Map<bigint | Source, { readonly lane: Lane; count: number }>();
  #queued = 0;
  #taken = Promise.withResolvers<void>();
  #closed = false;

  constructor(committers: readonly GroupCommitter[], limits: { readonly group: number; readonly queue: number }) {
    this.#lanes = committers.map((committer) => ({ committer, queue: new Queue(), working: undefined }));
    this.#groupLimit = limits.group;
    this.#queueLimit = limits.queue;
  }

  get status(): { readonly lanes: number; readonly queued: number; readonly limit: number } {
    return { lanes: this.#lanes.length, queued: this.#queued, limit: this.#queueLimit };
  }

  /**
   * For writes that can wait until there is room: undefined if there is, else resolves when there may be. They leave half of the queue to calls, which
   * can't wait.
   */
  get full(): Promise<void> | undefined {
    return this.#queued < this.#queueLimit / 2 ? undefined : this.#taken.promise;
  }

  /**
   * Queues submissions that belong together, in this order, in one lane: that of the first one's user, while calls of that user are under way, so
   * that the writes of a user keep their order; or that of their source, if its writes are in line. Those of different users may be committed in another
   * order. Each is answered by itself, once it is durable; of a source's, none is tried behind one with a user in common that has no outcome.
   * Throws `Failure` if there is no room for all of them.
   */
  submit(submissions: readonly Submission[], deadline: number, source?: Source): readonly Promise<Outcome>[] {
    const [first] = submissions;
    if (first === undefined) return [];
    if (this.#closed) throw new Failure("SHUTTING_DOWN");
    let weight = 0;
    for (const submission of submissions) weight += weightOf(submission);
    if (this.#queued + weight > this.#queueLimit) throw new Failure("OVERLOADED");
    const whose = source?.inLine === true ? source : first.userId;
    const lane = this.#enter(whose, first.userId, submissions.length);
    this.#queued += weight;
    const outcomes = submissions.map(
      (submission) =>
        new Promise<Outcome>((resolve, reject) => {
          lane.queue.add({ submission, weight: weightOf(submission), half: halfOf(submission), whose, source, deadline, resolve, reject });
        }),
    );
    // A source's first group is all that comes in the same moment, not its first write alone.
    if (lane.working === undefined) this.#start(lane, source === undefined ? this.#work(lane) : Promise.resolve().then(() => this.#work(lane)));
    return outcomes;
  }

  #start(lane: Lane, work: Promise<void>): void {
    lane.working = this.#finish(lane, work);
  }

  /** The lane is idle again once the work is done. That may be at once: where all that was queued came too late, nothing is waited for. */
  async #finish(lane: Lane, work: Promise<void>): Promise<void> {
    await work;
    lane.working = undefined;
    // It may have come in the same moment.
    if (lane.queue.length > 0) this.#start(lane, this.#work(lane));
  }

  /**
   * The lane of writes in line that are under way, or of a user's that are; else the first idle one, whose session is the warmest (calls one by one
   * that change between two sessions take a tenth longer); else one by the user's number.
   */
  #enter(whose: bigint | Source, userId: bigint, calls: number): Lane {
    const underWay = this.#underWay.get(whose);
    if (underWay !== undefined) underWay.count += calls;
    const lane = underWay?.lane ?? this.#underWay.get(userId)?.lane ?? this.#lanes.find(({ working }) => working === undefined) ?? this.#byNumber(userId);
    if (underWay === undefined) this.#underWay.set(whose, { lane, count: calls });
    return lane;
  }

  #byNumber(userId: bigint): Lane {
    const lane = this.#lanes[Number(BigInt.asUintN(32, userId) % BigInt(this.#lanes.length))];
    if (lane === undefined) throw new Error("there is no lane");
    return lane;
  }

  #leave(whose: bigint | Source): void {
    const underWay = this.#underWay.get(whose);
    if (underWay === undefined) return;
    underWay.count -= 1;
    if (underWay.count === 0) this.#underWay.delete(whose);
  }

  /** Takes no more, and returns when all that was taken is answered. */
  async close(): Promise<void> {
    this.#closed = true;
    for (const lane of this.#lanes) while (lane.working !== undefined) await lane.working;
  }

  async #work(lane: Lane): Promise<void> {
    while (lane.queue.length > 0) {
      const taken = lane.queue.take(this.#groupLimit);
      const now = performance.now();
      const undecided = new Undecided();
      const group = taken.filter((waiting) => {
        const isBehind = undecided.any && undecided.precede(waiting);
        const failure = waiting.deadline <= now ? "DEADLINE_PASSED" : isBehind ? "NOT_TRIED" : undefined;
        if (failure !== undefined) this.#fail(waiting, new Failure(failure), undecided);
        return failure === undefined;
      });
      this.#dropBehind(undecided, lane);
      // Behind the failures: whoever waits for room hears of those first.
      this.#makeRoom(taken);
      if (group.length > 0) await this.#commit(group, lane, undecided);
    }
  }

  #makeRoom(taken: readonly Waiting[]): void {
    for (const { weight } of taken) this.#queued -= weight;
    this.#taken.resolve();
    this.#taken = Promise.withResolvers();
  }

  async #commit(group: readonly Waiting[], lane: Lane, undecided: Undecided): Promise<void> {
    const open: (Waiting | undefined)[] = [...group];
    const answer = (answers: readonly (Committed | undefined)[]): void => {
      for (const [place, committed] of answers.entries()) {
        const waiting = open[place];
        if (waiting === undefined || committed === undefined) continue;
        open[place] = undefined;
        if (committed instanceof Error) this.#fail(waiting, committed, undecided);
        else this.#answer(waiting, committed);
      }
      this.#dropBehind(undecided, lane);
    };
    try {
      await lane.committer.commit(group, answer);
    } catch (error) {
      answer(open.map(() => (error instanceof Error ? error : new Error(String(error)))));
    }
  }

  /** Drops what waits behind writes of the same source that ended without an outcome. At once: what comes later may have been sent in the knowledge of that. */
  #dropBehind(undecided: Undecided, { queue }: Lane): void {
    if (!undecided.any) return;
    // Those that are dropped are kept apart: what is left may be before one of them.
    const dropping = undecided.copy();
    const dropped = queue.remove((waiting) => {
      const isBehind = dropping.precede(waiting);
      if (isBehind) this.#fail(waiting, new Failure("NOT_TRIED"), dropping);
      return isBehind;
    });
    this.#makeRoom(dropped);
  }

  #answer({ whose, resolve }: Waiting, outcome: Outcome): void {
    this.#leave(whose);
    resolve(outcome);
  }

  #fail(waiting: Waiting, error: Error, undecided: Undecided): void {
    this.#leave(waiting.whose);
    undecided.add(waiting);
    waiting.reject(error);
  }
}

/** Text of this many characters counts as much as a write. */
const CHARACTERS_PER_WEIGHT = 4096;

/** How many writes a submission counts for: what bounds the memory of the queue, and the time of a group. */
export function weightOf({ commands }: Submission): number {
  let characters = 0;
  for (const command of commands) characters += charactersOf(command);
  return commands.length + Math.floor(characters / CHARACTERS_PER_WEIGHT);
}

function charactersOf(command: Command): number {
  const { description, metadata } = command.note;
  let characters = description.length;
  for (const [key, value] of metadata) characters += key.length + value.length;
  return command.kind === "create_job" ? characters + command.prompt.length + command.parameters.length : characters;
}
