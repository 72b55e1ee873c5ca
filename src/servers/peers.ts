// Who is at the other end of a connection, and how much that one may have: so that whoever takes more, by malice or by
// mistake, harms nobody else.
//
// What HTTP/2 itself bounds (calls at a time, headers, cancelled calls) is in grpc-server.ts.

import { Room, type Share } from "./room.ts";
import { errorOf } from "../rpc/errors.ts";
import type { Caller } from "../rpc/call.ts";

/** Calls at a time of a connection, at both servers. */
export const MOST_CALLS = 1000;
/**
 * Watches, exchanges and long polls that a connection may have open. Of its 1,000 calls the others are for what is
 * answered at once.
 */
const MOST_WAITING = 200;
/** Of all streams of a process, the share of one connection. */
const STREAM_SHARE = 1 / 4;
const MIB = 1024 * 1024;
/** Of requests that have begun to arrive and aren't complete: of a connection, and of a process. */
const MOST_REQUEST_BYTES = 32 * MIB;
const MOST_REQUEST_BYTES_OF_ALL = 256 * MIB;
/**
 * Of answers that have left for a connection and were not read: from here on it is answered nothing more that can be
 * asked for again.
 */
const MOST_UNREAD_BYTES = 16 * MIB;
/** From here on it is ended: answers to writes, and messages of streams, are kept so far. */
const LAST_UNREAD_BYTES = 64 * MIB;
const MOST_UNREAD_BYTES_OF_ALL = 256 * MIB;
/**
 * Requests that are refused before they are served. Each costs some 50 µs: so many at once are a quarter of a second, and so many
 * a second a twentieth of a core. Honest callers are below: a health check of the wrong path comes once a second.
 */
const REFUSED_AT_ONCE = 5000;
const REFUSED_PER_SECOND = 1000;

/** Why a connection was ended by us. */
export type Excess = "answers that aren't read" | "requests that aren't complete" | "requests that are refused";

/** All connections of a process, at both of its servers. */
export class Peers {
  readonly #requests = new Room(MOST_REQUEST_BYTES_OF_ALL);
  readonly #answers = new Room(MOST_UNREAD_BYTES_OF_ALL);
  readonly #mostStreams: number;
  readonly #ended: (why: Excess) => void;

  /** Of a process that may have so many streams. Each connection that is ended for its excess is told. */
  constructor(streamLimit: number, ended: (why: Excess) => void) {
    this.#mostStreams = Math.min(MOST_WAITING, Math.ceil(streamLimit * STREAM_SHARE));
    this.#ended = ended;
  }

  /** One more connection, and what ends it. */
  enter(end: () => void): Peer {
    const endFor = (why: Excess): void => {
      this.#ended(why);
      end();
    };
    const requests = this.#requests.share(() => endFor("requests that aren't complete"));
    const answers = this.#answers.share(() => endFor("answers that aren't read"));
    return new Peer(requests, answers, this.#mostStreams, endFor);
  }

  /** It has gone. */
  leave({ requests, answers }: Peer): void {
    this.#requests.close(requests);
    this.#answers.close(answers);
  }
}

/** One connection. */
export class Peer implements Caller {
  readonly requests: Share;
  readonly answers: Share;
  readonly #mostStreams: number;
  readonly #end: (why: Excess) => void;
  #calls = 0;
  #streams = 0;
  #waiting = 0;
  #refused = 0;
  #refusedAt = 0;
  #isEnded = false;

  constructor(requests: Share, answers: Share, mostStreams: number, end: (why: Excess) => void) {
    this.requests = requests;
    this.answers = answers;
    this.#mostStreams = mostStreams;
    this.#end = end;
  }

  /** One more call; returns what ends it. Throws if there are too many. HTTP/2 sees to that by itself. */
  enterCall(): () => void {
    if (this.#calls >= MOST_CALLS) throw errorOf("OVERLOADED", `this connection has ${MOST_CALLS} calls already; ${ANOTHER}`);
    this.#calls += 1;
    return () => void (this.#calls -= 1);
  }

  enterWait(): () => void {
    if (this.#waiting >= MOST_WAITING) {
      throw errorOf("OVERLOADED", `this connection has ${MOST_WAITING} watches and long polls already; ${ANOTHER}`);
    }
    this.#waiting += 1;
    return () => void (this.#waiting -= 1);
  }

  enterStream(): () => void {
    if (this.#streams >= this.#mostStreams) {
      throw errorOf("OVERLOADED", `this connection has its ${this.#mostStreams} streams already; ${ANOTHER}`);
    }
    const leave = this.enterWait();
    this.#streams += 1;
    return () => {
      this.#streams -= 1;
      leave();
    };
  }

  /** Throws unless more of a request may arrive. */
  assertRoom(): void {
    if (this.requests.bytes <= MOST_REQUEST_BYTES) return;
    const why = `this connection has sent more than ${MOST_REQUEST_BYTES} bytes of requests that it doesn't end`;
    throw errorOf("OVERLOADED", why);
  }

  /**
   * Throws if too much of what was answered isn't read: nothing is to be begun, and no answer to be given that can be
   * asked for again.
   */
  assertReads(): void {
    if (this.answers.bytes <= MOST_UNREAD_BYTES) return;
    const why = `this connection doesn't read: more than ${MOST_UNREAD_BYTES} bytes of answers wait for it`;
    throw errorOf("OVERLOADED", why);
  }

  /** Bytes of an answer leave; returns what is to be called when they have left, or nobody waits for them. */
  answering(bytes: number): () => void {
    this.answers.change(bytes);
    if (this.answers.bytes > LAST_UNREAD_BYTES) this.#endOnce("answers that aren't read");
    return () => this.answers.change(-bytes);
  }

  /** Requests were refused before they were served. One that goes on and on is ended. */
  refused(count = 1): void {
    const now = performance.now();
    const drained = (REFUSED_PER_SECOND * (now - this.#refusedAt)) / 1000;
    this.#refused = Math.max(0, this.#refused - drained) + count;
    this.#refusedAt = now;
    if (this.#refused > REFUSED_AT_ONCE) this.#endOnce("requests that are refused");
  }

  #endOnce(why: Excess): void {
    if (this.#isEnded) return;
    this.#isEnded = true;
    this.#end(why);
  }
}

const ANOTHER = "end some of them, or open another connection";
