// A failure can always be reported: no wording of it is refused, and repeats are known by what was stored.

import { createConnectTransport } from "@connectrpc/connect-node";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { JobStatus } from "../../src/gen/ledger/v1/job_service_pb.ts";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { checkDatabase } from "../harness/inspect.ts";
import { clientsOver, failureOf, newKey, serve, type Clients, type TestService } from "../harness/service.ts";

let database: TestDatabase;
let service: TestService;
let web: Clients;

beforeAll(async () => {
  database = await createDatabase();
  service = await serve(database.url);
  web = clientsOver(
    createConnectTransport({ baseUrl: `http://${service.httpAddress}`, httpVersion: "1.1", useBinaryFormat: false }),
  );
});

afterAll(async () => {
  await service.close();
  await checkDatabase(database);
  await database[Symbol.asyncDispose]();
});

const cats = (count: number): string => "😀".repeat(count);
/** What is reported, and what is kept of it. */
const reports: readonly (readonly [name: string, sent: string, kept: string])[] = [
  ["U+0000", "a\0b", "a\uFFFDb"],
  ["2,000 emoji", cats(2000), cats(2000)],
  ["5,000 emoji", cats(5000), `${cats(1973)}… (cut at 2,000 characters)`],
  ["a million letters", "e".repeat(1_000_000), `${"e".repeat(1973)}… (cut at 2,000 characters)`],
];

async function createJob(): Promise<bigint> {
  const { job } = await service.jobs.createJob({
    userId: 1n,
    modelId: "m",
    cost: { amount: "0" },
    idempotencyKey: newKey(),
  });
  return job?.id ?? 0n;
}

async function claimJob() {
  const jobId = await createJob();
  const { jobs } = await service.jobs.claimJobs({ workerId: "w", leaseDuration: { seconds: 600n } });
  const [claimed] = jobs;
  expect(claimed?.job?.id).toBe(jobId);
  return { jobId, fencingToken: claimed?.fencingToken ?? 0n };
}

test.each(["failJob", "updateJobStatus"] as const)("%s keeps half a surrogate pair, which JSON can say, as U+FFFD", async (method) => {
  const { jobId, fencingToken } = method === "failJob" ? await claimJob() : { jobId: await createJob(), fencingToken: 0n };
  const fields = method === "failJob" ? `"fencingToken":"${fencingToken}","final":true` : `"status":"JOB_STATUS_CANCELLED"`;
  const response = await fetch(`http://${service.httpAddress}/ledger.v1.JobService/${method === "failJob" ? "FailJob" : "UpdateJobStatus"}`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: `{"jobId":"${jobId}",${fields},"errorMessage":"cut \\ud83d"}`,
  });
  expect(await response.json()).toMatchObject({ job: { errorMessage: "cut \uFFFD" } });
});

describe.each(["gRPC", "JSON"])("by %s", (door) => {
  const jobs = () => (door === "gRPC" ? service : web).jobs;

  test.each(reports)("FailJob keeps %s", async (_name, errorMessage, kept) => {
    const lease = await claimJob();
    const failed = await jobs().failJob({ ...lease, errorMessage, final: true });
    expect(failed.job).toMatchObject({ status: JobStatus.FAILED, errorMessage: kept });
    expect(await jobs().failJob({ ...lease, errorMessage, final: true })).toEqual({ ...failed, replayed: true });
    expect((await service.jobs.getJob({ jobId: lease.jobId })).job).toMatchObject({ errorMessage: kept });
  });

  test.each(reports)("UpdateJobStatus keeps %s, and knows its repeat", async (_name, errorMessage, kept) => {
    const jobId = await createJob();
    const update = { jobId, status: JobStatus.CANCELLED, errorMessage };
    const { job } = await jobs().updateJobStatus(update);
    expect(job).toMatchObject({ status: JobStatus.CANCELLED, errorMessage: kept });
    expect((await jobs().updateJobStatus(update)).job).toEqual(job);
  });
});

test("a report that differs only in what is cut is a repeat; one that differs in what is kept is not", async () => {
  const lease = await claimJob();
  const { job } = await service.jobs.failJob({ ...lease, errorMessage: `${cats(3000)} at 12:00`, final: true });
  const repeat = { ...lease, errorMessage: `${cats(3000)} at 12:01`, final: true };
  expect(await service.jobs.failJob(repeat)).toMatchObject({
    replayed: true,
    job: { errorMessage: job?.errorMessage },
  });
  expect(await failureOf(service.jobs.failJob({ ...lease, errorMessage: "another", final: true }))).toMatchObject({
    reason: "LEASE_LOST",
  });
});
