// Many workers on two instances: each job is one worker's at a time, whatever workers do or stop to do, and all jobs end.

import { afterAll, beforeAll, expect, test } from "vitest";
import type { Timestamp } from "@bufbuild/protobuf/wkt";
import { ConnectError } from "@connectrpc/connect";
import fc from "fast-check";
import { JobStatus, type ClaimedJob } from "../../src/gen/ledger/v1/job_service_pb.ts";
import { connectToTwo } from "../concurrency/instances.ts";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { describeFailure, failureOf, newKey, type Clients } from "../harness/service.ts";
import { checkJobs, isFinal, noteMoves } from "./laws.ts";

const WORKERS = 8;
const JOBS = 2000;
const USERS = 20n;
/** What all of the many jobs are. */
const MODEL = "many";
const LEASE = { seconds: 1n, nanos: 0 };
const LEASE_NANOS = 1_000_000_000n;

type Jobs = Clients["jobs"];

const opened = new AsyncDisposableStack();
let database: TestDatabase;
let connections: readonly Clients[];

beforeAll(async () => {
  database = opened.use(await createDatabase());
  await noteMoves(database);
  connections = await connectToTwo(database.url, opened, WORKERS, { LEDGERD_JOB_SWEEP_INTERVAL: "50ms", LEDGERD_WAIT_POLL: "20ms" });
  const topUp = (_: unknown, index: number) => at(index).ledger.topUp({ userId: BigInt(index) + 1n, amount: rub("100000"), idempotencyKey: newKey() });
  await Promise.all(Array.from({ length: Number(USERS) }, topUp));
});

afterAll(() => opened.disposeAsync());

const rub = (amount: string) => ({ currency: "RUB", amount });
const at = (index: number): Clients => connections[index % WORKERS] ?? expect.unreachable();

const hows = [["at once", 0n], ["waiting for it", 30n]] as const;
test.each(hows)("of 64 workers on one job, %s, one gets it", async (how, wait) => {
  for (let round = 0; round < 4; round++) {
    const modelId = `${how} ${round}`;
    const create = () => at(round).jobs.createJob({ userId: 1n, modelId, cost: rub("1"), idempotencyKey: newKey() });
    const gone = new AbortController();
    const claim = async (_: unknown, index: number): Promise<readonly ClaimedJob[]> => {
      const wanted = { workerId: `worker ${index}`, modelIds: [modelId], maxJobs: 2, wait: { seconds: wait } };
      return (await at(index).jobs.claimJobs(wanted, { signal: gone.signal })).jobs;
    };
    if (wait === 0n) await create();
    const claims = Array.from({ length: 64 }, claim);
    if (wait > 0n) await create();
    const first = await Promise.any(claims.map(async (one) => (await one)[0] ?? Promise.reject(new Error("nothing"))));
    // The others would wait on.
    if (wait > 0n) gone.abort();
    const told = (await Promise.allSettled(claims)).flatMap((one) => (one.status === "fulfilled" ? one.value : []));
    expect(told).toEqual([first]);
    // Nor did one get it that left without being told: it was claimed once, and this is its last lease.
    expect(first.job?.attempt).toBe(1);
    await at(round).jobs.completeJob({ jobId: first.job?.id ?? 0n, fencingToken: first.fencingToken });
  }
  await checkJobs(database);
});

/** What workers do with jobs, and how many times of a hundred. */
const fates = {
  "completes it": 47,
  "charges a part": 15,
  "charges nothing": 6,
  "shows life, then completes it": 10,
  "completes it twice": 6,
  "fails": 7,
  "gives up": 4,
  /** With all that it has not begun yet. */
  "dies": 2,
  "sleeps until it is another one's": 3,
} as const;
type Fate = keyof typeof fates;
const deck = Object.entries(fates).flatMap(([fate, count]) => Array.from({ length: count }, () => fate as Fate));

/** A lease as its worker knows it, by the database's clock. */
interface Lease {
  readonly jobId: bigint;
  readonly fencingToken: bigint;
  readonly attempt: number;
  readonly from: bigint;
  until: bigint;
  /** Its worker gave the job back. */
  failed: boolean;
}

