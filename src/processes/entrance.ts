// How a worker lets callers in at a port that it shares with others: it listens as long as it has fewer callers than
// the first process lets it have.
//
// Node has no way to stop accepting but to close the handle that one listens on. So the worker has a second one, and
// gets another from the first process when it has stopped.

import { createServer, type Server, type Socket } from "node:net";
import { BACKLOG, type Connections } from "../servers/listener.ts";
import { HANDLES, type PortState } from "./channel.ts";
import type { PortHandle } from "./port.ts";

/**
 * Stopping, and the handle that it takes, costs some 0.3 ms of CPU. Of a storm of connects a worker takes what comes,
 * once it has stopped so many times in so long; the one with fewer catches up afterwards.
 */
const STOPS = 16;
const STOPS_MS = 100;

/** What an entrance tells. */
export interface EntranceListener {
  readonly welcome: (connection: Socket) => void;
  /** It has stopped listening, or begun: the first process is to hear how it stands. */
  readonly turned: () => void;
  /** A caller has left: the first process is to hear that soon. */
  readonly left: () => void;
  /** It can't listen, by this number of an error. */
  readonly deaf: (errno: number) => void;
}

/** One server of a worker. */
export class Entrance {
  readonly #connections: Connections;
  readonly #listener: EntranceListener;
  readonly #server: Server;
  readonly #spare: PortHandle[] = [];
  #ceiling = 0;
  /** When it stopped, of late. */
  #stops: number[] = [];

  constructor(connections: Connections, listener: EntranceListener) {
    this.#connections = connections;
    this.#listener = listener;
    this.#server = createServer({ noDelay: true }, (connection) => {
      if (connections.admit(connection)) {
        connection.once("close", () => {
          listener.left();
          this.#decide();
        });
        listener.welcome(connection);
      }
      this.#decide();
    });
    this.#server.on("listening", listener.turned);
    this.#server.on("error", ({ syscall, errno = 0 }: NodeJS.ErrnoException) => {
      // Accepting fails for want of descriptors, which is looked after elsewhere.
      if (syscall === "listen") listener.deaf(errno);
    });
  }

  get state(): PortState {
    const { listening: listens } = this.#server;
    return { connections: this.#connections.size, handles: this.#spare.length + (listens ? 1 : 0), listens };
  }

  /** It may have so many callers, and is given a handle of the port if it lacks one. */
  allow(ceiling: number, handle?: PortHandle): void {
    this.#ceiling = ceiling;
    if (handle !== undefined) {
      if (this.state.handles < HANDLES) this.#spare.push(handle);
      else handle.close();
    }
    this.#decide();
  }

  /** The first process says nothing: it stands still. So callers are let in as they come. */
  allowAll(): void {
    this.#ceiling = Number.MAX_SAFE_INTEGER;
    if (!this.#server.listening) this.#listen();
  }

  /** Lets nobody in any more, and lets go of the port. */
  shut(): void {
    this.#ceiling = 0;
    this.#server.close();
    for (const handle of this.#spare.splice(0)) handle.close();
  }

  #decide(): void {
    const { listens, handles } = this.state;
    const mayListen = this.#connections.size < this.#ceiling;
    if (mayListen && !listens && handles === HANDLES) this.#listen();
    // The last handle is kept: it would depend on the first process when it can listen again.
    if (!mayListen && listens && handles === HANDLES && this.#mayStop()) {
      this.#server.close();
      this.#listener.turned();
    }
  }

  #listen(): void {
    const handle = this.#spare.pop();
    if (handle !== undefined) this.#server.listen(handle, BACKLOG);
  }

  #mayStop(): boolean {
    const now = performance.now();
    this.#stops = this.#stops.filter((at) => now - at < STOPS_MS);
    if (this.#stops.length === STOPS) return false;
    this.#stops.push(now);
    return true;
  }
}
