// JobService: work that is paid for.

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Code } from "@connectrpc/connect";
import { HoldState, TransactionType } from "../../src/gen/ledger/v1/account_pb.ts";
import { JobStatus, type ClaimedJob, type Job } from "../../src/gen/ledger/v1/job_service_pb.ts";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { checkDatabase } from "../harness/inspect.ts";
import { patient } from "../harness/patience.ts";
import { failureOf, newKey, serve, type TestService } from "../harness/service.ts";
import { until } from "../harness/until.ts";

let database: TestDatabase;
let service: TestService;
let lastUser = 0n;
let lastModel = 0;

beforeAll(async () => {
  database = await createDatabase();
  service = await serve(database.url, { LEDGERD_JOB_SWEEP_INTERVAL: "50ms", LEDGERD_WAIT_POLL: "20ms" });
});

afterAll(async () => {
  await service.close();
  await checkDatabase(database);
  await database[Symbol.asyncDispose]();
});

const rub = (amount: string) => ({ currency: "RUB", amount });
const seconds = (count: number) => ({ seconds: BigInt(count), nanos: 0 });

async function userWith(amount: string): Promise<bigint> {
  const userId = (lastUser += 1n);
  await service.ledger.topUp({ userId, amount: rub(amount), idempotencyKey: newKey() });
  return userId;
}

/** A kind of work that no other test has. */
const newModel = (): string => `model-${(lastModel += 1)}`;

interface Wanted {
  readonly cost?: string;
  readonly maxAttempts?: number;
  readonly priority?: number;
}

async function create(userId: bigint, modelId: string, { cost = "10", ...wanted }: Wanted = {}): Promise<Job> {
  const { job } = await service.jobs.createJob({ userId, modelId, prompt: "a cat", cost: rub(cost), idempotencyKey: newKey(), ...wanted });
  return job ?? expect.unreachable();
}

async function claim(modelId: string, maxJobs = 1, lease = 3600): Promise<ClaimedJob[]> {
  const { jobs } = await service.jobs.claimJobs({ workerId: "worker", modelIds: [modelId], maxJobs, leaseDuration: seconds(lease) });
  return jobs;
}

async function claimOne(modelId: string, lease = 3600): Promise<{ jobId: bigint; fencingToken: bigint }> {
  const [claimed] = await claim(modelId, 1, lease);
  return { jobId: claimed?.job?.id ?? expect.unreachable(), fencingToken: claimed?.fencingToken ?? 0n };
}

const read = async (jobId: bigint): Promise<Job> => (await service.jobs.getJob({ jobId })).job ?? expect.unreachable();
const balanceOf = async (userId: bigint) => {
  const { balance } = await service.ledger.getBalance({ userId });
  return [balance?.balance?.amount, balance?.held?.amount];
};

