// What probes and tools call: grpc.health.v1 and reflection, by the official packages. They are made for a server of grpc-js: here it is one that
// notes their methods, each of which is then served as ours are.
//
// (A server of grpc-js on a connection inside of this process, on which such calls were passed on, was tried: without a socket between, a call and its
// cancellation arrived at once, at which grpc-js threw.)

import { EventEmitter } from "node:events";
import { toBinary, type DescFile } from "@bufbuild/protobuf";
import { FileDescriptorProtoSchema } from "@bufbuild/protobuf/wkt";
import { Code, type ConnectError } from "@connectrpc/connect";
import type * as grpc from "@grpc/grpc-js";
import { ReflectionService } from "@grpc/reflection";
import type { HealthImplementation } from "grpc-health-check";
import type { CallOptions, GrpcCall, Serve, Served } from "./grpc-call.ts";
import { errorOf, errorOfViolations } from "../../rpc/errors.ts";
import type { Caller } from "../../rpc/call.ts";

/**
 * Names are all that these services are asked for, and they answer them again: in errors, in what reflection says of
 * each question, and in what health keeps of those who watch.
 */
const MOST_REQUEST_BYTES = 200;

type Method = grpc.MethodDefinition<unknown, unknown>;

/** What the standard services are made of. */
export interface StandardParts {
  /** As it is told, of these services, the empty name among them. */
  readonly health: HealthImplementation;
  readonly services: ReadonlySet<string>;
  /** What reflection answers: these and all that they import. */
  readonly files: readonly DescFile[];
  /** A stream begins; returns what ends it. Throws if there are too many. */
  readonly enterStream: (caller: Caller) => () => void;
  readonly options: CallOptions;
}

/** How calls of health and reflection are served, by their paths. */
export function standardMethods(parts: StandardParts): ReadonlyMap<string, Served> {
  const { health, services, files, enterStream, options } = parts;
  const methods = new Map<string, Served>();
  const addService = (service: grpc.ServiceDefinition, handlers: grpc.UntypedServiceImplementation): void => {
    for (const [name, method] of Object.entries(service)) {
      const serve = served(method, handlers[name] ?? handlers[method.originalName ?? ""], services);
      const isStream = method.requestStream || method.responseStream;
      methods.set(method.path, { options, serve: isStream ? within(enterStream, serve) : serve });
    }
  };
  // All that they do with the server.
  const notes = { addService } as unknown as grpc.Server;
  health.addToServer(notes);
  reflectionOf(files).addToServer(notes);
  return methods;
}

/** Streams are counted among all others, until they are over. */
function within(enterStream: StandardParts["enterStream"], serve: Serve): Serve {
  return (call) => {
    call.onceOver(enterStream(call.peer));
    serve(call);
  };
}

function served(method: Method, handler: unknown, services: ReadonlySet<string>): Serve {
  if (method.requestStream) return (call) => void exchange(call, method, handler as (stream: EventEmitter) => void).catch((error: unknown) => call.fail(error));
  return (call) =>
    call.request((bytes) => {
      try {
        const request = read(method, bytes);
        if (method.responseStream) (handler as (call: object) => void)(writerFor(call, method, watched(request, services)));
        else (handler as UnaryHandler)({ request }, (error, response) => (error === null ? call.answer(method.responseSerialize(response)) : call.fail(errorOfStandard(error))));
      } catch (error) {
        call.fail(error);
      }
    });
}

/** For each name that is watched, health keeps a place for ever: names that it doesn't know, which never come, share one. */
function watched(request: unknown, services: ReadonlySet<string>): unknown {
  return services.has((request as { readonly service: string }).service) ? request : { service: UNKNOWN };
}

const UNKNOWN = "?";

type UnaryHandler = (call: { readonly request: unknown }, callback: (error: grpc.StatusObject | null, response?: unknown) => void) => void;

/** What a handler of grpc-js writes several answers to. */
function writerFor(call: GrpcCall, method: Method, request?: unknown): EventEmitter {
  const writer = new EventEmitter();
  call.onceOver(() => writer.emit("cancelled"));
  return Object.assign(writer, { request, write: (message: unknown) => call.send(method.responseSerialize(message)), end: () => call.end() });
}

async function exchange(call: GrpcCall, method: Method, handler: (stream: EventEmitter) => void): Promise<void> {
  const over = new AbortController();
  call.onceOver(() => over.abort());
  const stream = writerFor(call, method);
  handler(stream);
  for await (const requests of call.requests((bytes) => read(method, bytes), over.signal)) {
    for (const request of requests) stream.emit("data", request);
    await call.sent(over.signal);
  }
  stream.emit("end");
}

function read(method: Method, bytes: Buffer): unknown {
  if (bytes.length > MOST_REQUEST_BYTES) {
    const description = `a request of ${method.path} has at most ${MOST_REQUEST_BYTES} bytes: no name here is longer`;
    throw errorOfViolations([{ field: "", description }]);
  }
  try {
    return method.requestDeserialize(bytes);
  } catch (error) {
    throw errorOfViolations([{ field: "", description: `not a request of ${method.path}: ${error instanceof Error ? error.message : String(error)}` }]);
  }
}

/** Their own errors are few: a name that they don't know, which they repeat. */
function errorOfStandard({ details, code }: grpc.StatusObject): ConnectError {
  const [standard, notFound]: readonly number[] = [code, Code.NotFound];
  if (standard === notFound) return errorOf("SERVICE_NOT_FOUND", details);
  throw new Error(`a standard service failed with ${code}: ${details}`);
}

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
