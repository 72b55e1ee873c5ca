// One gRPC call on its stream of HTTP/2: what the caller sends, what it is answered, and the status at the end.
//
// Written here on Node's HTTP/2 rather than left to grpc-js, which takes as much again for each call: 47 µs of the service's CPU for an echo
// through it, 25 through this (and 1.4 with frames of HTTP/2 that are written by hand, but a protocol is for a library to speak).

import { constants, type IncomingHttpHeaders, type ServerHttp2Stream } from "node:http2";
import { create, toBinary } from "@bufbuild/protobuf";
import { anyPack } from "@bufbuild/protobuf/wkt";
import type { ConnectError } from "@connectrpc/connect";
import { quote } from "../../domain/text.ts";
import { StatusSchema } from "../../gen/google/rpc/status_pb.ts";
import { ENCODINGS } from "../wire/compression.ts";
import { MessageReader, PREFIX, prefixed } from "../wire/grpc-framing.ts";
import type { Peer } from "../peers.ts";
import { errorOfFailure, errorOfViolations, type Translate } from "../../rpc/errors.ts";
import type { Requests } from "../../rpc/call.ts";

const HEADERS = { ":status": 200, "content-type": "application/grpc+proto", "grpc-accept-encoding": ENCODINGS };
const WITH_TRAILERS = { waitForTrailers: true, sendDate: false };
const STATUS_ALONE = { endStream: true, sendDate: false };
const OK = { "grpc-status": "0" };

/** A request must have arrived after so long, whatever its caller's deadline. */
const REQUEST_MS = 60_000;

/**
 * Of an error's text, as it is sent. It travels in headers, and twice; with its details there are less than the 8 KiB
 * that all clients take.
 */
const MOST_TEXT_BYTES = 1950;

/** The units of `grpc-timeout`, in milliseconds. */
const units: Readonly<Record<string, number>> = { H: 3_600_000, M: 60_000, S: 1000, m: 1, u: 1e-3, n: 1e-6 };

/** How long a caller waits by its `grpc-timeout`, in milliseconds; undefined: the header doesn't say so clearly. */
export function grpcTimeoutMs(header: string): number | undefined {
  const [, count, unit] = /^(\d{1,8})([HMSmun])$/.exec(header) ?? [];
  const unitMs = units[unit ?? ""];
  return unitMs === undefined ? undefined : Number(count) * unitMs;
}

/** How a call is served. */
export type Serve = (call: GrpcCall) => void;

/** What a call needs beside its stream. */
export interface CallOptions {
  /** Of each message that the caller sends, in bytes. */
  readonly messageLimit: number;
  /** Of all that is still read of a call that is over, in bytes: most callers hear that it is over only when they have said all. */
  readonly restLimit: number;
  readonly translate: Translate;
}

/** A method: how its calls are served, and with what. */
export interface Served {
  readonly options: CallOptions;
  readonly serve: Serve;
}

/** A call that has arrived. */
export class GrpcCall {
  readonly peer: Peer;
  readonly #stream: ServerHttp2Stream;
  readonly #headers: IncomingHttpHeaders;
  readonly #options: CallOptions;
  readonly #arrivedAt = performance.now();
  readonly #reader: MessageReader;
  #trailers: Readonly<Record<string, string>> = OK;
  /** Bytes of a request that isn't complete. */
  #held = 0;
  /** What was sent in this turn of the event loop. */
  #unsent: Uint8Array[] = [];
  #unsentBytes = 0;

  constructor(peer: Peer, stream: ServerHttp2Stream, headers: IncomingHttpHeaders, options: CallOptions) {
    this.peer = peer;
    this.#stream = stream;
    this.#headers = headers;
    this.#options = options;
    this.#reader = new MessageReader(String(headers["grpc-encoding"] ?? "identity"), options.messageLimit);
  }

