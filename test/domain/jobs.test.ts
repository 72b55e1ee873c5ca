// The rules of jobs: given facts, when something is asked, then the job's state and its money move together, or it is refused.

import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { Hold } from "../../src/domain/money/account.ts";
import { backoff, JOB_HOLD_EXPIRES_AT, type Job, type JobStatus } from "../../src/domain/jobs/job.ts";
import { account, command, given, NOW, openHold, USER } from "./given.ts";

const LEASE = { jobId: 4n, fencingToken: 17n };

function job(facts: Partial<Job> = {}): Job {
  return {
    id: 4n, userId: USER, currency: "RUB", modelId: "m", prompt: "p", parameters: "", cost: 100n, idempotencyKey: "k", priority: 0, maxAttempts: 3,
    createdAt: NOW - 9n, status: "pending", holdId: 5n, finalCost: undefined, resultUrl: "", errorMessage: "", runAt: NOW - 9n, attempt: 0,
    workerId: "", fencingToken: 0n, leaseExpiresAt: undefined, progress: 0, cancelRequested: false, completedAt: undefined,
    ...facts,
  };
}

/** One that a worker has, under LEASE. */
const leased = (facts: Partial<Job> = {}): Job => job({ status: "processing", attempt: 1, workerId: "w", fencingToken: 17n, leaseExpiresAt: NOW + 1n, ...facts });
const hold = (): Hold => openHold({ jobId: 4n, expiresAt: JOB_HOLD_EXPIRES_AT });
const withJob = (facts: Job) => given({ account: account({ balance: 1000n, held: 100n }), job: facts, hold: hold() });

const newJob = { modelId: "m", prompt: "p", parameters: "{}", priority: 2, runAt: undefined, maxAttempts: 3, key: "k" };
const release = { type: "release", amount: 0n, heldChange: -100n, hold: { state: "released" } };

describe("creating a job", () => {
  test("holds its cost for as long as it lives", () => {
    given()
      .when(command("create_job", { ...newJob, amount: 100n }))
      .thenMoves({ id: 88n, status: "pending", holdId: 77n, cost: 100n, runAt: NOW, attempt: 0, createdAt: NOW }, [
        { type: "hold", amount: 0n, heldChange: 100n, hold: { id: 77n, jobId: 88n, state: "open", expiresAt: JOB_HOLD_EXPIRES_AT } },
      ]);
  });

  test("that costs nothing holds nothing", () => given().when(command("create_job", { ...newJob, amount: 0n })).thenMoves({ holdId: undefined, cost: 0n }, []));

  test("is refused where money lacks", () => given().when(command("create_job", { ...newJob, amount: 10_001n })).thenRefuses("INSUFFICIENT_FUNDS"));
});

describe("completing a job", () => {
  const complete = (amount: bigint | undefined, currency = "RUB") => command("complete_job", { ...LEASE, finalCost: amount === undefined ? undefined : { minor: amount, currency }, resultUrl: "url" });

  test.each([
    [undefined, { type: "capture", amount: -100n, heldChange: -100n, hold: { state: "captured", captured: 100n } }, 100n],
    [60n, { type: "capture", amount: -60n, heldChange: -100n, hold: { state: "captured", captured: 60n } }, 60n],
    [0n, release, 0n],
  ])("for %s charges that and frees the rest, once", (amount, entry, finalCost) => {
    const done = { status: "completed", finalCost, resultUrl: "url", completedAt: NOW, leaseExpiresAt: undefined, fencingToken: 17n };
    withJob(leased()).when(complete(amount)).thenMoves(done, [entry]);
  });

  test("is refused for more than is held", () => withJob(leased()).when(complete(101n)).thenRefuses("CAPTURE_EXCEEDS_HOLD"));
  test("is refused in another currency", () => withJob(leased()).when(complete(1n, "JPY")).thenRefuses("CURRENCY_MISMATCH"));

  test.each([
    ["another lease", leased({ fencingToken: 18n })],
    ["a lease that is over", leased({ leaseExpiresAt: NOW })],
    ["a job that is pending again", job({ fencingToken: 17n, attempt: 1 })],
    ["a job that is done", leased({ status: "completed", leaseExpiresAt: undefined, completedAt: NOW })],
    ["a job that was moved by the plain call", job({ status: "processing", fencingToken: 17n })],
  ])("is refused for %s", (_name, facts) => withJob(facts).when(complete(undefined)).thenRefuses("LEASE_LOST", LEASE));

  test("of a job that isn't there is refused", () => given().when(complete(undefined)).thenRefuses("JOB_NOT_FOUND", { jobId: 4n }));
});

