// Messages as gRPC sends them: each behind a prefix of five bytes, which say whether it is compressed, and how long it is.

import { decompressed, tooLarge } from "./compression.ts";

/** Bytes before each message. */
export const PREFIX = 5;
const COMPRESSED = 1;
const MOST_CHUNKS = 1000;

/** Messages, each with its prefix. */
export function prefixed(messages: readonly Uint8Array[]): Buffer {
  const length = messages.reduce((sum, message) => sum + PREFIX + message.length, 0);
  const bytes = Buffer.allocUnsafe(length);
  let at = 0;
  for (const message of messages) {
    bytes[at] = 0;
    bytes.writeUInt32BE(message.length, at + 1);
    bytes.set(message, at + PREFIX);
    at += PREFIX + message.length;
  }
  return bytes;
}

/** Finds messages in what arrives. */
export class MessageReader {
  readonly #encoding: string;
  readonly #limit: number;
  #chunks: Buffer[] = [];
  #bytes = 0;

  /** Of a call with this `grpc-encoding`. No message may have more than `limit` bytes, compressed or not. */
  constructor(encoding: string, limit: number) {
    this.#encoding = encoding;
    this.#limit = limit;
  }

  /** Whether a message has begun that isn't complete. */
  get midway(): boolean {
    return this.#bytes > 0;
  }

  /** How many bytes have arrived since the last message. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Takes in what has arrived. */
  push(chunk: Buffer): void {
    this.#chunks.push(chunk);
    this.#bytes += chunk.length;
    // Who sends bytes one by one would have us keep some 200 for each.
    if (this.#chunks.length > MOST_CHUNKS) this.#front(this.#bytes);
  }

  /** What has arrived since the last message. */
  rest(): Buffer {
    return this.#front(this.#bytes);
  }

  /** Forgets what has arrived. */
  clear(): void {
    this.#chunks = [];
    this.#bytes = 0;
  }

  /** The next message; undefined: more must arrive first. Throws where it can't be taken, as soon as its prefix is there. */
  next(): Buffer | undefined {
    if (this.#bytes < PREFIX) return undefined;
    const length = this.#front(PREFIX).readUInt32BE(1);
    if (length > this.#limit) throw tooLarge(`${length} bytes`, this.#limit);
    if (this.#bytes < PREFIX + length) return undefined;
    const bytes = this.#front(PREFIX + length);
    const message = bytes.subarray(PREFIX, PREFIX + length);
    const rest = bytes.subarray(PREFIX + length);
    if (rest.length > 0) this.#chunks[0] = rest;
    else this.#chunks.shift();
    this.#bytes -= PREFIX + length;
    return ((bytes[0] ?? 0) & COMPRESSED) === 0 ? message : decompressed(message, this.#encoding, this.#limit);
  }

  /** The first chunk, made to hold so many bytes. All chunks become one then: twice for a message, and once for a thousand chunks. */
  #front(bytes: number): Buffer {
    let [first] = this.#chunks;
    if (first === undefined || first.length < bytes) this.#chunks = [(first = Buffer.concat(this.#chunks))];
    return first;
  }
}