describe("CreateJob", () => {
  test("places a hold for the cost and inserts the job, with what was sent", async () => {
    const userId = await userWith("100");
    const request = {
      userId, modelId: newModel(), prompt: 'a "cat"\n\\ with é', cost: rub("12.50"), idempotencyKey: newKey(), priority: 7, maxAttempts: 5,
      parameters: { size: 1024, tags: ["a", null, true], nested: { b: "2", a: "1" } },
    };
    const { job, transaction, balance, replayed } = await service.jobs.createJob(request);
    expect(job).toMatchObject({
      userId, modelId: request.modelId, prompt: request.prompt, cost: rub("12.50"), priority: 7, maxAttempts: 5, attempt: 0,
      status: JobStatus.PENDING, parameters: request.parameters, idempotencyKey: request.idempotencyKey, cancelRequested: false,
    });
    expect(transaction).toMatchObject({ type: TransactionType.HOLD, heldChange: rub("12.50"), jobId: job?.id, holdId: job?.holdId });
    expect(balance).toMatchObject({ balance: rub("100.00"), held: rub("12.50"), available: rub("87.50") });
    expect(replayed).toBe(false);
    expect(await read(job?.id ?? 0n)).toEqual(job);
    const { hold } = await service.ledger.getHold({ holdId: job?.holdId ?? 0n });
    expect(hold).toMatchObject({ state: HoldState.OPEN, jobId: job?.id, amount: rub("12.50") });
  });

  test("does neither where money lacks, and the same again under its key", async () => {
    const userId = await userWith("5");
    const request = { userId, modelId: newModel(), cost: rub("10"), idempotencyKey: newKey() };
    const refused = { code: Code.FailedPrecondition, reason: "INSUFFICIENT_FUNDS", metadata: { stored: "true" } };
    expect(await failureOf(service.jobs.createJob(request))).toMatchObject(refused);
    await service.ledger.topUp({ userId, amount: rub("100"), idempotencyKey: newKey() });
    expect(await failureOf(service.jobs.createJob(request))).toMatchObject(refused);
    expect((await service.jobs.listJobs({ userId })).jobs).toEqual([]);
  });

  test("answers a repeat with the job as it first was, whatever has become of it", async () => {
    const userId = await userWith("100");
    const modelId = newModel();
    const request = { userId, modelId, prompt: "x", parameters: { a: 1, b: 2 }, cost: rub("10"), idempotencyKey: newKey() };
    const first = await service.jobs.createJob(request);
    await service.jobs.completeJob({ ...(await claimOne(modelId)), resultUrl: "https://result" });
    expect(await service.jobs.createJob({ ...request, parameters: { b: 2, a: 1 } })).toEqual({ ...first, replayed: true });
    expect(await failureOf(service.jobs.createJob({ ...request, prompt: "y" }))).toMatchObject({ reason: "IDEMPOTENCY_KEY_REUSED" });
    expect(await failureOf(service.ledger.topUp({ userId, amount: rub("1"), idempotencyKey: request.idempotencyKey })), "keys are one scope").toMatchObject({
      reason: "IDEMPOTENCY_KEY_REUSED",
    });
  });

  test("of a job that costs nothing moves no money, and is as idempotent", async () => {
    const userId = (lastUser += 1n);
    const modelId = newModel();
    const request = { userId, modelId, cost: rub("0"), idempotencyKey: newKey() };
    const first = await service.jobs.createJob(request);
    expect(first.transaction).toBeUndefined();
    expect(first.job).toMatchObject({ holdId: 0n, cost: rub("0.00") });
    expect(await service.jobs.createJob(request)).toEqual({ ...first, replayed: true });
    expect(await service.ledger.getOutcome(request)).toMatchObject({ transactions: [], jobId: first.job?.id });
    const lease = await claimOne(modelId);
    expect((await service.jobs.completeJob(lease)).job).toMatchObject({ status: JobStatus.COMPLETED, finalCost: rub("0.00") });
    expect((await service.ledger.listTransactions({ userId })).transactions).toEqual([]);
  });

  test("refuses what is malformed, every field of it", async () => {
    const failed = await failureOf(
      service.jobs.createJob({ userId: 0n, modelId: "", cost: rub("-1"), maxAttempts: 101, parameters: { bad: "\u0000" }, prompt: "x".repeat(100_001) }),
    );
    expect(failed.reason).toBe("INVALID_REQUEST");
    expect(failed.fields.toSorted()).toEqual(["cost.amount", "idempotency_key", "max_attempts", "model_id", "parameters", "prompt", "user_id"]);
  });
});

