// Clocks that step back: rows are then dated in the future of the database, and everything about times adds up
// nevertheless.

import fc from "fast-check";
import type { Timestamp } from "@bufbuild/protobuf/wkt";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { TransactionType } from "../../src/gen/ledger/v1/account_pb.ts";
import { ListOrder, type GetStatementResponse } from "../../src/gen/ledger/v1/ledger_service_pb.ts";
import { JobStatus } from "../../src/gen/ledger/v1/job_service_pb.ts";
import { formatAmount } from "../../src/domain/money/money.ts";
import { time } from "../../src/rpc/answers.ts";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { failureOf, newKey, serve, type TestService } from "../harness/service.ts";

let database: TestDatabase;
let service: TestService;
let lastUser = 0n;

beforeAll(async () => {
  database = await createDatabase();
  service = await serve(database.url);
});

afterAll(async () => {
  await service.close();
  await database[Symbol.asyncDispose]();
});

const HOUR = 3_600_000_000n;

/** The database's time, in microseconds. */
async function clock(): Promise<bigint> {
  const [row] = await database.query<{ micros: bigint }>(
    "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8 AS micros",
  );
  return row?.micros ?? 0n;
}

/** A transaction as the model knows it. */
interface Row {
  readonly type: "topup" | "deduction";
  readonly minor: bigint;
  readonly at: bigint;
}

const sum = (rows: readonly Row[]): bigint => rows.reduce((total, { minor }) => total + minor, 0n);
const decimal = (minor: bigint): string => formatAmount(minor, 2);

/** Puts the rows of a new account, whose floor is low enough for all of them, into the log. */
async function insert(rows: readonly Row[]): Promise<bigint> {
  const userId = (lastUser += 1n);
  const balances = rows.map((_, place) => decimal(sum(rows.slice(0, place + 1))));
  await database.query(
    `INSERT INTO ledgerd.transactions
       (user_id, sequence, type, amount, balance_after, held_after, credit_limit_after, created_at, hash)
     SELECT $1, r.sequence, r.type, r.amount, r.balance, 0.00, 10000.00,
            to_timestamp(0) + r.micros * interval '1 microsecond', ''
     FROM unnest($2::text[], $3::numeric[], $4::numeric[], $5::int8[])
       WITH ORDINALITY AS r (type, amount, balance, micros, sequence)`,
    [userId, rows.map(({ type }) => type), rows.map(({ minor }) => decimal(minor)), balances, rows.map(({ at }) => at)],
  );
  await database.query(
    `INSERT INTO ledgerd.user_balances (user_id, balance, credit_limit, sequence, updated_at, chain_head)
     VALUES ($1, $2, 10000.00, $3, to_timestamp(0) + $4::int8 * interval '1 microsecond', '')`,
    [userId, balances.at(-1) ?? "0.00", rows.length, rows.at(-1)?.at ?? 0n],
  );
  return userId;
}

/** All pages of a statement, as one. */
async function wholeStatement(
  request: Parameters<typeof service.ledger.getStatement>[0],
): Promise<GetStatementResponse> {
  const first = await service.ledger.getStatement(request);
  const transactions = [...first.transactions];
  for (let pageToken = first.nextPageToken; pageToken !== "";) {
    const {
      transactions: more,
      nextPageToken,
      ...figures
    } = await service.ledger.getStatement({ ...request, pageToken });
    expect(figures).toMatchObject({
      openingBalance: first.openingBalance,
      closingBalance: first.closingBalance,
      totals: first.totals,
    });
    transactions.push(...more);
    pageToken = nextPageToken;
  }
  return { ...first, transactions };
}

const sequencesOf = (found: readonly { readonly sequence: bigint }[]): bigint[] =>
  found.map(({ sequence }) => sequence);
const optional = (moment: bigint | undefined): Timestamp | undefined =>
  moment === undefined ? undefined : time(moment);
const within = <T>(field: string, value: T | undefined) => (value === undefined ? {} : { [field]: value });

/** What the calls about a period must answer, by the naive model. */
async function checkPeriod(
  userId: bigint,
  rows: readonly Row[],
  startTime: bigint | undefined,
  endTime: bigint | undefined,
  now: bigint,
): Promise<void> {
  const request = { userId, ...within("startTime", optional(startTime)), ...within("endTime", optional(endTime)) };
  const isBackwards = startTime !== undefined && endTime !== undefined && startTime > endTime;
  const inside = rows
    .map((row, place) => ({ ...row, sequence: BigInt(place) + 1n }))
    .filter(({ at }) => (startTime === undefined || at >= startTime) && (endTime === undefined || at < endTime));
  const refused = { reason: "INVALID_REQUEST", fields: ["end_time"] };
  const listed = (order: ListOrder) => service.ledger.listTransactions({ ...request, order, pageSize: 100 });
  if (isBackwards) expect(await failureOf(listed(ListOrder.OLDEST_FIRST))).toMatchObject(refused);
  else {
    expect(sequencesOf((await listed(ListOrder.OLDEST_FIRST)).transactions)).toEqual(sequencesOf(inside));
    expect(sequencesOf((await listed(ListOrder.NEWEST_FIRST)).transactions)).toEqual(sequencesOf(inside).toReversed());
  }
  if (isBackwards || (endTime !== undefined && endTime > now))
    return expect(await failureOf(service.ledger.getStatement(request))).toMatchObject(refused);
  const opening = startTime === undefined ? 0n : sum(rows.filter(({ at }) => at < startTime));
  const { openingBalance, closingBalance, totals, transactions } = await wholeStatement({ ...request, pageSize: 2 });
  expect(openingBalance?.amount).toBe(decimal(opening));
  expect(closingBalance?.amount).toBe(decimal(opening + sum(inside)));
  const totalsOf = (type: Row["type"], message: TransactionType) => {
    const ofType = inside.filter((row) => row.type === type);
    return ofType.length === 0
      ? []
      : [{ type: message, count: BigInt(ofType.length), amount: { amount: decimal(sum(ofType)) } }];
  };
  expect(totals).toMatchObject([
    ...totalsOf("topup", TransactionType.TOPUP),
    ...totalsOf("deduction", TransactionType.DEDUCTION),
  ]);
  expect(sequencesOf(transactions)).toEqual(sequencesOf(inside));
}

