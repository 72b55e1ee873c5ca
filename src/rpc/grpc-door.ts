// The gRPC door: the guarded handlers on Node's HTTP/2, beside the standard services of grpc-js.
//
// The handlers' calls don't pass through grpc-js: see grpc-call.ts. (Nor through connect-node, which takes 290 to 440 µs of CPU for a unary call.)

import { createServer, type Http2Server, type IncomingHttpHeaders, type ServerHttp2Session, type ServerHttp2Stream } from "node:http2";
import { setTimeout as delay } from "node:timers/promises";
import { fromBinary, type DescMethod } from "@bufbuild/protobuf";
import type { HealthImplementation } from "grpc-health-check";
import type { Address } from "../config.ts";
import { file_google_rpc_error_details } from "../gen/google/rpc/error_details_pb.ts";
import { file_grpc_health_v1_health } from "../gen/grpc/health/v1/health_pb.ts";
import { file_grpc_reflection_v1_reflection } from "../gen/grpc/reflection/v1/reflection_pb.ts";
import { encoderOf } from "./encoder.ts";
import { GrpcCall } from "./grpc-call.ts";
import type { Arrival, Entries, ExchangeEntry, StreamEntry, UnaryEntry } from "./handlers.ts";
import type { Listen, Listener } from "./listener.ts";
import { openStandardServices } from "./standard-services.ts";
import { errorOfFailure, errorOfViolations } from "./status.ts";

/** A door that is open. */
export interface Door {
  /** Where it listens: the port that was taken, if 0 was asked for. */
  readonly address: string;
  /** Lets nobody in any more. Who is inside may stay until `left` resolves; then what is still open is ended. */
  readonly close: (left: Promise<void>) => Promise<void>;
}

/** What the door needs beside the handlers. */
export interface GrpcDoorOptions {
  readonly address: Address;
  readonly listen: Listen;
  readonly entries: readonly Entries[];
  readonly health: HealthImplementation;
  readonly messageLimit: number;
  /** Aborted when the server shuts down, or a stream is too old: nobody waits any more for a reader that has stopped. */
  readonly shutdown: AbortSignal;
  readonly streamMaxAgeMs: number;
}

const CALLS_PER_CONNECTION = 1000;
/** For a connection's frames and headers, in MB. */
const MEMORY_PER_CONNECTION = 64;
const KEEPALIVE_MS = 30_000;
/** After so long without an answer to a ping the other side is taken for dead. */
const DEAD_MS = 20_000;
/** We end a call that is late so much before its caller gives up, so that the reason arrives. */
const HEAD_START_MS = 10;
/** For the last answers to leave after their handlers are done. */
const LAST_WORDS_MS = 200;
const GRPC = /^application\/grpc(\+proto)?(;|$)/;

/** How a call of one method is served. */
type Serve = (call: GrpcCall) => void;

/** Opens the door. */
export async function openGrpcDoor(options: GrpcDoorOptions): Promise<Door> {
  const { address, listen, entries, health, messageLimit } = options;
  const methods = new Map(entries.flatMap((service) => methodsOf(service, options)));
  const files = [...entries.map(({ service }) => service.file), file_google_rpc_error_details, file_grpc_health_v1_health, file_grpc_reflection_v1_reflection];
  const passOn = openStandardServices(health, files);
  const server = createServer({ maxSessionMemory: MEMORY_PER_CONNECTION, settings: { maxConcurrentStreams: CALLS_PER_CONNECTION } });
  server.on("stream", (stream: ServerHttp2Stream, headers: IncomingHttpHeaders) => {
    // What breaks a stream ends its call, which its close tells; the error has no more to say.
    stream.on("error", () => undefined);
    const serve = methods.get(String(headers[":path"]));
    if (!GRPC.test(headers["content-type"] ?? "")) refuseType(stream);
    else if (serve === undefined) passOn(stream, headers);
    else serve(new GrpcCall(stream, headers, messageLimit));
  });
  const sessions = sessionsOf(server);
  const listener = await listen(address, (connection) => server.emit("connection", connection));
  return { address: listener.address, close: (left) => close(sessions, listener, left) };
}

async function close(sessions: ReadonlySet<ServerHttp2Session>, listener: Listener, left: Promise<void>): Promise<void> {
  const gone = listener.close();
  // Says GOAWAY: what is under way is finished, and nothing new is begun.
  for (const session of sessions) session.close();
  await Promise.race([gone, left.then(() => delay(LAST_WORDS_MS))]);
  listener.cut();
}

/** The connections that are open, each asked now and then whether the other side is still there. */
function sessionsOf(server: Http2Server): ReadonlySet<ServerHttp2Session> {
  const sessions = new Set<ServerHttp2Session>();
  server.on("session", (session) => {
    sessions.add(session);
    let dead: NodeJS.Timeout | undefined;
    const timer = setInterval(() => {
      clearTimeout(dead);
      dead = setTimeout(() => session.destroy(), DEAD_MS).unref();
      session.ping(() => clearTimeout(dead));
    }, KEEPALIVE_MS).unref();
    session.once("close", () => {
      sessions.delete(session);
      clearInterval(timer);
      clearTimeout(dead);
    });
  });
  return sessions;
}

