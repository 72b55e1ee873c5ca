// A watcher of the log that reads it from its start until it has caught up.

import { framed, GrpcConnection } from "../wire/http2.ts";
import { timed, type Load } from "./meter.ts";

/** What to watch. */
export interface WatchTask {
  readonly address: string;
}

/** The first tag of an answer that brings a transaction; the other kind is the mark that the present is reached. */
const TRANSACTION = 0x0a;

/** Reads all. An operation is a row. */
export async function run({ address }: WatchTask): Promise<Load> {
  const connection = await GrpcConnection.open(address, "/ledger.v1.LedgerService/WatchTransactions");
  const load = await timed(() => catchUp(connection));
  connection.close();
  return load;
}

function catchUp(connection: GrpcConnection): Promise<number> {
  const caughtUp = Promise.withResolvers<number>();
  let rows = 0;
  const stream = connection.stream({
    onMessage: (message) => (message.readUInt8(0) === TRANSACTION ? (rows += 1) : caughtUp.resolve(rows)),
    onEnd: () => caughtUp.reject(new Error(`the feed ended after ${rows} rows`)),
    onError: caughtUp.reject,
  });
  stream.write(framed(Buffer.alloc(0)));
  stream.end();
  return caughtUp.promise;
}
