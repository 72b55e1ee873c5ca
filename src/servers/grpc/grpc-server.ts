// The gRPC server: the guarded handlers on Node's HTTP/2, beside the standard services.
//
// The handlers' calls don't pass through grpc-js: see grpc-call.ts. (Nor through connect-node, which takes 290 to 440 µs of CPU for a unary call.)

import type { IncomingHttpHeaders, OutgoingHttpHeaders, ServerHttp2Stream } from "node:http2";
import { setTimeout as delay } from "node:timers/promises";
import type { DescMethod } from "@bufbuild/protobuf";
import { MethodOptions_IdempotencyLevel as Idempotency } from "@bufbuild/protobuf/wkt";
import type { ConnectError } from "@connectrpc/connect";
import { errorToJsonBytes } from "@connectrpc/connect/protocol-connect";
import type { HealthImplementation } from "grpc-health-check";
import { ANSWER_BYTES } from "../../domain/answer-size.ts";
import { quote } from "../../domain/text.ts";
import { file_google_rpc_error_details } from "../../gen/google/rpc/error_details_pb.ts";
import { file_grpc_health_v1_health } from "../../gen/grpc/health/v1/health_pb.ts";
import { file_grpc_reflection_v1_reflection } from "../../gen/grpc/reflection/v1/reflection_pb.ts";
import { decoderOf } from "../wire/decoder.ts";
import { encoderOf } from "../../protobuf/encoder.ts";
import { GrpcCall, type CallOptions, type Serve, type Served } from "./grpc-call.ts";
import { Sessions } from "./grpc-session.ts";
import type { Listener } from "../listener.ts";
import type { Peer, Peers } from "../peers.ts";
import { mostBytes } from "../wire/request-bounds.ts";
import { standardMethods } from "./standard-services.ts";
import { errorOf, errorOfFailure, errorOfViolations, type Translate } from "../../rpc/errors.ts";
import {
  type Arrival,
  type Caller,
  type Entries,
  type ExchangeEntry,
  LONGEST_TIMER_MS,
  longPolls,
  type StreamEntry,
  type UnaryEntry,
} from "../../rpc/call.ts";

/** A server that is open. */
export interface RunningServer {
  /** Where it listens: the port that was taken, if 0 was asked for. */
  readonly address: string;
  /** Lets nobody in any more. Who is inside may stay until `left` resolves; then what is still open is ended. */
  readonly close: (left: Promise<void>) => Promise<void>;
}

/** What the server needs beside the handlers. */
export interface GrpcServerOptions {
  /** Where its callers come from. */
  readonly listener: Listener;
  readonly peers: Peers;
  readonly entries: readonly Entries[];
  /** A stream of a standard service begins; returns what ends it. Throws if there are too many. */
  readonly enterStream: (caller: Caller) => () => void;
  readonly health: HealthImplementation;
  /** Of each message, in bytes, whatever the bounds of its fields allow. */
  readonly messageLimit: number;
  readonly translate: Translate;
  /** Aborted when the server shuts down, or a stream is too old: nobody waits any more for a reader that has stopped. */
  readonly shutdown: AbortSignal;
  readonly streamMaxAgeMs: number;
}

/** Of a request for health or reflection: names, none of which is long. */
const NAMES_BYTES = 16 * 1024;
/** Of a call that is over, in limits of a message. */
const LARGEST_REST = 8;
/** We end a call that is late so much before its caller gives up, so that the reason arrives. */
const HEAD_START_MS = 10;
/** For the last answers to leave after their handlers are done. */
const LAST_WORDS_MS = 200;
const METHOD_NOT_ALLOWED = { ":status": 405, allow: "POST" };
const UNSUPPORTED_MEDIA_TYPE = { ":status": 415, accept: "application/grpc" };
const BY_POST = "call a method by POST: this port speaks gRPC, the other one JSON";
const BY_GRPC = 'the content type must be "application/grpc": this port speaks gRPC, the other one JSON and gRPC-Web';
const GRPC = /^application\/grpc(\+proto)?(;|$)/;