describe("ClaimJobs", () => {
  test("gives larger priority first, then the earlier job, each to one worker, with a token that grows", async () => {
    const userId = await userWith("100");
    const modelId = newModel();
    const low = await create(userId, modelId);
    const high = await create(userId, modelId, { priority: 5 });
    const next = await create(userId, modelId);
    const claimed = await claim(modelId, 2);
    expect(claimed.map(({ job }) => job?.id)).toEqual([high.id, low.id]);
    const [last] = await claim(modelId, 5);
    expect(last?.job).toMatchObject({ id: next.id, status: JobStatus.PROCESSING, attempt: 1, workerId: "worker" });
    const tokens = [...claimed, last].map((one) => one?.fencingToken ?? 0n);
    expect(tokens).toEqual(tokens.toSorted((a, b) => Number(a - b)));
    expect(await claim(modelId)).toEqual([]);
  });

  test("gives a job only when its time has come", async () => {
    const userId = await userWith("100");
    const modelId = newModel();
    const runTime = seconds(Math.floor(Date.now() / 1000) + 1);
    await service.jobs.createJob({ userId, modelId, cost: rub("1"), idempotencyKey: newKey(), runTime });
    // Its time may have come before the first one asks.
    const early = await claim(modelId);
    const wait = seconds(early.length === 0 ? 30 : 0);
    const wanted = { workerId: "w", modelIds: [modelId], leaseDuration: seconds(3600), wait };
    const late = await service.jobs.claimJobs(wanted);
    const leases = [...early, ...late.jobs].map(({ leaseExpireTime }) => leaseExpireTime?.seconds ?? 0n);
    expect(leases).toHaveLength(1);
    expect(leases[0], "it began when its time had come").toBeGreaterThanOrEqual(runTime.seconds + 3600n);
  });

  test("answers a repeat under its request id with the same leases, while they are valid", async () => {
    const userId = await userWith("100");
    const modelId = newModel();
    await create(userId, modelId);
    await create(userId, modelId);
    const request = { workerId: newKey(), modelIds: [modelId], requestId: "claim 1" };
    const first = await service.jobs.claimJobs(request);
    expect(await service.jobs.claimJobs(request)).toEqual(first);
    expect((await service.jobs.claimJobs({ ...request, requestId: "claim 2" })).jobs[0]?.job?.id).not.toBe(first.jobs[0]?.job?.id);
  });

  test("answers repeats under its request id that come at once with the same leases, too", async () => {
    const userId = await userWith("100");
    const modelId = newModel();
    for (let count = 0; count < 4; count++) await create(userId, modelId, { cost: "1" });
    const request = { workerId: newKey(), modelIds: [modelId], requestId: "claim", wait: seconds(5) };
    const answers = await Promise.all(Array.from({ length: 4 }, () => service.jobs.claimJobs(request)));
    expect(answers.slice(1)).toEqual([answers[0], answers[0], answers[0]]);
  });

  test("that names a kind twice looks for it once", async () => {
    const modelId = `twice ${newKey()}`;
    for (let count = 0; count < 3; count++) {
      await service.jobs.createJob({ userId: 1n, modelId, cost: { amount: "0" }, idempotencyKey: newKey() });
    }
    const { jobs } = await service.jobs.claimJobs({ workerId: "w", modelIds: [modelId, modelId], maxJobs: 2 });
    expect(jobs).toHaveLength(2);
  });

  test("gives no more at once than a client takes as one answer", async () => {
    const userId = await userWith("100");
    const modelId = newModel();
    for (let count = 0; count < 20; count++) await service.jobs.createJob({ userId, modelId, prompt: "\u0436".repeat(100_000), cost: rub("1"), idempotencyKey: newKey() });
    const first = await claim(modelId, 20);
    expect(first.length).toBe(18);
    const others = await claim(modelId, 20);
    expect(others).toHaveLength(2);
    const page = await service.jobs.listJobs({ userId });
    expect(page.jobs).toHaveLength(17);
    expect((await service.jobs.listJobs({ userId, pageToken: page.nextPageToken })).jobs).toHaveLength(3);
    const jobIds = [...first, ...others].map(({ job }) => job?.id ?? 0n);
    expect(await failureOf(service.jobs.batchGetJobs({ jobIds }))).toMatchObject({ reason: "MESSAGE_TOO_LARGE" });
  });

  test("waits for a job that is yet to be created, and gives it to one of those who wait", async () => {
    const userId = await userWith("100");
    const modelId = newModel();
    const gone = new AbortController();
    const waiting = Array.from({ length: 64 }, (_, index) =>
      service.jobs.claimJobs(
        { workerId: `worker ${index}`, modelIds: [modelId], wait: seconds(30) },
        { signal: gone.signal, ...patient },
      ),
    );
    const job = await create(userId, modelId);
    const first = await Promise.any(waiting.map(async (one) => ((await one).jobs.length > 0 ? one : Promise.reject(new Error("nothing")))));
    expect(first.jobs.map((one) => one.job?.id)).toEqual([job.id]);
    gone.abort();
    const others = await Promise.allSettled(waiting);
    expect(others.filter((one) => one.status === "fulfilled" && one.value.jobs.length > 0)).toHaveLength(1);
  });

  test("answers nothing when there is nothing in time", async () => {
    const { jobs } = await service.jobs.claimJobs({ workerId: "w", modelIds: [newModel()], wait: { seconds: 0n, nanos: 100_000_000 } });
    expect(jobs).toEqual([]);
  });
});

