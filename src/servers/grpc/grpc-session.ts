// A connection at the gRPC server, as Node's HTTP/2 speaks on it: within which bounds, whether the other side still lives,
// and how it ends.

import {
  constants,
  performServerHandshake,
  type IncomingHttpHeaders,
  type ServerHttp2Session,
  type ServerHttp2Stream,
} from "node:http2";
import type { Socket } from "node:net";
import { MOST_CALLS, type Peer, type Peers } from "../peers.ts";

/**
 * The bounds of each connection. Those of watches, bytes and refusals are in peers.ts.
 *
 * `maxConcurrentStreams` and `maxHeaderListSize` are told to the client, which keeps to them by itself. A call with more
 * headers than 16 KiB, or 128 of them, is reset by Node alone; so is one call too many. Calls that came and were cancelled
 * within one turn of the event loop still count as calls at a time.
 *
 * Honest callers cancel: all that they have asked for, when the database stands still. By Node's own bounds (1000
 * cancelled calls, then 33 a second) the connection ends then, with all other calls on it. A cancelled call costs us
 * what an answered one does, 30 to 110 µs of CPU, so that cancelling gains an attacker nothing over asking: ours are
 * 100,000 at once, and then about as many a second as a process can serve.
 *
 * Pings and settings are answered by nghttp2 itself; 1,000 answers that the other side doesn't read end the connection.
 */
const BOUNDS = {
  settings: { maxConcurrentStreams: MOST_CALLS, maxHeaderListSize: 16 * 1024 },
  maxSessionMemory: 64,
  maxHeaderListPairs: 128,
  /** Entries of one frame of settings. */
  maxSettings: 32,
  maxSessionInvalidFrames: 100,
  streamResetBurst: 100_000,
  streamResetRate: 10_000,
  maxSessionRejectedStreams: 10_000,
};
const KEEPALIVE_MS = 30_000;
/** After so long without an answer to a ping the other side is taken for dead. */
const DEAD_MS = 20_000;
/** How often it is looked whether Node has reset calls by itself. */
const LOOK_MS = 1000;
/** A client gives its calls every second number. */
const STEP = 2;

/** The sessions of a server. */
export class Sessions {
  readonly #open = new Map<ServerHttp2Session, Session>();
  readonly #peers: Peers;
  readonly #serve: Serve;
  readonly #looking: NodeJS.Timeout;

  constructor(peers: Peers, serve: Serve) {
    this.#peers = peers;
    this.#serve = serve;
    this.#looking = setInterval(() => {
      for (const session of this.#open.values()) session.countResets();
    }, LOOK_MS).unref();
  }

  /** Begins to speak on a connection. */
  begin(connection: Socket): void {
    const http2 = performServerHandshake(connection, BOUNDS);
    const peer = this.#peers.enter(() => end(http2, connection));
    const session = new Session(http2, peer);
    this.#open.set(http2, session);
    http2.once("close", () => {
      this.#open.delete(http2);
      this.#peers.leave(peer);
    });
    // What breaks it breaks its calls, which are told each by itself.
    http2.on("error", () => undefined);
    http2.on("stream", (stream: ServerHttp2Stream, headers: IncomingHttpHeaders) => {
      session.countResets(stream.id);
      this.#serve(peer, stream, headers);
    });
    keepAlive(http2, connection);
  }

  /** Says GOAWAY to all: what is under way is finished, and nothing new is begun. */
  close(): void {
    clearInterval(this.#looking);
    for (const session of this.#open.keys()) session.close();
  }
}

/** Serves a call. */
type Serve = (peer: Peer, stream: ServerHttp2Stream, headers: IncomingHttpHeaders) => void;

/** One of them. */
class Session {
  readonly #http2: ServerHttp2Session;
  readonly #peer: Peer;
  #lastId = -1;

  constructor(http2: ServerHttp2Session, peer: Peer) {
    this.#http2 = http2;
    this.#peer = peer;
  }

  /** Calls that Node has reset by itself are told to nobody: their numbers are missing. `id`: of a call that it hands over. */
  countResets(id?: number): void {
    const last = id ?? this.#http2.state.lastProcStreamID ?? 0;
    const steps = Math.floor((last - this.#lastId) / STEP);
    if (steps <= 0) return;
    this.#lastId += STEP * steps;
    const resets = id === undefined ? steps : steps - 1;
    if (resets > 0) this.#peer.refused(resets);
  }
}

/** Ends a connection that takes too much. */
function end(http2: ServerHttp2Session, connection: Socket): void {
  http2.destroy(undefined, constants.NGHTTP2_ENHANCE_YOUR_CALM);
  // It may not read that.
  setImmediate(() => connection.destroy());
}

/**
 * Asks now and then whether the other side is still there. A session that is over, but whose connection the other side
 * keeps open, takes that with it.
 */
function keepAlive(session: ServerHttp2Session, connection: Socket): void {
  let dead: NodeJS.Timeout | undefined;
  const timer = setInterval(() => {
    clearTimeout(dead);
    if (session.destroyed) return void connection.destroy();
    dead = setTimeout(() => connection.destroy(), DEAD_MS).unref();
    session.ping(() => clearTimeout(dead));
  }, KEEPALIVE_MS).unref();
  connection.once("close", () => {
    clearInterval(timer);
    clearTimeout(dead);
  });
}