describe("failing a job", () => {
  const fail = (final = false) => command("fail_job", { ...LEASE, errorMessage: "why", final, jitter: 0 });

  test("puts it back for later while attempts remain, its hold as it is", () =>
    withJob(leased({ attempt: 2 })).when(fail()).thenMoves({ status: "pending", errorMessage: "why", runAt: NOW + 2_000_000n, leaseExpiresAt: undefined }, []));
  test("ends it at the last attempt", () => withJob(leased({ attempt: 3 })).when(fail()).thenMoves({ status: "failed", completedAt: NOW }, [release]));
  test("ends it where another attempt would fail as well", () => withJob(leased()).when(fail(true)).thenMoves({ status: "failed" }, [release]));
  test("cancels it where that was asked for", () => withJob(leased({ cancelRequested: true })).when(fail()).thenMoves({ status: "cancelled" }, [release]));
});

describe("cancelling a job", () => {
  const cancel = command("cancel_job", { jobId: 4n });

  test("ends a pending one", () => withJob(job()).when(cancel).thenMoves({ status: "cancelled", completedAt: NOW }, [release]));
  test("asks the worker of a leased one", () => withJob(leased()).when(cancel).thenMoves({ status: "processing", cancelRequested: true }, []));
  test("ends one whose lease is over", () => withJob(leased({ leaseExpiresAt: NOW })).when(cancel).thenMoves({ status: "cancelled" }, [release]));
  test("leaves a cancelled one as it is", () => withJob(job({ status: "cancelled", completedAt: 1n })).when(cancel).thenMoves({ completedAt: 1n }, []));
  test.each(["completed", "failed"] as const)("is refused for a %s one", (status) =>
    withJob(job({ status, completedAt: 1n })).when(cancel).thenRefuses("JOB_STATE_CONFLICT", { status }));
});

describe("retrying a job", () => {
  const retry = command("retry_job", { jobId: 4n });

  test.each(["failed", "cancelled"] as const)("gives a %s one a new hold and all its attempts", (status) =>
    withJob(job({ status, attempt: 3, completedAt: 1n, cancelRequested: true }))
      .when(retry)
      .thenMoves({ status: "pending", attempt: 0, holdId: 77n, completedAt: undefined, cancelRequested: false, runAt: NOW }, [{ type: "hold", heldChange: 100n }]));
  test.each(["pending", "processing", "completed"] as const)("is refused for a %s one", (status) => withJob(job({ status })).when(retry).thenRefuses("JOB_STATE_CONFLICT"));
});

describe("the plain call", () => {
  const update = (status: JobStatus) => command("update_job", { jobId: 4n, status, resultUrl: "", errorMessage: "why", finalCost: undefined });
  const statuses: readonly JobStatus[] = ["pending", "processing", "completed", "failed", "cancelled"];
  const allowed: Readonly<Record<JobStatus, readonly JobStatus[]>> = {
    pending: ["processing", "cancelled"],
    processing: ["pending", "completed", "failed", "cancelled"],
    completed: [],
    failed: [],
    cancelled: [],
  };
  const moves = statuses.flatMap((from) => statuses.filter((to) => to !== from).map((to) => [from, to] as const));

  test.each(moves)("from %s to %s follows the state machine", (from, to) => {
    const final = ["completed", "failed", "cancelled"].includes(from);
    const asked = withJob(job({ status: from, completedAt: final ? 1n : undefined })).when(update(to));
    if (allowed[from].includes(to)) asked.thenMoves({ status: to, completedAt: ["pending", "processing"].includes(to) ? undefined : NOW });
    else asked.thenRefuses("JOB_STATE_CONFLICT", { status: from });
  });

  test("is refused for a leased job", () => withJob(leased()).when(update("failed")).thenRefuses("JOB_STATE_CONFLICT", { leaseExpiresAt: NOW + 1n }));
});

