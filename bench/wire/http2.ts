// gRPC over a bare HTTP/2 connection: just what a benchmark's caller needs, for a tenth of the CPU of a full client, so that the machine's
// time goes to what is measured. Frames are written by hand (RFC 9113), header blocks too (RFC 7541): the first one of a connection teaches the
// server the headers, those after it are six bytes. What the server's header blocks say isn't read: an answer is there, or it isn't.

import { connect, type Socket } from "node:net";

const PREFACE = Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
const DATA = 0;
const HEADERS = 1;
const RST_STREAM = 3;
const SETTINGS = 4;
const PING = 6;
const GOAWAY = 7;
const WINDOW_UPDATE = 8;
const END_STREAM = 1;
const ACK = 1;
const END_HEADERS = 4;
const INITIAL_WINDOW_SIZE = 4;
const FRAME_HEADER = 9;
/** What every receiver takes, whatever its settings say. */
const LARGEST_FRAME = 16_384;
const LARGEST_WINDOW = 2 ** 31 - 1;
const FIRST_WINDOW = 65_535;
/** Our windows are filled up again after so many bytes. */
const REFILL = 2 ** 28;
/** gRPC's own prefix of a message: a byte that says whether it is compressed, and four of its length. */
export const PREFIX = 5;

/** What the one who began a stream is told. */
export interface StreamEvents {
  readonly onMessage: (message: Buffer) => void;
  /** The server ended it, well or not; nothing comes after it. */
  readonly onEnd: () => void;
  /** The connection broke. */
  readonly onError: (error: Error) => void;
}

interface Stream {
  readonly id: number;
  readonly events: StreamEvents;
  /** How much more the server lets us send. */
  window: number;
  /** What has yet to be sent, and whether the end comes behind it. */
  unsent: readonly Buffer[];
  ending: boolean;
  /** The beginning of a message whose rest is to come. */
  partial: Buffer;
  received: number;
}

const EMPTY = Buffer.alloc(0);

/** A connection on which one method is called, by any number of calls at the same time. */
export class GrpcConnection {
  readonly #socket: Socket;
  readonly #method: string;
  readonly #streams = new Map<number, Stream>();
  readonly #toSend = new Set<Stream>();
  #frames: Buffer[] = [];
  #leaving = false;
  #nextId = 1;
  #unread: Buffer = EMPTY;
  #received = 0;
  #window = FIRST_WINDOW;
  #firstWindow = FIRST_WINDOW;
  #broken: Error | undefined;

  private constructor(socket: Socket, method: string) {
    this.#socket = socket;
    this.#method = method;
    socket.setNoDelay(true);
    socket.on("data", (chunk: Buffer) => this.#read(chunk));
    socket.on("error", (error) => this.#fail(error));
    socket.on("close", () => this.#fail(new Error("the connection was closed")));
    const settings = Buffer.alloc(6);
    settings.writeUInt16BE(INITIAL_WINDOW_SIZE, 0);
    settings.writeUInt32BE(LARGEST_WINDOW, 2);
    this.#send(PREFACE, frame(SETTINGS, 0, 0, settings), frame(WINDOW_UPDATE, 0, 0, uint32(LARGEST_WINDOW - FIRST_WINDOW)));
  }

  /** Connects for calls of a method, such as `/ledger.v1.LedgerService/Deduct`. */
  static async open(address: string, method: string): Promise<GrpcConnection> {
    const { hostname, port } = new URL(`http://${address}`);
    const socket = connect(Number(port), hostname.replaceAll(/[[\]]/g, ""));
    await new Promise<void>((resolve, reject) => socket.once("connect", resolve).once("error", reject));
    return new GrpcConnection(socket, method);
  }

  /** How many calls are under way. */
  get calls(): number {
    return this.#streams.size;
  }

  /** Sends a request that has its prefix, and answers the response without. Throws if the call failed. */
  call(request: Buffer): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      let response: Buffer | undefined;
      const onEnd = (): void => (response === undefined ? reject(new Error(`${this.#method} failed`)) : resolve(response));
      const stream = this.#begin({ onMessage: (message) => (response = message), onEnd, onError: reject });
      stream.ending = true;
      this.#write(stream, request);
    });
  }