/** What workers were told, and so what must be true. */
class Told {
  readonly leases = new Map<bigint, Lease[]>();
  charged = 0n;
  #others = new Map<Lease, PromiseWithResolvers<void>>();

  /** A claim was answered. */
  claimed({ job, fencingToken, leaseExpireTime }: ClaimedJob): Lease {
    const end = nanosOf(leaseExpireTime);
    const lease: Lease = { jobId: job?.id ?? 0n, fencingToken, attempt: job?.attempt ?? 0, from: end - LEASE_NANOS, until: end, failed: false };
    const leases = this.leases.get(lease.jobId) ?? [];
    this.leases.set(lease.jobId, [...leases, lease]);
    for (const older of leases) this.#others.get(older)?.resolve();
    return lease;
  }

  /** Calls under a lease: what is accepted was not sent after anybody was told of a newer lease. */
  async under<T>(lease: Lease, call: () => Promise<T>): Promise<T> {
    const newest = this.leases.get(lease.jobId)?.reduce((most, { fencingToken }) => (fencingToken > most ? fencingToken : most), 0n);
    const answer = await call();
    expect(newest, `job ${lease.jobId}: an accepted call was its latest worker's`).toBe(lease.fencingToken);
    return answer;
  }

  /** Returns when another worker has the job, or when all is over. */
  async another(lease: Lease): Promise<void> {
    const others = Promise.withResolvers<void>();
    this.#others.set(lease, others);
    if ((this.leases.get(lease.jobId) ?? []).at(-1) !== lease) others.resolve();
    await others.promise;
  }

