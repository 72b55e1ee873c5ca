// Calls of gRPC as a hostile peer makes them: on Node's own HTTP/2, whose every step it can leave out.

import { once } from "node:events";
import { connect, type ClientHttp2Session, type ClientHttp2Stream, type OutgoingHttpHeaders } from "node:http2";
import { create, toBinary, type DescMethod, type MessageInitShape } from "@bufbuild/protobuf";
import { framed } from "../harness/protocols.ts";

/** A connection, and whether it has ended. */
export interface Session {
  readonly http2: ClientHttp2Session;
  readonly isOver: () => boolean;
}

/** Opens a connection, with settings of its own. Whatever breaks it is what its owner looks for. */
export async function openSession(
  address: string,
  settings: { readonly initialWindowSize?: number } = {},
): Promise<Session> {
  const http2 = connect(`http://${address}`, { settings, peerMaxConcurrentStreams: 1_000_000 });
  http2.on("error", () => undefined);
  await once(http2, "remoteSettings");
  return { http2, isOver: () => http2.closed || http2.destroyed };
}

/** Closes connections at once. */
export function closeSessions(sessions: readonly Session[]): void {
  for (const { http2 } of sessions) http2.destroy();
}

/** Begins a call, by the headers of gRPC unless others are given. Undefined: the connection takes no more. */
export function begin(
  { http2, isOver }: Session,
  path: string,
  headers: OutgoingHttpHeaders = {},
): ClientHttp2Stream | undefined {
  if (isOver()) return undefined;
  const own = { ":method": "POST", ":path": path, "content-type": "application/grpc", te: "trailers" };
  return http2.request({ ...own, ...headers }).on("error", () => undefined);
}

/** The path of a method. */
export function pathOf({ parent, name }: DescMethod): string {
  return `/${parent.typeName}/${name}`;
}

/** A request as it is sent. */
export function bytesOf<M extends DescMethod>(method: M, request: MessageInitShape<M["input"]>): Buffer {
  return framed(toBinary(method.input, create(method.input, request)));
}

/** How a call was answered: the status of gRPC, or -1 if it ended without one. */
export async function statusOf(call: ClientHttp2Stream | undefined): Promise<number> {
  if (call === undefined) return -1;
  let status = -1;
  const note = (headers: Readonly<Record<string, unknown>>): void => {
    if (headers["grpc-status"] !== undefined) status = Number(headers["grpc-status"]);
  };
  call.on("response", note).on("trailers", note).resume();
  if (!call.destroyed) await once(call, "close").catch(() => undefined);
  return status;
}

/** Does something again and again, some at a time, until it has been done so often or the connection is over. */
export async function flood(
  { isOver }: Session,
  count: number,
  atOnce: number,
  act: () => Promise<unknown>,
): Promise<void> {
  let begun = 0;
  const next = async (): Promise<void> => {
    while (begun < count && !isOver()) {
      begun += 1;
      await act();
    }
  };
  await Promise.all(Array.from({ length: atOnce }, next));
}

/** The status of calls that are refused for their caller's excess. */
export const RESOURCE_EXHAUSTED = 8;

/** Counts what a connection is refused: it may be 5,000 times at once, and then 1,000 times a second, before it is ended. */
export class Refusals {
  readonly #began = performance.now();
  #count = 0;

  /** So many more; throws if that must have ended the connection. One that is slower than the bound isn't ended. */
  add(more: number): void {
    this.#count += more;
    const allowed = 5000 + (performance.now() - this.#began);
    // What was under way when it was ended.
    const late = 1000;
    if (this.#count > allowed + late) throw new Error(`the connection was refused ${this.#count} times`);
  }
}
