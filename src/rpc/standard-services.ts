// What is called by probes and tools rather than by thousands a second: grpc.health.v1 and reflection. They are grpc-js's own, served by grpc-js
// on a connection inside of this process, on which the door passes on every call that isn't one of ours. So grpc-js answers for unknown methods, too.

import { connect, constants, type ClientHttp2Session, type IncomingHttpHeaders, type ServerHttp2Stream } from "node:http2";
import { duplexPair } from "node:stream";
import { toBinary, type DescFile } from "@bufbuild/protobuf";
import { FileDescriptorProtoSchema } from "@bufbuild/protobuf/wkt";
import * as grpc from "@grpc/grpc-js";
import { ReflectionService } from "@grpc/reflection";
import type { HealthImplementation } from "grpc-health-check";

/** Serves health as it is told, and tells what is in these files. Answers how a call is passed on. */
export function openStandardServices(health: HealthImplementation, files: readonly DescFile[]): (stream: ServerHttp2Stream, headers: IncomingHttpHeaders) => void {
  const server = new grpc.Server({ "grpc.enable_channelz": 0 });
  health.addToServer(server);
  reflectionOf(files).addToServer(server);
  const injector = server.createConnectionInjector(grpc.ServerCredentials.createInsecure());
  let session: ClientHttp2Session | undefined;
  const connected = (): ClientHttp2Session => {
    if (session === undefined || session.closed || session.destroyed) {
      const [ours, theirs] = duplexPair();
      injector.injectConnection(theirs);
      session = connect("http://localhost", { createConnection: () => ours });
      // What breaks it breaks its calls, each of which is told by itself.
      session.on("error", () => undefined);
    }
    return session;
  };
  return (stream, headers) => passOn(connected(), stream, headers);
}

function passOn(session: ClientHttp2Session, stream: ServerHttp2Stream, headers: IncomingHttpHeaders): void {
  const call = session.request(headers, { endStream: stream.endAfterHeaders });
  let trailers: IncomingHttpHeaders = {};
  call.on("response", (found, flags) => {
    if (stream.destroyed) return;
    const isAll = (flags & constants.NGHTTP2_FLAG_END_STREAM) !== 0;
    stream.respond(found, isAll ? { endStream: true } : { waitForTrailers: true });
    if (isAll) return;
    stream.once("wantTrailers", () => stream.sendTrailers(trailers));
    call.pipe(stream);
  });
  call.on("trailers", (found) => (trailers = found));
  stream.pipe(call);
  // Either side ends the other, with its reason; an `error` says no more than the code that `close` has.
  call.on("error", () => undefined);
  call.once("close", () => !stream.closed && call.rstCode !== constants.NGHTTP2_NO_ERROR && stream.close(call.rstCode));
  stream.once("close", () => !call.closed && call.close(constants.NGHTTP2_CANCEL));
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
