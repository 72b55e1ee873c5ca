// A port that many workers serve. They share it: each listens and accepts by itself, as long as it has no more callers
// than the balancer lets it have. That ceiling is one above what that one of the others has that has the fewest, so that
// callers, who of gRPC stay with the few connections that they have, are spread evenly; by itself the kernel gave one of
// two workers 35 of 40 that came at once.
//
// No connection passes through this process: it has none to lose, and a worker that stands still gets none. Not
// node:cluster, whose workers share a port in the same way: which of them gets a connection is left to the kernel, the
// port is given up when no worker is left, and workers are ended at once whose first process is gone. Nor `reusePort`,
// by which the kernel goes on giving a worker that stands still its share, and lets a second service have the port.

import { HANDLES, type PortState } from "./channel.ts";
import { listenError, takePort, type Port, type PortHandle } from "./port.ts";
import type { Address } from "../settings/environment.ts";

/** Where the others have many, the ceiling is above their fewest by one more for so many, which spares stops. */
const SLACK = 64;
/** A ceiling that is none. */
const NONE = Number.MAX_SAFE_INTEGER;

/** How a worker is told a ceiling, together with a handle of the port if it lacks one. */
export type Tell<W> = (worker: W, ceiling: number, handle: PortHandle | undefined) => void;

/** What is known of a worker: what it told, and what it was told. */
interface Known extends Pick<PortState, "connections" | "handles"> {
  readonly ceiling: number;
}

/** One port, for workers of type W. */
export class Balancer<W> {
  readonly #port: Port;
  readonly #most: number;
  readonly #tell: Tell<W>;
  readonly #workers = new Map<W, Known>();
  /** Those that have said nothing for a while: nobody waits for them to get as many as others. */
  readonly #silent = new Set<W>();
  readonly #opened = Promise.withResolvers<void>();
  #isOpen = false;

  private constructor(port: Port, most: number, tell: Tell<W>) {
    this.#port = port;
    this.#most = most;
    this.#tell = tell;
    // It may fail when nobody waits for it any more.
    this.#opened.promise.catch(() => undefined);
  }

  /** Takes the port. `most` is how many callers a worker takes at most. Until it is opened, nobody can connect. */
  static async take<W>(address: Address, most: number, tell: Tell<W>): Promise<Balancer<W>> {
    return new Balancer(await takePort(address), most, tell);
  }

  /** Where it is: the port that was taken, if 0 was asked for. */
  get address(): string {
    return this.#port.address;
  }

  /** The worker serves: it may listen. */
  add(worker: W): void {
    this.#workers.set(worker, { connections: 0, handles: 0, ceiling: 0 });
    this.#silent.delete(worker);
    this.#level(worker);
  }

  /** It doesn't any more. */
  remove(worker: W): void {
    this.#workers.delete(worker);
    this.#silent.delete(worker);
    this.#level(undefined);
  }

  /** A worker has told how it stands; it is answered. */
  heard(worker: W, { connections, handles, listens }: PortState): void {
    const known = this.#workers.get(worker);
    if (known === undefined) return;
    this.#workers.set(worker, { ...known, connections, handles });
    this.#silent.delete(worker);
    if (listens) this.#opened.resolve();
    this.#level(worker);
  }

  /** A worker has said nothing for a while. */
  missed(worker: W): void {
    this.#silent.add(worker);
    this.#level(undefined);
  }

  /** A worker can't listen on the port. */
  failed(errno: number): void {
    this.#opened.reject(listenError(errno, this.address));
  }

  /** The workers may listen; returns when the first one does. Throws if none can: somebody else was faster. */
  async open(): Promise<void> {
    this.#isOpen = true;
    this.#level(undefined);
    await this.#opened.promise;
  }

  /** Gives the port up; workers that still listen on it do so until they end. */
  close(): void {
    this.#isOpen = false;
    this.#port.handle.close();
  }

  /** Reckons the ceilings anew. Each is told its own if that is a new one, or if it has asked. */
  #level(asker: W | undefined): void {
    if (!this.#isOpen) return;
    for (const [worker, known] of this.#workers) {
      if (this.#silent.has(worker)) continue;
      const ceiling = this.#reckon(worker);
      if (worker === asker || ceiling !== known.ceiling) this.#answer(worker, { ...known, ceiling });
    }
  }

  #reckon(worker: W): number {
    const others = [...this.#workers].filter(([other]) => other !== worker && !this.#silent.has(other));
    const fewest = Math.min(...others.map(([, { connections }]) => connections));
    // Where all others are full, it takes what comes, and turns away what it has no place for.
    return fewest >= this.#most ? NONE : Math.min(fewest + 1 + Math.floor(fewest / SLACK), this.#most);
  }

  #answer(worker: W, known: Known): void {
    // Until it tells what it has got, it isn't given any more.
    this.#workers.set(worker, { ...known, handles: Math.max(known.handles, HANDLES) });
    if (known.handles >= HANDLES) this.#tell(worker, known.ceiling, undefined);
    for (let given = known.handles; given < HANDLES; given++) this.#tell(worker, known.ceiling, this.#port.handle);
  }
}
