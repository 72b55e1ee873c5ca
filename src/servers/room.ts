// Bytes that a process holds for its connections: what they send that isn't complete, what they are sent and don't read.

/** Room for the bytes of all connections together. */
export class Room {
  readonly #most: number;
  readonly #shares = new Set<Share>();
  #bytes = 0;

  constructor(most: number) {
    this.#most = most;
  }

  /** A connection's share of it. It is told to end when it holds the most while there are too many. */
  share(end: () => void): Share {
    const share = new Share((change) => this.#change(change), end);
    this.#shares.add(share);
    return share;
  }

  /** The connection is gone, and with it what was held for it. */
  close(share: Share): void {
    this.#shares.delete(share);
    share.close();
  }

  #change(change: number): void {
    this.#bytes += change;
    if (this.#bytes > this.#most) this.#endLargest();
  }

  /** All are looked at, which is rare: each time a connection is ended by it. */
  #endLargest(): void {
    const [first, ...others] = this.#shares;
    const larger = (one: Share | undefined, other: Share) => (one !== undefined && one.bytes >= other.bytes ? one : other);
    const largest = others.reduce(larger, first);
    if (largest === undefined) return;
    this.close(largest);
    largest.end();
  }
}

/** The bytes that are held for one connection. */
export class Share {
  readonly #changed: (change: number) => void;
  readonly end: () => void;
  #bytes = 0;
  #isOpen = true;

  constructor(changed: (change: number) => void, end: () => void) {
    this.#changed = changed;
    this.end = end;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** So many more are held, or fewer. */
  change(change: number): void {
    if (!this.#isOpen) return;
    this.#bytes += change;
    this.#changed(change);
  }

  /** What is given back later counts no more. */
  close(): void {
    this.change(-this.#bytes);
    this.#isOpen = false;
  }
}
