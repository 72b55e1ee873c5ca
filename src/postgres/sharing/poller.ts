// Things that many in a process watch, read by one statement for all of them, again and again while anybody watches.

import { setTimeout as delay } from "node:timers/promises";

interface Watcher<V> {
  readonly seen: (value: V) => void;
  readonly failed: (error: unknown) => void;
}

/** Reads values by their keys; one for each key, in their order. */
export type ReadMany<K, V> = (keys: readonly K[]) => Promise<readonly V[]>;

/** One reader for all watchers of a process. */
export class Poller<K, V> {
  readonly #read: ReadMany<K, V>;
  readonly #pollMs: number;
  readonly #watchers = new Map<K, Set<Watcher<V>>>();
  #polling = false;
  #wake = Promise.withResolvers<void>();

  constructor(read: ReadMany<K, V>, pollMs: number) {
    this.#read = read;
    this.#pollMs = pollMs;
  }

  /** Something may have changed: no need to wait for the next poll. */
  wake(): void {
    this.#wake.resolve();
  }

  /** The value at each look, the first one at once, until the signal ends it. Looks that come while one is consumed are left out, but for the last. */
  async *watch(key: K, signal: AbortSignal): AsyncGenerator<V> {
    let latest: { readonly value: V } | { readonly error: unknown } | undefined;
    let news = Promise.withResolvers<void>();
    const told = (event: typeof latest): void => {
      latest = event;
      news.resolve();
    };
    const watcher: Watcher<V> = { seen: (value) => told({ value }), failed: (error) => told({ error }) };
    const stop = (): void => news.resolve();
    signal.addEventListener("abort", stop, { once: true });
    this.#enter(key, watcher);
    try {
      while (!signal.aborted) {
        await news.promise;
        news = Promise.withResolvers();
        const event = latest;
        latest = undefined;
        if (event === undefined || signal.aborted) continue;
        if ("error" in event) throw event.error;
        yield event.value;
      }
    } finally {
      signal.removeEventListener("abort", stop);
      this.#leave(key, watcher);
    }
  }

  #enter(key: K, watcher: Watcher<V>): void {
    const others = this.#watchers.get(key) ?? new Set();
    this.#watchers.set(key, others.add(watcher));
    this.wake();
    if (!this.#polling) void this.#poll();
  }

  #leave(key: K, watcher: Watcher<V>): void {
    const others = this.#watchers.get(key);
    others?.delete(watcher);
    if (others?.size === 0) this.#watchers.delete(key);
  }

  async #poll(): Promise<void> {
    this.#polling = true;
    while (this.#watchers.size > 0) {
      await Promise.race([this.#wake.promise, delay(this.#pollMs, undefined, { ref: false })]);
      this.#wake = Promise.withResolvers();
      const keys = [...this.#watchers.keys()];
      if (keys.length === 0) break;
      try {
        const values = await this.#read(keys);
        keys.forEach((key, index) => {
          for (const { seen } of this.#watchers.get(key) ?? []) seen(values[index] as V);
        });
      } catch (error) {
        for (const { failed } of [...this.#watchers.values()].flatMap((watchers) => [...watchers])) failed(error);
      }
    }
    this.#polling = false;
  }
}