/** What the calls about a moment must answer, by the naive model. */
async function checkMoment(userId: bigint, rows: readonly Row[], moment: bigint, now: bigint): Promise<void> {
  const asOf = { case: "asOfTime" as const, value: time(moment) };
  if (moment > now)
    return expect(await failureOf(service.ledger.getBalance({ userId, asOf }))).toMatchObject({
      reason: "INVALID_REQUEST",
      fields: ["as_of_time"],
    });
  const before = rows.filter(({ at }) => at <= moment);
  const expected = { balance: { amount: decimal(sum(before)) }, sequence: BigInt(before.length) };
  expect((await service.ledger.getBalance({ userId, asOf })).balance).toMatchObject(expected);
  expect((await service.ledger.batchGetBalances({ userIds: [userId], asOf })).balances).toMatchObject([expected]);
}

test("statements, lists and balances of any period and moment agree with the rows, wherever the clock is", async () => {
  // In steps of ten minutes, from two hours before the clock to two hours behind it: many coincide.
  const moment = fc.record({ step: fc.integer({ min: -12, max: 12 }), nudge: fc.constantFrom(-1n, 0n, 1n) });
  const row = fc.record({
    isTopUp: fc.boolean(),
    minor: fc.bigInt({ min: 1n, max: 100_000n }),
    step: fc.integer({ min: -12, max: 12 }),
  });
  const period = fc.record({
    start: fc.option(moment, { nil: undefined }),
    end: fc.option(moment, { nil: undefined }),
  });
  await fc.assert(
    fc.asyncProperty(
      fc.array(row, { maxLength: 8 }),
      fc.array(period, { minLength: 1, maxLength: 4 }),
      async (drawn, periods) => {
        const now = await clock();
        // Not on a step: the clock goes on meanwhile.
        const at = (step: number): bigint => now + (BigInt(step) * HOUR) / 6n + HOUR / 12n;
        const steps = drawn.map(({ step }) => step).toSorted((a, b) => a - b);
        const rows = drawn.map(({ isTopUp, minor }, place): Row => ({
          type: isTopUp ? "topup" : "deduction",
          minor: isTopUp ? minor : -minor,
          at: at(steps[place] ?? 0),
        }));
        const userId = await insert(rows);
        for (const { start, end } of periods) {
          const [startTime, endTime] = [start, end].map((found) =>
            found === undefined ? undefined : at(found.step) + found.nudge,
          );
          await checkPeriod(userId, rows, startTime, endTime, now);
          if (startTime !== undefined) await checkMoment(userId, rows, startTime, now);
        }
      },
    ),
    { numRuns: 20 },
  );
});

describe("of an account whose last transaction is dated an hour ahead", () => {
  /** As after a write by a clock that was set back since. */
  async function userAhead(): Promise<bigint> {
    const userId = (lastUser += 1n);
    await service.ledger.topUp({ userId, amount: { amount: "100" }, idempotencyKey: newKey() });
    await database.query(
      "UPDATE ledgerd.user_balances SET updated_at = clock_timestamp() + interval '1 hour' WHERE user_id = $1",
      [userId],
    );
    await service.ledger.topUp({ userId, amount: { amount: "1" }, idempotencyKey: newKey() });
    return userId;
  }

  test("a statement without an end ends with the balance, from wherever it begins", async () => {
    const userId = await userAhead();
    const now = await clock();
    for (const startTime of [now - HOUR, now + HOUR / 2n, now + 2n * HOUR]) {
      const { openingBalance, closingBalance, totals, provisional } = await service.ledger.getStatement({
        userId,
        startTime: time(startTime),
      });
      expect(closingBalance?.amount).toBe("101.00");
      expect(
        Number(openingBalance?.amount) + totals.reduce((total, { amount }) => total + Number(amount?.amount), 0),
      ).toBe(101);
      expect(provisional).toBe(true);
    }
  });

  test("a job can be claimed at once, completed under its lease, failed and tried again", async () => {
    const userId = await userAhead();
    const modelId = newKey();
    const claim = async () => {
      const { jobs } = await service.jobs.claimJobs({ workerId: "w", modelIds: [modelId], maxJobs: 10 });
      return jobs.map(({ job, fencingToken }) => ({ jobId: job?.id ?? 0n, fencingToken }));
    };
    for (const _ of [1, 2])
      await service.jobs.createJob({ userId, modelId, cost: { amount: "1" }, idempotencyKey: newKey() });
    const [first, second] = await claim();
    if (first === undefined || second === undefined) expect.unreachable("both are due");
    expect((await service.jobs.completeJob(first)).job).toMatchObject({ status: JobStatus.COMPLETED });
    const { job } = await service.jobs.failJob({ ...second, final: false });
    expect(job?.status).toBe(JobStatus.PENDING);
    expect(job?.runTime?.seconds, "after a second or less").toBeLessThan(((await clock()) + HOUR / 2n) / 1_000_000n);
    await service.jobs.cancelJob({ jobId: second.jobId });
    await service.jobs.retryJob({ jobId: second.jobId, idempotencyKey: newKey() });
    expect(await claim()).toMatchObject([{ jobId: second.jobId }]);
  });
});
