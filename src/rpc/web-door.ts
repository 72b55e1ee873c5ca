// The web door: the same guarded handlers as Connect (JSON by curl) and gRPC-Web, over HTTP/1.1, and what probes ask for:
// /healthz and /readyz, whether it can take calls; /livez, whether it runs at all; /metrics.
//
// Connect's router with an HTTP server of our own around it rather than its ready adapter: that one writes to the console when a stream's caller goes, and
// answers a body that can't be read without a reason.

import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { setTimeout as delay } from "node:timers/promises";
import type { DescMethod } from "@bufbuild/protobuf";
import { createConnectRouter, type HandlerContext, type MethodImpl } from "@connectrpc/connect";
import type { UniversalHandler, UniversalServerResponse } from "@connectrpc/connect/protocol";
import { compressionGzip, universalRequestFromNodeRequest, universalResponseToNodeResponse } from "@connectrpc/connect-node";
import type { Door } from "./grpc-door.ts";
import { grpcTimeoutMs } from "./grpc-call.ts";
import { LONGEST_TIMER_MS, type Arrival, type Entries } from "./handlers.ts";
import { jsonReaderOf } from "./json-requests.ts";
import { errorOfViolations } from "./status.ts";
import type { Listener } from "./listener.ts";
import { METRICS_TYPE } from "./metrics.ts";
import { withReason } from "./web-reasons.ts";
import { webRequestsOf, type WebRequest } from "./web-requests.ts";

/** What the door needs beside the handlers. */
export interface WebDoorOptions {
  /** Where its callers come from. */
  readonly listener: Listener;
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
/** Of a request that was answered we still read so much, in limits of a message. */
const LARGEST_REST = 8;
/** Compressing less than this costs more than it saves. */
const COMPRESS_MIN_BYTES = 16 * 1024;

/** Opens the door. */
export function openWebDoor(options: WebDoorOptions): Door {
  const calls = callsOf(options);
  const server = createServer((request, response) => {
    const [path = ""] = (request.url ?? "").split("?", 1);
    const call = calls.get(path);
    if (call !== undefined) serve(call, request, response, options);
    else if (path === "/healthz" || path === "/readyz") answerHealth(response, options.problem());
    else if (path === "/livez") answer(response, 200, { status: "ALIVE" });
    else if (path === "/metrics") answerMetrics(response, options);
    else answer(response, 404, { code: "unimplemented", message: `there is nothing at ${path}; a method is at /ledger.v1.LedgerService/GetBalance, say` });
  });
  const { listener } = options;
  listener.open((connection) => server.emit("connection", connection));
  // It begins to watch over its connections (those that are slow to say what they want are cut) when it hears that somebody listens.
  server.emit("listening");
  return { address: listener.address, close: (left) => close(server, listener, left) };
}

/** What serves the calls of one method. */
interface Call {
  readonly handler: UniversalHandler;
  /** Makes of a request what the handler takes. */
  readonly admitted: (request: WebRequest) => WebRequest;
}

function callsOf({ entries, messageLimit }: WebDoorOptions): ReadonlyMap<string, Call> {
  const router = createConnectRouter({
    grpc: false,
    readMaxBytes: messageLimit,
    acceptCompression: [compressionGzip],
    compressMinBytes: COMPRESS_MIN_BYTES,
  });
  for (const { service, unary, streams, exchanges } of entries) {
    const answered = [...unary, ...streams].map(([name, entry]) => [name, (request: never, context: HandlerContext) => entry(request, arrivalOf(context))] as const);
    const refused = [...exchanges.keys()].map((name) => [name, refuseExchange] as const);
    for (const [name, handler] of [...answered, ...refused]) {
      const method = service.method[name];
      if (method === undefined) throw new Error(`${service.typeName} has no method ${name}`);
      router.rpc(method, handler as MethodImpl<DescMethod>, { jsonOptions: jsonOptionsOf(method) });
    }
  }
  return new Map(
    router.handlers.map((handler) => [
      handler.requestPath,
      { handler, admitted: webRequestsOf(handler.method, messageLimit) },
    ]),
  );
}

/**
 * How requests of a method are read as JSON: made to be what the router's own reader takes without loss, at the place
 * where it would decode their bytes, and so with whatever encoding, envelope and limit they came.
 */
function jsonOptionsOf({ input }: DescMethod): object {
  // A field that was misspelt would otherwise be left out silently.
  return { ignoreUnknownFields: false, textDecoder: { decode: jsonReaderOf(input) } };
}

function refuseExchange(): never {
  throw errorOfViolations([{ field: "", description: "a stream in both directions needs HTTP/2: call it by gRPC, at the other port; BatchWrite takes up to 1,000 writes here" }]);
}

function arrivalOf(context: HandlerContext): Arrival {
  const left = context.timeoutMs();
  return {
    timeoutMs: left === undefined ? undefined : Math.max(0, left),
    traceparent: context.requestHeader.get("traceparent") ?? undefined,
    signal: context.signal,
  };
}

/** The router would take reads by GET as well, with their requests in the address. */
const byPostOnly: UniversalServerResponse = { status: 405, header: new Headers({ allow: "POST" }) };

function serve(
  { handler, admitted }: Call,
  request: IncomingMessage,
  response: ServerResponse,
  { log, messageLimit }: WebDoorOptions,
): void {
  response.once("finish", () => discardRest(request, messageLimit));
  const run = async (): Promise<void> => {
    const asked = universalRequestFromNodeRequest(request, response, undefined, undefined);
    cutDeadline(asked.header);
    // A request that isn't read to its end would be destroyed, and its connection be stuck.
    const body = request.iterator({ destroyOnReturn: false });
    // The router looks at the version for streams in both directions alone, which it would answer with a bare 505; we
    // refuse those with a reason.
    const answered = request.method === "POST" ? await handler({ ...asked, ...admitted({ header: asked.header, body }), httpVersion: "2.0" }) : byPostOnly;
    await universalResponseToNodeResponse(await withReason(answered, messageLimit), response);
  };
  run().catch((error: unknown) => {
    // A caller that is gone takes no answer: that is nobody's error.
    if (!request.destroyed && !response.destroyed) log(error);
    response.destroy();
  });
}

/**
 * Reads and drops what still comes of a request that was answered before its end: the connection's next call would
 * wait behind it. Who goes on and on is cut off.
 */
function discardRest(request: IncomingMessage, messageLimit: number): void {
  let bytes = 0;
  const read = (): void => {
    for (let chunk = request.read() as Buffer | null; chunk !== null; chunk = request.read() as Buffer | null) {
      bytes += chunk.length;
      if (bytes > LARGEST_REST * messageLimit) return void request.socket.destroy();
    }
  };
  request.on("readable", read);
  read();
}

/**
 * Connect's router sets a timer for as long as the caller waits: no longer than a timer holds, days beyond our own
 * limit.
 */
function cutDeadline(header: Headers): void {
  const [connect = ""] = /^\d{10}$/.exec(header.get("connect-timeout-ms") ?? "") ?? [];
  if (Number(connect) > LONGEST_TIMER_MS) header.set("connect-timeout-ms", `${LONGEST_TIMER_MS}`);
  const grpcMs = grpcTimeoutMs(header.get("grpc-timeout") ?? "") ?? 0;
  if (grpcMs > LONGEST_TIMER_MS) header.set("grpc-timeout", `${Math.floor(LONGEST_TIMER_MS / 1000)}S`);
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
