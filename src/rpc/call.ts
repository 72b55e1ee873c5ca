// What a call is, as it arrives and as handlers see it, and what a handler is.

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
import { JobService } from "../gen/ledger/v1/job_service_pb.ts";
import { LockService } from "../gen/ledger/v1/lock_service_pb.ts";

/** What Node's timers hold, some 24 days: one that is set for longer would be over at once. */
export const LONGEST_TIMER_MS = 2 ** 31 - 1;

/** What a guard knows of who calls. */
export interface Caller {
  /** A long poll begins; returns what ends it. Throws if too many calls of the connection wait. */
  readonly enterWait: () => () => void;
  /** The same of a stream. */
  readonly enterStream: () => () => void;
}

/** A call as it arrives at a server. */
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

/** What answers the calls of a method. */
export type Handler<M extends DescMethod> =
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

/** For the answer to a call that has waited as long as it may. */
const ANSWER_MS = 50;
/** Of a call that asks to wait. */
export const LONGEST_WAIT_MS = 30_000;

/** The end of a long poll's wait: a little before the call's deadline, if that comes first. */
export function endOfWait({ deadline, ending }: Call, waitMs: number): AbortSignal {
  // A signal's time must be a whole number, where a timer's needn't.
  const left = Math.floor(Math.min(waitMs, deadline - performance.now() - ANSWER_MS));
  return left <= 0 ? AbortSignal.abort() : AbortSignal.any([ending(), AbortSignal.timeout(left)]);
}

/** The calls that may wait for something, as long as their request says, beyond their deadline. */
export const longPolls: ReadonlySet<DescMethod> = new Set([JobService.method.claimJobs, LockService.method.acquireLock]);
