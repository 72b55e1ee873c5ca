// Deducts on streams: each stream has up to so many writes unanswered, and sends more as answers come. Each must be applied.

import { appliedBy, Deducts } from "../wire/deducts.ts";
import { GrpcConnection } from "../wire/http2.ts";
import { Meter, type Load, type Window } from "./meter.ts";

/** What to send. */
export interface StreamTask {
  readonly address: string;
  readonly streams: number;
  /** Writes of one message. */
  readonly perMessage: number;
  /** Writes that a stream may have sent and not seen answered. */
  readonly unanswered: number;
  readonly users: number;
}

/** Keeps all streams busy, each on a connection of its own. An operation is a write. */
export async function run({ address, streams, perMessage, unanswered, users }: StreamTask, window: Window): Promise<Load> {
  const connections = await Promise.all(Array.from({ length: streams }, () => GrpcConnection.open(address, "/ledger.v1.LedgerService/StreamWrites")));
  const deducts = new Deducts(users, { writes: perMessage });
  const meter = new Meter(window);
  await Promise.all(connections.map((connection) => keepSending(connection, deducts, { perMessage, unanswered }, meter)));
  for (const connection of connections) connection.close();
  return meter.load();
}

type Pace = Pick<StreamTask, "perMessage" | "unanswered">;

async function keepSending(connection: GrpcConnection, deducts: Deducts, { perMessage, unanswered }: Pace, meter: Meter): Promise<void> {
  const ended = Promise.withResolvers<void>();
  /** What was sent at one time and isn't answered yet, the oldest first. */
  const sent: { readonly at: number; writes: number }[] = [];
  let waiting = 0;
  let refilling = false;

  const refill = (): void => {
    refilling = false;
    const messages = Math.floor((unanswered - waiting) / perMessage);
    if (meter.isOver()) {
      if (waiting === 0) stream.end();
    } else if (messages > 0) {
      waiting += messages * perMessage;
      sent.push({ at: performance.now(), writes: messages * perMessage });
      stream.write(deducts.next(messages));
    }
  };
  const take = (answered: number): void => {
    waiting -= answered;
    for (let left = answered; left > 0; ) {
      const [oldest] = sent;
      if (oldest === undefined) throw new Error("more writes were answered than sent");
      const writes = Math.min(left, oldest.writes);
      meter.add(oldest.at, writes);
      left -= writes;
      oldest.writes -= writes;
      if (oldest.writes === 0) sent.shift();
    }
    // After all answers that came together.
    if (!refilling) process.nextTick(refill);
    refilling = true;
  };
  const stream = connection.stream({
    onMessage: (message) => {
      try {
        take(appliedBy(message));
      } catch (error) {
        ended.reject(error);
      }
    },
    onEnd: () => (waiting === 0 && meter.isOver() ? ended.resolve() : ended.reject(new Error(`a stream ended with ${waiting} writes unanswered`))),
    onError: ended.reject,
  });
  refill();
  await ended.promise;
}
