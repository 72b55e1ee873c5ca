// What a handler is, and what is done around each: deadline, translation of errors, log. The doors bind the guarded handlers to their protocols.

import type {
  DescMessage,
  DescMethod,
  DescMethodBiDiStreaming,
  DescMethodServerStreaming,
  DescMethodUnary,
  DescService,
  MessageInitShape,
  MessageShape,
} from "@bufbuild/protobuf";
import type { Duration } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError } from "@connectrpc/connect";
import { Failure } from "../domain/failure.ts";
import type { Caller } from "../servers/peers.ts";
import { errorOf, errorOfFailure, type Translate } from "./errors.ts";

/** What Node's timers hold, some 24 days: one that is set for longer would be over at once. */
export const LONGEST_TIMER_MS = 2 ** 31 - 1;

/** A call as it arrives at a door. */
export interface Arrival {
  /** What is left of the caller's deadline, in milliseconds; undefined: it has none. */
  readonly timeoutMs: number | undefined;
  /** The W3C trace context, as it was sent. */
  readonly traceparent: string | undefined;
  /** Whose connection it came by. */
  readonly caller: Caller;
  /** Aborted when the caller is gone. Only streams and long polls look at it: a write goes on without its caller. */
  readonly signal: AbortSignal | undefined;
}

/** A call as a unary handler sees it. */
export interface Call {
  /** In milliseconds of `performance.now()`. */
  readonly deadline: number;
  /** 32 hexadecimal digits, or empty. */
  readonly traceId: string;
  /** Aborted when a long poll must end: its caller is gone, or the server shuts down. */
  readonly ending: () => AbortSignal;
}

/** A call as a streaming handler sees it. */
export interface StreamCall {
  /** Aborted when the stream must end: its caller is gone, it is too old, or the server shuts down. */
  readonly signal: AbortSignal;
}

/**
 * A call as the handler of an exchange (a bidirectional stream) sees it. It needs no signal: when the exchange must end, for whatever reason, its
 * requests end, and what it answers to a caller who is gone is dropped.
 */
export interface Exchange {
  /** 32 hexadecimal digits, or empty. */
  readonly traceId: string;
  /** Of what is begun now, in milliseconds of `performance.now()`: an exchange as a whole has no deadline. */
  readonly deadline: () => number;
}

/** The requests of an exchange: each time all that have arrived, at least one. Its caller sends no more than is asked for here. */
export type Requests<T> = AsyncIterable<readonly T[]>;

type Handler<M extends DescMethod> =
  M extends DescMethodUnary<infer I, infer O>
    ? (request: MessageShape<I>, call: Call) => Promise<MessageInitShape<O>>
    : M extends DescMethodServerStreaming<infer I, infer O>
      ? (request: MessageShape<I>, call: StreamCall) => AsyncIterable<MessageInitShape<O>>
      : M extends DescMethodBiDiStreaming<infer I, infer O>
        ? (requests: Requests<MessageShape<I>>, exchange: Exchange) => AsyncIterable<MessageInitShape<O>>
        : never;

/** The handlers of a service: one for each of its methods. */
export type Handlers<S extends DescService> = { readonly [M in keyof S["method"]]: Handler<S["method"][M]> };

/** A unary handler with everything around it; it throws nothing but `ConnectError`. */
export type UnaryEntry = (request: MessageShape<DescMessage>, arrival: Arrival) => Promise<MessageInitShape<DescMessage>>;
/** A streaming handler with everything around it; it throws nothing but `ConnectError`. */
export type StreamEntry = (request: MessageShape<DescMessage>, arrival: Arrival) => AsyncIterable<MessageInitShape<DescMessage>>;
/** The handler of an exchange with everything around it; it throws nothing but `ConnectError`. */
export type ExchangeEntry = (requests: Requests<MessageShape<DescMessage>>, arrival: Arrival) => AsyncIterable<MessageInitShape<DescMessage>>;

/** A service's guarded handlers, by the local names of its methods. */
export interface Entries {
  readonly service: DescService;
  readonly unary: ReadonlyMap<string, UnaryEntry>;
  readonly streams: ReadonlyMap<string, StreamEntry>;
  readonly exchanges: ReadonlyMap<string, ExchangeEntry>;
}

/** What the guard needs. */
export interface GuardOptions {
  readonly defaultDeadlineMs: number;
  readonly maxDeadlineMs: number;
  readonly streamMaxAgeMs: number;
  readonly streamLimit: number;
  /** Ends all streams, cleanly. */
  readonly shutdown: AbortSignal;
  readonly translate: Translate;
}

/** The calls that are inside, of all services, and the streams among them. */
class Inside {
  readonly #streamLimit: number;
  #calls = 0;
  #streams = 0;
  readonly #whenEmpty: (() => void)[] = [];

  constructor(streamLimit: number) {
    this.#streamLimit = streamLimit;
  }

