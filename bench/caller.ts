// A caller of ledgerd, as a process of its own: keeps a number of Deducts in flight for a while, and prints what it saw as one line of JSON.
//   node bench/caller.ts <host:port> <in flight> <seconds> <users> <run>
// Every call deducts 0.01 from a random user under a key of its own; every answer is checked: it must hold a transaction with that key.

import { create, toBinary } from "@bufbuild/protobuf";
import { DeductRequestSchema } from "../src/gen/ledger/v1/ledger_service_pb.ts";
import { Http2Caller } from "./http2-caller.ts";
import { report, WARM_UP_MS } from "./report.ts";

const [address = "", inFlight = "1", seconds = "5", users = "1", run = "0"] = process.argv.slice(2);
const CONNECTIONS = Math.min(4, Number(inFlight));

const latencies: number[] = [];
let calls = 0;
const callers = await Promise.all(Array.from({ length: CONNECTIONS }, () => Http2Caller.open(address, "/ledger.v1.LedgerService/Deduct")));
const counted = performance.now() + WARM_UP_MS;
const end = counted + Number(seconds) * 1000;

async function keepCalling(caller: Http2Caller): Promise<void> {
  for (let from = performance.now(); from < end; from = performance.now()) {
    const key = `${run}-${(calls += 1)}`;
    const userId = BigInt(1 + Math.floor(Math.random() * Number(users)));
    const answer = await caller.call(toBinary(DeductRequestSchema, create(DeductRequestSchema, { userId, amount: { amount: "0.01" }, idempotencyKey: key })));
    if (!answer.includes(key)) throw new Error(`call ${key} was not applied`);
    if (from > counted) latencies.push(performance.now() - from);
  }
}

await Promise.all(Array.from({ length: Number(inFlight) }, (_, index) => keepCalling(callers[index % CONNECTIONS] as Http2Caller)));
for (const caller of callers) caller.close();
report(calls, latencies, Number(seconds));
