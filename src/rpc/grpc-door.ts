// The gRPC door: the guarded handlers on a grpc-js server, with the official health and reflection services.
//
// grpc-js rather than connect-node, which serves gRPC as well: a unary call costs it 60 to 75 µs of CPU, and connect-node 290 to 440.

import type { EventEmitter } from "node:events";
import { createServer, type AddressInfo, type Server, type Socket } from "node:net";
import { setTimeout as delay } from "node:timers/promises";
import { create, fromBinary, toBinary, type DescFile, type DescMessage, type DescMethod, type MessageInitShape } from "@bufbuild/protobuf";
import { anyPack, FileDescriptorProtoSchema } from "@bufbuild/protobuf/wkt";
import { ConnectError } from "@connectrpc/connect";
import * as grpc from "@grpc/grpc-js";
import { ReflectionService } from "@grpc/reflection";
import type { HealthImplementation } from "grpc-health-check";
import type { Address } from "../config.ts";
import { file_google_rpc_error_details } from "../gen/google/rpc/error_details_pb.ts";
import { StatusSchema } from "../gen/google/rpc/status_pb.ts";
import { file_grpc_health_v1_health } from "../gen/grpc/health/v1/health_pb.ts";
import { file_grpc_reflection_v1_reflection } from "../gen/grpc/reflection/v1/reflection_pb.ts";
import type { Arrival, Entries, ExchangeEntry, Requests, StreamEntry, UnaryEntry } from "./handlers.ts";
import { errorOf, errorOfViolations } from "./status.ts";

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
  readonly entries: readonly Entries[];
  readonly health: HealthImplementation;
  readonly messageLimit: number;
  /** Aborted when the server shuts down, or a stream is too old: nobody waits any more for a reader that has stopped. */
  readonly shutdown: AbortSignal;
  readonly streamMaxAgeMs: number;
}

/** grpc-js itself refuses what is this much larger than the limit, before it is read; below that, we say it with a reason. */
const HARD_LIMIT_FACTOR = 2;
const KEEPALIVE_MS = 30_000;
const CALLS_PER_CONNECTION = 1000;
/** We end a call that is late so much before grpc-js does, which gives no reason. */
const HEAD_START_MS = 10;
/** For the last answers to leave after their handlers are done. */
const LAST_WORDS_MS = 200;

/** Opens the door. */
export async function openGrpcDoor(options: GrpcDoorOptions): Promise<Door> {
  const { address: { host: name, port: wanted }, entries, health, messageLimit } = options;
  const server = new grpc.Server({
    "grpc.max_receive_message_length": messageLimit * HARD_LIMIT_FACTOR,
    "grpc.max_concurrent_streams": CALLS_PER_CONNECTION, "grpc-node.max_session_memory": 64,
    "grpc.keepalive_time_ms": KEEPALIVE_MS,
    // Its bookkeeping costs each call; what an operator wants to know is in GetServiceStatus.
    "grpc.enable_channelz": 0,
  });
  for (const service of entries) addService(server, service, options);
  health.addToServer(server);
  const files = [...entries.map(({ service }) => service.file), file_google_rpc_error_details, file_grpc_health_v1_health, file_grpc_reflection_v1_reflection];
  reflectionOf(files).addToServer(server);
  const injector = server.createConnectionInjector(grpc.ServerCredentials.createInsecure());
  const { socket, sockets } = await listen(name, wanted, (connection) => injector.injectConnection(connection));
  const host = name.includes(":") ? `[${name}]` : name;
  const { port } = socket.address() as AddressInfo;
  return { address: `${host}:${port}`, close: (left) => close(server, socket, sockets, left) };
}

/**
 * Listens by a socket of our own, whose connections we can cut at the end. grpc-js only asks callers to close theirs (with channelz off, its
 * `forceShutdown` knows no sessions): one that watched health kept the process alive for half a minute.
 */
async function listen(host: string, port: number, onConnection: (connection: Socket) => void): Promise<{ socket: Server; sockets: ReadonlySet<Socket> }> {
  const sockets = new Set<Socket>();
  const socket = createServer({ noDelay: true }, (connection) => {
    sockets.add(connection);
    connection.once("close", () => sockets.delete(connection));
    onConnection(connection);
  });
  await new Promise<void>((resolve, reject) => socket.once("error", reject).listen(port, host, resolve));
  return { socket, sockets };
}

