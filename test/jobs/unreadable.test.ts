// Jobs that no client could read, as earlier adoptions have stored them: they break no answer, and nobody is given
// them.

import { expect, test } from "vitest";
import { currenciesWith } from "../../src/domain/money/currency.ts";
import { JobStatus } from "../../src/gen/ledger/v1/job_service_pb.ts";
import { claimsOf } from "../../src/postgres/jobs/claims.ts";
import { Durability } from "../../src/postgres/protocol/durability.ts";
import { openJournal } from "../../src/postgres/journal/journal.ts";
import { openPool } from "../../src/postgres/connection/pool.ts";
import { readableClaims } from "../../src/postgres/jobs/readable-claims.ts";
import { rowsFor } from "../../src/postgres/rows/rows.ts";
import { createDatabase } from "../harness/database.ts";
import { checkDatabase } from "../harness/inspect.ts";
import { newKey, serve } from "../harness/service.ts";

const nested = (levels: number): string => '{"a":'.repeat(levels) + "1" + "}".repeat(levels);

const unreadable = [
  ["nested", nested(33), "be nested at most 32 deep"],
  ["nested deeper", nested(200), "be nested at most 32 deep"],
  ["no number", '{"a": [1e400]}', "not contain NaN or infinity"],
  // As a Struct larger than what may be sent; a job that is larger than an answer is another matter.
  ["too large", `{"a": [${"0,".repeat(200_000)}0]}`, "have at most 2097152 bytes as a google.protobuf.Struct"],
] as const;

test("they are failed by the claim that finds them, which gives the others; lists, reads and watches tell them without their parameters", async () => {
  await using database = await createDatabase();
  await using service = await serve(database.url, { LEDGERD_WAIT_POLL: "20ms" });
  const { jobs } = service;
  const cost = { currency: "RUB", amount: "1" };
  await service.ledger.topUp({ userId: 7n, amount: { currency: "RUB", amount: "10" }, idempotencyKey: newKey() });
  const create = async (modelId: string) =>
    (await jobs.createJob({ userId: 7n, modelId, cost, parameters: { a: 1 }, idempotencyKey: newKey() })).job ??
    expect.unreachable();
  const bad: bigint[] = [];
  for (const [modelId, parameters] of unreadable) {
    const { id } = await create(modelId);
    await database.query("UPDATE ledgerd.jobs SET parameters = $2 WHERE id = $1", [id, parameters]);
    bad.push(id);
  }
  const good = await create("good");
  const ofAll = (await jobs.listJobs({ userId: 7n })).jobs.map(({ id, parameters }) => [id, parameters]);
  expect(ofAll).toEqual([[good.id, { a: 1 }], ...bad.toReversed().map((id) => [id, undefined])]);

  const { jobs: claimed } = await jobs.claimJobs({ workerId: "w", maxJobs: 10, requestId: "1" });
  expect(claimed.map(({ job }) => [job?.id, job?.attempt, job?.parameters])).toEqual([[good.id, 1, { a: 1 }]]);
  const { jobs: repeated } = await jobs.claimJobs({ workerId: "w", maxJobs: 10, requestId: "1" });
  expect(repeated).toEqual(claimed);
  const failed = (await jobs.batchGetJobs({ jobIds: bad })).jobs;
  expect(failed.map(({ status, errorMessage }) => [status, errorMessage])).toEqual(
    unreadable.map(([, , problem]) => [JobStatus.FAILED, `its parameters can't be handed over: they must ${problem}`]),
  );
  expect((await service.ledger.getBalance({ userId: 7n })).balance, "what was held for them is free").toMatchObject({
    held: { amount: "1.00" },
  });
  const states: (JobStatus | undefined)[] = [];
  for await (const { job } of jobs.watchJobs({ jobId: bad[0] ?? 0n })) states.push(job?.status);
  expect(states).toEqual([JobStatus.FAILED]);

  // One that is made pending again, alone in its line: whoever waits gets the one behind it.
  const [id = 0n] = bad;
  await jobs.retryJob({ jobId: id, idempotencyKey: newKey() });
  const waiting = jobs.claimJobs({ workerId: "w", maxJobs: 10, wait: { seconds: 10n, nanos: 0 } });
  const next = await create("good");
  expect((await waiting).jobs.map(({ job }) => job?.id)).toEqual([next.id]);
  expect((await jobs.getJob({ jobId: id })).job).toMatchObject({
    status: JobStatus.FAILED,
    holdId: expect.any(BigInt) as bigint,
  });
  await checkDatabase(database);
});

test("where they can't be failed at once, the others are given nevertheless; and a claim of such jobs alone fails, rather than being tried for ever", async () => {
  await using database = await createDatabase();
  const [rows, { url }] = [rowsFor(currenciesWith([])), database];
  const pool = await openPool({
    url,
    min: 0,
    max: 2,
    connectTimeoutMs: 5000,
    queryTimeoutMs: 10_000,
    idleTimeoutMs: 10_000,
    onError: () => undefined,
  });
  // A journal that takes nothing any more.
  const durability = new Durability(url, 5000);
  const journal = openJournal(
    { url, rows, durability, lanes: 1, groupLimit: 10, queueLimit: 10, connectTimeoutMs: 5000, onCommit: () => undefined },
    pool,
  );
  await journal.close();
  durability.close();
  const claims = readableClaims(claimsOf(pool, rows), () => journal);
  const claim = () => claims.claim({ workerId: "w", modelIds: [], limit: 10, lease: 30_000_000n, requestId: "1" });
  const insert = async (id: number, parameters: string): Promise<void> => {
    await database.query("INSERT INTO ledgerd.jobs (id, user_id, model_id, parameters) VALUES ($1, 7, 'm', $2)", [
      id,
      parameters,
    ]);
  };
  await insert(1, nested(40));
  await expect(claim()).rejects.toThrow("SHUTTING_DOWN");
  await insert(2, nested(41));
  await insert(3, nested(3));
  expect(
    (await claims.claim({ workerId: "v", modelIds: [], limit: 10, lease: 30_000_000n, requestId: "" })).map(
      ({ id }) => id,
    ),
  ).toEqual([3n]);
  await expect(claim()).rejects.toThrow("SHUTTING_DOWN");
  await pool.end();
});