describe("the rescue of a job", () => {
  const rescue = command("rescue_job", { jobId: 4n });

  test("whose lease is over puts it back at once", () =>
    withJob(leased({ leaseExpiresAt: NOW })).when(rescue).thenMoves({ status: "pending", runAt: NOW, errorMessage: "the lease of worker w ran out" }, []));
  test("out of attempts ends it", () => withJob(leased({ leaseExpiresAt: NOW, attempt: 3 })).when(rescue).thenMoves({ status: "failed" }, [release]));
  test("that was to be cancelled cancels it", () => withJob(leased({ leaseExpiresAt: NOW, cancelRequested: true })).when(rescue).thenMoves({ status: "cancelled" }, [release]));
  test("that has a valid lease, or none, does nothing", () => {
    for (const facts of [leased(), job(), job({ status: "processing" }), job({ status: "failed", completedAt: 1n })]) withJob(facts).when(rescue).thenMoves(facts, []);
  });
});

test("backoff doubles from a second up to five minutes, and jitter takes off up to half", () => {
  expect([1, 2, 3, 9, 10, 99].map((attempt) => backoff(attempt, 0))).toEqual([1n, 2n, 4n, 256n, 300n, 300n].map((seconds) => seconds * 1_000_000n));
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 100 }), fc.double({ min: 0, max: 1, noNaN: true }), (attempt, jitter) => {
      const full = backoff(attempt, 0);
      const jittered = backoff(attempt, jitter);
      expect(jittered <= full && jittered * 2n >= full).toBe(true);
    }),
  );
});

describe("where the clock was set back, so that the account's rows are ahead of it", () => {
  const HOUR = 3_600_000_000n;
  const behind = (facts: Job) =>
    given({ account: account({ balance: 1000n, held: 100n }), job: facts, hold: hold(), time: NOW + HOUR, now: NOW });
  const complete = command("complete_job", { ...LEASE, finalCost: undefined, resultUrl: "" });
  const rescue = command("rescue_job", { jobId: 4n });

  test("a job falls due by the clock", () => {
    const due = { createdAt: NOW + HOUR, runAt: NOW };
    given({ time: NOW + HOUR, now: NOW }).when(command("create_job", { ...newJob, amount: 100n })).thenMoves(due);
    behind(job({ status: "failed" })).when(command("retry_job", { jobId: 4n })).thenMoves({ runAt: NOW });
    const failed = command("fail_job", { ...LEASE, errorMessage: "e", final: false, jitter: 0 });
    behind(leased()).when(failed).thenMoves({ status: "pending", runAt: NOW + backoff(1, 0) });
  });

  test("a lease ends by the clock", () => {
    behind(leased()).when(complete).thenMoves({ status: "completed", completedAt: NOW + HOUR });
    behind(leased({ leaseExpiresAt: NOW })).when(complete).thenRefuses("LEASE_LOST");
    const cancelled = { status: "processing", cancelRequested: true };
    behind(leased()).when(command("cancel_job", { jobId: 4n })).thenMoves(cancelled);
    behind(leased()).when(rescue).thenMoves({ status: "processing" });
    behind(leased({ leaseExpiresAt: NOW })).when(rescue).thenMoves({ status: "pending", runAt: NOW });
  });
});
