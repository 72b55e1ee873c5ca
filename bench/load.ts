// A caller, as a process of its own: keeps a number of Deducts in flight for some seconds, and prints what it saw as one line of JSON.
//   node bench/load.ts <host:port> <in flight> <seconds> <users> <run>
// Every call deducts 0.01 from a random user under a key of its own; every answer is checked: it must hold a transaction with that key.

import { create, toBinary } from "@bufbuild/protobuf";
import { DeductRequestSchema } from "../src/gen/ledger/v1/ledger_service_pb.ts";
import { Http2Caller } from "./http2-caller.ts";

const [address = "", inFlight = "1", seconds = "5", users = "1", run = "0"] = process.argv.slice(2);
const CONNECTIONS = Math.min(4, Number(inFlight));
const WARM_UP_MS = 1000;

/** What a benchmark learns from a caller. */
export interface Load {
  readonly calls: number;
  readonly perSecond: number;
  readonly p50: number;
  readonly p99: number;
  /** Of one core, used by the caller itself. */
  readonly cpu: number;
  /** What was wrong with an answer; empty: nothing. */
  readonly failed: string;
}

const latencies: number[] = [];
let calls = 0;
let failed = "";

const callers = await Promise.all(Array.from({ length: CONNECTIONS }, () => Http2Caller.open(address, "/ledger.v1.LedgerService/Deduct")));
const start = performance.now();
const counted = start + WARM_UP_MS;
const end = counted + Number(seconds) * 1000;
const cpu = process.cpuUsage();

async function keepCalling(caller: Http2Caller): Promise<void> {
  for (let from = performance.now(); from < end && failed === ""; from = performance.now()) {
    const key = `${run}-${(calls += 1)}`;
    const userId = BigInt(1 + Math.floor(Math.random() * Number(users)));
    const answer = await caller.call(toBinary(DeductRequestSchema, create(DeductRequestSchema, { userId, amount: { amount: "0.01" }, idempotencyKey: key })));
    if (!answer.includes(key)) failed ||= `call ${key} was not applied`;
    if (from > counted) latencies.push(performance.now() - from);
  }
}

await Promise.all(Array.from({ length: Number(inFlight) }, (_, index) => keepCalling(callers[index % CONNECTIONS] as Http2Caller)));
for (const caller of callers) caller.close();
const used = process.cpuUsage(cpu);
latencies.sort((a, b) => a - b);
const at = (share: number): number => latencies[Math.floor(latencies.length * share)] ?? Number.NaN;
const load: Load = {
  calls,
  perSecond: latencies.length / Number(seconds),
  p50: at(0.5),
  p99: at(0.99),
  cpu: (used.user + used.system) / 1000 / (performance.now() - start),
  failed,
};
process.stdout.write(`${JSON.stringify(load)}\n`);
