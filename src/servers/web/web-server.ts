// The web server: the same guarded handlers as Connect (JSON by curl) and gRPC-Web, over HTTP/1.1, and what probes ask for:
// /healthz and /readyz, whether it can take calls; /livez, whether it runs at all; /metrics.
//
// Connect's router with an HTTP server of our own around it rather than its ready adapter: that one writes to the console when a stream's caller goes, and
// answers a body that can't be read without a reason.

import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { setTimeout as delay } from "node:timers/promises";
import type { DescMethod } from "@bufbuild/protobuf";
import {
  ConnectError,
  createConnectRouter,
  createContextValues,
  type HandlerContext,
  type MethodImpl,
} from "@connectrpc/connect";
import type { UniversalHandler, UniversalServerRequest, UniversalServerResponse } from "@connectrpc/connect/protocol";
import { errorToJsonBytes } from "@connectrpc/connect/protocol-connect";
import { compressionGzip, universalRequestFromNodeRequest, universalResponseToNodeResponse } from "@connectrpc/connect-node";
import { quote } from "../../domain/text.ts";
import { corsHeaders, isPreflight, preflightHeaders } from "./cors.ts";
import type { RunningServer } from "../grpc/grpc-server.ts";
import { asBinary, isText } from "./grpc-web-text.ts";
import { tellHttpErrors } from "./http-errors.ts";
import { jsonReaderOf } from "./json-requests.ts";
import { errorOf, errorOfFailure, errorOfViolations, type Translate } from "../../rpc/errors.ts";
import type { Listener } from "../listener.ts";
import type { Peer, Peers } from "../peers.ts";
import { METRICS_TYPE } from "./metrics.ts";
import { cutDeadline, methodsOf, problemOfCall } from "./web-calls.ts";
import { admitBy, type WebAccess } from "./web-origins.ts";
import { errorAnswer, withReason } from "./web-errors.ts";
import { callerKey, countedAnswer, WebPeers } from "./web-peers.ts";
import { webRequestsOf } from "./web-requests.ts";
import type { Arrival, Caller, Entries } from "../../rpc/call.ts";

/** What the server needs beside the handlers. */
export interface WebServerOptions {
  /** Where its callers come from. */
  readonly listener: Listener;
  readonly peers: Peers;
  readonly entries: readonly Entries[];
  readonly messageLimit: number;
  /** Who may call. */
  readonly access: WebAccess;
  readonly translate: Translate;
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

/**
 * Node's own bounds, of each connection: of a request's address and headers, and of how slowly it may arrive, whole. A
 * connection on which nothing is asked is closed after a while.
 */
const BOUNDS = {
  maxHeaderSize: 16 * 1024,
  headersTimeout: 20_000,
  requestTimeout: 60_000,
  connectionsCheckingInterval: 10_000,
  /** A request without a host would be refused by Node, without a reason. */
  requireHostHeader: false,
};

const UNSUPPORTED_MEDIA_TYPE = 415;
const WHERE = "a method is at /ledger.v1.LedgerService/GetBalance, say";

/** Opens the server. */
export function openWebServer(options: WebServerOptions): RunningServer {
  const calls = callsOf(options);
  const pages = pagesOf(options);
  const admit = admitBy(options.access);
  const peers = new WebPeers(options.peers);
  const answerAdmitted = (path: string, peer: Peer, request: IncomingMessage, response: ServerResponse): void => {
    const call = calls.get(path);
    const page = pages.get(path);
    if (call !== undefined) serve(call, peer, request, response, options);
    else if (page !== undefined) page(response);
    else refuse(peer, response, 404, errorOf("UNSUPPORTED", `there is nothing at ${quote(path)}; ${WHERE}`));
  };
  const server = createServer(BOUNDS, (request, response) => {
    // Who goes before all was read is told so by nobody else once reading has ended: it would end the process.
    request.on("error", () => undefined);
    response.once("finish", () => discardRest(request, options.messageLimit));
    const peer = peers.of(request);
    try {
      response.once("close", peer.enterCall());
    } catch (error) {
      return refuse(peer, response, 429, ConnectError.from(error));
    }
    const admitted = admit(request);
    if (admitted instanceof ConnectError) return refuse(peer, response, 403, admitted);
    for (const [name, value] of Object.entries(corsHeaders(admitted.origin))) response.setHeader(name, value);
    if (isPreflight(request)) return void response.writeHead(204, preflightHeaders(request)).end();
    const [path = ""] = (request.url ?? "").split("?", 1);
    answerAdmitted(path, peer, request, response);
  });
  tellHttpErrors(server);
  const { listener } = options;
  listener.open((connection) => {
    peers.enter(connection);
    server.emit("connection", connection);
  });
  // It begins to watch over its connections (those that are slow to say what they want are cut) when it hears that somebody listens.
  server.emit("listening");
  return { address: listener.address, close: (left) => close(server, listener, left) };
}

/** What is answered at a path that is no method's. */
type Page = (response: ServerResponse) => void;

/** What probes and tools ask for. */
function pagesOf(options: WebServerOptions): ReadonlyMap<string, Page> {
  const health: Page = (response) => answerHealth(response, options.problem());
  return new Map([
    ["/healthz", health],
    ["/readyz", health],
    ["/livez", (response) => answer(response, 200, { status: "ALIVE" })],
    ["/metrics", (response) => answerMetrics(response, options)],
  ]);
}

/** What serves the calls of one method. */
interface Call {
  readonly handler: UniversalHandler;
  /** Makes of a request what the handler takes. */
  readonly admitted: (request: UniversalServerRequest, peer: Peer) => UniversalServerRequest;
}

function callsOf({ entries, messageLimit }: WebServerOptions): ReadonlyMap<string, Call> {
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
      // Where a method has options of its own, the router forgets which protocols it was told to leave out.
      const own = { grpc: false, jsonOptions: jsonOptionsOf(method) };
      router.rpc(method, handler as MethodImpl<DescMethod>, own);
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
    caller: callerOf(context),
    signal: context.signal,
  };
}