  /** How long the caller still waits, in milliseconds; undefined: as long as it takes. Throws if it doesn't say so clearly. */
  timeoutMs(): number | undefined {
    const given = this.#headers["grpc-timeout"];
    if (given === undefined) return undefined;
    const timeoutMs = grpcTimeoutMs(String(given));
    if (timeoutMs === undefined) {
      const right = 'must be up to 8 digits and one of H, M, S, m, u, n, such as "500m"';
      const description = `the header grpc-timeout ${right}, not ${quote(String(given))}`;
      throw errorOfViolations([{ field: "", description }]);
    }
    return Math.max(0, this.#arrivedAt + timeoutMs - performance.now());
  }

  /** The W3C trace context, as it was sent. */
  get traceparent(): string | undefined {
    const given = this.#headers["traceparent"];
    return Array.isArray(given) ? given[0] : given;
  }

  /** Does something once the call is over, whoever ended it. */
  onceOver(act: () => void): void {
    if (this.#stream.destroyed) act();
    else this.#stream.once("close", act);
  }

  /** Takes the request of a call that has one, or says why there is none: also where it takes longer to arrive than its caller waits. */
  request(take: (request: Buffer) => void): void {
    const stream = this.#stream;
    let request: Buffer | undefined;
    const stop = (error?: unknown): void => {
      clearTimeout(timer);
      stream.off("data", read);
      stream.off("end", end);
      this.#hold(0);
      if (error === undefined) return;
      this.#reader.clear();
      this.fail(error);
    };
    const read = (chunk: Buffer): void => {
      this.#reader.push(chunk);
      try {
        for (let message = this.#reader.next(); message !== undefined; message = this.#reader.next()) {
          if (request !== undefined) throw errorOfViolations([{ field: "", description: "the call takes one message, and more were sent" }]);
          request = message;
        }
        this.#hold(this.#reader.bytes + (request?.length ?? 0));
        this.peer.assertRoom();
      } catch (error) {
        stop(error);
      }
    };
    const end = (): void => {
      const whole = this.#reader.midway ? undefined : request;
      stop(whole === undefined ? errorOfViolations([{ field: "", description: "the call ended before its message did" }]) : undefined);
      if (whole !== undefined) take(whole);
    };
    const timer = setTimeout(() => stop(errorOfFailure("DEADLINE_PASSED", undefined)), Math.min(this.timeoutMs() ?? REQUEST_MS, REQUEST_MS));
    stream.on("data", read);
    stream.once("end", end);
    stream.once("close", () => {
      clearTimeout(timer);
      this.#hold(0);
    });
  }

  /**
   * What the caller of an exchange sends, until it has said all or the exchange is ending. Taken only when it is asked for: until then Node keeps some
   * kilobytes, and HTTP/2 the caller waiting. All that has arrived comes at once, for the price of one promise.
   */
  async *requests<T>(decode: (message: Buffer) => T, ending: AbortSignal): Requests<T> {
    const stream = this.#stream;
    let wake = (): void => undefined;
    const changed = (): void => wake();
    for (const event of ["readable", "end", "close"]) stream.on(event, changed);
    ending.addEventListener("abort", changed);
    try {
      while (!ending.aborted) {
        for (let chunk = stream.read() as Buffer | null; chunk !== null; chunk = stream.read() as Buffer | null) this.#reader.push(chunk);
        const requests: T[] = [];
        try {
          for (let message = this.#reader.next(); message !== undefined; message = this.#reader.next()) requests.push(decode(message));
        } catch (error) {
          // What came before the message that can't be read counts.
          if (requests.length > 0) yield requests;
          throw error;
        }
        this.#hold(this.#reader.bytes);
        this.peer.assertRoom();
        if (requests.length > 0) yield requests;
        else if (stream.readableEnded || stream.destroyed) break;
        else await new Promise<void>((resolve) => (wake = resolve));
      }
    } finally {
      // With a listener for `readable` left, what still comes would not flow: nobody would throw it away, and the stream would never close.
      for (const event of ["readable", "end", "close"]) stream.off(event, changed);
      ending.removeEventListener("abort", changed);
      this.#hold(0);
    }
    if (stream.readableEnded && this.#reader.midway) throw errorOfViolations([{ field: "", description: "the call ended before its last message did" }]);
  }

  /** Answers a call that has one answer. */
  answer(message: Uint8Array): void {
    if (!this.#begin()) return;
    const bytes = prefixed([message]);
    this.#stream.end(bytes, this.peer.answering(bytes.length));
  }

  /** Sends one of several answers. False: HTTP/2 has enough to send, and the next one waits until `sent`. All of one turn of the event loop leave together. */
  send(message: Uint8Array): boolean {
    if (!this.#begin()) return true;
    if (this.#unsent.length === 0) process.nextTick(() => this.#flush());
    this.#unsent.push(message);
    this.#unsentBytes += PREFIX + message.length;
    const { writableLength, writableHighWaterMark } = this.#stream;
    if (writableLength + this.#unsentBytes >= writableHighWaterMark) this.#flush();
    return !this.#stream.writableNeedDrain;
  }

  /** Returns when what was sent has left, or nobody waits for that any more: what is to be said meanwhile is then said at once. */
  sent(ending: AbortSignal): Promise<void> {
    const stream = this.#stream;
    if (ending.aborted || stream.destroyed || !stream.writableNeedDrain) return Promise.resolve();
    return new Promise((resolve) => {
      const done = (): void => {
        for (const event of ["drain", "close"]) stream.off(event, done);
        ending.removeEventListener("abort", done);
        resolve();
      };
      for (const event of ["drain", "close"]) stream.on(event, done);
      ending.addEventListener("abort", done);
    });
  }

  /** Ends a call that was answered in full. */
  end(): void {
    if (!this.#begin()) return;
    this.#flush();
    this.#stream.end();
    this.#discard();
  }

  /** Ends the call with an error; one that isn't meant for callers is logged. */
  fail(error: unknown): void {
    const stream = this.#stream;
    const told = this.#options.translate(error, String(this.#headers[":path"]));
    if (stream.destroyed || stream.closed || stream.writableEnded) return;
    this.#trailers = statusOf(told);
    this.#flush();
    if (stream.headersSent) stream.end();
    else stream.respond({ ...HEADERS, ...this.#trailers }, STATUS_ALONE);
    this.#discard();
  }

  /** Hands over what was sent. As one piece: one by one, each message of a feed took 1 µs more. */
  #flush(): void {
    const messages = this.#unsent;
    const stream = this.#stream;
    if (messages.length === 0) return;
    this.#unsent = [];
    this.#unsentBytes = 0;
    if (stream.destroyed || stream.closed || stream.writableEnded) return;
    const bytes = prefixed(messages);
    stream.write(bytes, this.peer.answering(bytes.length));
  }

  #hold(bytes: number): void {
    this.peer.requests.change(bytes - this.#held);
    this.#held = bytes;
  }

  /** Sends the headers if they aren't; false: nobody listens any more. */
  #begin(): boolean {
    const stream = this.#stream;
    if (stream.destroyed || stream.closed || stream.writableEnded) return false;
    if (stream.headersSent) return true;
    stream.respond(HEADERS, WITH_TRAILERS);
    stream.once("wantTrailers", () => stream.sendTrailers(this.#trailers));
    return true;
  }

  /** Throws away what the caller still sends, who may not have seen yet that the call is over. One who goes on and on is cut off. */
  #discard(): void {
    const stream = this.#stream;
    if (stream.readableEnded) return;
    let bytes = 0;
    stream.on("data", (chunk: Buffer) => {
      bytes += chunk.length;
      if (bytes > this.#options.restLimit) stream.close(constants.NGHTTP2_NO_ERROR);
    });
  }
}

/** An error as trailers, its details in a google.rpc.Status. */
function statusOf(error: ConnectError): Readonly<Record<string, string>> {
  const details = error.details.map((detail) =>
    "desc" in detail ? anyPack(detail.desc, create(detail.desc, detail.value)) : { typeUrl: `type.googleapis.com/${detail.type}`, value: detail.value },
  );
  const { message, encoded } = headerText(error.rawMessage.toWellFormed());
  const status = create(StatusSchema, { code: error.code, message, details });
  return {
    "grpc-status": `${error.code}`,
    "grpc-message": encoded,
    "grpc-status-details-bin": Buffer.from(toBinary(StatusSchema, status)).toString("base64"),
  };
}

/**
 * As much of a text as a header may have, and how it is written there: all but what ASCII prints as %XX for each of its
 * bytes.
 */
function headerText(text: string): { readonly message: string; readonly encoded: string } {
  let message = "";
  let encoded = "";
  for (const character of text) {
    const next = encoded + (/^[ -$&-~]$/.test(character) ? character : encodeURIComponent(character));
    if (next.length > MOST_TEXT_BYTES) break;
    message += character;
    encoded = next;
  }
  return { message, encoded };
}