describe("under a lease", () => {
  test("CompleteJob charges the final cost, sets the rest free, and answers its repeat alike", async () => {
    const userId = await userWith("100");
    const modelId = newModel();
    const { holdId } = await create(userId, modelId);
    const request = { ...(await claimOne(modelId)), resultUrl: "https://result", finalCost: rub("7.25") };
    const first = await service.jobs.completeJob(request);
    expect(first.job).toMatchObject({ status: JobStatus.COMPLETED, finalCost: rub("7.25"), resultUrl: "https://result", progressPercent: 100 });
    expect(first.job?.completeTime).toBeDefined();
    expect(first.transaction).toMatchObject({ type: TransactionType.CAPTURE, amount: rub("-7.25"), heldChange: rub("-10.00"), jobId: request.jobId });
    expect(await balanceOf(userId)).toEqual(["92.75", "0.00"]);
    expect((await service.ledger.getHold({ holdId })).hold).toMatchObject({ state: HoldState.CAPTURED, captured: rub("7.25") });
    expect(await service.jobs.completeJob(request)).toEqual({ ...first, replayed: true });
    expect(await failureOf(service.jobs.completeJob({ ...request, finalCost: rub("1") })), "another request under the same lease").toMatchObject({ reason: "LEASE_LOST" });
    expect(await failureOf(service.jobs.failJob({ jobId: request.jobId, fencingToken: request.fencingToken }))).toMatchObject({ reason: "LEASE_LOST" });
  });

  test("CompleteJob refuses more than was held, keeps no such refusal, and charges nothing for a final cost of zero", async () => {
    const userId = await userWith("100");
    const modelId = newModel();
    await create(userId, modelId);
    const lease = await claimOne(modelId);
    const tooMuch = await failureOf(service.jobs.completeJob({ ...lease, finalCost: rub("10.01") }));
    expect(tooMuch).toMatchObject({ reason: "CAPTURE_EXCEEDS_HOLD", metadata: { remaining: "10.00" } });
    expect(tooMuch.metadata).not.toHaveProperty("stored");
    expect(await failureOf(service.jobs.completeJob({ ...lease, finalCost: { currency: "JPY", amount: "1" } }))).toMatchObject({ reason: "CURRENCY_MISMATCH" });
    const free = await service.jobs.completeJob({ ...lease, finalCost: rub("0") });
    expect(free.transaction).toMatchObject({ type: TransactionType.RELEASE, amount: rub("0.00"), heldChange: rub("-10.00") });
    expect(await balanceOf(userId)).toEqual(["100.00", "0.00"]);
  });

  test("HeartbeatJob extends the lease and stores progress", async () => {
    const userId = await userWith("100");
    const modelId = newModel();
    const { id } = await create(userId, modelId);
    const lease = await claimOne(modelId, 600);
    const before = await read(id);
    const { job } = await service.jobs.heartbeatJob({ ...lease, leaseDuration: seconds(3600), progressPercent: 40 });
    expect(job?.progressPercent).toBe(40);
    expect((job?.leaseExpireTime?.seconds ?? 0n) - (before.leaseExpireTime?.seconds ?? 0n)).toBeGreaterThan(2000n);
    expect(await failureOf(service.jobs.heartbeatJob({ ...lease, fencingToken: lease.fencingToken + 1n }))).toMatchObject({ reason: "LEASE_LOST" });
    expect(await failureOf(service.jobs.heartbeatJob({ jobId: 999_999n, fencingToken: 1n }))).toMatchObject({ code: Code.NotFound, reason: "JOB_NOT_FOUND" });
  });

  test("FailJob makes the job pending again, later, while attempts remain; then it fails and its hold is released", async () => {
    const userId = await userWith("100");
    const modelId = newModel();
    const { id, holdId } = await create(userId, modelId, { maxAttempts: 2 });
    const request = { ...(await claimOne(modelId)), errorMessage: "no memory" };
    const first = await service.jobs.failJob(request);
    expect(first.job).toMatchObject({ status: JobStatus.PENDING, attempt: 1, errorMessage: "no memory" });
    expect((first.job?.runTime?.seconds ?? 0n) >= (first.job?.createTime?.seconds ?? 0n)).toBe(true);
    expect(await balanceOf(userId), "still held").toEqual(["100.00", "10.00"]);
    const again = { workerId: "w", modelIds: [modelId], wait: seconds(30), leaseDuration: seconds(3600) };
    const { jobs } = await service.jobs.claimJobs(again);
    expect(await service.jobs.failJob(request), "the first lease's call is answered as it was").toEqual({ ...first, replayed: true });
    const second = await service.jobs.failJob({ jobId: id, fencingToken: jobs[0]?.fencingToken ?? 0n, errorMessage: "again" });
    expect(second.job).toMatchObject({ status: JobStatus.FAILED, attempt: 2, errorMessage: "again" });
    expect(await balanceOf(userId)).toEqual(["100.00", "0.00"]);
    expect((await service.ledger.getHold({ holdId })).hold?.state).toBe(HoldState.RELEASED);
  });

  test("FailJob that says final doesn't try again", async () => {
    const modelId = newModel();
    await create(await userWith("100"), modelId);
    expect((await service.jobs.failJob({ ...(await claimOne(modelId)), final: true })).job?.status).toBe(JobStatus.FAILED);
  });

  test("that is over, a worker can do nothing: the job is another one's", async () => {
    const userId = await userWith("100");
    const modelId = newModel();
    const { id } = await create(userId, modelId);
    const paused = await claimOne(modelId, 1);
    await until(async () => (await read(id)).status === JobStatus.PENDING);
    const other = await claimOne(modelId);
    expect(other.fencingToken > paused.fencingToken).toBe(true);
    await service.jobs.completeJob({ ...other, finalCost: rub("3") });
    const { jobs } = service;
    for (const call of [() => jobs.heartbeatJob(paused), () => jobs.completeJob(paused), () => jobs.failJob(paused)]) {
      expect(await failureOf(call())).toMatchObject({ code: Code.FailedPrecondition, reason: "LEASE_LOST" });
    }
    expect(await balanceOf(userId), "charged once").toEqual(["97.00", "0.00"]);
  });

  test("that is over, a job out of attempts fails, its hold released", async () => {
    const userId = await userWith("100");
    const modelId = newModel();
    const { id } = await create(userId, modelId, { maxAttempts: 1 });
    await claimOne(modelId, 1);
    await until(async () => (await read(id)).status === JobStatus.FAILED);
    expect((await read(id)).errorMessage).toBe("the lease of worker worker ran out");
    expect(await balanceOf(userId)).toEqual(["100.00", "0.00"]);
  });
});

