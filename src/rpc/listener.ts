// Where a door's callers come from: a port of this process, unless whoever starts the service has another source of connections.

import { createServer, type AddressInfo, type Server, type Socket } from "node:net";
import type { Address } from "../config.ts";

/** A source of connections. */
export interface Listener {
  /** Where callers find it: the port that was taken, if 0 was asked for. */
  readonly address: string;
  /** Lets nobody in any more; returns when all who are inside have gone. */
  readonly close: () => Promise<void>;
  /** Cuts off those who are still inside. */
  readonly cut: () => void;
}

/** Begins to hand over connections. */
export type Listen = (address: Address, welcome: (connection: Socket) => void) => Promise<Listener>;

/** Listens on a port of this process. */
export const listenHere: Listen = async (address, welcome) => {
  const connections = new Connections();
  const server = createServer({ noDelay: true }, (connection) => {
    connections.add(connection);
    welcome(connection);
  });
  const taken = await listenOn(server, address);
  const close = (): Promise<void> => {
    server.close();
    return connections.gone();
  };
  return { address: taken, close, cut: () => connections.cut() };
};

/** Has a server listen, and answers where. */
export async function listenOn(server: Server, { host, port }: Address): Promise<string> {
  await new Promise<void>((resolve, reject) => server.once("error", reject).listen(port, host, resolve));
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

  add(connection: Socket): void {
    this.#open.add(connection);
    connection.once("close", () => {
      this.#open.delete(connection);
      if (this.#open.size === 0) for (const resolve of this.#waiting.splice(0)) resolve();
    });
  }

  /** Returns when there is none. */
  async gone(): Promise<void> {
    if (this.#open.size > 0) await new Promise<void>((resolve) => this.#waiting.push(resolve));
  }

  cut(): void {
    for (const connection of this.#open) connection.destroy();
  }
}
