// The web door: the same guarded handlers as Connect (JSON by curl) and gRPC-Web, over HTTP/1.1, /healthz and /metrics.
//
// Connect's router with an HTTP server of our own around it rather than its ready adapter: that one writes to the console when a stream's caller goes, and
// answers a body that can't be read without a reason.

import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { setTimeout as delay } from "node:timers/promises";
import type { DescService } from "@bufbuild/protobuf";
import { createConnectRouter, type HandlerContext, type ServiceImpl } from "@connectrpc/connect";
import type { UniversalHandler } from "@connectrpc/connect/protocol";
import { compressionGzip, universalRequestFromNodeRequest, universalResponseToNodeResponse } from "@connectrpc/connect-node";
import type { Address } from "../config.ts";
import type { Door } from "./grpc-door.ts";
import type { Arrival, Entries } from "./handlers.ts";
import { errorOfViolations } from "./status.ts";
import type { Listen, Listener } from "./listener.ts";
import { METRICS_TYPE } from "./metrics.ts";
import { withReason } from "./web-reasons.ts";

/** What the door needs beside the handlers. */
export interface WebDoorOptions {
  readonly address: Address;
  readonly listen: Listen;
  readonly entries: readonly Entries[];
  readonly messageLimit: number;
  /** Why this instance isn't ready; undefined if it is. */
  readonly problem: () => string | undefined;
  /** What /metrics answers, in Prometheus's text format. */
  readonly metrics: () => Promise<string>;
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
    else if (path === "/metrics") answerMetrics(response, options);
    else answer(response, 404, { code: "unimplemented", message: `there is nothing at ${path}; a method is at /ledger.v1.LedgerService/GetBalance, say` });
  });
  const listener = await options.listen(options.address, (connection) => server.emit("connection", connection));
  // It begins to watch over its connections (those that are slow to say what they want are cut) when it hears that somebody listens.
  server.emit("listening");
  return { address: listener.address, close: (left) => close(server, listener, left) };
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

function answerMetrics(response: ServerResponse, { metrics, log }: WebDoorOptions): void {
  metrics().then(
    (text) => response.writeHead(200, { "content-type": METRICS_TYPE }).end(text),
    (error: unknown) => {
      log(error);
      answer(response, 503, { code: "unavailable", message: "the database can't be asked right now" });
    },
  );
}

function answer(response: ServerResponse, status: number, body: Readonly<Record<string, string>>): void {
  response.writeHead(status, { "content-type": "application/json" });
  response.end(`${JSON.stringify(body)}\n`);
}

async function close(server: Server, listener: Listener, left: Promise<void>): Promise<void> {
  const gone = listener.close();
  // Ends connections that are idle.
  server.close();
  await Promise.race([gone, left.then(() => delay(LAST_WORDS_MS))]);
  listener.cut();
  await gone;
}