/** Opens the server. */
export function openGrpcServer(options: GrpcServerOptions): RunningServer {
  const { listener, peers, entries, health, enterStream } = options;
  const files = [...entries.map(({ service }) => service.file), file_google_rpc_error_details, file_grpc_health_v1_health, file_grpc_reflection_v1_reflection];
  const services = new Set(["", ...entries.map(({ service }) => service.typeName)]);
  const standard = { health, services, files, enterStream, options: callOptions(options, NAMES_BYTES) };
  const any = callOptions(options, options.messageLimit);
  const methods = new Map([...entries.flatMap((service) => methodsOf(service, options)), ...standardMethods(standard)]);
  const sessions = new Sessions(peers, (peer, stream, headers) => serveStream(peer, stream, headers, methods, any));
  listener.open((connection) => sessions.begin(connection));
  return { address: listener.address, close: (left) => close(sessions, listener, left) };
}

async function close(sessions: Sessions, listener: Listener, left: Promise<void>): Promise<void> {
  const gone = listener.close();
  sessions.close();
  await Promise.race([gone, left.then(() => delay(LAST_WORDS_MS))]);
  listener.cut();
}

function serveStream(
  peer: Peer,
  stream: ServerHttp2Stream,
  headers: IncomingHttpHeaders,
  methods: ReadonlyMap<string, Served>,
  any: CallOptions,
): void {
  // What breaks a stream ends its call, which its close tells; the error has no more to say.
  stream.on("error", () => undefined);
  // A caller who cancels without an error's code would leave it open, with what it was to be answered.
  stream.once("aborted", () => stream.destroy());
  const path = String(headers[":path"]);
  const problem = problemOf(headers);
  if (problem !== undefined) return refuseByHttp(peer, stream, problem);
  const method = methods.get(path);
  const call = new GrpcCall(peer, stream, headers, method?.options ?? any);
  try {
    if (method === undefined) {
      peer.refused();
      throw errorOfMethod(path);
    }
    peer.assertReads();
    method.serve(call);
  } catch (error) {
    call.fail(error);
  }
}

/** What is wrong with a request that isn't one of gRPC: it is told so by HTTP, as gRPC asks for. */
interface HttpProblem {
  readonly headers: OutgoingHttpHeaders;
  readonly why: string;
}

function problemOf(headers: IncomingHttpHeaders): HttpProblem | undefined {
  if (headers[":method"] !== "POST") return { headers: METHOD_NOT_ALLOWED, why: BY_POST };
  return GRPC.test(headers["content-type"] ?? "") ? undefined : { headers: UNSUPPORTED_MEDIA_TYPE, why: BY_GRPC };
}

/** The reason is in JSON. */
function refuseByHttp(peer: Peer, stream: ServerHttp2Stream, { headers, why }: HttpProblem): void {
  peer.refused();
  if (stream.destroyed) return;
  const body = errorToJsonBytes(errorOfViolations([{ field: "", description: why }]), undefined);
  stream.respond({ ...headers, "content-type": "application/json" });
  stream.end(body, peer.answering(body.byteLength));
  stream.resume();
}

/** For calls whose messages can't have more bytes than these, whatever the server takes. */
function callOptions({ messageLimit, translate }: GrpcServerOptions, most: number): CallOptions {
  return { messageLimit: Math.min(messageLimit, most), restLimit: LARGEST_REST * messageLimit, translate };
}

function errorOfMethod(path: string): ConnectError {
  const remedy = 'grpcurl\'s "list" and "describe" tell which there are';
  return errorOf("UNSUPPORTED", `there is no method ${quote(path)}; ${remedy}`);
}

/** A service's methods by their paths. */
function methodsOf({ service, unary, streams, exchanges }: Entries, options: GrpcServerOptions): readonly (readonly [path: string, Served])[] {
  const serveOf = (method: DescMethod): Serve => {
    const entry = unary.get(method.localName);
    const stream = streams.get(method.localName);
    const exchange = exchanges.get(method.localName);
    if (entry !== undefined) return unaryServed(method, entry);
    if (stream !== undefined) return streamServed(method, stream, options);
    if (exchange !== undefined) return exchangeServed(method, exchange, options);
    throw new Error(`${method.name} has no handler`);
  };
  return service.methods.map((method) => [
    `/${service.typeName}/${method.name}`,
    { options: callOptions(options, mostBytes(method.input)), serve: serveOf(method) },
  ]);
}

