// Unary gRPC calls over a bare HTTP/2 connection: just what a benchmark's caller needs, for a tenth of the CPU of a full client, so that the
// machine's time goes to what is measured. Frames are written by hand (RFC 9113), header blocks as literals (RFC 7541).

import { connect, type Socket } from "node:net";

const PREFACE = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA = 0;
const HEADERS = 1;
const RST_STREAM = 3;
const SETTINGS = 4;
const PING = 6;
const GOAWAY = 7;
const END_STREAM = 1;
const ACK = 1;
const END_HEADERS = 4;
const FRAME_HEADER = 9;
const MAX_WINDOW = 2 ** 31 - 1;
const FIRST_WINDOW = 65_535;
/** The window for the whole connection is filled up again after so many bytes. */
const REFILL = 2 ** 28;

interface Pending {
  readonly chunks: Buffer[];
  readonly resolve: (answer: Buffer) => void;
  readonly reject: (error: Error) => void;
}

/** A connection on which one method is called, by any number of calls at the same time. */
export class Http2Caller {
  readonly #socket: Socket;
  readonly #headers: Buffer;
  readonly #pending = new Map<number, Pending>();
  #nextStream = 1;
  #unread = Buffer.alloc(0);
  #received = 0;

  private constructor(socket: Socket, method: string) {
    this.#socket = socket;
    this.#headers = headerBlock([
      [":method", "POST"],
      [":scheme", "http"],
      [":path", method],
      [":authority", "localhost"],
      ["content-type", "application/grpc"],
      ["te", "trailers"],
    ]);
    socket.setNoDelay(true);
    socket.on("data", (chunk: Buffer) => this.#read(chunk));
    socket.on("error", (error) => this.#fail(error));
    socket.on("close", () => this.#fail(new Error("the connection was closed")));
    const settings = Buffer.alloc(6);
    settings.writeUInt16BE(4, 0);
    settings.writeUInt32BE(MAX_WINDOW, 2);
    socket.write(PREFACE);
    socket.write(frame(SETTINGS, 0, 0, settings));
    socket.write(windowUpdate(MAX_WINDOW - FIRST_WINDOW));
  }

  /** Connects for calls of a method, such as `/ledger.v1.LedgerService/Deduct`. */
  static async open(address: string, method: string): Promise<Http2Caller> {
    const [host, port] = address.split(":");
    const socket = connect(Number(port), host);
    await new Promise<void>((resolve, reject) => socket.once("connect", resolve).once("error", reject));
    return new Http2Caller(socket, method);
  }

  /** Sends an encoded request, and answers the encoded response; empty if the call failed. */
  call(message: Uint8Array): Promise<Buffer> {
    const stream = this.#nextStream;
    this.#nextStream += 2;
    const length = this.#headers.length + message.length + 2 * FRAME_HEADER + 5;
    const bytes = Buffer.allocUnsafe(length);
    writeFrameHeader(bytes, 0, this.#headers.length, HEADERS, END_HEADERS, stream);
    bytes.set(this.#headers, FRAME_HEADER);
    const data = FRAME_HEADER + this.#headers.length;
    writeFrameHeader(bytes, data, message.length + 5, DATA, END_STREAM, stream);
    bytes.writeUInt8(0, data + FRAME_HEADER);
    bytes.writeUInt32BE(message.length, data + FRAME_HEADER + 1);
    bytes.set(message, data + FRAME_HEADER + 5);
    // All calls of one turn of the event loop leave in one write.
    if (this.#socket.writableCorked === 0) {
      this.#socket.cork();
      process.nextTick(() => this.#socket.uncork());
    }
    this.#socket.write(bytes);
    return new Promise((resolve, reject) => this.#pending.set(stream, { chunks: [], resolve, reject }));
  }

  close(): void {
    this.#socket.removeAllListeners("close");
    this.#socket.end();
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
    this.#unread = Buffer.from(bytes.subarray(at));
  }

  #take(type: number, flags: number, stream: number, payload: Buffer): void {
    if (type === SETTINGS && (flags & ACK) === 0) this.#socket.write(frame(SETTINGS, ACK, 0, Buffer.alloc(0)));
    if (type === PING && (flags & ACK) === 0) this.#socket.write(frame(PING, ACK, 0, payload));
    if (type === GOAWAY) this.#fail(new Error("the server sent GOAWAY"));
    const pending = this.#pending.get(stream);
    if (pending === undefined) return;
    if (type === DATA) {
      pending.chunks.push(payload);
      this.#received += payload.length;
      if (this.#received > REFILL) {
        this.#socket.write(windowUpdate(this.#received));
        this.#received = 0;
      }
    }
    const ended = type === RST_STREAM || ((type === DATA || type === HEADERS) && (flags & END_STREAM) !== 0);
    if (!ended) return;
    this.#pending.delete(stream);
    // Behind the five bytes of gRPC's own prefix.
    pending.resolve(Buffer.concat(pending.chunks).subarray(5));
  }

  #fail(error: Error): void {
    for (const { reject } of this.#pending.values()) reject(error);
    this.#pending.clear();
  }
}

function headerBlock(headers: readonly (readonly [string, string])[]): Buffer {
  // Literal header fields without indexing, names and values as they are, each shorter than 127 bytes.
  const literal = (text: string): Buffer => Buffer.concat([Buffer.from([text.length]), Buffer.from(text)]);
  return Buffer.concat(headers.flatMap(([name, value]) => [Buffer.from([0]), literal(name), literal(value)]));
}

function frame(type: number, flags: number, stream: number, payload: Buffer): Buffer {
  const bytes = Buffer.alloc(FRAME_HEADER + payload.length);
  writeFrameHeader(bytes, 0, payload.length, type, flags, stream);
  bytes.set(payload, FRAME_HEADER);
  return bytes;
}

function writeFrameHeader(bytes: Buffer, at: number, length: number, type: number, flags: number, stream: number): void {
  bytes.writeUIntBE(length, at, 3);
  bytes.writeUInt8(type, at + 3);
  bytes.writeUInt8(flags, at + 4);
  bytes.writeUInt32BE(stream, at + 5);
}

function windowUpdate(bytes: number): Buffer {
  const increment = Buffer.alloc(4);
  increment.writeUInt32BE(bytes, 0);
  return frame(8, 0, 0, increment);
}
