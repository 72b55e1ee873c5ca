// A worker's end of the channel to the process that started it: connections and news come from there.

import type { Socket } from "node:net";
import { Connections, writeAddress, type Listen } from "../rpc/listener.ts";
import type { News, Surroundings } from "../service.ts";
import { Bulletin, type DoorName, type ToPrimary, type ToWorker } from "./messages.ts";

/** The process that started this one. */
export interface Primary {
  readonly surroundings: Surroundings;
  /** Resolves when it has gone without telling this one to end. */
  readonly gone: Promise<void>;
  /** Tells it something; returns when that is on its way. */
  readonly tell: (message: ToPrimary) => Promise<void>;
  /** Lets it go, so that this process can end. */
  readonly leave: () => void;
}

/** Whether this process was started by another one of ours, or by whoever else speaks to its children in that way. */
export function hasPrimary(): boolean {
  return process.send !== undefined;
}

/** Begins to listen to the process that started this one. */
export function joinPrimary(): Primary {
  const welcomes = new Map<DoorName, (connection: Socket) => void>();
  const listeners: ((news: News) => void)[] = [];
  process.on("message", (message: ToWorker, connection: Socket | undefined) => {
    if (message.kind === "news") return message.news.forEach((news) => listeners.forEach((listener) => listener(news)));
    const welcome = welcomes.get(message.door);
    if (connection !== undefined && welcome === undefined) {
      // It was on its way when the door was closed. Only our hold of it ends: its caller hears nothing, and comes to another worker.
      connection.destroy();
      return void tell({ kind: "declined", id: message.id });
    }
    void tell({ kind: "taken", id: message.id });
    // A caller who is gone already leaves a message without a connection.
    if (connection === undefined) void tell({ kind: "left", door: message.door });
    else welcome?.(connection);
  });
  const gone = new Promise<void>((resolve) => (process.connected ? process.once("disconnect", resolve) : resolve()));
  const bulletin = new Bulletin((news) => tell({ kind: "news", news }));
  return {
    surroundings: {
      grpc: listenFor("grpc", welcomes),
      http: listenFor("http", welcomes),
      tell: (news) => bulletin.tell(news),
      hear: (listener) => listeners.push(listener),
    },
    gone,
    tell,
    leave: () => process.connected && process.disconnect(),
  };
}

/** That the other one is gone is told by `gone`. */
function tell(message: ToPrimary): Promise<void> {
  return new Promise((resolve) => process.send?.(message, undefined, undefined, () => resolve()));
}

/** A door that gets its connections from the first process, which listens on the port. */
function listenFor(door: DoorName, welcomes: Map<DoorName, (connection: Socket) => void>): Listen {
  return (address) => {
    const connections = new Connections();
    const open = (welcome: (connection: Socket) => void): void => {
      welcomes.set(door, (connection) => {
        connection.once("close", () => void tell({ kind: "left", door }));
        connections.add(connection);
        welcome(connection);
      });
    };
    const close = (): Promise<void> => {
      welcomes.delete(door);
      return connections.gone();
    };
    return Promise.resolve({ address: writeAddress(address), open, close, cut: () => connections.cut() });
  };
}
