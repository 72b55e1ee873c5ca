// Where a server's callers come from: a port of this process, unless whoever starts the service has another source of connections.

import { createServer, type AddressInfo, type Server, type Socket } from "node:net";
import type { Address } from "../settings/environment.ts";

/** A source of connections, such as a port that is taken. */
export interface Listener {
  /** Where callers find it: the port that was taken, if 0 was asked for. */
  readonly address: string;
  /** Begins to hand over connections: first those that came before, which have waited. */
  readonly open: (welcome: (connection: Socket) => void) => void;
  /** Lets nobody in any more; returns when all who are inside have gone. */
  readonly close: () => Promise<void>;
  /** Cuts off those who are still inside. */
  readonly cut: () => void;
}

/** Takes a place where callers find us. Whoever comes before it is opened waits, or can't connect yet. */
export type Listen = (address: Address, limit: CallerLimit) => Promise<Listener>;

/** How many callers may be inside at the same time. */
export interface CallerLimit {
  readonly most: number;
  /** One more came, and was turned away. */
  readonly refused: () => void;
}

/** So many callers may come before any of them is let in; as many as Linux allows unless it is told otherwise. */
export const BACKLOG = 4096;

/** Listens on a port of this process. */
export const listenHere: Listen = async (address, limit) => {
  const connections = new Connections(limit);
  const waiting = new Waiting();
  const server = createServer({ noDelay: true }, (connection) => {
    if (connections.admit(connection)) waiting.enter(connection);
  });
  // Accepting fails for want of descriptors: it is tried again when the next one comes.
  server.on("error", ignore);
  const taken = await listenOn(server, address);
  const close = (): Promise<void> => {
    server.close();
    return connections.gone();
  };
  return { address: taken, open: (welcome) => waiting.open(welcome), close, cut: () => connections.cut() };
};

/** Callers who came before anybody welcomes them. What they say meanwhile stays in their sockets' buffers. */
class Waiting {
  #waiting: Socket[] = [];
  #welcome = (connection: Socket): void => {
    // One that breaks while it waits has nobody else who hears of it.
    connection.on("error", ignore);
    this.#waiting.push(connection);
  };

  enter(connection: Socket): void {
    this.#welcome(connection);
  }

  open(welcome: (connection: Socket) => void): void {
    this.#welcome = welcome;
    for (const connection of this.#waiting.splice(0).filter(({ destroyed }) => !destroyed)) {
      connection.off("error", ignore);
      welcome(connection);
    }
  }
}

const ignore = (): void => undefined;

/** Has a server listen, and answers where. */
async function listenOn(server: Server, { host, port }: Address): Promise<string> {
  await new Promise<void>((resolve, reject) => server.once("error", reject).listen(port, host, BACKLOG, resolve));
  return writeAddress({ host, port: (server.address() as AddressInfo).port });
}

/** An address as it is written. */
export function writeAddress({ host, port }: Address): string {
  return `${host.includes(":") ? `[${host}]` : host}:${port}`;
}

/** The connections that are open. */
export class Connections {
  readonly #open = new Set<Socket>();
  readonly #waiting: (() => void)[] = [];
  readonly #limit: CallerLimit;

  constructor(limit: CallerLimit) {
    this.#limit = limit;
  }

  get size(): number {
    return this.#open.size;
  }

  /** Lets one in, or turns it away if all places are taken; answers whether it is in. */
  admit(connection: Socket): boolean {
    if (this.#open.size >= this.#limit.most) {
      connection.destroy();
      this.#limit.refused();
      return false;
    }
    this.#open.add(connection);
    connection.once("close", () => {
      this.#open.delete(connection);
      if (this.#open.size === 0) for (const resolve of this.#waiting.splice(0)) resolve();
    });
    return true;
  }

  /** Returns when there is none. */
  async gone(): Promise<void> {
    if (this.#open.size > 0) await new Promise<void>((resolve) => this.#waiting.push(resolve));
  }

  cut(): void {
    for (const connection of this.#open) connection.destroy();
  }
}
