// HTTP/1.1 as bytes, for what no client would send; and any answer as it came.

import { once } from "node:events";
import { connect } from "node:net";
import { ConnectError, Code } from "@connectrpc/connect";
import { errorFromJsonBytes } from "@connectrpc/connect/protocol-connect";
import { describeFailure, type Failed } from "./service.ts";

/** An answer. */
export interface RawAnswer {
  readonly status: number;
  readonly headers: Headers;
  readonly body: Buffer;
}

/** Sends bytes, and reads one answer, until the other side closes the connection. */
export async function sendBytes(address: string, ...parts: readonly (string | Uint8Array)[]): Promise<RawAnswer> {
  const [host = "", port = ""] = address.split(":");
  const socket = connect({ host, port: Number(port) });
  const chunks: Buffer[] = [];
  socket.on("data", (chunk: Buffer) => chunks.push(chunk)).on("error", () => undefined);
  for (const part of parts) socket.write(part);
  await once(socket, "close");
  return parsed(Buffer.concat(chunks));
}

/** The request of a call in JSON, on a connection that is closed behind it; more headers besides, each a line. */
export function postOf(path: string, body: string, ...headers: readonly string[]): string {
  const own = ["content-type: application/json", `content-length: ${Buffer.byteLength(body)}`, "connection: close"];
  return `POST ${path} HTTP/1.1\r\n${[...own, ...headers].join("\r\n")}\r\n\r\n${body}`;
}

function parsed(bytes: Buffer): RawAnswer {
  const end = bytes.indexOf("\r\n\r\n");
  const [first = "", ...lines] = bytes.subarray(0, Math.max(0, end)).toString("latin1").split("\r\n");
  const headers = new Headers(
    lines.map((line): [string, string] => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 1).trim()]),
  );
  const body = bytes.subarray(end + 4);
  return { status: Number(first.split(" ")[1]), headers, body: headers.has("transfer-encoding") ? joined(body) : body };
}

/** What came in chunks, each behind its length. */
function joined(chunks: Buffer): Buffer {
  const end = chunks.indexOf("\r\n");
  const length = Number.parseInt(chunks.subarray(0, Math.max(0, end)).toString(), 16);
  if (!(length > 0)) return Buffer.alloc(0);
  return Buffer.concat([chunks.subarray(end + 2, end + 2 + length), joined(chunks.subarray(end + 4 + length))]);
}

/** Why a call was refused, from an answer in JSON. */
export function refusalIn(body: Uint8Array): Failed {
  return describeFailure(
    errorFromJsonBytes(body, undefined, new ConnectError(`no error: ${Buffer.from(body).toString()}`, Code.Unknown)),
  );
}
