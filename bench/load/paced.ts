// Deducts at a fixed rate, whether or not those before are answered: each has a moment at which it is due, and its latency counts from then. So
// a service that stalls is charged for all who would have called meanwhile.

import { setTimeout as delay } from "node:timers/promises";
import { Deducts } from "../wire/deducts.ts";
import { framed, GrpcConnection } from "../wire/http2.ts";
import { fieldAt } from "../wire/protobuf.ts";
import { Meter, type Load, type Window } from "./meter.ts";

/** What to call. */
export interface PacedTask {
  readonly address: string;
  readonly perSecond: number;
  readonly users: number;
}

const CONNECTIONS = 4;
/** The server takes a thousand calls on a connection. Those that are due and find all connections full go late, and count as late. */
const MOST_CALLS = 1000;
const LOOK_MS = 10;
/** In the answer of `GetServiceStatus`: the queue of writes, and how many wait in it. */
const WRITE_QUEUE = 5;
const QUEUED = 2;

/** Calls as often as it is told. Beside the usual: `errors`, and the largest `queue` that any of the instance's processes told of. */
export async function run({ address, perSecond, users }: PacedTask, window: Window): Promise<Load> {
  const connections = await open(address, "/ledger.v1.LedgerService/Deduct");
  const status = await open(address, "/ledger.v1.AdminService/GetServiceStatus");
  const deducts = new Deducts(users, "deduct");
  const meter = new Meter(window);
  const calls: Promise<void>[] = [];
  let errors = 0;
  const call = async (connection: GrpcConnection, due: number): Promise<void> => {
    const request = deducts.next();
    try {
      const answer = await connection.call(request);
      if (!answer.includes(deducts.keyOf(request))) throw new Error("a Deduct was not applied");
      meter.add(due);
    } catch {
      // A refused call is a figure of this workload, not the end of it.
      errors += 1;
    }
  };

  const queue = largestQueue(status, meter);
  const started = performance.now();
  for (let count = 0; !meter.isOver(); await delay(1)) {
    for (const now = performance.now(); ; count += 1) {
      const due = started + (count * 1000) / perSecond;
      const connection = connections[count % CONNECTIONS];
      if (due > now || connection === undefined || connection.calls >= MOST_CALLS) break;
      calls.push(call(connection, due));
    }
  }
  await Promise.all(calls);
  const largest = await queue;
  for (const connection of [...connections, ...status]) connection.close();
  return meter.load({ errors, queue: largest });
}

function open(address: string, method: string): Promise<GrpcConnection[]> {
  return Promise.all(Array.from({ length: CONNECTIONS }, () => GrpcConnection.open(address, method)));
}

/** Looks again and again, on several connections: behind each is one of the instance's processes. */
async function largestQueue(connections: readonly GrpcConnection[], meter: Meter): Promise<number> {
  let largest = 0;
  while (!meter.isOver()) {
    const answers = await Promise.all(connections.map((connection) => connection.call(framed(Buffer.alloc(0)))));
    largest = Math.max(largest, ...answers.map((answer) => fieldAt(answer, WRITE_QUEUE, QUEUED)?.value ?? 0));
    await delay(LOOK_MS);
  }
  return largest;
}
