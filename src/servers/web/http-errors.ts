// What Node finds wrong with HTTP itself, before there is a request: it would answer by a bare status, and the
// connection ends.

import { STATUS_CODES, type Server, type ServerResponse } from "node:http";
import type { Socket } from "node:net";
import { errorToJsonBytes } from "@connectrpc/connect/protocol-connect";
import { errorOf, errorOfFailure, errorOfViolations } from "../../rpc/errors.ts";

/** The answers that a connection still owes. */
type Owed = WeakMap<object, Set<ServerResponse>>;

/** Has a server say why it ends a connection. */
export function tellHttpErrors(server: Server): void {
  const owed: Owed = new WeakMap();
  server.on("request", ({ socket }, response) => {
    const answers = owed.get(socket) ?? new Set();
    owed.set(socket, answers.add(response));
    response.once("close", () => answers.delete(response));
  });
  server.on("checkExpectation", (_request, response: ServerResponse) => {
    const body = errorToJsonBytes(errorOf("UNSUPPORTED", "nothing can be expected here but 100-continue"), undefined);
    response.writeHead(417, { "content-type": "application/json", "content-length": body.byteLength }).end(body);
  });
  server.on("clientError", (error: NodeJS.ErrnoException, socket: Socket) => {
    if (socket.writable && mayStillAnswer(owed.get(socket) ?? new Set())) socket.write(answerTo(error.code ?? ""));
    socket.destroySoon();
  });
}

/**
 * A caller whose request has come takes the next answer for that request's, and one that has begun can't be taken back:
 * then nothing is said.
 */
function mayStillAnswer(owed: ReadonlySet<ServerResponse>): boolean {
  const [first, ...others] = owed;
  return others.length === 0 && (first === undefined || (!first.req.complete && !first.headersSent));
}

function answerTo(code: string): Buffer {
  const { status, error } = meaningOf(code);
  const body = errorToJsonBytes(error, undefined);
  const head = [
    `HTTP/1.1 ${status} ${STATUS_CODES[status]}`,
    "content-type: application/json",
    `content-length: ${body.byteLength}`,
    "connection: close",
  ];
  return Buffer.concat([Buffer.from(`${head.join("\r\n")}\r\n\r\n`), body]);
}

function meaningOf(code: string) {
  switch (code) {
    case "HPE_HEADER_OVERFLOW":
      return {
        status: 431,
        error: errorOf("MESSAGE_TOO_LARGE", "the address and the headers are larger than this port takes"),
      };
    case "ERR_HTTP_REQUEST_TIMEOUT":
      return { status: 408, error: errorOfFailure("DEADLINE_PASSED", undefined) };
    default:
      return { status: 400, error: errorOfViolations([{ field: "", description: `this isn't HTTP/1.1 (${code})` }]) };
  }
}
