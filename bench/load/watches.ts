// Many watchers of the log that read it from its start, for as long as something else is measured; and
// a probe that asks meanwhile whether the service is ready.

import { setTimeout as delay } from "node:timers/promises";
import { framed, GrpcConnection } from "../wire/http2.ts";
import { fieldAt } from "../wire/protobuf.ts";
import { Meter, type Load, type Window } from "./meter.ts";

/** What to watch. */
export interface WatchesTask {
  readonly address: string;
  readonly watchers: number;
}

/** Enough for the instance's processes to share them. */
const CONNECTIONS = 6;
const PROBE_MS = 100;
/** The first tag of an answer that brings a transaction; the other kind is the mark that the present is reached. */
const TRANSACTION = 0x0a;
const STATUS = 1;
const SERVING = 1;

/** Watches. An operation is a row; beside the usual: `not_ready`, how many probes weren't answered that it serves. */
export async function run({ address, watchers }: WatchesTask, window: Window): Promise<Load> {
  const method = "/ledger.v1.LedgerService/WatchTransactions";
  const opening = Array.from({ length: CONNECTIONS }, () => GrpcConnection.open(address, method));
  const connections = await Promise.all(opening);
  const meter = new Meter(window);
  const failed = Promise.withResolvers<never>();
  for (let count = 0; count < watchers; count += 1) {
    watch(connections[count % CONNECTIONS] as GrpcConnection, meter, failed.reject);
  }
  const notReady = await Promise.race([probe(address, meter), failed.promise]);
  for (const connection of connections) connection.close();
  return meter.load({ not_ready: notReady });
}

/** Reads all, and then what comes. */
function watch(connection: GrpcConnection, meter: Meter, failed: (error: Error) => void): void {
  const stream = connection.stream({
    onMessage: (message) => {
      if (message.readUInt8(0) === TRANSACTION) meter.add(performance.now());
    },
    onEnd: () => failed(new Error("a watch ended")),
    onError: failed,
  });
  stream.write(framed(Buffer.alloc(0)));
  stream.end();
}

async function probe(address: string, meter: Meter): Promise<number> {
  const connection = await GrpcConnection.open(address, "/grpc.health.v1.Health/Check");
  let notReady = 0;
  while (!meter.isOver()) {
    const answer = await connection.call(framed(Buffer.alloc(0)));
    if (fieldAt(answer, STATUS)?.value !== SERVING) notReady += 1;
    await delay(PROBE_MS);
  }
  connection.close();
  return notReady;
}
