// Background work that one instance does for all: whoever holds its lock. When it dies, another one takes over once the lease is over.

import type { Locks } from "../postgres/locks/locks.ts";

/** A lease lasts for two rounds and this much more without a sign of life; another instance takes over after that plus one of its own rounds. */
const GRACE_MS = 3000;

/** One instance's part in one kind of work. */
export class Leadership {
  readonly #locks: Locks;
  readonly #key: bigint;
  readonly #instanceId: string;
  readonly #ttlMs: number;
  /** The lease that it has, and when it was last extended. */
  #lease: { readonly token: bigint; readonly since: number } | undefined;

  constructor(locks: Locks, key: bigint, instanceId: string, pauseMs: number) {
    this.#locks = locks;
    this.#key = key;
    this.#instanceId = instanceId;
    this.#ttlMs = 2 * pauseMs + GRACE_MS;
  }

  /**
   * Does the round if it is this instance's turn; it is told the lease's token, which is another one if another instance may have led since. The
   * lease only saves work: a round must be safe on several instances at once.
   */
  async lead(round: (token: bigint) => Promise<unknown>): Promise<void> {
    const token = await this.#leads();
    if (token === undefined) return;
    // Of a round that takes long, the lease must not be over before its end. A heartbeat that fails is tried again by the next one.
    const heartbeat = setInterval(() => void this.#leads().catch(() => undefined), this.#ttlMs / 3);
    try {
      await round(token);
    } finally {
      clearInterval(heartbeat);
    }
  }

  /** Lets another instance take over at once. */
  async resign(): Promise<void> {
    if (this.#lease !== undefined) await this.#locks.release(this.#key, this.#lease.token);
    this.#lease = undefined;
  }

  /** The token of its lease; undefined: it is another's turn. */
  async #leads(): Promise<bigint | undefined> {
    const now = performance.now();
    if (this.#lease !== undefined && now - this.#lease.since < this.#ttlMs / 3) return this.#lease.token;
    const wanted = { key: this.#key, instanceId: this.#instanceId, ttl: BigInt(this.#ttlMs) * 1000n, requestId: "" };
    const held = this.#lease === undefined ? undefined : await this.#locks.heartbeat(this.#key, this.#lease.token, undefined);
    const lock = held ?? (await this.#locks.acquire(wanted));
    this.#lease = lock === undefined ? undefined : { token: lock.fencingToken, since: now };
    return this.#lease?.token;
  }
}