  over(): void {
    for (const { resolve } of this.#others.values()) resolve();
  }

  /** By the database's clock, no lease of a job began before the one before it was over; and each was the next attempt. */
  check(): void {
    for (const [jobId, told] of this.leases) {
      const leases = told.toSorted((a, b) => Number(a.fencingToken - b.fencingToken));
      expect(leases.map(({ attempt }) => attempt), `the attempts of job ${jobId}`).toEqual(leases.map((_, index) => index + 1));
      leases.slice(1).forEach(({ from }, index) => {
        const before = leases[index] as Lease;
        if (!before.failed) expect(from >= before.until, `job ${jobId}: its lease ${before.fencingToken} was over when the next one began`).toBe(true);
      });
    }
  }
}

const nanosOf = (time: Timestamp | undefined): bigint => (time?.seconds ?? 0n) * 1_000_000_000n + BigInt(time?.nanos ?? 0);
const minorOf = (amount: string | undefined): bigint => BigInt((amount ?? "0").replace(".", ""));

async function complete(jobs: Jobs, told: Told, lease: Lease, finalCost: string | undefined): Promise<() => Promise<void>> {
  const { jobId, fencingToken } = lease;
  const request = { jobId, fencingToken, resultUrl: `https://result/${fencingToken}`, ...(finalCost === undefined ? {} : { finalCost: rub(finalCost) }) };
  const first = await told.under(lease, () => jobs.completeJob(request));
  expect(first).toMatchObject({ replayed: false, job: { status: JobStatus.COMPLETED } });
  told.charged += minorOf(first.job?.finalCost?.amount);
  return async () => expect(await jobs.completeJob(request)).toEqual({ ...first, replayed: true });
}

/** All that a worker may call under a lease that it has lost. */
async function callInVain(jobs: Jobs, { jobId, fencingToken }: Lease): Promise<void> {
  const lost = { reason: "LEASE_LOST", metadata: { fencing_token: `${fencingToken}` } };
  const lease = { jobId, fencingToken };
  for (const call of [() => jobs.heartbeatJob(lease), () => jobs.completeJob(lease), () => jobs.failJob(lease)]) expect(await failureOf(call())).toMatchObject(lost);
}

/** Does with a job what it must. */
async function meet(fate: Exclude<Fate, "dies">, jobs: Jobs, told: Told, lease: Lease, sleepers: Promise<void>[]): Promise<void> {
  const { jobId, fencingToken } = lease;
  switch (fate) {
    case "completes it":
      return void (await complete(jobs, told, lease, undefined));
    case "charges a part":
      return void (await complete(jobs, told, lease, "0.75"));
    case "charges nothing":
      return void (await complete(jobs, told, lease, "0"));
    case "completes it twice":
      return (await complete(jobs, told, lease, undefined))();
    case "shows life, then completes it": {
      const { job } = await told.under(lease, () => jobs.heartbeatJob({ jobId, fencingToken, leaseDuration: LEASE, progressPercent: 50 }));
      lease.until = nanosOf(job?.leaseExpireTime);
      return void (await complete(jobs, told, lease, undefined));
    }
    case "fails":
    case "gives up":
      await told.under(lease, () => jobs.failJob({ jobId, fencingToken, errorMessage: "no luck", final: fate === "gives up" }));
      lease.failed = true;
      return;
    case "sleeps until it is another one's":
      sleepers.push(told.another(lease).then(() => callInVain(jobs, lease)));
  }
}

test("8 workers that die, sleep and fail end 2,000 jobs, each charged at most once", async () => {
  const shuffled = fc.shuffledSubarray(deck, { minLength: deck.length });
  await fc.assert(fc.asyncProperty(shuffled, (script) => endAll(script)), { numRuns: 1, endOnFailure: true });
});

async function endAll(script: readonly Fate[]): Promise<void> {
  const told = new Told();
  const sleepers: Promise<void>[] = [];
  const created = await createAll();
  let dealt = 0;
  const next = (): Fate => script[(dealt += 1) % script.length] ?? expect.unreachable();
  await Promise.all(connections.map((clients, worker) => work(clients, `worker ${worker}`, told, next, sleepers)));
  told.over();
  await Promise.all(sleepers);
  expect(sleepers.length, "some slept").toBeGreaterThan(0);
  told.check();
  const { jobs, log } = await checkJobs(database);
  const ended = jobs.filter(({ modelId }) => modelId === MODEL);
  expect(ended.map(({ id }) => id)).toEqual(created);
  expect(ended.filter((job) => !isFinal(job)), "jobs that have not ended").toEqual([]);
  const own = new Set(created);
  const charged = log.filter(({ jobId }) => jobId !== undefined && own.has(jobId)).reduce((sum, { amount }) => sum - amount, 0n);
  expect(charged, "what workers were told is what was charged").toBe(told.charged);
}

/** Answers their ids, in order. */
async function createAll(): Promise<readonly bigint[]> {
  const create = async (_: unknown, index: number): Promise<bigint> => {
    const cost = rub(index % 10 === 0 ? "0.75" : `${1 + (index % 7)}.25`);
    const { job } = await at(index).jobs.createJob({
      userId: 1n + (BigInt(index) % USERS), modelId: MODEL, cost, maxAttempts: 1 + (index % 3), idempotencyKey: newKey(),
    });
    return job?.id ?? expect.unreachable();
  };
  const ids = await Promise.all(Array.from({ length: JOBS }, create));
  return ids.toSorted((a, b) => Number(a - b));
}

/** One worker after another, on one connection, while there is something to do. */
async function work({ jobs }: Clients, workerId: string, told: Told, next: () => Fate, sleepers: Promise<void>[]): Promise<void> {
  const session = await database.connect();
  const isLeft = async (): Promise<boolean> => (await session.query("SELECT FROM ledgerd.jobs WHERE status IN ('pending', 'processing') LIMIT 1")).rowCount === 1;
  while (await isLeft()) {
    const claimed = await jobs.claimJobs({ workerId, modelIds: [MODEL], maxJobs: 8, leaseDuration: LEASE, wait: { seconds: 0n, nanos: 200_000_000 } });
    const begun: Promise<void>[] = [];
    for (const lease of claimed.jobs.map((one) => told.claimed(one))) {
      const fate = next();
      if (fate === "dies") break;
      begun.push(meet(fate, jobs, told, lease, sleepers).catch(lateOnly));
    }
    await Promise.all(begun);
  }
  await session.end();
}

/** A lease may be over before a call arrives, on a slow machine. That this was refused is what protects the job; all else is a failure. */
function lateOnly(error: unknown): void {
  if (!(error instanceof ConnectError) || describeFailure(error).reason !== "LEASE_LOST") throw error;
}
