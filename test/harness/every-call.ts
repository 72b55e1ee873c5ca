// One call of each kind, in all the ways that make a difference to what the database is asked.

import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { HoldState, TransactionType } from "../../src/gen/ledger/v1/account_pb.ts";
import { ListOrder, type WatchTransactionsResponse } from "../../src/gen/ledger/v1/ledger_service_pb.ts";
import { JobStatus } from "../../src/gen/ledger/v1/job_service_pb.ts";
import { newKey, type Clients } from "./service.ts";
import { until } from "./until.ts";
import { streamWrites } from "./write-stream.ts";

const rub = (amount: string) => ({ currency: "RUB", amount });

/** Makes them, for a user and the one whose id follows, who may have accounts already; of those that take lists, small ones and large ones. */
export async function callEverything(clients: Clients, userId: bigint): Promise<void> {
  await write(clients, userId);
  await writeAgain(clients, userId);
  await readAccounts(clients, userId);
  await readLog(clients, userId);
  await watch(clients, userId);
  await work(clients, userId);
  await lock(clients);
}

async function write({ ledger, admin }: Clients, userId: bigint): Promise<void> {
  const once = { userId, idempotencyKey: newKey() };
  await ledger.topUp({ ...once, amount: rub("1000"), reference: newKey(), uniqueReference: true });
  const { transaction } = await ledger.deduct({ userId, amount: rub("10"), idempotencyKey: newKey() });
  await ledger.refund({ userId, transactionId: transaction?.id ?? 0n, amount: rub("1"), idempotencyKey: newKey() });
  await ledger.transfer({ userId, toUserId: userId + 1n, amount: rub("100"), idempotencyKey: newKey() });
  const { hold } = await ledger.placeHold({ userId, amount: rub("20"), idempotencyKey: newKey() });
  await ledger.captureHold({ userId, holdId: hold?.id ?? 0n, amount: rub("8"), idempotencyKey: newKey() });
  await ledger.releaseHold({ userId, holdId: hold?.id ?? 0n, idempotencyKey: newKey() });
  await ledger.adjust({ userId, amount: rub("-1"), reason: "a test", idempotencyKey: newKey() });
  await admin.setCreditLimit({ userId, creditLimit: rub("50"), idempotencyKey: newKey() });
  const deductions = Array.from({ length: 500 }, (_, place) => ({ userId: userId + BigInt(place % 2), amount: rub("0.01"), idempotencyKey: newKey() }));
  await ledger.batchWrite({ writes: deductions.map((value) => ({ write: { case: "deduct", value } })) });
  await streamWrites({ ledger }, deductions.map((value) => ({ case: "deduct", value: { ...value, idempotencyKey: newKey() } })));
  const short = await ledger.placeHold({ userId, amount: rub("1"), expiresIn: { seconds: 0n, nanos: 1_000_000 }, idempotencyKey: newKey() });
  await until(async () => (await ledger.getHold({ holdId: short.hold?.id ?? 0n })).hold?.state === HoldState.EXPIRED);
}

/** Replays, what a key became, and writes that are only tried. */
async function writeAgain({ ledger }: Clients, userId: bigint): Promise<void> {
  const request = { userId, amount: rub("1"), idempotencyKey: newKey() };
  await ledger.placeHold({ ...request, validateOnly: true });
  await ledger.placeHold(request);
  await ledger.placeHold(request);
  await ledger.placeHold({ ...request, validateOnly: true });
  await ledger.getOutcome(request);
}

async function readAccounts({ ledger, admin }: Clients, userId: bigint): Promise<void> {
  for (const count of [1, 1000]) {
    const userIds = Array.from({ length: count }, (_, place) => userId + BigInt(place % 2));
    await ledger.batchGetBalances({ userIds });
    await ledger.batchGetBalances({ userIds, asOf: { case: "asOfTime", value: timestampFromMs(Date.now() - 3_600_000) } });
    await ledger.batchGetBalances({ userIds, asOf: { case: "asOfSequence", value: 1n } });
  }
  for (const currency of ["", "RUB"]) {
    const { nextPageToken } = await admin.listBalances({ currency, pageSize: 1 });
    await admin.listBalances({ currency, pageSize: 1, pageToken: nextPageToken });
  }
  for (const state of [HoldState.UNSPECIFIED, HoldState.OPEN]) {
    const { nextPageToken } = await ledger.listHolds({ userId, state, pageSize: 1 });
    await ledger.listHolds({ userId, state, pageSize: 1, pageToken: nextPageToken });
  }
  await admin.getServiceStatus({});
}