async function close(server: grpc.Server, socket: Server, sockets: ReadonlySet<Socket>, left: Promise<void>): Promise<void> {
  const gone = new Promise<void>((resolve) => socket.close(() => resolve()));
  // Says GOAWAY to all. When it calls back tells nothing: it counts a session as closed once it is closing.
  server.tryShutdown(() => undefined);
  await Promise.race([gone, left.then(() => delay(LAST_WORDS_MS))]);
  for (const connection of sockets) connection.destroy();
}

/** What the reflection service tells: these files and all that they import. */
function reflectionOf(files: readonly DescFile[]): ReflectionService {
  const all = new Map<string, DescFile>();
  const add = (file: DescFile): void => {
    all.set(file.proto.name, file);
    file.dependencies.forEach(add);
  };
  files.forEach(add);
  const fileDescriptorProtos = [...all.values()].map(({ proto }) => Buffer.from(toBinary(FileDescriptorProtoSchema, proto)));
  // The type asks for a loaded package; what is read of it is the descriptors.
  return new ReflectionService({ ledgerd: { format: "Protocol Buffer 3 DescriptorProto", type: {}, fileDescriptorProtos } });
}

/** Messages are read in the handlers, where a malformed one can be answered with a reason. */
const asItIs = (message: Buffer): Buffer => message;

type RawUnaryCall = grpc.ServerUnaryCall<Buffer, Buffer>;
type RawStreamCall = grpc.ServerWritableStream<Buffer, Buffer>;
type RawExchange = grpc.ServerDuplexStream<Buffer, Buffer>;

function addService(server: grpc.Server, { service, unary, streams, exchanges }: Entries, options: GrpcDoorOptions): void {
  const definition: Record<string, grpc.MethodDefinition<Buffer, Buffer>> = {};
  const implementation: grpc.UntypedServiceImplementation = {};
  for (const method of service.methods) {
    const entry = unary.get(method.localName);
    const stream = streams.get(method.localName);
    const exchange = exchanges.get(method.localName);
    definition[method.localName] = {
      path: `/${service.typeName}/${method.name}`,
      originalName: method.name,
      requestStream: exchange !== undefined,
      responseStream: stream !== undefined || exchange !== undefined,
      requestDeserialize: asItIs,
      requestSerialize: asItIs,
      responseDeserialize: asItIs,
      responseSerialize: asItIs,
    };
    if (entry !== undefined) implementation[method.localName] = unaryHandler(method, entry, options.messageLimit);
    if (stream !== undefined) implementation[method.localName] = streamHandler(method, stream, options);
    if (exchange !== undefined) implementation[method.localName] = exchangeHandler(method, exchange, options);
  }
  server.addService(definition, implementation);
}

function unaryHandler(method: DescMethod, entry: UnaryEntry, messageLimit: number): grpc.handleUnaryCall<Buffer, Buffer> {
  const waits = method.input.field["wait"] !== undefined;
  return (call: RawUnaryCall, callback) => {
    const answer = async (): Promise<void> => {
      let response: Buffer;
      try {
        response = encode(method.output, await entry(decode(method, call.request, messageLimit), arrivalOf(call, waits ? goneSignal(call) : undefined)));
      } catch (error) {
        return callback(statusOf(error));
      }
      callback(null, response);
    };
    void answer();
  };
}

function streamHandler(method: DescMethod, entry: StreamEntry, { messageLimit, shutdown, streamMaxAgeMs }: GrpcDoorOptions): grpc.handleServerStreamingCall<Buffer, Buffer> {
  return (call: RawStreamCall) => {
    const gone = goneSignal(call);
    const ending = AbortSignal.any([gone, shutdown, AbortSignal.timeout(streamMaxAgeMs)]);
    const run = async (): Promise<void> => {
      for await (const message of entry(decode(method, call.request, messageLimit), arrivalOf(call, gone))) {
        // A reader that stops stops the handler: its messages aren't queued here.
        if (!call.write(encode(method.output, message))) await drained(call, ending);
      }
      call.end();
    };
    run().catch((error: unknown) => call.emit("error", statusOf(error)));
  };
}

