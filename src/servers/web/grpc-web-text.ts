// gRPC-Web-Text: gRPC-Web in base64, for browsers' clients that read answers as text while they come. Calls are turned
// into gRPC-Web, and its answers back.

import type { UniversalServerRequest, UniversalServerResponse } from "@connectrpc/connect/protocol";
import { errorOfViolations } from "../../rpc/errors.ts";

const TYPE = /^application\/grpc-web-text(?=$|[+;])/i;

/** Whether a call comes in base64. */
export function isText({ header }: Pick<UniversalServerRequest, "header">): boolean {
  return TYPE.test(header.get("content-type") ?? "");
}

/** Answers a call in base64 by what answers one without. */
export async function asBinary(
  call: UniversalServerRequest,
  answer: (binary: UniversalServerRequest) => Promise<UniversalServerResponse>,
): Promise<UniversalServerResponse> {
  const header = new Headers(call.header);
  header.set("content-type", (header.get("content-type") ?? "").replace(TYPE, "application/grpc-web"));
  const body = call.body as AsyncIterable<Uint8Array>;
  const answered = await answer({ ...call, header, body: decoded(body) });
  const type = answered.header?.get("content-type") ?? "";
  if (!type.startsWith("application/grpc-web") || answered.body === undefined) return answered;
  const headers = new Headers(answered.header);
  headers.set("content-type", type.replace("application/grpc-web", "application/grpc-web-text"));
  return { ...answered, header: headers, body: encoded(answered.body) };
}

/** Base64 in pieces of any length; each message may be padded by itself. */
async function* decoded(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  let rest = "";
  for await (const chunk of chunks) {
    const text = rest + Buffer.from(chunk).toString("latin1");
    const whole = text.length - (text.length % 4);
    rest = text.slice(whole);
    if (whole > 0 && text.startsWith("=")) throw notBase64();
    for (const padded of text.slice(0, whole).match(/[^=]+=*/g) ?? []) yield bytesOf(padded);
  }
  if (rest !== "") throw notBase64();
}

function bytesOf(text: string): Uint8Array {
  if (text.length % 4 !== 0 || !/^[A-Za-z0-9+/]+={0,2}$/.test(text)) throw notBase64();
  return Buffer.from(text, "base64");
}

function notBase64(): Error {
  return errorOfViolations([{ field: "", description: "the body is not base64, which gRPC-Web-Text is written in" }]);
}

/** Each message by itself, as clients read them. */
async function* encoded(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  for await (const chunk of chunks) yield Buffer.from(Buffer.from(chunk).toString("base64"), "latin1");
}