  /** Begins a call that sends any number of messages, each with its prefix, and is answered by any number. */
  stream(events: StreamEvents): { write: (messages: Buffer) => void; end: () => void } {
    const stream = this.#begin(events);
    return {
      write: (messages) => this.#write(stream, messages),
      end: () => {
        stream.ending = true;
        this.#write(stream, EMPTY);
      },
    };
  }

  /** Ends the connection, and with it what is under way on it. */
  close(): void {
    this.#streams.clear();
    this.#socket.end();
  }

  #begin(events: StreamEvents): Stream {
    const stream: Stream = { id: this.#nextId, events, window: this.#firstWindow, unsent: [], ending: false, partial: EMPTY, received: 0 };
    if (this.#broken !== undefined) {
      events.onError(this.#broken);
      return stream;
    }
    this.#nextId += 2;
    this.#streams.set(stream.id, stream);
    this.#send(frame(HEADERS, END_HEADERS, stream.id, stream.id === 1 ? firstHeaders(this.#method) : laterHeaders));
    return stream;
  }

  #write(stream: Stream, messages: Buffer): void {
    stream.unsent = stream.unsent.length === 0 ? [messages] : [...stream.unsent, messages];
    this.#toSend.add(stream);
    this.#leaveSoon();
  }

  #send(...frames: readonly Buffer[]): void {
    this.#frames.push(...frames);
    this.#leaveSoon();
  }

  /** All that one turn of the event loop has to send leaves in one write. */
  #leaveSoon(): void {
    if (this.#leaving) return;
    this.#leaving = true;
    process.nextTick(() => {
      this.#leaving = false;
      for (const stream of this.#toSend) this.#pack(stream);
      if (this.#frames.length > 0) this.#socket.write(Buffer.concat(this.#frames));
      this.#frames = [];
    });
  }

  /** Puts what the server's windows let through into frames, as few as possible. The rest waits for a larger window. */
  #pack(stream: Stream): void {
    const bytes = stream.unsent.length === 1 ? (stream.unsent[0] ?? EMPTY) : Buffer.concat(stream.unsent);
    let at = 0;
    do {
      const length = Math.max(0, Math.min(bytes.length - at, LARGEST_FRAME, this.#window, stream.window));
      if (length === 0 && at < bytes.length) {
        stream.unsent = [bytes.subarray(at)];
        return;
      }
      const ended = stream.ending && at + length === bytes.length;
      this.#frames.push(frameHeader(length, DATA, ended ? END_STREAM : 0, stream.id), bytes.subarray(at, at + length));
      at += length;
      this.#window -= length;
      stream.window -= length;
    } while (at < bytes.length);
    stream.unsent = [];
    this.#toSend.delete(stream);
  }

  #read(chunk: Buffer): void {
    const bytes = this.#unread.length === 0 ? chunk : Buffer.concat([this.#unread, chunk]);
    let at = 0;
    while (bytes.length - at >= FRAME_HEADER) {
      const end = at + FRAME_HEADER + bytes.readUIntBE(at, 3);
      if (end > bytes.length) break;
      this.#take(bytes.readUInt8(at + 3), bytes.readUInt8(at + 4), bytes.readUInt32BE(at + 5), bytes.subarray(at + FRAME_HEADER, end));
      at = end;
    }
    this.#unread = bytes.subarray(at);
  }

  #take(type: number, flags: number, id: number, payload: Buffer): void {
    const stream = this.#streams.get(id);
    if (type === DATA && stream !== undefined) this.#takeData(stream, payload);
    if (type === SETTINGS && (flags & ACK) === 0) this.#takeSettings(payload);
    if (type === WINDOW_UPDATE) this.#widen(id, payload.readUInt32BE(0));
    if (type === PING && (flags & ACK) === 0) this.#send(frame(PING, ACK, 0, payload));
    if (type === GOAWAY) this.#fail(new Error("the server sent GOAWAY"));
    const ended = type === RST_STREAM || ((type === DATA || type === HEADERS) && (flags & END_STREAM) !== 0);
    if (!ended || stream === undefined) return;
    this.#streams.delete(id);
    this.#toSend.delete(stream);
    stream.events.onEnd();
  }

  #takeData(stream: Stream, payload: Buffer): void {
    this.#received += payload.length;
    stream.received += payload.length;
    if (this.#received > REFILL) {
      this.#send(frame(WINDOW_UPDATE, 0, 0, uint32(this.#received)));
      this.#received = 0;
    }
    if (stream.received > REFILL) {
      this.#send(frame(WINDOW_UPDATE, 0, stream.id, uint32(stream.received)));
      stream.received = 0;
    }
    const bytes = stream.partial.length === 0 ? payload : Buffer.concat([stream.partial, payload]);
    let at = 0;
    while (bytes.length - at >= PREFIX) {
      const end = at + PREFIX + bytes.readUInt32BE(at + 1);
      if (end > bytes.length) break;
      stream.events.onMessage(bytes.subarray(at + PREFIX, end));
      at = end;
    }
    stream.partial = bytes.subarray(at);
  }

  #takeSettings(payload: Buffer): void {
    for (let at = 0; at < payload.length; at += 6) {
      if (payload.readUInt16BE(at) !== INITIAL_WINDOW_SIZE) continue;
      const first = payload.readUInt32BE(at + 2);
      for (const stream of this.#streams.values()) stream.window += first - this.#firstWindow;
      this.#firstWindow = first;
    }
    this.#send(frame(SETTINGS, ACK, 0, EMPTY));
  }

  #widen(id: number, bytes: number): void {
    const stream = this.#streams.get(id);
    if (id === 0) this.#window += bytes;
    else if (stream !== undefined) stream.window += bytes;
    if (this.#toSend.size > 0) this.#leaveSoon();
  }

  #fail(error: Error): void {
    this.#broken ??= error;
    const failed = [...this.#streams.values()];
    this.#streams.clear();
    this.#toSend.clear();
    for (const { events } of failed) events.onError(error);
  }
}

