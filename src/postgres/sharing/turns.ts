// Turns: long work of many, a part at a time. Whoever has a place reads a part and tells it; the others wait, in order.
// To tell a part takes several turns of the event loop, since a stream takes only so much at once: with one place, what
// those who wait for it do in a turn of the loop is as little as if there were one of them. Between two parts they
// rest, the longer the busier the process is with all else.

import { performance } from "node:perf_hooks";
import { setImmediate as immediate, setTimeout as delay } from "node:timers/promises";

/** How those who take turns leave time to others. */
export interface Manners {
  /** For how long a place is kept by one who reads, and by one who tells. Who is slow must not keep others waiting. */
  readonly patience: () => Promise<unknown>;
  /** Rests after something that took so long, in milliseconds. */
  readonly rest: (tookMs: number) => Promise<unknown>;
  /** Whether no rest is due, so that the next part may be read while one is told. */
  readonly isFree: () => boolean;
}

/** The places. */
export class Turns {
  readonly manners: Manners;
  /** Who waits for one. */
  readonly #waiting = new Set<() => void>();
  #free: number;

  constructor(places: number, manners: Manners) {
    this.#free = places;
    this.manners = manners;
  }

  /** Whether somebody waits. */
  get awaited(): boolean {
    return this.#waiting.size > 0;
  }

  /** One who takes turns, until the signal. */
  taker(signal: AbortSignal): Taker {
    return new Taker(this, signal);
  }

  /** Waits for a place. */
  async enter(signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    if (this.#free > 0) {
      this.#free -= 1;
      return;
    }
    const turn = Promise.withResolvers<void>();
    const abort = (): void => {
      // Who gets a place in this very moment keeps it, and leaves it as one who had it.
      if (this.#waiting.delete(turn.resolve)) turn.reject(signal.reason);
    };
    this.#waiting.add(turn.resolve);
    signal.addEventListener("abort", abort, { once: true });
    try {
      await turn.promise;
    } finally {
      signal.removeEventListener("abort", abort);
    }
  }

  /** Gives a place to the next one. */
  leave(): void {
    const [next] = this.#waiting;
    if (next === undefined) {
      this.#free += 1;
      return;
    }
    this.#waiting.delete(next);
    next();
  }
}

/** One who takes turns. */
export class Taker {
  readonly #turns: Turns;
  readonly #signal: AbortSignal;
  /** The place that it has, and since when it tells what it has read; undefined: it reads. */
  #place: { readonly tellsSince: number | undefined } | undefined;

  constructor(turns: Turns, signal: AbortSignal) {
    this.#turns = turns;
    this.#signal = signal;
  }

  /** Whether it may read the next part while it tells one: nobody waits, and no rest is due. */
  get mayReadAhead(): boolean {
    return this.#place !== undefined && !this.#turns.awaited && this.#turns.manners.isFree();
  }

  /** Reads a part when it is its turn. It keeps its place while it tells the part. */
  async take<T>(read: () => T | Promise<T>): Promise<T> {
    this.#signal.throwIfAborted();
    if (!this.mayReadAhead) {
      this.leave();
      await this.#turns.enter(this.#signal);
    }
    const place = this.#keep(undefined);
    try {
      return await read();
    } finally {
      if (this.#place === place) this.#keep(performance.now());
    }
  }

  /** It has told all, for now. */
  leave(): void {
    const place = this.#place;
    this.#place = undefined;
    if (place === undefined) return;
    const { tellsSince = performance.now() } = place;
    void this.#turns.manners.rest(performance.now() - tellsSince).then(() => this.#turns.leave());
  }

  /** Has the place until it leaves, or patience is over. */
  #keep(tellsSince: number | undefined): object {
    const place = { tellsSince };
    this.#place = place;
    void this.#turns.manners.patience().then(() => this.#place === place && this.leave());
    return place;
  }
}

/** No rest; but the event loop gets to all else between two parts. */
export function oneEachTurn(): Manners {
  return { patience: () => immediate(), rest: () => Promise.resolve(), isFree: () => true };
}

/** Who takes longer to read a part, or to tell it, is slow. */
const PATIENCE_MS = 50;
/** While others are busy, a place is used for so much of the time, most of which is still theirs. */
const LEAST_SHARE = 1 / 12;
/** Others that take so much of the process's time are busy; the less they do, the shorter is the rest, down to none. */
const BUSY = 0.3;
const QUIET = 0.1;
/** How busy others are shows while those who take turns rest. Where they need not, they do so for so long, so often. */
const LOOK_MS = 2;
const LOOK_EACH_MS = 100;
/** What is seen counts by how long it was looked at, beside what was seen before. */
const MEMORY_MS = 20;

/** Rests by how busy the event loop is with all else. For one place: nobody else may tell anything while one rests. */
export function restWhileBusy(): Manners {
  let others = 0;
  let lookedAt = -LOOK_EACH_MS;
  const mustLook = (): boolean => performance.now() - lookedAt >= LOOK_EACH_MS;
  const restOf = (tookMs: number): number => {
    const busy = Math.max(0, Math.min(1, (others - QUIET) / (BUSY - QUIET)));
    return tookMs * (1 / Math.max(LEAST_SHARE, 1 - busy) - 1);
  };
  return {
    patience: () => delay(PATIENCE_MS, undefined, { ref: false }),
    isFree: () => !mustLook() && restOf(LOOK_MS) < LOOK_MS / 2,
    rest: async (tookMs) => {
      const restMs = Math.max(restOf(tookMs), mustLook() ? LOOK_MS : 0);
      if (restMs < LOOK_MS / 2) return;
      // What was told last leaves by then.
      await immediate();
      await immediate();
      const from = performance.eventLoopUtilization();
      await delay(restMs, undefined, { ref: false });
      lookedAt = performance.now();
      const { active, idle } = performance.eventLoopUtilization(from);
      const seenMs = active + idle;
      if (seenMs > 0) others += (active / seenMs - others) * (seenMs / (seenMs + MEMORY_MS));
    },
  };
}
