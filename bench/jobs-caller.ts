// Callers and workers of JobService, as a process of its own: jobs are created, claimed by fifties and completed for a while; prints what it saw as
// one line of JSON. A latency is that of a job, from its creation to its completion.
//   node bench/jobs-caller.ts <host:port> <seconds> <users> <run>

import { create, fromBinary, toBinary, type DescMessage, type MessageInitShape, type MessageShape } from "@bufbuild/protobuf";
import {
  ClaimJobsRequestSchema,
  ClaimJobsResponseSchema,
  CompleteJobRequestSchema,
  CompleteJobResponseSchema,
  CreateJobRequestSchema,
  CreateJobResponseSchema,
  JobStatus,
} from "../src/gen/ledger/v1/job_service_pb.ts";
import { Http2Caller } from "./http2-caller.ts";
import { report, WARM_UP_MS } from "./report.ts";

const [address = "", seconds = "5", users = "1", run = "0"] = process.argv.slice(2);
const CREATING = 128;
const WORKERS = 8;
const CLAIMED_AT_ONCE = 50;
/** Creators rest while so many jobs wait: what is measured is the whole way of a job. */
const MOST_WAITING = 2000;

const counted = performance.now() + WARM_UP_MS;
const end = counted + Number(seconds) * 1000;
const createdAt = new Map<bigint, number>();
const latencies: number[] = [];
const count = { created: 0, completed: 0 };

async function client<I extends DescMessage, O extends DescMessage>(method: string, input: I, output: O) {
  const caller = await Http2Caller.open(address, `/ledger.v1.JobService/${method}`);
  return {
    call: async (request: MessageInitShape<I>): Promise<MessageShape<O>> => fromBinary(output, await caller.call(toBinary(input, create(input, request)))),
    close: () => caller.close(),
  };
}

const creating = await client("CreateJob", CreateJobRequestSchema, CreateJobResponseSchema);
const claiming = await client("ClaimJobs", ClaimJobsRequestSchema, ClaimJobsResponseSchema);
const completing = await client("CompleteJob", CompleteJobRequestSchema, CompleteJobResponseSchema);

async function keepCreating(): Promise<void> {
  while (performance.now() < end) {
    if (count.created - count.completed > MOST_WAITING) {
      await new Promise((resolve) => setTimeout(resolve, 5));
      continue;
    }
    const userId = BigInt(1 + Math.floor(Math.random() * Number(users)));
    const from = performance.now();
    const { job } = await creating.call({ userId, modelId: "m", prompt: "p", cost: { amount: "0.01" }, idempotencyKey: `${run}-${(count.created += 1)}` });
    if (job === undefined) throw new Error("a job was not created");
    createdAt.set(job.id, from);
  }
}

async function keepWorking(worker: number): Promise<void> {
  while (performance.now() < end || count.completed < count.created) {
    const { jobs } = await claiming.call({ workerId: `worker ${worker}`, maxJobs: CLAIMED_AT_ONCE, wait: { nanos: 200_000_000 } });
    await Promise.all(
      jobs.map(async ({ job, fencingToken }) => {
        const answer = await completing.call({ jobId: job?.id ?? 0n, fencingToken, resultUrl: "https://result" });
        if (answer.job?.status !== JobStatus.COMPLETED) throw new Error(`job ${job?.id} was not completed`);
        count.completed += 1;
        const now = performance.now();
        if (now > counted && now < end) latencies.push(now - (createdAt.get(answer.job.id) ?? now));
        createdAt.delete(answer.job.id);
      }),
    );
  }
}

const creators = Promise.all(Array.from({ length: CREATING }, keepCreating));
await Promise.all([creators, ...Array.from({ length: WORKERS }, (_, worker) => keepWorking(worker))]);
for (const { close } of [creating, claiming, completing]) close();
report(count.completed, latencies, Number(seconds));
