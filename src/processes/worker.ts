// A worker's end of the channel to the process that started it: news and its share of the callers come from there.

import { closeSync, openSync } from "node:fs";
import { devNull } from "node:os";
import { Connections, writeAddress, type Listen } from "../servers/listener.ts";
import { Entrance } from "./entrance.ts";
import { NewsQueue, MISSED_PULSES, PAUSE_MS, PULSE_MS } from "./channel.ts";
import type { PortName, ToPrimary, ToWorker } from "./channel.ts";
import type { PortHandle } from "./port.ts";
import type { News, Host } from "../service/host.ts";

/** The process that started this one. */
export interface Primary {
  readonly host: Host;
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
  const ports = new Ports();
  const listeners: ((news: News) => void)[] = [];
  process.on("message", (message: ToWorker, handle: unknown) => {
    if (message.kind === "news") message.news.forEach((news) => listeners.forEach((listener) => listener(news)));
    else ports.allow(message.port, message.ceiling, handle as PortHandle | undefined);
  });
  const gone = new Promise<void>((resolve) => (process.connected ? process.once("disconnect", resolve) : resolve()));
  const newsQueue = new NewsQueue((news) => tell({ kind: "news", news }));
  const pulse = setInterval(() => ports.pulse(), PULSE_MS).unref();
  return {
    host: {
      grpc: listenAt("grpc", ports),
      http: listenAt("http", ports),
      tell: (news) => newsQueue.tell(news),
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

/** Listens at a port that the first process has taken. */
function listenAt(port: PortName, ports: Ports): Listen {
  return (address, limit) => {
    const connections = new Connections(limit);
    return Promise.resolve({
      address: writeAddress(address),
      open: (welcome) => {
        const deaf = (errno: number): void => void tell({ kind: "deaf", port, errno });
        const told = { deaf, turned: () => ports.tell(), left: () => ports.tellSoon() };
        ports.open(port, new Entrance(connections, { welcome, ...told }));
      },
      close: () => {
        ports.close(port);
        return connections.gone();
      },
      cut: () => connections.cut(),
    });
  };
}

/** A worker that can't open so many files more takes no callers; it takes some again when it can open twice as many. */
const FREE_DESCRIPTORS = 8;

/** The ports of this process that are open, and what the first process knows of them. */
class Ports {
  readonly #open = new Map<PortName, Entrance>();
  #isTelling = false;
  #hasChanged = false;
  #soon: NodeJS.Timeout | undefined;
  /** Of the first process, since it said something. */
  #missedPulses = 0;
  /** There are no descriptors to accept with. */
  #isShort = false;

  open(port: PortName, entrance: Entrance): void {
    this.#open.set(port, entrance);
  }

  close(port: PortName): void {
    this.#open.get(port)?.shut();
    this.#open.delete(port);
  }

  allow(port: PortName, ceiling: number, handle: PortHandle | undefined): void {
    this.#missedPulses = 0;
    const entrance = this.#open.get(port);
    // It was on its way when the port was closed.
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
      const ports = Object.fromEntries([...this.#open].map(([port, { state }]) => [port, state]));
      await tell({ kind: "pulse", ports });
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
