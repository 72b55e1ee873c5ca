// Callers and workers of JobService: jobs are created with the money for them, claimed by fifties and completed. Each must be.

import { randomUUID } from "node:crypto";
import { setTimeout as delay } from "node:timers/promises";
import { framed, type GrpcConnection } from "../wire/http2.ts";
import { field, fieldAt, fieldsOf, numberField } from "../wire/protobuf.ts";
import { Meter, type Load, type Window } from "./meter.ts";
import { openConnections } from "./unary.ts";

/** Whom to call. */
export interface JobsTask {
  readonly address: string;
  readonly users: number;
}

/** How much at the same time, here and at the rival's. */
export const CREATING = 128;
/** Creators rest while so many jobs wait: what is measured is the whole way of a job. */
export const MOST_WAITING = 1000;
export const REST_MS = 2;
const WORKERS = 8;
const CLAIMED_AT_ONCE = 50;
const WAIT_NS = 200_000_000;

/** Fields of the contract, by their numbers. */
const CREATE = { userId: 1, modelId: 2, prompt: 3, cost: 5, key: 6 };
const CLAIM = { workerId: 1, maxJobs: 3, wait: 5 };
const COMPLETE = { jobId: 1, token: 2, resultUrl: 3 };
const CLAIMED = { job: 1, token: 2 };
const JOB = 1;
const JOB_ID = 1;
const JOB_STATUS = 6;
const COMPLETED = 3;
const MONEY_AMOUNT = 2;
const DURATION_NANOS = 2;

/** Keeps creating and working. An operation is a job, from its creation to its completion. */
export async function run({ address, users }: JobsTask, window: Window): Promise<Load> {
  const [creating, claiming, completing] = await Promise.all([open(address, "CreateJob"), open(address, "ClaimJobs"), open(address, "CompleteJob")]);
  const meter = new Meter(window);
  const createdAt = new Map<number, number>();
  const count = { created: 0, completed: 0 };

  const keepCreating = async (caller: number): Promise<void> => {
    while (!meter.isOver()) {
      if (count.created - count.completed > MOST_WAITING) {
        await delay(REST_MS);
        continue;
      }
      count.created += 1;
      const from = performance.now();
      const id = fieldAt(await creating.call(caller, createRequest(users)), JOB, JOB_ID)?.value;
      if (id === undefined) throw new Error("a job was not created");
      // Its worker may have been faster than the answer to its creator.
      createdAt.set(id, from);
    }
  };
  const complete = async (worker: number, claimed: Buffer): Promise<void> => {
    const claimedAt = performance.now();
    const id = fieldAt(claimed, CLAIMED.job, JOB_ID)?.value ?? 0;
    const answer = await completing.call(worker, completeRequest(id, fieldAt(claimed, CLAIMED.token)?.value ?? 0));
    if (fieldAt(answer, JOB, JOB_STATUS)?.value !== COMPLETED) throw new Error(`job ${id} was not completed`);
    count.completed += 1;
    meter.add(createdAt.get(id) ?? claimedAt);
    createdAt.delete(id);
  };
  const keepWorking = async (worker: number): Promise<void> => {
    const request = claimRequest(worker);
    while (!meter.isOver() || count.completed < count.created) {
      const claimed = fieldsOf(await claiming.call(worker, request));
      await Promise.all(claimed.map(({ bytes }) => complete(worker, bytes)));
    }
  };

  const numbers = (length: number): number[] => Array.from({ length }, (_, index) => index);
  await Promise.all([...numbers(CREATING).map(keepCreating), ...numbers(WORKERS).map(keepWorking)]);
  for (const method of [creating, claiming, completing]) method.close();
  return meter.load();
}

/** Some connections for one method, and which of them a caller uses. */
async function open(address: string, method: string) {
  const connections = await openConnections(address, `/ledger.v1.JobService/${method}`, WORKERS);
  return {
    call: (caller: number, request: Buffer): Promise<Buffer> => (connections[caller % connections.length] as GrpcConnection).call(request),
    close: () => connections.forEach((connection) => connection.close()),
  };
}

function createRequest(users: number): Buffer {
  const userId = 1 + Math.floor(Math.random() * users);
  const cost = field(CREATE.cost, field(MONEY_AMOUNT, "0.01"));
  return framed(Buffer.concat([numberField(CREATE.userId, userId), field(CREATE.modelId, "m"), field(CREATE.prompt, "p"), cost, field(CREATE.key, randomUUID())]));
}

function claimRequest(worker: number): Buffer {
  const wait = field(CLAIM.wait, numberField(DURATION_NANOS, WAIT_NS));
  return framed(Buffer.concat([field(CLAIM.workerId, `worker ${worker}`), numberField(CLAIM.maxJobs, CLAIMED_AT_ONCE), wait]));
}

function completeRequest(id: number, token: number): Buffer {
  return framed(Buffer.concat([numberField(COMPLETE.jobId, id), numberField(COMPLETE.token, token), field(COMPLETE.resultUrl, "https://result")]));
}
