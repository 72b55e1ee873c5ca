// The web door: the same guarded handlers as Connect (JSON by curl) and gRPC-Web, over HTTP/1.1, and /healthz.
//
// Connect's router with an HTTP server of our own around it rather than its ready adapter: that one writes to the console when a stream's caller goes, and
// answers a body that can't be read without a reason.

import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { setTimeout as delay } from "node:timers/promises";
import type { DescService } from "@bufbuild/protobuf";
import { createConnectRouter, type HandlerContext, type ServiceImpl } from "@connectrpc/connect";
import type { UniversalHandler } from "@connectrpc/connect/protocol";
import { compressionGzip, universalRequestFromNodeRequest, universalResponseToNodeResponse } from "@connectrpc/connect-node";
import type { Address } from "../config.ts";
import type { Door } from "./grpc-door.ts";
import type { Arrival, Entries } from "./handlers.ts";
import { errorOfViolations } from "./status.ts";
import { withReason } from "./web-reasons.ts";

/** What the door needs beside the handlers. */
export interface WebDoorOptions {
  readonly address: Address;
  readonly entries: readonly Entries[];
  readonly messageLimit: number;
  /** Why this instance isn't ready; undefined if it is. */
  readonly problem: () => string | undefined;
  /** Is told when an answer could not be sent. */
  readonly log: (error: unknown) => void;
}

/** For the last answers to leave after their handlers are done. */
const LAST_WORDS_MS = 100;
/** Compressing less than this costs more than it saves. */
const COMPRESS_MIN_BYTES = 16 * 1024;

/** Opens the door. */
export async function openWebDoor(options: WebDoorOptions): Promise<Door> {
  const handlers = handlersOf(options);
  const server = createServer((request, response) => {
    const [path = ""] = (request.url ?? "").split("?", 1);
    const handler = handlers.get(path);
    if (handler !== undefined) serve(handler, request, response, options);
    else if (path === "/healthz") answerHealth(response, options.problem());
    else answer(response, 404, { code: "unimplemented", message: `there is nothing at ${path}; a method is at /ledger.v1.LedgerService/GetBalance, say` });
  });
  const { host, port } = options.address;
  await new Promise<void>((resolve, reject) => server.once("error", reject).listen(port, host, resolve));
  const bound = (server.address() as AddressInfo).port;
  return { address: `${host.includes(":") ? `[${host}]` : host}:${bound}`, close: (left) => close(server, left) };
}

function handlersOf({ entries, messageLimit }: WebDoorOptions): ReadonlyMap<string, UniversalHandler> {
  const router = createConnectRouter({
    grpc: false,
    readMaxBytes: messageLimit,
    acceptCompression: [compressionGzip],
    compressMinBytes: COMPRESS_MIN_BYTES,
    // A field that was misspelt would otherwise be left out silently.
    jsonOptions: { ignoreUnknownFields: false },
  });
  for (const { service, unary, streams, exchanges } of entries) {
    const answered = [...unary, ...streams].map(([name, entry]) => [name, (request: never, context: HandlerContext) => entry(request, arrivalOf(context))] as const);
    const refused = [...exchanges.keys()].map((name) => [name, refuseExchange] as const);
    router.service(service, Object.fromEntries<unknown>([...answered, ...refused]) as Partial<ServiceImpl<DescService>>);
  }
  return new Map(router.handlers.map((handler) => [handler.requestPath, handler]));
}

function refuseExchange(): never {
  throw errorOfViolations([{ field: "", description: "a stream in both directions needs HTTP/2: call it by gRPC, at the other port; BatchWrite takes up to 1,000 writes here" }]);
}

function arrivalOf(context: HandlerContext): Arrival {
  return { timeoutMs: context.timeoutMs(), traceparent: context.requestHeader.get("traceparent") ?? undefined, signal: context.signal };
}

function serve(handler: UniversalHandler, request: IncomingMessage, response: ServerResponse, { log, messageLimit }: WebDoorOptions): void {
  const run = async (): Promise<void> => {
    const asked = universalRequestFromNodeRequest(request, response, undefined, undefined);
    // The router looks at the version for streams in both directions alone, which it would answer with a bare 505; we refuse those with a reason.
    const answered = await handler({ ...asked, httpVersion: "2.0" });
    await universalResponseToNodeResponse(await withReason(answered, messageLimit), response);
  };
  run().catch((error: unknown) => {
    // A caller that is gone takes no answer: that is nobody's error.
    if (!request.destroyed && !response.destroyed) log(error);
    response.destroy();
  });
}

function answerHealth(response: ServerResponse, problem: string | undefined): void {
  answer(response, problem === undefined ? 200 : 503, problem === undefined ? { status: "SERVING" } : { status: "NOT_SERVING", problem });
}

function answer(response: ServerResponse, status: number, body: Readonly<Record<string, string>>): void {
  response.writeHead(status, { "content-type": "application/json" });
  response.end(`${JSON.stringify(body)}\n`);
}

async function close(server: Server, left: Promise<void>): Promise<void> {
  const closed = new Promise<void>((resolve) => server.close(() => resolve()));
  await Promise.race([closed, left.then(() => delay(LAST_WORDS_MS))]);
  server.closeAllConnections();
  await closed;
}