/** A message with its prefix. */
export function framed(message: Uint8Array): Buffer {
  return Buffer.concat([Buffer.from([0]), uint32(message.length), message]);
}

/** The first headers of a connection. All but the first two, which HPACK knows, are literals that the server is to remember. */
function firstHeaders(method: string): Buffer {
  const literal = (text: string): Buffer => Buffer.concat([Buffer.from([text.length]), Buffer.from(text)]);
  const toRemember = (name: number | string, value: string): Buffer =>
    Buffer.concat([Buffer.from([0x40 | (typeof name === "number" ? name : 0)]), typeof name === "number" ? EMPTY : literal(name), literal(value)]);
  return Buffer.concat([
    POST,
    HTTP,
    toRemember(PATH, method),
    toRemember(AUTHORITY, "localhost"),
    toRemember(CONTENT_TYPE, "application/grpc"),
    toRemember("te", "trailers"),
  ]);
}

/** `:method: POST`, `:scheme: http` and some names in HPACK's table of well-known headers. */
const POST = Buffer.from([0x80 | 3]);
const HTTP = Buffer.from([0x80 | 6]);
const AUTHORITY = 1;
const PATH = 4;
const CONTENT_TYPE = 31;

/** The same by their places in the server's table: what it was taught last is number 62. */
const laterHeaders = Buffer.concat([POST, HTTP, Buffer.from([65, 64, 63, 62].map((index) => 0x80 | index))]);

function frame(type: number, flags: number, stream: number, payload: Buffer): Buffer {
  return Buffer.concat([frameHeader(payload.length, type, flags, stream), payload]);
}

function frameHeader(length: number, type: number, flags: number, stream: number): Buffer {
  const header = Buffer.allocUnsafe(FRAME_HEADER);
  header.writeUIntBE(length, 0, 3);
  header.writeUInt8(type, 3);
  header.writeUInt8(flags, 4);
  header.writeUInt32BE(stream, 5);
  return header;
}

function uint32(value: number): Buffer {
  const bytes = Buffer.allocUnsafe(4);
  bytes.writeUInt32BE(value, 0);
  return bytes;
}
