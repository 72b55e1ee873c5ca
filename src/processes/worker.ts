// A worker's end of the channel to the process that started it: news and its share of the callers come from there.

import { closeSync, openSync } from "node:fs";
import { devNull } from "node:os";
import { Connections, writeAddress, type Listen } from "../servers/listener.ts";
import { Entrance } from "./entrance.ts";
import { Bulletin, MISSED_PULSES, PAUSE_MS, PULSE_MS } from "./channel.ts";
import type { DoorName, ToPrimary, ToWorker } from "./channel.ts";
import type { PortHandle } from "./port.ts";
import type { News, Surroundings } from "../service/surroundings.ts";

/** The process that started this one. */
export interface Primary {
  readonly surroundings: Surroundings;
  /** Resolves when it has gone without telling this one to end. */
  readonly gone: Promise<void>;
  /** Tells it something; returns when that is on its way. */
  readonly tell: (message: ToPrimary) => Promise<void>;
  /** Lets it go, so that this process can end. */
  readonly leave: () => void;
}

/** Whether this process was started by another one of ours, or by whoever else speaks to its children in that way. */
export function hasPrimary(): boolean {
  return process.send !== undefined;
}

/** Begins to listen to the process that started this one. */
export function joinPrimary(): Primary {
  const doors = new Doors();
  const listeners: ((news: News) => void)[] = [];
  process.on("message", (message: ToWorker, handle: unknown) => {
    if (message.kind === "news") message.news.forEach((news) => listeners.forEach((listener) => listener(news)));
    else doors.allow(message.door, message.ceiling, handle as PortHandle | undefined);
  });
  const gone = new Promise<void>((resolve) => (process.connected ? process.once("disconnect", resolve) : resolve()));
  const bulletin = new Bulletin((news) => tell({ kind: "news", news }));
  const pulse = setInterval(() => doors.pulse(), PULSE_MS).unref();
  return {
    surroundings: {
      grpc: listenAt("grpc", doors),
      http: listenAt("http", doors),
      tell: (news) => bulletin.tell(news),
      hear: (listener) => listeners.push(listener),
    },
    gone,
    tell,
    leave: () => {
      clearInterval(pulse);
      if (process.connected) process.disconnect();
    },
  };
}

/** That the other one is gone is told by `gone`. */
function tell(message: ToPrimary): Promise<void> {
  return new Promise((resolve) => process.send?.(message, undefined, undefined, () => resolve()));
}

/** A door whose port the first process has. */
function listenAt(door: DoorName, doors: Doors): Listen {
  return (address, limit) => {
    const connections = new Connections(limit);
    return Promise.resolve({
      address: writeAddress(address),
      open: (welcome) => {
        const deaf = (errno: number): void => void tell({ kind: "deaf", door, errno });
        const told = { deaf, turned: () => doors.tell(), left: () => doors.tellSoon() };
        doors.open(door, new Entrance(connections, { welcome, ...told }));
      },
      close: () => {
        doors.close(door);
        return connections.gone();
      },
      cut: () => connections.cut(),
    });
  };
}

/** A worker that can't open so many files more takes no callers; it takes some again when it can open twice as many. */
const FREE_DESCRIPTORS = 8;

/** The doors of this process that are open, and what the first process knows of them. */
class Doors {
  readonly #open = new Map<DoorName, Entrance>();
  #isTelling = false;
  #hasChanged = false;
  #soon: NodeJS.Timeout | undefined;
  /** Of the first process, since it said something. */
  #missedPulses = 0;
  /** There are no descriptors to accept with. */
  #isShort = false;

  open(door: DoorName, entrance: Entrance): void {
    this.#open.set(door, entrance);
  }

  close(door: DoorName): void {
    this.#open.get(door)?.shut();
    this.#open.delete(door);
  }

  allow(door: DoorName, ceiling: number, handle: PortHandle | undefined): void {
    this.#missedPulses = 0;
    const entrance = this.#open.get(door);
    // It was on its way when the door was closed.
    if (entrance === undefined || this.#isShort) handle?.close();
    else entrance.allow(ceiling, handle);
  }

  /** Tells how it stands, one message at a time: to a reader that stands still no more are sent. */
  tell(): void {
    clearTimeout(this.#soon);
    this.#soon = undefined;
    this.#hasChanged = true;
    if (!this.#isTelling) void this.#tellAll();
  }

  /** The same, together with what else happens soon. */
  tellSoon(): void {
    this.#soon ??= setTimeout(() => this.tell(), PAUSE_MS).unref();
  }

  /** To be called again and again. */
  pulse(): void {
    this.#missedPulses += 1;
    if (this.#open.size > 0) this.#mindDescriptors();
    const isAlone = this.#missedPulses > MISSED_PULSES;
    if (isAlone && !this.#isShort) for (const entrance of this.#open.values()) entrance.allowAll();
    this.tell();
  }

  async #tellAll(): Promise<void> {
    this.#isTelling = true;
    while (this.#hasChanged) {
      this.#hasChanged = false;
      const doors = Object.fromEntries([...this.#open].map(([door, { state }]) => [door, state]));
      await tell({ kind: "pulse", doors });
    }
    this.#isTelling = false;
  }

  /**
   * Out of descriptors, it would go on to accept: libuv keeps one back, by which callers are accepted and cut off at
   * once, and so faster than others can serve them. So it leaves them to the others until it has some again.
   */
  #mindDescriptors(): void {
    const isShort = !areFree(this.#isShort ? 2 * FREE_DESCRIPTORS : FREE_DESCRIPTORS);
    if (isShort === this.#isShort) return;
    this.#isShort = isShort;
    if (isShort) for (const entrance of this.#open.values()) entrance.shut();
    void tell({ kind: isShort ? "draining" : "serving" });
  }
}

/** Whether this process can open so many files more. */
function areFree(count: number): boolean {
  const opened: number[] = [];
  try {
    while (opened.length < count) opened.push(openSync(devNull, "r"));
    return true;
  } catch {
    return false;
  } finally {
    opened.forEach(closeSync);
  }
}