  /** Resolves once no call is inside. */
  async empty(): Promise<void> {
    if (this.#calls > 0) await new Promise<void>((resolve) => this.#whenEmpty.push(resolve));
  }

  /** One more call that is answered once, and may ask to wait; returns what ends it. */
  enterCall(caller: Caller, waitMs: number): () => void {
    const leave = waitMs > 0 ? caller.enterWait() : undefined;
    this.#calls += 1;
    return () => {
      leave?.();
      this.#leave();
    };
  }

  /** One more stream; returns what ends it. */
  enterStream(caller: Caller): () => void {
    const leave = caller.enterStream();
    if (this.#streams >= this.#streamLimit) {
      leave();
      throw errorOf("OVERLOADED", `this instance has its ${this.#streamLimit} streams open already`);
    }
    this.#streams += 1;
    this.#calls += 1;
    return () => {
      leave();
      this.#streams -= 1;
      this.#leave();
    };
  }

  #leave(): void {
    this.#calls -= 1;
    if (this.#calls === 0) for (const resolve of this.#whenEmpty.splice(0)) resolve();
  }
}

/** Guards handlers; the calls of all services it is used for are counted together. */
export function createGuard(options: GuardOptions) {
  const inside = new Inside(options.streamLimit);
  return { guard, enterStream: (caller: Caller) => inside.enterStream(caller), empty: () => inside.empty() };

  function guard<S extends DescService>(service: S, handlers: Handlers<S>): Entries {
    const byName = handlers as unknown as Readonly<Record<string, unknown>>;
    const ofKind = <E>(kind: DescMethod["methodKind"], guardOne: (method: DescMethod, handler: never) => E): ReadonlyMap<string, E> =>
      new Map(service.methods.filter(({ methodKind }) => methodKind === kind).map((method) => [method.localName, guardOne(method, byName[method.localName] as never)]));
    return {
      service,
      unary: ofKind("unary", guardUnary),
      streams: ofKind("server_streaming", guardStream),
      exchanges: ofKind("bidi_streaming", guardExchange),
    };
  }

  function guardUnary(method: DescMethod, handler: Handler<DescMethodUnary>): UnaryEntry {
    return async (request, arrival) => {
      const waitMs = waitOf(request);
      const timeoutMs = timeoutOf(waitMs, arrival, options);
      const leave = inside.enterCall(arrival.caller, waitMs);
      const late = Promise.withResolvers<never>();
      const timer = setTimeout(() => late.reject(new Failure("DEADLINE_PASSED")), timeoutMs);
      try {
        const ending = (): AbortSignal => AbortSignal.any([options.shutdown, ...(arrival.signal === undefined ? [] : [arrival.signal])]);
        const call = { deadline: performance.now() + timeoutMs, traceId: traceIdOf(arrival.traceparent), ending };
        return await Promise.race([handler(request, call), late.promise]);
      } catch (error) {
        throw options.translate(error, nameOf(method));
      } finally {
        clearTimeout(timer);
        leave();
      }
    };
  }

  function guardStream(method: DescMethod, handler: Handler<DescMethodServerStreaming>): StreamEntry {
    return async function* (request, arrival) {
      const leave = inside.enterStream(arrival.caller);
      const tooOld = new AbortController();
      // `AbortSignal.timeout` would keep something of each stream for as long as it could have become old.
      const timer = setTimeout(() => tooOld.abort(), options.streamMaxAgeMs).unref();
      const ending = AbortSignal.any([options.shutdown, tooOld.signal]);
      const signal = arrival.signal === undefined ? ending : AbortSignal.any([ending, arrival.signal]);
      try {
        yield* handler(request, { signal });
      } catch (error) {
        // Too old, or shutting down: a clean end, and the caller watches again from its last position.
        if (!signal.aborted) throw options.translate(error, nameOf(method));
      } finally {
        clearTimeout(timer);
        leave();
      }
      if (arrival.signal?.aborted === true) throw errorOfEnd(arrival.signal);
    };
  }

  function guardExchange(method: DescMethod, handler: Handler<DescMethodBiDiStreaming>): ExchangeEntry {
    return async function* (requests, arrival) {
      const leave = inside.enterStream(arrival.caller);
      try {
        yield* handler(requests, { traceId: traceIdOf(arrival.traceparent), deadline: () => performance.now() + options.defaultDeadlineMs });
      } catch (error) {
        throw options.translate(error, nameOf(method));
      } finally {
        leave();
      }
    };
  }
}

/** Why a stream is over whose door has aborted it: for lateness, or because its caller is gone. */
function errorOfEnd({ reason }: AbortSignal): ConnectError {
  const isLate = reason instanceof ConnectError && reason.code === Code.DeadlineExceeded;
  return errorOfFailure(isLate ? "DEADLINE_PASSED" : "CALL_CANCELLED", reason);
}

/** For the answer to a call that has waited as long as it may. */
const ANSWER_MS = 50;
const LONGEST_WAIT_MS = 30_000;

/** The end of a long poll's wait: a little before the call's deadline, if that comes first. */
export function endOfWait({ deadline, ending }: Call, waitMs: number): AbortSignal {
  // A signal's time must be a whole number, where a timer's needn't.
  const left = Math.floor(Math.min(waitMs, deadline - performance.now() - ANSWER_MS));
  return left <= 0 ? AbortSignal.abort() : AbortSignal.any([ending(), AbortSignal.timeout(left)]);
}

/** How long a call asks to wait, in milliseconds: by a field of that name. */
function waitOf(request: MessageShape<DescMessage>): number {
  const wait = "wait" in request ? (request.wait as Duration | undefined) : undefined;
  if (wait === undefined) return 0;
  return Math.min(Math.max(0, Number(wait.seconds) * 1000 + wait.nanos / 1e6), LONGEST_WAIT_MS);
}

/** How long a call may take: as its caller says, within the limit, or the default; what it asks to wait is added. */
function timeoutOf(
  waitMs: number,
  { timeoutMs }: Arrival,
  { defaultDeadlineMs, maxDeadlineMs }: GuardOptions,
): number {
  return Math.min(timeoutMs ?? defaultDeadlineMs + waitMs, maxDeadlineMs + waitMs);
}

/** The trace id of a W3C `traceparent` header, if it is one. */
function traceIdOf(traceparent: string | undefined): string {
  return /^[\da-f]{2}-([\da-f]{32})-[\da-f]{16}-[\da-f]{2}/.exec(traceparent ?? "")?.[1] ?? "";
}

function nameOf(method: DescMethod): string {
  return `${method.parent.typeName}/${method.name}`;
}
