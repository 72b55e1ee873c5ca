// What is done around each call: its deadline, its place among the others, the translation of errors. The servers bind
// the guarded handlers to their protocols.

import type {
  DescMessage,
  DescMethod,
  DescMethodBiDiStreaming,
  DescMethodServerStreaming,
  DescMethodUnary,
  DescService,
  MessageShape,
} from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { Failure } from "../domain/failure.ts";
import {
  type Arrival,
  type Caller,
  type Entries,
  type ExchangeEntry,
  type Handler,
  type Handlers,
  LONGEST_WAIT_MS,
  longPolls,
  type StreamEntry,
  type UnaryEntry,
} from "./call.ts";
import { errorOf, errorOfFailure, type Translate } from "./errors.ts";
import type { ClaimJobsRequest } from "../gen/ledger/v1/job_service_pb.ts";
import type { AcquireLockRequest } from "../gen/ledger/v1/lock_service_pb.ts";

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
      const waitMs = waitOf(method, request);
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

/** Why a stream is over whose server has aborted it: for lateness, or because its caller is gone. */
function errorOfEnd({ reason }: AbortSignal): ConnectError {
  const isLate = reason instanceof ConnectError && reason.code === Code.DeadlineExceeded;
  return errorOfFailure(isLate ? "DEADLINE_PASSED" : "CALL_CANCELLED", reason);
}

/** How long a call asks to wait, in milliseconds. */
function waitOf(method: DescMethod, request: MessageShape<DescMessage>): number {
  if (!longPolls.has(method)) return 0;
  const { wait } = request as ClaimJobsRequest | AcquireLockRequest;
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
