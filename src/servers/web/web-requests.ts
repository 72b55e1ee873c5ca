// The bodies of the web server's requests, as Connect's router takes them: read within their method's bound, uncompressed,
// and looked at for too much. The router would build a message of whatever has come, and then look at it.

import type { DescMethod } from "@bufbuild/protobuf";
import { ConnectError } from "@connectrpc/connect";
import type { UniversalServerRequest } from "@connectrpc/connect/protocol";
import type { Peer } from "../peers.ts";
import { decompressed, tooLarge } from "../wire/compression.ts";
import { admissionOf } from "../wire/decoder.ts";
import { MessageReader, prefixed } from "../wire/grpc-framing.ts";
import { mostBytes, mostJsonBytes } from "../wire/request-bounds.ts";
import { errorOfFailure } from "../../rpc/errors.ts";

type Admit = (message: Uint8Array) => void;

/** JSON is counted where it is read: `json-text.ts`. */
const admitAny: Admit = () => undefined;

/** The header that tells how a body, or the messages in it, are encoded. */
const encodingHeaders: readonly (readonly [type: RegExp, header: string])[] = [
  [/^application\/grpc/i, "grpc-encoding"],
  [/^application\/connect\+/i, "connect-content-encoding"],
  [/^/, "content-encoding"],
];

/** What gives requests of a method to the router, of at most so many bytes for each message. */
export function webRequestsOf({ input }: DescMethod, messageLimit: number): (request: UniversalServerRequest, peer: Peer) => UniversalServerRequest {
  const admit = admissionOf(input);
  const limits = { json: Math.min(messageLimit, mostJsonBytes(input)), proto: Math.min(messageLimit, mostBytes(input)) };
  return (given, peer) => {
    const request = given.method === "GET" ? asPost(given) : given;
    const header = new Headers(request.header);
    const type = header.get("content-type") ?? "";
    const isJson = /\bjson\b/i.test(type);
    const limit = isJson ? limits.json : limits.proto;
    const encodingHeader = encodingHeaders.find(([pattern]) => pattern.test(type))?.[1] ?? "content-encoding";
    const encoding = header.get(encodingHeader) || "identity";
    header.delete(encodingHeader);
    header.delete("content-length");
    const read = encodingHeader === "content-encoding" ? wholeOf : messagesOf;
    const body = counted(request.body as AsyncIterable<Uint8Array>, peer);
    return { ...request, header, body: read(body, encoding, limit, isJson ? admitAny : admit) };
  };
}

/** Connect's GET as the POST that it stands for: its query has been looked at. */
function asPost(request: UniversalServerRequest): UniversalServerRequest {
  const { searchParams: query } = new URL(request.url);
  const message = query.get("message") ?? "";
  const header = new Headers(request.header);
  header.set("content-type", `application/${query.get("encoding")}`);
  header.set("content-encoding", query.get("compression") ?? "identity");
  const bytes = Buffer.from(message, query.get("base64") === "1" ? "base64url" : "utf8");
  return { ...request, method: "POST", header, body: once(bytes) };
}

async function* once(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield await Promise.resolve(bytes);
}

/** A body that may arrive within the room of its connection: what has come of it is held until it is over. */
async function* counted(body: AsyncIterable<Uint8Array>, peer: Peer): AsyncGenerator<Uint8Array> {
  let held = 0;
  try {
    for await (const chunk of body) {
      held += chunk.length;
      peer.requests.change(chunk.length);
      peer.assertRoom();
      yield chunk;
    }
  } catch (error) {
    // The router would take a caller who has gone for a failure of its own.
    throw error instanceof ConnectError ? error : errorOfFailure("CALL_CANCELLED", error);
  } finally {
    peer.requests.change(-held);
  }
}

/** A body that is one message. */
async function* wholeOf(body: AsyncIterable<Uint8Array>, encoding: string, limit: number, admit: Admit): AsyncGenerator<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of body) {
    bytes += chunk.length;
    if (bytes > limit) throw tooLarge(`more than ${limit} bytes`, limit);
    chunks.push(chunk);
  }
  const whole = Buffer.concat(chunks);
  const message = encoding === "identity" || whole.length === 0 ? whole : decompressed(whole, encoding, limit);
  admit(message);
  yield message;
}

/** A body of messages, each behind its prefix. */
async function* messagesOf(body: AsyncIterable<Uint8Array>, encoding: string, limit: number, admit: Admit): AsyncGenerator<Uint8Array> {
  const reader = new MessageReader(encoding, limit);
  for await (const chunk of body) {
    reader.push(Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength));
    for (let message = reader.next(); message !== undefined; message = reader.next()) {
      admit(message);
      yield prefixed([message]);
    }
  }
  if (reader.midway) yield reader.rest();
}