/** Whoever doesn't speak gRPC is told so by HTTP, as gRPC asks for. */
function refuseType(stream: ServerHttp2Stream): void {
  stream.respond({ ":status": 415, "content-type": "text/plain; charset=utf-8" });
  stream.end('this port takes gRPC, with the content type "application/grpc"; JSON is taken at the other one\n');
  stream.resume();
}

/** A service's methods by their paths. */
function methodsOf({ service, unary, streams, exchanges }: Entries, options: GrpcDoorOptions): readonly (readonly [path: string, Serve])[] {
  return service.methods.map((method) => {
    const path = `/${service.typeName}/${method.name}`;
    const entry = unary.get(method.localName);
    const stream = streams.get(method.localName);
    const exchange = exchanges.get(method.localName);
    if (entry !== undefined) return [path, unaryServed(method, entry)];
    if (stream !== undefined) return [path, streamServed(method, stream, options)];
    if (exchange !== undefined) return [path, exchangeServed(method, exchange, options)];
    throw new Error(`${path} has no handler`);
  });
}

function unaryServed(method: DescMethod, entry: UnaryEntry): Serve {
  const waits = method.input.field["wait"] !== undefined;
  const encode = encoderOf(method.output);
  const answer = async (call: GrpcCall, request: Buffer): Promise<void> => {
    let response: Uint8Array;
    try {
      response = encode(await entry(decode(method, request), arrivalOf(call, waits ? goneSignal(call) : undefined)));
    } catch (error) {
      return call.fail(error);
    }
    call.answer(response);
  };
  return (call) => call.request((request) => void answer(call, request));
}

function streamServed(method: DescMethod, entry: StreamEntry, options: GrpcDoorOptions): Serve {
  const encode = encoderOf(method.output);
  const run = async (call: GrpcCall, request: Buffer): Promise<void> => {
    const gone = goneSignal(call);
    const ending = endOf(call, gone, options);
    for await (const message of entry(decode(method, request), arrivalOf(call, gone))) {
      // A reader that stops stops the handler: its messages aren't queued here.
      if (!call.send(encode(message))) await call.sent(ending);
    }
    call.end();
  };
  return (call) => call.request((request) => void run(call, request).catch((error: unknown) => call.fail(error)));
}

function exchangeServed(method: DescMethod, entry: ExchangeEntry, options: GrpcDoorOptions): Serve {
  const encode = encoderOf(method.output);
  const run = async (call: GrpcCall): Promise<void> => {
    const gone = goneSignal(call);
    const ending = endOf(call, gone, options);
    const requests = call.requests((request) => decode(method, request), ending);
    for await (const message of entry(requests, arrivalOf(call, gone))) {
      if (!call.send(encode(message))) await call.sent(ending);
    }
    call.end();
  };
  return (call) => void run(call).catch((error: unknown) => call.fail(error));
}

/** Aborted when the call is over, be it that its caller is gone. */
function goneSignal(call: GrpcCall): AbortSignal {
  const gone = new AbortController();
  call.onceOver(() => gone.abort());
  return gone.signal;
}

/** Aborted when a stream must end: its caller is gone, or it is over; its deadline passes; the server shuts down; it is too old. */
function endOf(call: GrpcCall, gone: AbortSignal, { shutdown, streamMaxAgeMs }: GrpcDoorOptions): AbortSignal {
  const over = new AbortController();
  const timeoutMs = call.timeoutMs() ?? Number.POSITIVE_INFINITY;
  const end = (): void => {
    if (timeoutMs <= streamMaxAgeMs) call.fail(errorOfFailure("DEADLINE_PASSED", undefined));
    over.abort();
  };
  // `AbortSignal.timeout` would keep something of each stream for as long as it could have become old.
  const timer = setTimeout(end, Math.min(timeoutMs, streamMaxAgeMs)).unref();
  gone.addEventListener("abort", () => clearTimeout(timer));
  return AbortSignal.any([gone, shutdown, over.signal]);
}

function decode(method: DescMethod, request: Buffer) {
  try {
    return fromBinary(method.input, request);
  } catch (error) {
    throw errorOfViolations([{ field: "", description: `not a ${method.input.typeName}: ${error instanceof Error ? error.message : String(error)}` }]);
  }
}

function arrivalOf(call: GrpcCall, signal: AbortSignal | undefined): Arrival {
  const timeoutMs = call.timeoutMs();
  return { timeoutMs: timeoutMs === undefined ? undefined : Math.max(0, timeoutMs - HEAD_START_MS), traceparent: call.traceparent, signal };
}