describe("CancelJob", () => {
  test("ends a pending job at once, and answers its repeat with the job as it is", async () => {
    const userId = await userWith("100");
    const modelId = newModel();
    const { id } = await create(userId, modelId);
    expect((await service.jobs.cancelJob({ jobId: id })).job?.status).toBe(JobStatus.CANCELLED);
    expect((await service.jobs.cancelJob({ jobId: id })).job?.status).toBe(JobStatus.CANCELLED);
    expect(await balanceOf(userId)).toEqual(["100.00", "0.00"]);
    expect(await claim(modelId)).toEqual([]);
  });

  test("tells a worker through its heartbeat; when the worker fails the job, it is cancelled", async () => {
    const userId = await userWith("100");
    const modelId = newModel();
    const { id } = await create(userId, modelId);
    const lease = await claimOne(modelId);
    expect((await service.jobs.cancelJob({ jobId: id })).job).toMatchObject({ status: JobStatus.PROCESSING, cancelRequested: true });
    expect((await service.jobs.heartbeatJob(lease)).job?.cancelRequested).toBe(true);
    expect((await service.jobs.failJob({ ...lease, errorMessage: "stopped" })).job?.status).toBe(JobStatus.CANCELLED);
    expect(await balanceOf(userId)).toEqual(["100.00", "0.00"]);
  });

  test("of a job that is done is refused", async () => {
    const modelId = newModel();
    const { id } = await create(await userWith("100"), modelId);
    await service.jobs.completeJob(await claimOne(modelId));
    expect(await failureOf(service.jobs.cancelJob({ jobId: id }))).toMatchObject({ reason: "JOB_STATE_CONFLICT", metadata: { status: "completed" } });
  });
});

