// What the first process and its workers tell each other, over the channel that Node gives to a child process.

import { setTimeout as delay } from "node:timers/promises";
import type { News } from "../service/host.ts";

/** The two ports: each is one for all workers. */
export type PortName = "grpc" | "http";

/** How a worker stands at a port. */
export interface PortState {
  /** How many callers are inside. */
  readonly connections: number;
  /** How many handles of the port it has, together with the one that it listens on. */
  readonly handles: number;
  readonly listens: boolean;
}

/** So many handles of a port a worker has: one to listen on, and one to listen on again, once it has stopped. */
export const HANDLES = 2;

/** How often each worker tells how it stands, whether anything has changed or not, and the first process looks. */
export const PULSE_MS = 200;
/**
 * Whoever was silent for so many pulses is not reckoned with. Each process counts pulses of its own rather than time:
 * while it stands still itself, it counts none.
 */
export const MISSED_PULSES = 3;

/** What a worker is told. */
export type ToWorker =
  /** It may listen as long as it has fewer callers than that. With a handle of the port, if it lacks one. */
  | { readonly kind: "ceiling"; readonly port: PortName; readonly ceiling: number }
  | { readonly kind: "news"; readonly news: readonly News[] };

/** What a worker tells. */
export type ToPrimary =
  /** It can take callers. */
  | { readonly kind: "serving" }
  /** It can take no more. */
  | { readonly kind: "draining" }
  /** It is alive, and stands like this at its ports; none while it starts or ends. */
  | { readonly kind: "pulse"; readonly ports: { readonly [port in PortName]?: PortState } }
  /** It can't listen on a port, by this number of an error. */
  | { readonly kind: "deaf"; readonly port: PortName; readonly errno: number }
  | { readonly kind: "news"; readonly news: readonly News[] }
  /** It can't serve, for a reason that an operator can mend. */
  | { readonly kind: "problem"; readonly problem: string };

/** A message costs its sender, the first process and each receiver about 0.1 ms of CPU: each 10 ms, 2 % of a core for every process; each 25 ms, 1 %. */
export const PAUSE_MS = 25;

/** Passes news on: at once where none was passed on lately, else all that came meanwhile together. */
export class NewsQueue {
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
