// A port that many workers serve: each connection is given to the worker that has the fewest.
//
// Not node:cluster, which gives a connection to whoever was free first: of 4 that came at once, 2 workers got 2 each in 70 of 100 tries, of 8 they
// got 4 each in 50, and callers of gRPC stay with the few connections that they have. It also gives the port up when no worker is left, and ends
// workers at once whose first process is gone.

import { createServer, type Server, type Socket } from "node:net";
import type { Address } from "../config.ts";
import { listenOn } from "../rpc/listener.ts";

/** One port, for workers of type W. */
export class Gate<W> {
  readonly #give: (worker: W, connection: Socket) => void;
  readonly #server: Server;
  /** How many connections each worker has. Of those with equally many, the first has got none for the longest time. */
  readonly #workers = new Map<W, number>();
  #address = "";
  /** Those who came before it was opened; undefined: it is open. */
  #waiting: Socket[] | undefined = [];

  private constructor(give: (worker: W, connection: Socket) => void) {
    this.#give = give;
    // What a caller says first is for the worker to read.
    this.#server = createServer({ pauseOnConnect: true, noDelay: true }, (connection) => this.deal(connection));
  }

  /** Takes the port; who comes waits until it is opened. `give` is how a connection is handed to a worker. */
  static async open<W>(address: Address, give: (worker: W, connection: Socket) => void): Promise<Gate<W>> {
    const gate = new Gate(give);
    gate.#address = await listenOn(gate.#server, address);
    return gate;
  }

  /** Where it listens: the port that was taken, if 0 was asked for. */
  get address(): string {
    return this.#address;
  }

  /** From now on the worker gets connections. */
  add(worker: W): void {
    this.#workers.set(worker, 0);
  }

  /** From now on it gets none. */
  remove(worker: W): void {
    this.#workers.delete(worker);
  }

  /** The workers serve: whoever has waited is let in, and whoever comes. */
  open(): void {
    const waiting = this.#waiting ?? [];
    this.#waiting = undefined;
    for (const connection of waiting) this.deal(connection);
  }

  /** Gives a connection to a worker. */
  deal(connection: Socket): void {
    if (this.#waiting !== undefined) return void this.#waiting.push(connection);
    const [first] = [...this.#workers].toSorted(([, count], [, other]) => count - other);
    if (first === undefined) {
      // The caller is told at once that nobody is there, and may come again.
      connection.destroy();
      return;
    }
    const [worker, count] = first;
    this.#workers.delete(worker);
    this.#workers.set(worker, count + 1);
    this.#give(worker, connection);
  }

  /** One of its connections has ended. */
  left(worker: W): void {
    const count = this.#workers.get(worker);
    if (count !== undefined) this.#workers.set(worker, count - 1);
  }

  /** Nobody is let in any more; who still waits is turned away. */
  close(): void {
    this.#server.close();
    for (const connection of this.#waiting?.splice(0) ?? []) connection.destroy();
  }
}
