// A call by each protocol, byte by byte, and all that came back: for what no client would send, and what none shows.

import { connect, type ClientHttp2Session, type IncomingHttpHeaders } from "node:http2";
import { Code, ConnectError } from "@connectrpc/connect";
import { endStreamFromJson, errorFromJsonBytes } from "@connectrpc/connect/protocol-connect";
import { findTrailerError } from "@connectrpc/connect/protocol-grpc";
import { trailerParse } from "@connectrpc/connect/protocol-grpc-web";

/** What is sent: a message or any other bytes, in the place of one. */
export interface Sent {
  readonly path: string;
  readonly isStream: boolean;
  readonly binary: Uint8Array;
  readonly json: string | Uint8Array;
  readonly headers?: Readonly<Record<string, string>>;
}

/** What came back. */
export interface Told {
  /** Headers, body and trailers, byte by byte. */
  readonly whole: string;
  readonly error: ConnectError | undefined;
}

/** Sends a call by a protocol. */
export type SendBy = (sent: Sent) => Promise<Told>;

/** The protocols at both doors; `close` when all is done. */
export function protocolsAt({
  grpcAddress,
  httpAddress,
}: {
  readonly grpcAddress: string;
  readonly httpAddress: string;
}) {
  const session = connect(`http://${grpcAddress}`);
  session.on("error", () => undefined);
  const base = `http://${httpAddress}`;
  const by: Readonly<Record<string, SendBy>> = {
    gRPC: (sent) => byGrpc(session, sent),
    "gRPC-Web": (sent) => byWeb(base, sent, "application/grpc-web+proto", framed(sent.binary)),
    "gRPC-Web-Text": (sent) =>
      byWeb(base, sent, "application/grpc-web-text+proto", framed(sent.binary).toString("base64")),
    "gRPC-Web with JSON": (sent) => byWeb(base, sent, "application/grpc-web+json", framed(sent.json)),
    "Connect with protobuf": (sent) =>
      sent.isStream
        ? byWeb(base, sent, "application/connect+proto", framed(sent.binary))
        : byWeb(base, sent, "application/proto", sent.binary),
    "Connect with JSON": (sent) =>
      sent.isStream
        ? byWeb(base, sent, "application/connect+json", framed(sent.json))
        : byWeb(base, sent, "application/json", sent.json),
  };
  return { by, close: () => session.close() };
}

/** A message behind its prefix. */
export function framed(message: string | Uint8Array, flags = 0): Buffer {
  const bytes = Buffer.from(message);
  const prefix = Buffer.from([flags, 0, 0, 0, 0]);
  prefix.writeUInt32BE(bytes.length, 1);
  return Buffer.concat([prefix, bytes]);
}

async function byGrpc(session: ClientHttp2Session, { path, binary, headers }: Sent): Promise<Told> {
  const stream = session.request({
    ":method": "POST",
    ":path": path,
    "content-type": "application/grpc",
    te: "trailers",
    ...headers,
  });
  const told: IncomingHttpHeaders = {};
  const chunks: Buffer[] = [];
  stream.on("response", (found) => Object.assign(told, found));
  stream.on("trailers", (found) => Object.assign(told, found));
  stream.on("data", (chunk: Buffer) => chunks.push(chunk));
  stream.end(framed(binary));
  await new Promise((resolve, reject) => stream.once("close", resolve).once("error", reject));
  const all = Object.entries(told).map(([name, value]): [string, string] => [name, String(value)]);
  const trailer = new Headers(all.filter(([name]) => !name.startsWith(":")));
  return { whole: wholeOf(all, Buffer.concat(chunks)), error: findTrailerError(trailer) };
}

async function byWeb(base: string, { path, headers }: Sent, type: string, body: string | Uint8Array): Promise<Told> {
  const response = await fetch(base + path, { method: "POST", headers: { "content-type": type, ...headers }, body });
  const bytes = Buffer.from(await response.arrayBuffer());
  return toldBy(response.status, response.headers, bytes);
}

/** What an answer of the web port says, by its content type. */
export function toldBy(status: number, headers: Headers, bytes: Buffer): Told {
  const type = headers.get("content-type") ?? "";
  const plain = type.startsWith("application/grpc-web-text") ? unpadded(bytes.toString("latin1")) : bytes;
  return { whole: wholeOf([...headers], plain), error: errorIn(status, type, plain) };
}

function errorIn(status: number, type: string, bytes: Buffer): ConnectError | undefined {
  if (type.startsWith("application/grpc-web")) return findTrailerError(trailerParse(last(bytes)));
  if (type.startsWith("application/connect+")) return endStreamFromJson(last(bytes)).error;
  const none = new ConnectError(`${status} without a reason: ${bytes.toString()}`, Code.Unknown);
  return status < 400 ? undefined : errorFromJsonBytes(bytes, undefined, none);
}

function wholeOf(headers: readonly (readonly [string, string])[], body: Buffer): string {
  return `${headers.map((header) => header.join(": ")).join("\n")}\n\n${body.toString("latin1")}`;
}

/** Base64 of which each part may be padded. */
function unpadded(text: string): Buffer {
  return Buffer.concat((text.match(/[^=]+=*/g) ?? []).map((part) => Buffer.from(part, "base64")));
}

/** The last message of an answer in envelopes. */
function last(bytes: Buffer): Buffer {
  let from = 0;
  while (from + 5 + bytes.readUInt32BE(from + 1) < bytes.length) from += 5 + bytes.readUInt32BE(from + 1);
  return bytes.subarray(from + 5);
}
