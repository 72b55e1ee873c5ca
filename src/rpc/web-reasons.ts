// Errors that Connect's router makes by itself, for a body that it can't read, get the reason that all errors have: in the body of a
// unary Connect answer, or in the last message of a stream, which gRPC-Web ends all its answers with.

import { Code, ConnectError } from "@connectrpc/connect";
import { codeToHttpStatus, endStreamFlag, endStreamFromJson, endStreamToJson, errorFromJsonBytes, errorToJsonBytes } from "@connectrpc/connect/protocol-connect";
import { findTrailerError, setTrailerStatus } from "@connectrpc/connect/protocol-grpc";
import { trailerFlag, trailerParse, trailerSerialize } from "@connectrpc/connect/protocol-grpc-web";
import { encodeEnvelope, readAllBytes, type UniversalServerResponse } from "@connectrpc/connect/protocol";
import { errorOf, errorOfViolations } from "./status.ts";

/** An error's body is never larger. */
const ERROR_LIMIT_BYTES = 1024 * 1024;
/** Of each message of a stream: its flags and its length. */
const PREFIX_BYTES = 5;

/** The answer, its error with a reason. */
export async function withReason(response: UniversalServerResponse, messageLimit: number): Promise<UniversalServerResponse> {
  const { status, header, body } = response;
  if (status in misaddressed) return answerOf(status, header, errorOfViolations([{ field: "", description: misaddressed[status] ?? "" }]));
  if (body === undefined || body === null || !(Symbol.asyncIterator in body)) return response;
  const type = header?.get("content-type") ?? "";
  if (type.startsWith("application/grpc-web")) return { ...response, body: mapLast(body, trailerFlag, (last) => grpcWebEnd(last, messageLimit)) };
  if (type.startsWith("application/connect+")) return { ...response, body: mapLast(body, endStreamFlag, (last) => connectEnd(last, messageLimit)) };
  if (status < 400 || type !== "application/json" || header?.has("content-encoding") === true) return response;
  const bytes = await readAllBytes(body, ERROR_LIMIT_BYTES);
  const error = reasonOf(errorFromJsonBytes(bytes, undefined, new ConnectError("unreadable", Code.Internal)), messageLimit);
  return error === undefined ? { ...response, body: once(bytes) } : answerOf(codeToHttpStatus(error.code), header, error);
}

/** What Connect's router refuses before it knows in which format to say so; we say it in JSON. */
const misaddressed: Readonly<Record<number, string>> = {
  405: "call a method by POST, with its request as the body",
  415: 'the content type must be "application/json" for a call, "application/connect+json" for a stream, or one of gRPC-Web',
};

function answerOf(status: number, header: Headers | undefined, error: ConnectError): UniversalServerResponse {
  const bytes = errorToJsonBytes(error, undefined);
  const headers = new Headers(header);
  headers.set("content-type", "application/json");
  headers.set("content-length", String(bytes.byteLength));
  return { status, header: headers, body: once(bytes) };
}

function reasonOf(error: ConnectError, messageLimit: number): ConnectError | undefined {
  if (error.details.length > 0) return undefined;
  const { code, rawMessage } = error;
  if (code === Code.ResourceExhausted) return errorOf("MESSAGE_TOO_LARGE", rawMessage, { limit_bytes: `${messageLimit}` });
  return isUnreadable(code, rawMessage) ? errorOfViolations([{ field: "", description: rawMessage }]) : undefined;
}

/** Whether the router says that it couldn't read a request: some of its codes are those of a server's own mistakes. */
function isUnreadable(code: Code, message: string): boolean {
  const unreadable = /^(parse binary|decompression failed|received compressed envelope)/;
  return code === Code.InvalidArgument || code === Code.Unimplemented || unreadable.test(message);
}

function grpcWebEnd(last: Uint8Array, messageLimit: number): Uint8Array {
  const trailer = trailerParse(last);
  const found = findTrailerError(trailer);
  const error = found === undefined ? undefined : reasonOf(found, messageLimit);
  if (error === undefined) return last;
  setTrailerStatus(trailer, error);
  return trailerSerialize(trailer);
}

function connectEnd(last: Uint8Array, messageLimit: number): Uint8Array {
  const { metadata, error: found } = endStreamFromJson(last);
  const error = found === undefined ? undefined : reasonOf(found, messageLimit);
  return error === undefined ? last : new TextEncoder().encode(JSON.stringify(endStreamToJson(metadata, error, undefined)));
}

/** A stream whose last message, known by its flag, is replaced. Connect's router gives a stream message by message. */
async function* mapLast(body: AsyncIterable<Uint8Array>, flag: number, map: (last: Uint8Array) => Uint8Array): AsyncGenerator<Uint8Array> {
  for await (const message of body) {
    yield message[0] === flag ? encodeEnvelope(flag, map(message.subarray(PREFIX_BYTES))) : message;
  }
}

async function* once(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield await Promise.resolve(bytes);
}
