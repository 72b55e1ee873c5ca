// The bodies of the web door's requests, as Connect's router takes them: read within their method's bound, uncompressed,
// and looked at for too much. The router would build a message of whatever has come, and then look at it.

import type { DescMethod } from "@bufbuild/protobuf";
import { decompressed, tooLarge } from "./compression.ts";
import { admissionOf } from "./decoder.ts";
import { MessageReader, prefixed } from "./grpc-messages.ts";
import { mostBytes, mostJsonBytes } from "./request-bounds.ts";

/** A request as it has come. */
export interface WebRequest {
  readonly header: Headers;
  readonly body: AsyncIterable<Uint8Array>;
}

type Admit = (message: Uint8Array) => void;

/** JSON is counted where it is read: `json-text.ts`. */
const admitAny: Admit = () => undefined;

/** The header that tells how a body, or the messages in it, are encoded. */
const encodingHeaders: readonly (readonly [type: RegExp, header: string])[] = [
  [/^application\/grpc/, "grpc-encoding"],
  [/^application\/connect\+/, "connect-content-encoding"],
  [/^/, "content-encoding"],
];

/** What gives requests of a method to the router, of at most so many bytes for each message. */
export function webRequestsOf({ input }: DescMethod, messageLimit: number): (request: WebRequest) => WebRequest {
  const admit = admissionOf(input);
  const limits = { json: Math.min(messageLimit, mostJsonBytes(input)), proto: Math.min(messageLimit, mostBytes(input)) };
  return ({ header, body }) => {
    const type = header.get("content-type") ?? "";
    const isJson = /\bjson\b/.test(type);
    const limit = isJson ? limits.json : limits.proto;
    const encodingHeader = encodingHeaders.find(([pattern]) => pattern.test(type))?.[1] ?? "content-encoding";
    const encoding = header.get(encodingHeader) ?? "identity";
    const plain = new Headers(header);
    plain.delete(encodingHeader);
    plain.delete("content-length");
    const read = encodingHeader === "content-encoding" ? wholeOf : messagesOf;
    return { header: plain, body: read(body, encoding, limit, isJson ? admitAny : admit) };
  };
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
