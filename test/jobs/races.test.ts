// Whatever callers and workers ask of a few jobs, in whatever order and at the same moment, while leases run out and lost jobs are rescued: the laws
// hold, a repeat is answered as the first call was, and a lease that is over does nothing.

import { afterAll, beforeAll, expect, test } from "vitest";
import { ConnectError } from "@connectrpc/connect";
import fc from "fast-check";
import type pg from "pg";
import { JobStatus, type Job } from "../../src/gen/ledger/v1/job_service_pb.ts";
import { connectToTwo } from "../concurrency/instances.ts";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { describeFailure, failureOf, newKey, type Clients } from "../harness/service.ts";
import { checkTold, replayOf, type Answer } from "../harness/told.ts";
import { until } from "../harness/until.ts";
import { checkJobs, noteMoves, readJobs } from "./laws.ts";

const CALLERS = 4;
const RUNS = 20;

const opened = new AsyncDisposableStack();
let database: TestDatabase;
let callers: readonly Caller[];
let lastUser = 0n;

beforeAll(async () => {
  database = opened.use(await createDatabase());
  await noteMoves(database);
  const connections = await connectToTwo(database.url, opened, CALLERS, { LEDGERD_JOB_SWEEP_INTERVAL: "20ms", LEDGERD_WAIT_POLL: "10ms" });
  callers = await Promise.all(connections.map(async (clients) => {
    const session = await database.connect();
    opened.defer(() => session.end());
    return { ...clients, session };
  }));
});

afterAll(() => opened.disposeAsync());

const rub = (amount: string) => ({ currency: "RUB", amount });
const at = (index: number): Caller => callers[index % CALLERS] ?? expect.unreachable();

/** Longer than the test: leases end when a step says so. */
const LEASE = { seconds: 3600n, nanos: 0 };
/** Enough for the jobs, but not for their retries after something else was bought. */
const MONEY = "20";
const jobs = [{ cost: rub("10"), maxAttempts: 2 }, { cost: rub("7.50"), maxAttempts: 1 }, { cost: rub("0"), maxAttempts: 3 }] as const;

const job = fc.nat(jobs.length - 1);
/** Mostly the latest lease that anybody was told of, sometimes an older one. */
const back = fc.oneof({ weight: 4, arbitrary: fc.constant(0) }, { weight: 1, arbitrary: fc.nat(3) });
const finalCost = fc.constantFrom(undefined, rub("0"), rub("4.25"), rub("100"));
const status = fc.constantFrom(JobStatus.PENDING, JobStatus.PROCESSING, JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED);
const step = fc.oneof(
  { weight: 6, arbitrary: fc.record({ kind: fc.constant("claim" as const), maxJobs: fc.integer({ min: 1, max: 2 }) }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("heartbeat" as const), back }) },
  { weight: 4, arbitrary: fc.record({ kind: fc.constant("complete" as const), back, finalCost }) },
  { weight: 4, arbitrary: fc.record({ kind: fc.constant("fail" as const), back, final: fc.boolean() }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant("cancel" as const), job }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant("retry" as const), job }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant("update" as const), job, status, finalCost }) },
  { weight: 3, arbitrary: fc.constant({ kind: "expire" as const }) },
  { weight: 2, arbitrary: fc.constant({ kind: "rescue" as const }) },
  { weight: 2, arbitrary: fc.constant({ kind: "due" as const }) },
  { weight: 1, arbitrary: fc.constant({ kind: "spend" as const }) },
);
type Step = typeof step extends fc.Arbitrary<infer T> ? T : never;

/** A connection to one of the instances, and a session past them. */
interface Caller extends Clients {
  readonly session: pg.Client;
}

interface Lease {
  readonly jobId: bigint;
  readonly fencingToken: bigint;
}

/** A call that ends a lease and was accepted, and how to send it again. */
interface Ended {
  readonly answer: JobAnswer;
  readonly again: () => Promise<JobAnswer>;
}

type JobAnswer = Answer & { readonly job?: Job | undefined };

/** One user's jobs, and what callers were told of them. */
class Run {
  readonly #userId: bigint;
  readonly #modelId: string;
  readonly #jobIds: readonly bigint[];
  readonly leases: Lease[] = [];
  readonly answers: JobAnswer[] = [];
  readonly ended: Ended[] = [];
  readonly refused = new Set<string>();
  /** Tokens of leases that ran out before anybody's next call. */
  readonly #over = new Set<bigint>();

