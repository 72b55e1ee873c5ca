// Those who wait for locks, and those who watch them: one look at the database serves all of a process.

import type { Lock } from "../../domain/lock.ts";
import type { Acquire, Locks } from "./locks.ts";
import { Poller } from "../sharing/poller.ts";

/** How a wait for a lock ended: with the lease, or with another one's. */
export interface Waited {
  readonly won: boolean;
  readonly lock: Lock;
}

/** Waits for locks, for all callers of one process. */
export class LockWaits {
  readonly #locks: Locks;
  readonly #poller: Poller<bigint, Lock>;

  constructor(locks: Locks, pollMs: number) {
    this.#locks = locks;
    this.#poller = new Poller((keys) => locks.read(keys), pollMs);
  }

  /** A lock was released: no need to wait for the next poll. */
  wake(): void {
    this.#poller.wake();
  }

  /** The lock's state at each look. */
  watch(key: bigint, signal: AbortSignal): AsyncGenerator<Lock> {
    return this.#poller.watch(key, signal);
  }

  /** Takes a lock at once, or as soon as it is free, until the signal ends the wait. */
  async acquire(wanted: Acquire, signal: AbortSignal): Promise<Waited> {
    const atOnce = await this.#try(wanted);
    if (atOnce.won || signal.aborted) return atOnce;
    let last = atOnce.lock;
    for await (const lock of this.#poller.watch(wanted.key, signal)) {
      last = lock;
      if (lock.held) continue;
      const tried = await this.#try(wanted);
      if (tried.won) return tried;
    }
    return { won: false, lock: last };
  }

  async #try(wanted: Acquire): Promise<Waited> {
    const won = await this.#locks.acquire(wanted);
    if (won !== undefined) return { won: true, lock: won };
    const [lock] = await this.#locks.read([wanted.key]);
    if (lock === undefined) throw new Error("a lock was not read");
    return { won: false, lock };
  }
}
