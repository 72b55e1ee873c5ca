// The connections of the web server, and what is held for each.

import type { IncomingMessage } from "node:http";
import type { Socket } from "node:net";
import { createContextKey } from "@connectrpc/connect";
import type { UniversalServerResponse } from "@connectrpc/connect/protocol";
import type { Peer, Peers } from "../peers.ts";
import type { Caller } from "../../rpc/call.ts";

/** Under which a handler finds who calls. */
export const callerKey = createContextKey<Caller | undefined>(undefined, { description: "who calls" });

/** Which connection is whose. */
export class WebPeers {
  readonly #peers: Peers;
  readonly #bySocket = new WeakMap<Socket, Peer>();

  constructor(peers: Peers) {
    this.#peers = peers;
  }

  enter(connection: Socket): void {
    const peer = this.#peers.enter(() => connection.destroy());
    this.#bySocket.set(connection, peer);
    connection.once("close", () => this.#peers.leave(peer));
  }

  of({ socket }: IncomingMessage): Peer {
    const peer = this.#bySocket.get(socket);
    if (peer === undefined) throw new Error("a request came by no connection");
    return peer;
  }
}

/** An answer each of whose parts counts as unread until it has left: the next one is taken then. */
export function countedAnswer(response: UniversalServerResponse, peer: Peer): UniversalServerResponse {
  const { body } = response;
  return body === undefined ? response : { ...response, body: counted(body, peer) };
}

async function* counted(body: AsyncIterable<Uint8Array>, peer: Peer): AsyncGenerator<Uint8Array> {
  for await (const part of body) {
    const left = peer.answering(part.length);
    try {
      yield part;
    } finally {
      left();
    }
  }
}
