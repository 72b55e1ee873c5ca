// What the first process and its workers tell each other, over the channel that Node gives to a child process.

import { setTimeout as delay } from "node:timers/promises";
import type { News } from "../service.ts";

/** The doors: each has one port for all workers. */
export type DoorName = "grpc" | "http";

/** What a worker is told. */
export type ToWorker =
  /** Together with a connection. */
  | { readonly kind: "connection"; readonly door: DoorName; readonly id: number }
  | { readonly kind: "news"; readonly news: readonly News[] };

/** What a worker tells. */
export type ToPrimary =
  /** It takes connections. */
  | { readonly kind: "serving" }
  /** It takes no more. */
  | { readonly kind: "draining" }
  /** It has got a connection, which is its own from now on. */
  | { readonly kind: "taken"; readonly id: number }
  /** It has got a connection that it doesn't want, since it is ending. It has read nothing from it. */
  | { readonly kind: "declined"; readonly id: number }
  /** One of its connections has ended. */
  | { readonly kind: "left"; readonly door: DoorName }
  | { readonly kind: "news"; readonly news: readonly News[] }
  /** It can't serve, for a reason that an operator can mend. */
  | { readonly kind: "problem"; readonly problem: string };

/** A message costs its sender, the first process and each receiver about 0.1 ms of CPU: each 10 ms, 2 % of a core for every process; each 25 ms, 1 %. */
const PAUSE_MS = 25;

/** Passes news on: at once where none was passed on lately, else all that came meanwhile together. */
export class Bulletin {
  readonly #send: (news: readonly News[]) => Promise<void>;
  readonly #news = new Set<News>();
  #busy = false;

  /** `send` resolves once the message is on its way: to a reader that stands still no more are sent. */
  constructor(send: (news: readonly News[]) => Promise<void>) {
    this.#send = send;
  }

  tell(news: News): void {
    this.#news.add(news);
    if (!this.#busy) void this.#passOn();
  }

  async #passOn(): Promise<void> {
    this.#busy = true;
    while (this.#news.size > 0) {
      const news = [...this.#news];
      this.#news.clear();
      await Promise.all([this.#send(news), delay(PAUSE_MS, undefined, { ref: false })]);
    }
    this.#busy = false;
  }
}