function exchangeHandler(method: DescMethod, entry: ExchangeEntry, { messageLimit, shutdown, streamMaxAgeMs }: GrpcDoorOptions): grpc.handleBidiStreamingCall<Buffer, Buffer> {
  return (call: RawExchange) => {
    const gone = goneSignal(call);
    const ending = AbortSignal.any([gone, shutdown, AbortSignal.timeout(streamMaxAgeMs)]);
    const run = async (): Promise<void> => {
      for await (const message of entry(requestsOf(call, (request) => decode(method, request, messageLimit), ending), arrivalOf(call, gone))) {
        if (!gone.aborted) await sent(call, encode(method.output, message), ending);
      }
      call.end();
    };
    run().catch((error: unknown) => call.emit("error", statusOf(error)));
  };
}

/**
 * What the caller of an exchange sends, until it has said all or the exchange is ending. Taken only when it is asked for: until then grpc-js keeps
 * some messages (16 at most), and HTTP/2 the caller waiting. All that has arrived comes at once, which costs a tenth of one by one.
 */
async function* requestsOf<T>(call: RawExchange, read: (message: Buffer) => T, ending: AbortSignal): Requests<T> {
  let wake = (): void => undefined;
  const changed = (): void => wake();
  for (const event of ["readable", "end"]) call.on(event, changed);
  ending.addEventListener("abort", changed);
  while (!ending.aborted && !call.readableEnded) {
    const requests: T[] = [];
    try {
      for (let message = call.read() as Buffer | null; message !== null; message = call.read() as Buffer | null) requests.push(read(message));
    } catch (error) {
      // What came before the message that can't be read counts.
      if (requests.length > 0) yield requests;
      throw error;
    }
    if (requests.length > 0) yield requests;
    else await new Promise<void>((resolve) => (wake = resolve));
  }
}

/** Aborted when the caller is gone. */
function goneSignal(call: EventEmitter & { readonly cancelled: boolean }): AbortSignal {
  const gone = new AbortController();
  call.once("cancelled", () => gone.abort());
  if (call.cancelled) gone.abort();
  return gone.signal;
}

function decode(method: DescMethod, request: Buffer, messageLimit: number) {
  if (request.byteLength > messageLimit) {
    throw errorOf("MESSAGE_TOO_LARGE", `the request has ${request.byteLength} bytes, at most ${messageLimit} are taken`, { limit_bytes: `${messageLimit}` });
  }
  try {
    return fromBinary(method.input, request);
  } catch (error) {
    throw errorOfViolations([{ field: "", description: `not a ${method.input.typeName}: ${error instanceof Error ? error.message : String(error)}` }]);
  }
}

function encode(desc: DescMessage, message: MessageInitShape<DescMessage>): Buffer {
  const bytes = toBinary(desc, create(desc, message));
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function arrivalOf(call: RawUnaryCall | RawStreamCall | RawExchange, signal: AbortSignal | undefined): Arrival {
  const deadline = Number(call.getDeadline());
  const [traceparent] = call.metadata.get("traceparent");
  return { timeoutMs: Number.isFinite(deadline) ? Math.max(0, deadline - Date.now() - HEAD_START_MS) : undefined, traceparent: traceparent?.toString(), signal };
}

async function drained(call: RawStreamCall, ending: AbortSignal): Promise<void> {
  if (ending.aborted) return;
  await new Promise<void>((resolve) => {
    const done = (): void => {
      call.off("drain", done);
      ending.removeEventListener("abort", done);
      resolve();
    };
    call.once("drain", done);
    ending.addEventListener("abort", done);
  });
}

/** Sends a message, and returns when it has left, or nobody waits for that any more: what is to be said meanwhile is then said at once. */
function sent(call: RawExchange, message: Buffer, ending: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      ending.removeEventListener("abort", done);
      resolve();
    };
    ending.addEventListener("abort", done);
    call.write(message, done);
    if (ending.aborted) done();
  });
}

/** An error as grpc-js sends it, its details in a google.rpc.Status. */
function statusOf(error: unknown): grpc.ServiceError {
  if (!(error instanceof ConnectError)) return statusOf(errorOf("INTERNAL", "internal error", {}, error));
  const details = error.details.map((detail) =>
    "desc" in detail ? anyPack(detail.desc, create(detail.desc, detail.value)) : { typeUrl: `type.googleapis.com/${detail.type}`, value: detail.value },
  );
  const status = create(StatusSchema, { code: error.code, message: error.rawMessage, details });
  const metadata = new grpc.Metadata();
  metadata.set("grpc-status-details-bin", Buffer.from(toBinary(StatusSchema, status)));
  const code: number = error.code;
  return Object.assign(new Error(error.rawMessage), { code, details: error.rawMessage, metadata });
}