test("RetryJob gives a failed job a new hold and all its attempts, once for each key", async () => {
  const userId = await userWith("10");
  const modelId = newModel();
  const { id, holdId } = await create(userId, modelId);
  expect(await failureOf(service.jobs.retryJob({ jobId: id, idempotencyKey: newKey() })), "not while it is pending").toMatchObject({ reason: "JOB_STATE_CONFLICT" });
  await service.jobs.cancelJob({ jobId: id });
  const request = { jobId: id, idempotencyKey: newKey() };
  const retried = await service.jobs.retryJob(request);
  expect(retried.job).toMatchObject({ status: JobStatus.PENDING, attempt: 0 });
  expect(retried.job?.holdId).not.toBe(holdId);
  expect(retried.job?.completeTime).toBeUndefined();
  expect(await balanceOf(userId)).toEqual(["10.00", "10.00"]);
  await service.jobs.cancelJob({ jobId: id });
  expect(await service.jobs.retryJob(request)).toEqual({ ...retried, replayed: true });
  expect((await read(id)).status, "the repeat did nothing").toBe(JobStatus.CANCELLED);
  await service.ledger.deduct({ userId, amount: rub("10"), idempotencyKey: newKey() });
  expect(await failureOf(service.jobs.retryJob({ jobId: id, idempotencyKey: newKey() }))).toMatchObject({ reason: "INSUFFICIENT_FUNDS" });
});

describe("UpdateJobStatus", () => {
  test("moves a job that has no lease, and its money with it", async () => {
    const userId = await userWith("100");
    const { id: jobId } = await create(userId, newModel());
    const move = (status: JobStatus, more: object = {}) => service.jobs.updateJobStatus({ jobId, status, ...more });
    expect(await failureOf(move(JobStatus.COMPLETED)), "not from pending").toMatchObject({ reason: "JOB_STATE_CONFLICT" });
    expect((await move(JobStatus.PROCESSING)).job).toMatchObject({ status: JobStatus.PROCESSING, attempt: 1 });
    expect(await failureOf(move(JobStatus.PROCESSING)), "another worker has it").toMatchObject({ reason: "JOB_STATE_CONFLICT" });
    const done = await move(JobStatus.COMPLETED, { resultUrl: "https://r", finalCost: rub("4") });
    expect(done.job).toMatchObject({ status: JobStatus.COMPLETED, resultUrl: "https://r", finalCost: rub("4.00") });
    expect(done.job?.completeTime).toBeDefined();
    expect(await balanceOf(userId)).toEqual(["96.00", "0.00"]);
    expect((await move(JobStatus.COMPLETED, { resultUrl: "https://r", finalCost: rub("4") })).job, "the state is the key").toEqual(done.job);
    expect(await failureOf(move(JobStatus.COMPLETED, { resultUrl: "https://other", finalCost: rub("4") }))).toMatchObject({ reason: "JOB_STATE_CONFLICT" });
    expect(await failureOf(move(JobStatus.FAILED))).toMatchObject({ reason: "JOB_STATE_CONFLICT" });
    expect((await failureOf(move(JobStatus.FAILED, { resultUrl: "https://r" }))).fields).toEqual(["result_url"]);
    expect(await balanceOf(userId)).toEqual(["96.00", "0.00"]);
  });

  test("asks its key before anything else, in whatever currency", async () => {
    const { id: jobId } = await create(await userWith("100"), newModel());
    const idempotencyKey = newKey();
    await service.jobs.cancelJob({ jobId, idempotencyKey });
    const other = service.jobs.updateJobStatus({ jobId, idempotencyKey, status: JobStatus.COMPLETED, finalCost: { currency: "JPY", amount: "1" } });
    expect(await failureOf(other)).toMatchObject({ reason: "IDEMPOTENCY_KEY_REUSED" });
  });

  test("refuses a job that is leased", async () => {
    const modelId = newModel();
    const { id: jobId } = await create(await userWith("100"), modelId);
    await claimOne(modelId);
    const failed = await failureOf(service.jobs.updateJobStatus({ jobId, status: JobStatus.COMPLETED }));
    expect(failed).toMatchObject({ reason: "JOB_STATE_CONFLICT", metadata: { status: "processing" } });
    expect(failed.metadata["lease_expire_time"]).toBeDefined();
  });

  test("fails and cancels jobs, and puts them back, with what they hold", async () => {
    const userId = await userWith("100");
    const moves = async (...statuses: readonly JobStatus[]): Promise<Job | undefined> => {
      const { id: jobId } = await create(userId, newModel());
      let job: Job | undefined;
      for (const status of statuses) ({ job } = await service.jobs.updateJobStatus({ jobId, status, errorMessage: status === JobStatus.PROCESSING ? "" : "why" }));
      return job;
    };
    expect(await moves(JobStatus.PROCESSING, JobStatus.FAILED)).toMatchObject({ status: JobStatus.FAILED, errorMessage: "why" });
    expect(await moves(JobStatus.CANCELLED)).toMatchObject({ status: JobStatus.CANCELLED });
    expect(await balanceOf(userId)).toEqual(["100.00", "0.00"]);
    const back = await moves(JobStatus.PROCESSING, JobStatus.PENDING);
    expect(back).toMatchObject({ status: JobStatus.PENDING });
    expect(back?.completeTime).toBeUndefined();
    expect(await balanceOf(userId)).toEqual(["100.00", "10.00"]);
  });
});

