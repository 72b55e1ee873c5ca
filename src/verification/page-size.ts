// How much one snapshot reads: as much as a slow disk lets it read in about a second, so that no transaction comes near its limit.

const LARGEST = 4000;
/** A walk that keeps to a rate rests after each page: at most a second. */
const SECONDS = 1;
const SMALLEST = 50;
const TOO_LONG_MS = 1000;
const SHORT_MS = 300;

/** A size that follows how long pages take. */
export class PageSize {
  readonly #largest: number;
  #rows: number;

  constructor(rowsPerSecond = Number.POSITIVE_INFINITY) {
    this.#largest = Math.max(SMALLEST, Math.min(LARGEST, rowsPerSecond * SECONDS));
    this.#rows = Math.min(this.#largest, LARGEST / 4);
  }

  /** Reads a page of the present size, and learns from how long it took. */
  async measure<T>(read: (limit: number) => Promise<T>): Promise<T> {
    const start = performance.now();
    const limit = this.#rows;
    const page = await read(limit);
    const took = performance.now() - start;
    if (took > TOO_LONG_MS) this.#rows = Math.max(SMALLEST, Math.floor(limit / 2));
    else if (took < SHORT_MS) this.#rows = Math.min(this.#largest, limit * 2);
    return page;
  }
}