function unaryServed(method: DescMethod, entry: UnaryEntry): Serve {
  const waits = longPolls.has(method);
  const [decode, encode] = [decoderOf(method.input), answerEncoder(method)];
  const isRead = method.idempotency === Idempotency.NO_SIDE_EFFECTS;
  const answer = async (call: GrpcCall, request: Buffer): Promise<void> => {
    let response: Uint8Array;
    try {
      response = encode(await entry(decode(request), arrivalOf(call, waits ? goneSignal(call) : undefined)));
      if (isRead) call.peer.assertReads();
    } catch (error) {
      return call.fail(error);
    }
    call.answer(response);
  };
  return (call) => call.request((request) => void answer(call, request));
}

function streamServed(method: DescMethod, entry: StreamEntry, options: GrpcServerOptions): Serve {
  const [decode, encode] = [decoderOf(method.input), answerEncoder(method)];
  const run = async (call: GrpcCall, request: Buffer): Promise<void> => {
    const { gone, ending } = endsOf(call, options);
    for await (const message of entry(decode(request), arrivalOf(call, gone))) {
      // A reader that stops stops the handler: its messages aren't queued here.
      if (!call.send(encode(message))) await call.sent(ending);
    }
    call.end();
  };
  return (call) => call.request((request) => void run(call, request).catch((error: unknown) => call.fail(error)));
}

function exchangeServed(method: DescMethod, entry: ExchangeEntry, options: GrpcServerOptions): Serve {
  const [decode, encode] = [decoderOf(method.input), answerEncoder(method)];
  const run = async (call: GrpcCall): Promise<void> => {
    const { gone, ending } = endsOf(call, options);
    const requests = call.requests(decode, ending);
    for await (const message of entry(requests, arrivalOf(call, gone))) {
      if (!call.send(encode(message))) await call.sent(ending);
    }
    call.end();
  };
  return (call) => void run(call).catch((error: unknown) => call.fail(error));
}

/**
 * What is larger than clients take is a bug, and no answer to a write that was applied: it becomes an error that
 * doesn't say that nothing was done.
 */
function answerEncoder({ output, name }: DescMethod): ReturnType<typeof encoderOf> {
  const encode = encoderOf(output);
  return (message) => {
    const bytes = encode(message);
    if (bytes.length > ANSWER_BYTES) throw new Error(`an answer of ${name} has ${bytes.length} bytes`);
    return bytes;
  };
}

/** Aborted when the call is over: its caller is gone, or was told that its deadline has passed. */
function goneSignal(call: GrpcCall): AbortSignal {
  const gone = new AbortController();
  call.onceOver(() => gone.abort());
  return gone.signal;
}

/** The same of a stream, which has a deadline only if its caller set one; and what is aborted when it must end, also because the server shuts down, or it is too old. */
function endsOf(call: GrpcCall, { shutdown, streamMaxAgeMs }: GrpcServerOptions): { readonly gone: AbortSignal; readonly ending: AbortSignal } {
  const gone = new AbortController();
  const tooOld = new AbortController();
  const timeoutMs = call.timeoutMs();
  const late = (): void => {
    call.fail(errorOfFailure("DEADLINE_PASSED", undefined));
    gone.abort();
  };
  // `AbortSignal.timeout` would keep something of each stream for as long as it could have become old.
  const timers = [setTimeout(() => tooOld.abort(), streamMaxAgeMs), ...(timeoutMs === undefined ? [] : [setTimeout(late, Math.min(timeoutMs, LONGEST_TIMER_MS))])];
  for (const timer of timers) timer.unref();
  call.onceOver(() => {
    timers.forEach(clearTimeout);
    gone.abort();
  });
  return { gone: gone.signal, ending: AbortSignal.any([gone.signal, shutdown, tooOld.signal]) };
}

function arrivalOf(call: GrpcCall, signal: AbortSignal | undefined): Arrival {
  const timeoutMs = call.timeoutMs();
  return { timeoutMs: timeoutMs === undefined ? undefined : Math.max(0, timeoutMs - HEAD_START_MS), traceparent: call.traceparent, caller: call.peer, signal };
}