test("the money of a job is moved by its calls alone", async () => {
  const userId = await userWith("100");
  const { holdId, id } = await create(userId, newModel());
  const refused = { reason: "HOLD_OWNED_BY_JOB", metadata: { job_id: `${id}` } };
  expect(await failureOf(service.ledger.captureHold({ userId, holdId, idempotencyKey: newKey() }))).toMatchObject(refused);
  expect(await failureOf(service.ledger.releaseHold({ userId, holdId, idempotencyKey: newKey() }))).toMatchObject(refused);
});

test("jobs are read by id and listed by user, kind and status, the newest first, in pages", async () => {
  const userId = await userWith("100");
  const [one, other] = [newModel(), newModel()];
  const jobs = [await create(userId, one, { cost: "1" }), await create(userId, other, { cost: "1" }), await create(userId, one, { cost: "1" })];
  const ids = jobs.map(({ id }) => id);
  const listed = async (filter: object) => (await service.jobs.listJobs({ userId, ...filter })).jobs.map(({ id }) => id);
  expect(await listed({})).toEqual(ids.toReversed());
  expect(await listed({ modelId: one })).toEqual([ids[2], ids[0]]);
  await service.jobs.cancelJob({ jobId: ids[1] ?? 0n });
  expect(await listed({ status: JobStatus.CANCELLED })).toEqual([ids[1]]);
  const page = await service.jobs.listJobs({ userId, pageSize: 2 });
  expect(await listed({ pageSize: 2, pageToken: page.nextPageToken })).toEqual([ids[0]]);
  const batch = await service.jobs.batchGetJobs({ jobIds: [ids[2] ?? 0n, 999_999n, ids[0] ?? 0n] });
  expect(batch.jobs.map(({ id }) => id)).toEqual([ids[2], ids[0]]);
  expect(await failureOf(service.jobs.getJob({ jobId: 999_999n }))).toMatchObject({ code: Code.NotFound, reason: "JOB_NOT_FOUND" });
});

describe("WatchJobs", () => {
  test("of one job tells its states until it is final", async () => {
    const modelId = newModel();
    const { id } = await create(await userWith("100"), modelId);
    const states: JobStatus[] = [];
    for await (const { job } of service.jobs.watchJobs({ jobId: id })) {
      states.push(job?.status ?? JobStatus.UNSPECIFIED);
      if (states.length === 1) void claimOne(modelId).then((lease) => service.jobs.completeJob(lease));
    }
    expect(states[0]).toBe(JobStatus.PENDING);
    expect(states.at(-1)).toBe(JobStatus.COMPLETED);
    expect(await failureOf(service.jobs.watchJobs({ jobId: 999_999n })[Symbol.asyncIterator]().next())).toMatchObject({ reason: "JOB_NOT_FOUND" });
  });

  test("of a user tells all that happens to the user's jobs, and to nobody else's", async () => {
    const userId = await userWith("100");
    const other = await userWith("100");
    const modelId = newModel();
    const old = await create(userId, modelId);
    const seen: [bigint | undefined, JobStatus | undefined][] = [];
    for await (const { job } of service.jobs.watchJobs({ userId })) {
      seen.push([job?.id, job?.status]);
      if (seen.length === 1) void create(other, newModel()).then(() => create(userId, modelId));
      if (seen.length === 2) void service.jobs.cancelJob({ jobId: old.id });
      if (seen.length === 3) break;
    }
    expect(seen).toEqual([[old.id, JobStatus.PENDING], [old.id + 2n, JobStatus.PENDING], [old.id, JobStatus.CANCELLED]]);
  });

  test("needs a job or a user", async () => {
    for (const request of [{}, { jobId: 1n, userId: 1n }]) {
      expect(await failureOf(service.jobs.watchJobs(request)[Symbol.asyncIterator]().next())).toMatchObject({ reason: "INVALID_REQUEST", fields: ["job_id"] });
    }
  });
});
