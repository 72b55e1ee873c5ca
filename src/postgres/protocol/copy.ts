// COPY by the protocol's own messages, on pg's client: rows as PostgreSQL writes them, out of one server and into another, in parts of bounded
// size. Text rather than binary: it is what every version reads, and people too.
//
// pg's client takes anything that can write messages and listen to the answers (its `Submittable`), so that no further package is needed.

import type { Client, Connection, Submittable } from "pg";

/** Some rows, in the text format of COPY, each ended by a newline. */
export interface CopiedRows {
  readonly text: Buffer;
  readonly rows: number;
}

/** What pg's connection does for COPY, which its types don't name. */
interface CopyConnection extends Connection {
  sendCopyFromChunk(chunk: Buffer): void;
  endCopyFrom(): void;
}

/** How much is sent in one message. */
const CHUNK_BYTES = 1024 * 1024;

/** The rows of a `COPY … TO STDOUT`, in parts of at most so many bytes, or of one row that is larger. The server waits while nobody takes the next one. */
export async function* copyOut(client: Client, statement: string, partBytes: number): AsyncGenerator<CopiedRows> {
  const copy = new CopyOut(statement, partBytes);
  client.query(copy);
  try {
    for (let part = await copy.next(); part !== undefined; part = await copy.next()) yield part;
  } finally {
    copy.abandon();
  }
}

/** Gives rows to a `COPY … FROM STDIN`; answers how many the server took. */
export async function copyIn(client: Client, statement: string, text: Buffer): Promise<number> {
  const copy = new CopyIn(statement, text);
  client.query(copy);
  return copy.taken;
}

class CopyOut implements Submittable {
  readonly #statement: string;
  readonly #partBytes: number;
  #connection: Connection | undefined;
  /** Copies: what the client gives lies in a buffer that it uses again. */
  #text: Buffer;
  #length = 0;
  #rows = 0;
  readonly #full: CopiedRows[] = [];
  #ended = false;
  #error: Error | undefined;
  #news = Promise.withResolvers<void>();

  constructor(statement: string, partBytes: number) {
    this.#statement = statement;
    this.#partBytes = partBytes;
    this.#text = Buffer.allocUnsafe(partBytes);
  }

  /** The next part; undefined after the last one. */
  async next(): Promise<CopiedRows | undefined> {
    for (;;) {
      const part = this.#full.shift();
      if (part !== undefined) return part;
      if (this.#error !== undefined) throw this.#error;
      if (this.#ended) return undefined;
      this.#news = Promise.withResolvers();
      this.#connection?.stream.resume();
      await this.#news.promise;
    }
  }

  /** Where rows are left that nobody will take, the connection can't be used any more. */
  abandon(): void {
    if (!this.#ended && this.#error === undefined) this.#connection?.stream.destroy();
  }

  submit(connection: Connection): void {
    this.#connection = connection;
    connection.query(this.#statement);
  }

  /** One row: a server never sends more or less in one message. */
  handleCopyData({ chunk }: { chunk: Buffer }): void {
    if (this.#length + chunk.length > this.#text.length) this.#cut(chunk.length);
    chunk.copy(this.#text, this.#length);
    this.#length += chunk.length;
    this.#rows += 1;
  }

  handleCommandComplete(): void {
    this.#cut(0);
  }

  handleReadyForQuery(): void {
    this.#ended = true;
    // The last part may have stopped it.
    this.#connection?.stream.resume();
    this.#news.resolve();
  }

  handleError(error: Error): void {
    this.#error = error;
    this.#news.resolve();
  }

  /** Ends a part, if there is anything in it, and begins one that has room for this much. */
  #cut(needed: number): void {
    if (this.#rows > 0) {
      this.#full.push({ text: this.#text.subarray(0, this.#length), rows: this.#rows });
      this.#connection?.stream.pause();
      this.#news.resolve();
    }
    this.#text = Buffer.allocUnsafe(Math.max(this.#partBytes, needed));
    this.#length = 0;
    this.#rows = 0;
  }
}

class CopyIn implements Submittable {
  readonly taken: Promise<number>;
  readonly #statement: string;
  readonly #text: Buffer;
  readonly #done = Promise.withResolvers<number>();
  #count = 0;

  constructor(statement: string, text: Buffer) {
    this.#statement = statement;
    this.#text = text;
    this.taken = this.#done.promise;
  }

  submit(connection: Connection): void {
    connection.query(this.#statement);
  }

  handleCopyInResponse(connection: CopyConnection): void {
    for (let at = 0; at < this.#text.length; at += CHUNK_BYTES) connection.sendCopyFromChunk(this.#text.subarray(at, at + CHUNK_BYTES));
    connection.endCopyFrom();
  }

  /** `COPY 20000`. */
  handleCommandComplete({ text }: { text: string }): void {
    this.#count = Number(/\d+$/.exec(text)?.[0]);
  }

  handleReadyForQuery(): void {
    this.#done.resolve(this.#count);
  }

  handleError(error: Error): void {
    this.#done.reject(error);
  }
}