  private constructor(userId: bigint, jobIds: readonly bigint[]) {
    this.#userId = userId;
    this.#modelId = `of ${userId}`;
    this.#jobIds = jobIds;
  }

  static async start(): Promise<Run> {
    const userId = (lastUser += 1n);
    await at(0).ledger.topUp({ userId, amount: rub(MONEY), idempotencyKey: newKey() });
    const ids: bigint[] = [];
    for (const wanted of jobs) {
      const { job: created } = await at(0).jobs.createJob({ userId, modelId: `of ${userId}`, ...wanted, idempotencyKey: newKey() });
      ids.push(created?.id ?? expect.unreachable());
    }
    return new Run(userId, ids);
  }

  /** Takes a step; a refusal must be one that a step may meet. */
  async take(next: Step, caller: Caller): Promise<void> {
    try {
      await this.#send(next, caller);
    } catch (error) {
      if (!(error instanceof ConnectError)) throw error;
      const { reason } = describeFailure(error);
      expect(REFUSALS, `${next.kind} was refused`).toContain(reason);
      if (next.kind !== "spend") this.refused.add(reason);
    }
  }

  async #send(next: Step, { jobs: service, ledger, session }: Caller): Promise<void> {
    const jobId = "job" in next ? (this.#jobIds[next.job] ?? 0n) : 0n;
    switch (next.kind) {
      case "claim": {
        const claimed = await service.claimJobs({ workerId: "worker", modelIds: [this.#modelId], maxJobs: next.maxJobs, leaseDuration: LEASE });
        this.leases.push(...claimed.jobs.map(({ job: given, fencingToken }) => ({ jobId: given?.id ?? 0n, fencingToken })));
        return;
      }
      case "heartbeat":
        return this.#under(next.back, async (lease) => void (await service.heartbeatJob(lease)));
      case "complete":
        return this.#under(next.back, (lease) => this.#end(() => service.completeJob({ ...lease, resultUrl: "url", ...costOf(next) })));
      case "fail":
        return this.#under(next.back, (lease) => this.#end(() => service.failJob({ ...lease, errorMessage: "bad", final: next.final })));
      case "cancel":
        return void this.answers.push(await service.cancelJob({ jobId }));
      case "retry":
        return void this.answers.push(await service.retryJob({ jobId, idempotencyKey: newKey() }));
      case "update": {
        const { status: wanted } = next;
        return void this.answers.push(await service.updateJobStatus({ jobId, status: wanted, ...(wanted === JobStatus.COMPLETED ? costOf(next) : {}) }));
      }
      case "expire": {
        const known = this.leases.map(({ fencingToken }) => fencingToken);
        await this.#change(session, "lease_expires_at = now() - interval '1 second'", "lease_expires_at IS NOT NULL");
        for (const token of known) this.#over.add(token);
        return;
      }
      case "due":
        return this.#change(session, "run_at = now()", "status = 'pending'");
      case "rescue":
        return this.rest(session);
      case "spend":
        return void (await ledger.deduct({ userId: this.#userId, amount: rub("10"), idempotencyKey: newKey() }));
    }
  }

  /** Calls under a lease. It must not be accepted, but as a repeat, if the lease was over before, or a newer one of the job was known. */
  async #under(stepsBack: number, call: (lease: Lease) => Promise<unknown>): Promise<void> {
    const lease = this.leases.at(-1 - stepsBack);
    if (lease === undefined) return;
    const isStale = this.#over.has(lease.fencingToken) || this.leases.some(({ jobId, fencingToken }) => jobId === lease.jobId && fencingToken > lease.fencingToken);
    const answer = (await call(lease)) as JobAnswer | undefined;
    if (isStale) expect(answer?.replayed, `job ${lease.jobId}: what its old lease ${lease.fencingToken} could do`).toBe(true);
  }

  async #end(again: () => Promise<JobAnswer>): Promise<JobAnswer> {
    const answer = await again();
    this.answers.push(answer);
    this.ended.push({ answer, again });
    return answer;
  }

  /** As time would. */
  async #change(session: pg.Client, change: string, where: string): Promise<void> {
    await session.query(`UPDATE ledgerd.jobs SET ${change} WHERE user_id = ${this.#userId} AND ${where}`);
  }

  /** Returns once lost jobs were rescued: until then, the database is not at rest. */
  async rest(session: pg.Client): Promise<void> {
    await until(async () => (await session.query(`SELECT FROM ledgerd.jobs WHERE user_id = ${this.#userId} AND lease_expires_at <= now()`)).rowCount === 0);
  }

  /** Gives whatever can be given to a worker, so that older leases meet newer ones that are valid. */
  async claimAll({ jobs: service, session }: Caller): Promise<void> {
    await this.#change(session, "run_at = now()", "status = 'pending'");
    await service.claimJobs({ workerId: "the last one", modelIds: [this.#modelId], maxJobs: 10, leaseDuration: LEASE });
  }

  /** Of all leases that callers knew of, those that are not in `valid` are over, and can do nothing. */
  async checkOver(valid: ReadonlySet<bigint>): Promise<void> {
    for (const [index, lease] of this.leases.filter(({ fencingToken }) => !valid.has(fencingToken)).entries()) {
      const { jobs: service } = at(index);
      const calls = [
        () => service.heartbeatJob(lease),
        () => service.completeJob({ ...lease, resultUrl: "other" }),
        () => service.failJob({ ...lease, errorMessage: "other" }),
      ];
      for (const call of calls) expect(await failureOf(call()), `lease ${lease.fencingToken} of job ${lease.jobId}`).toMatchObject({ reason: "LEASE_LOST" });
    }
  }

  /** Whatever was accepted under a lease is answered the same again. */
  async checkReplays(): Promise<void> {
    for (const { answer, again } of this.ended) expect(await again()).toEqual(replayOf(answer));
  }
}

function costOf({ finalCost: cost }: { readonly finalCost: ReturnType<typeof rub> | undefined }) {
  return cost === undefined ? {} : { finalCost: cost };
}

async function everything() {
  const [rows] = await database.query("SELECT (SELECT count(*) FROM ledgerd.transactions) AS log, (SELECT count(*) FROM ledgerd.idempotency_keys) AS keys");
  return { jobs: await readJobs(database), rows };
}

const REFUSALS = ["CAPTURE_EXCEEDS_HOLD", "INSUFFICIENT_FUNDS", "JOB_STATE_CONFLICT", "LEASE_LOST"];
/** What the test meets whatever the random numbers are; the other refusals are too rare to count on. */
const EVERYTHING = "JOB_STATE_CONFLICT LEASE_LOST processing completed failed cancelled replayed";

test.each([
  ["one after the other", 1, 24],
  ["by four callers at once", CALLERS, 10],
])("random steps of jobs, %s, keep the laws", async (_how, count, steps) => {
  const seen = new Set<string>();
  const scripts = fc.array(fc.array(step, { minLength: steps, maxLength: steps, size: "max" }), { minLength: count, maxLength: count });
  await fc.assert(
    fc.asyncProperty(scripts, async (script) => {
      const run = await Run.start();
      await Promise.all(script.map(async (own, caller) => {
        // A single caller goes from one instance to the other.
        for (const [index, next] of own.entries()) await run.take(next, at(count === 1 ? index : caller));
      }));
      await run.rest(at(0).session);
      const { jobs: stored, ...ledger } = await checkJobs(database);
      checkTold(ledger, run.answers.filter(({ transaction }) => transaction !== undefined));
      await run.claimAll(at(1));
      const before = await everything();
      await run.checkOver(new Set(before.jobs.flatMap(({ leaseExpiresAt, fencingToken }) => (leaseExpiresAt === undefined ? [] : [fencingToken]))));
      await run.checkReplays();
      expect(await everything(), "nothing has changed").toEqual(before);
      for (const reason of run.refused) seen.add(reason);
      if (run.ended.length > 0) seen.add("replayed");
      for (const { status: state } of stored) seen.add(state);
    }),
    // What is asked is the same in each try, what becomes of it isn't: there is nothing to shrink.
    { numRuns: RUNS, endOnFailure: true },
  );
  // A property that never met a case says nothing about it.
  expect([...seen]).toEqual(expect.arrayContaining(EVERYTHING.split(" ")));
});
