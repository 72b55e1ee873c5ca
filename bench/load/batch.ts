// Batches of Deducts, a number of them in flight all the time. Each write of each batch must be applied.

import { appliedBy, Deducts } from "../wire/deducts.ts";
import type { GrpcConnection } from "../wire/http2.ts";
import { Meter, type Load, type Window } from "./meter.ts";
import { openConnections } from "./unary.ts";

/** What to call. */
export interface BatchTask {
  readonly address: string;
  readonly inFlight: number;
  /** Writes of one batch. */
  readonly size: number;
  readonly users: number;
}

/** Keeps calling `BatchWrite`. An operation is a write, a latency a batch's. */
export async function run({ address, inFlight, size, users }: BatchTask, window: Window): Promise<Load> {
  const connections = await openConnections(address, "/ledger.v1.LedgerService/BatchWrite", inFlight);
  const deducts = new Deducts(users, { writes: size });
  const meter = new Meter(window);
  const keepCalling = async (connection: GrpcConnection): Promise<void> => {
    for (let from = performance.now(); !meter.isOver(from); from = performance.now()) {
      const applied = appliedBy(await connection.call(deducts.next()));
      if (applied !== size) throw new Error(`a batch of ${size} was answered with ${applied} results`);
      meter.add(from, size);
    }
  };
  const callers = Array.from({ length: inFlight }, (_, index) => keepCalling(connections[index % connections.length] as GrpcConnection));
  await Promise.all(callers);
  for (const connection of connections) connection.close();
  return meter.load();
}
