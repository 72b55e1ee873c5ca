// Errors that Connect's router makes by itself, for a body that it can't read, get the reason that all errors have: in the body of a
// unary Connect answer, or in the last message of a stream, which gRPC-Web ends all its answers with.

import { Code, ConnectError } from "@connectrpc/connect";
import { codeToHttpStatus, endStreamFlag, endStreamFromJson, endStreamToJson, errorFromJsonBytes, errorToJsonBytes } from "@connectrpc/connect/protocol-connect";
import { findTrailerError, setTrailerStatus } from "@connectrpc/connect/protocol-grpc";
import { trailerFlag, trailerParse, trailerSerialize } from "@connectrpc/connect/protocol-grpc-web";
import { encodeEnvelope, readAllBytes, type UniversalServerResponse } from "@connectrpc/connect/protocol";
import { errorOf, errorOfFailure, errorOfViolations, type Translate } from "../../rpc/errors.ts";

/** An error's body is never larger. */
const ERROR_LIMIT_BYTES = 1024 * 1024;
/** Of each message of a stream: its flags and its length. */
const PREFIX_BYTES = 5;

/** The answer, its error with a reason. */
export async function withReason(
  response: UniversalServerResponse,
  messageLimit: number,
  translate: Translate,
): Promise<UniversalServerResponse> {
  const { status, header, body } = response;
  const reasonOf = (error: ConnectError): ConnectError => withItsReason(error, messageLimit, translate);
  if (status in misaddressed) return answerOf(status, header, errorOfViolations([{ field: "", description: misaddressed[status] ?? "" }]));
  if (body === undefined || body === null || !(Symbol.asyncIterator in body)) return response;
  const type = header?.get("content-type") ?? "";
  if (type.startsWith("application/grpc-web"))
    return { ...response, body: mapLast(body, trailerFlag, (last) => grpcWebEnd(last, reasonOf)) };
  if (type.startsWith("application/connect+"))
    return { ...response, body: mapLast(body, endStreamFlag, (last) => connectEnd(last, reasonOf)) };
  if (status < 400) return response;
  const bytes = await readAllBytes(body, ERROR_LIMIT_BYTES);
  const error = reasonOf(errorFromJsonBytes(bytes, undefined, new ConnectError("unreadable", Code.Internal)));
  return answerOf(codeToHttpStatus(error.code), header, error);
}

/** The answer to a call of a content type that is refused before the router sees it. */
export function errorAnswer(type: string, error: ConnectError): UniversalServerResponse {
  if (/^application\/grpc-web/i.test(type)) {
    const trailer = new Headers();
    setTrailerStatus(trailer, error);
    return inEnvelope("application/grpc-web+proto", trailerFlag, trailerSerialize(trailer));
  }
  const [, encoding] = /^application\/connect\+(json|proto)/i.exec(type) ?? [];
  if (encoding === undefined) return answerOf(codeToHttpStatus(error.code), undefined, error);
  const last = endStreamBytes(new Headers(), error);
  return inEnvelope(`application/connect+${encoding.toLowerCase()}`, endStreamFlag, last);
}

/** What Connect's router refuses before it knows in which format to say so; we say it in JSON. */
const misaddressed: Readonly<Record<number, string>> = {
  405: "call a method by POST, with its request as the body; by Connect's GET, if it only reads",
  415: 'the content type must be "application/json" for a call, "application/connect+json" for a stream, or one of gRPC-Web',
};

function answerOf(status: number, header: Headers | undefined, error: ConnectError): UniversalServerResponse {
  const bytes = errorToJsonBytes(error, undefined);
  const headers = new Headers(header);
  headers.set("content-type", "application/json");
  headers.set("content-length", String(bytes.byteLength));
  return { status, header: headers, body: once(bytes) };
}

function inEnvelope(type: string, flag: number, last: Uint8Array): UniversalServerResponse {
  return { status: 200, header: new Headers({ "content-type": type }), body: once(encodeEnvelope(flag, last)) };
}

/** An error that the router made has no details; ours have, and stay as they are. */
function withItsReason(error: ConnectError, messageLimit: number, translate: Translate): ConnectError {
  const { code, rawMessage, details } = error;
  if (details.length > 0) return error;
  if (isUnreadable(code, rawMessage)) return errorOfViolations([{ field: "", description: rawMessage }]);
  switch (code) {
    case Code.ResourceExhausted:
      return errorOf("MESSAGE_TOO_LARGE", rawMessage, { limit_bytes: `${messageLimit}` });
    case Code.DeadlineExceeded:
      return errorOfFailure("DEADLINE_PASSED", error);
    case Code.Canceled:
    case Code.Aborted:
      return errorOfFailure("CALL_CANCELLED", error);
    default:
      return translate(new Error(`Connect's router failed: ${rawMessage}`), "the web port");
  }
}

/** Whether the router says that it couldn't read a request: some of its codes are those of a server's own mistakes. */
function isUnreadable(code: Code, message: string): boolean {
  const unreadable = /^(parse binary|decompression failed|received compressed envelope)/;
  return code === Code.InvalidArgument || code === Code.Unimplemented || unreadable.test(message);
}

type ReasonOf = (error: ConnectError) => ConnectError;

function grpcWebEnd(last: Uint8Array, reasonOf: ReasonOf): Uint8Array {
  const trailer = trailerParse(last);
  const found = findTrailerError(trailer);
  if (found === undefined || found.details.length > 0) return last;
  setTrailerStatus(trailer, reasonOf(found));
  return trailerSerialize(trailer);
}

function connectEnd(last: Uint8Array, reasonOf: ReasonOf): Uint8Array {
  const { metadata, error: found } = endStreamFromJson(last);
  if (found === undefined || found.details.length > 0) return last;
  return endStreamBytes(metadata, reasonOf(found));
}

function endStreamBytes(metadata: Headers, error: ConnectError): Uint8Array {
  return new TextEncoder().encode(JSON.stringify(endStreamToJson(metadata, error, undefined)));
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
