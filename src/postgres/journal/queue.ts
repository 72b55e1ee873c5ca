// The writes that wait in a lane, and which of them make up its next group.
//
// Large groups meet: two of 500 writes on 100,000 accounts have two or three in common, and then one waits for the other's locks nearly from its own first
// lock until the other's commit. So where more waits than a group takes, it takes what belongs to one half of all users, and the next one what belongs to
// the other half. Lanes need not agree on anything for that, nor do processes: one that waited for another in the same half is behind it from then on, and
// they stay out of step. (Figures in docs/performance.md.)

import type { Submission } from "../../domain/journal/submission.ts";

/** Of a half with fewer writes there is no group of its own: each costs 0.85 ms of CPU as such. */
const LEAST = 100;
/** The writes of so many groups are looked through for those of one half: not all of a queue that may have a million. */
const SEEN = 4;

/** What a queue must know of a write. */
export interface Queued {
  /** How much it counts for. */
  readonly weight: number;
  /** The half of all users that those of its accounts belong to; undefined: both. */
  readonly half: Half | undefined;
}

/** One half of all users. */
export type Half = 0 | 1;

/** Waiting writes, in the order in which they came. */
export class Queue<W extends Queued> {
  #waiting: W[] = [];
  /** Whose turn it is, where they are many. */
  #turn: Half = 0;

  get length(): number {
    return this.#waiting.length;
  }

  add(write: W): void {
    this.#waiting.push(write);
  }

  /**
   * The next group: no more than this weight together, but one write in any case. Of two writes that share an account, the one that came first is in the
   * same group or an earlier one.
   */
  take(limit: number): readonly W[] {
    const seen = this.#waiting.length > limit ? this.#beforeOneOfBoth(SEEN * limit) : [];
    const halves = [seen.filter(({ half }) => half === 0), seen.filter(({ half }) => half === 1)] as const;
    if (Math.min(halves[0].length, halves[1].length) < LEAST) return this.#waiting.splice(0, fitting(this.#waiting, limit));
    this.#turn = this.#turn === 0 ? 1 : 0;
    const group = halves[this.#turn].slice(0, fitting(halves[this.#turn], limit));
    const taken = new Set(group);
    // Not by splice: what is left may be more than a call can have arguments.
    this.#waiting = seen.filter((write) => !taken.has(write)).concat(this.#waiting.slice(seen.length));
    return group;
  }

  /** Takes out those of which this is true, wherever they are. Each is asked about in turn. */
  remove(isOut: (write: W) => boolean): readonly W[] {
    const out: W[] = [];
    this.#waiting = this.#waiting.filter((write) => {
      const goes = isOut(write);
      if (goes) out.push(write);
      return !goes;
    });
    return out;
  }

  /** The first ones, at most so many, up to one that belongs to both halves: that waits for all before it, and all behind it wait for it. */
  #beforeOneOfBoth(most: number): readonly W[] {
    const first = this.#waiting.slice(0, most);
    const ofBoth = first.findIndex(({ half }) => half === undefined);
    return ofBoth < 0 ? first : first.slice(0, ofBoth);
  }
}

/** How many of the first ones weigh no more than this together; one in any case. */
function fitting(writes: readonly Queued[], limit: number): number {
  let weight = 0;
  const over = writes.findIndex((write, place) => (weight += write.weight) > limit && place > 0);
  return over < 0 ? writes.length : over;
}

/** The half of all users that those of a submission's accounts belong to; undefined: both. */
export function halfOf({ commands }: Submission): Half | undefined {
  let common: Half | undefined;
  for (const command of commands) {
    const half = halfOfUser(command.userId);
    if ((common ??= half) !== half) return undefined;
    if (command.kind === "transfer" && halfOfUser(command.toUserId) !== half) return undefined;
  }
  return common;
}

/** A bit that depends on all of the number's lower 32: the numbers of a service's users may all be even. (2^32 by the golden ratio, as in Fibonacci hashing.) */
function halfOfUser(userId: bigint): Half {
  return Math.imul(Number(BigInt.asUintN(32, userId)), 0x9e37_79b1) < 0 ? 1 : 0;
}