async function readLog({ ledger }: Clients, userId: bigint): Promise<void> {
  const [startTime, endTime] = [timestampFromMs(1000), timestampFromMs(Date.now() - 1000)];
  const ways: readonly Parameters<typeof ledger.listTransactions>[0][] = [
    {},
    { currency: "RUB" },
    { types: [TransactionType.TOPUP, TransactionType.DEDUCTION] },
    { reference: "some" },
    { types: [TransactionType.TOPUP], reference: "some" },
    { startTime },
    { endTime },
    { startTime, endTime, currency: "RUB" },
  ];
  for (const order of [ListOrder.NEWEST_FIRST, ListOrder.OLDEST_FIRST]) {
    for (const way of ways) {
      const page = await ledger.listTransactions({ ...way, userId, order, pageSize: 2 });
      if (page.nextPageToken !== "") await ledger.listTransactions({ ...way, userId, order, pageSize: 2, pageToken: page.nextPageToken });
      await ledger.listTransactions({ ...way, userId, order, pageSize: 1000 });
    }
  }
  const { transactions } = await ledger.listTransactions({ userId, pageSize: 1 });
  await ledger.getTransaction({ name: { case: "transactionId", value: transactions[0]?.id ?? 0n } });
  await ledger.getTransaction({ name: { case: "accountSequence", value: { userId, sequence: 1n } } });
  await ledger.getStatement({ userId, startTime });
}

/** Jobs in all their states, one by one and many at once. */
async function work({ jobs }: Clients, userId: bigint): Promise<void> {
  const modelId = newKey();
  const create = async () => (await jobs.createJob({ userId, modelId, cost: rub("1"), idempotencyKey: newKey() })).job?.id ?? 0n;
  const ids = await Promise.all(Array.from({ length: 40 }, create));
  const anyOne = { workerId: "worker", maxJobs: 5, requestId: newKey() };
  const claimed = [...(await jobs.claimJobs(anyOne)).jobs, ...(await jobs.claimJobs({ workerId: "worker", modelIds: [modelId], maxJobs: 5 })).jobs];
  await jobs.claimJobs(anyOne);
  const [first, second, ...others] = claimed.map(({ job, fencingToken }) => ({ jobId: job?.id ?? 0n, fencingToken }));
  if (first === undefined || second === undefined) throw new Error("there were too few jobs to claim");
  await jobs.heartbeatJob({ ...first, progressPercent: 1 });
  await jobs.completeJob(first);
  await jobs.completeJob(first);
  await jobs.failJob({ ...second, final: true });
  await Promise.all(others.map((lease) => jobs.completeJob(lease)));
  await jobs.retryJob({ jobId: second.jobId, idempotencyKey: newKey() });
  await jobs.cancelJob({ jobId: second.jobId });
  await jobs.batchGetJobs({ jobIds: ids });
  const [startTime, endTime] = [timestampFromMs(1000), timestampFromMs(Date.now() + 1000)];
  for (const way of [{}, { modelId }, { status: JobStatus.PENDING }, { startTime, endTime }, { modelId, status: JobStatus.CANCELLED }]) await jobs.listJobs({ ...way, userId, pageSize: 2 });
  for await (const _ of jobs.watchJobs({ jobId: second.jobId })) break;
  const pending = await create();
  for await (const { job } of jobs.watchJobs({ userId })) {
    if (job?.id === pending && job.status === JobStatus.CANCELLED) break;
    if (job?.id === pending) await jobs.cancelJob({ jobId: pending });
  }
}

async function lock({ locks }: Clients): Promise<void> {
  const request = { lockKey: 1n, instanceId: "instance", requestId: newKey() };
  const { fencingToken } = await locks.acquireLock(request);
  await locks.acquireLock(request);
  await locks.heartbeatLock({ lockKey: 1n, fencingToken });
  await locks.heartbeatLock({ lockKey: 1n, fencingToken, ttl: { seconds: 10n } });
  await locks.getLock({ lockKey: 1n });
  await locks.listLocks({});
  await locks.releaseLock({ lockKey: 1n, fencingToken });
}

/** The feed: of one user, of everyone and of some types; from the start and from a position; of the past, and live. */
async function watch(clients: Clients, userId: bigint): Promise<void> {
  const live = newKey();
  const untilLive = async (request: WatchRequest): Promise<string> =>
    watchUntil(clients, request, async ({ event }) => {
      if (event.case === "caughtUp") await clients.ledger.topUp({ userId, amount: rub("1"), idempotencyKey: newKey(), reference: live });
      return event.case === "transaction" && event.value.reference === live;
    });
  const present = await untilLive({ userId });
  for (const way of [{}, { types: [TransactionType.TOPUP] }]) {
    // Only the first page of the past: it may be long.
    await watchUntil(clients, way, () => true);
    await untilLive({ ...way, position: present });
  }
}

type WatchRequest = Parameters<Clients["ledger"]["watchTransactions"]>[0];

/** Watches until it has seen what it looks for; answers the position of that. */
async function watchUntil({ ledger }: Clients, request: WatchRequest, isLast: (step: WatchTransactionsResponse) => boolean | Promise<boolean>): Promise<string> {
  const gone = new AbortController();
  for await (const step of ledger.watchTransactions(request, { timeoutMs: 0, signal: gone.signal })) {
    if (!(await isLast(step))) continue;
    gone.abort();
    return step.position;
  }
  throw new Error("the feed ended");
}