function callerOf({ values }: HandlerContext): Caller {
  const caller = values.get(callerKey);
  if (caller === undefined) throw new Error("a call came by no connection");
  return caller;
}

function serve(
  call: Call,
  peer: Peer,
  request: IncomingMessage,
  response: ServerResponse,
  options: WebServerOptions,
): void {
  const run = async (): Promise<void> => {
    const asked = universalRequestFromNodeRequest(request, response, undefined, undefined);
    // A request that isn't read to its end would be destroyed, and its connection be stuck.
    const body = request.iterator({ destroyOnReturn: false });
    // The router looks at the version for streams in both directions alone, which it would answer with a bare 505; we
    // refuse those with a reason.
    const contextValues = createContextValues().set(callerKey, peer);
    const asking = { ...asked, body, contextValues, httpVersion: "2.0" };
    // What was read from the ledger is true now; it isn't to be kept.
    if (asking.method === "GET") response.setHeader("cache-control", "no-store");
    const answerTo = (one: UniversalServerRequest) => answerOf(call, peer, one, options);
    const answered = isText(asking) ? asBinary(asking, answerTo) : answerTo(asking);
    await universalResponseToNodeResponse(countedAnswer(await answered, peer), response);
  };
  run().catch((error: unknown) => {
    // A caller that is gone takes no answer: that is nobody's error.
    if (!request.destroyed && !response.destroyed) options.log(error);
    response.destroy();
  });
}

async function answerOf(
  { handler, admitted }: Call,
  peer: Peer,
  call: UniversalServerRequest,
  { messageLimit, translate }: WebServerOptions,
): Promise<UniversalServerResponse> {
  const methods = methodsOf(handler);
  if (!methods.includes(call.method)) {
    peer.refused();
    const header = new Headers({ allow: methods.join(", ") });
    return withReason({ status: 405, header }, messageLimit, translate);
  }
  const problem = problemOfCall(call);
  if (problem !== undefined) {
    peer.refused();
    return errorAnswer(call.header.get("content-type") ?? "", problem);
  }
  cutDeadline(call.header);
  const answered = await handler(admitted(call, peer));
  if (answered.status === UNSUPPORTED_MEDIA_TYPE) peer.refused();
  return withReason(answered, messageLimit, translate);
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

function answerHealth(response: ServerResponse, problem: string | undefined): void {
  answer(response, problem === undefined ? 200 : 503, problem === undefined ? { status: "SERVING" } : { status: "NOT_SERVING", problem });
}

function answerMetrics(response: ServerResponse, { metrics, log }: WebServerOptions): void {
  metrics().then(
    (text) => response.writeHead(200, { "content-type": METRICS_TYPE }).end(text),
    (error: unknown) => {
      log(error);
      answerError(response, 503, errorOfFailure("DATABASE_UNAVAILABLE", error));
    },
  );
}

function answer(response: ServerResponse, status: number, body: Readonly<Record<string, string>>): void {
  response.writeHead(status, { "content-type": "application/json" });
  response.end(`${JSON.stringify(body)}\n`);
}

/** Refuses what is no call. A connection on which that goes on and on is ended. */
function refuse(peer: Peer, response: ServerResponse, status: number, error: ConnectError): void {
  peer.refused();
  if (!response.destroyed) answerError(response, status, error);
}

function answerError(response: ServerResponse, status: number, error: ConnectError): void {
  const body = errorToJsonBytes(error, undefined);
  response.writeHead(status, { "content-type": "application/json", "content-length": body.byteLength }).end(body);
}

async function close(server: Server, listener: Listener, left: Promise<void>): Promise<void> {
  const gone = listener.close();
  // Ends connections that are idle.
  server.close();
  await Promise.race([gone, left.then(() => delay(LAST_WORDS_MS))]);
  listener.cut();
  await gone;
}
