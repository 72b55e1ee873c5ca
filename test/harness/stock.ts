// What the requests of a method refer to: for each of its cases a user with money, and what its fields name beside.

import type { DescMethod } from "@bufbuild/protobuf";
import { JobStatus } from "../../src/gen/ledger/v1/job_service_pb.ts";
import type { WriteResult } from "../../src/gen/ledger/v1/ledger_service_pb.ts";
import type { Clients } from "./service.ts";
import type { Usual } from "./usual-requests.ts";
import type { OneWrite } from "./write-stream.ts";

const rub = (amount: string) => ({ currency: "RUB", amount });
const BATCH = 1000;
/** Who is sent money. */
const RECIPIENT = 900_000n;

/** Of methods whose jobs are to be in another state than pending, how they come into it. */
const claimed = new Set(["HeartbeatJob", "CompleteJob", "FailJob"]);

/**
 * Makes it, from a user on, whose ids nobody has; the usual fields of each case. What is done, and in which order,
 * depends on nothing else.
 */
export async function stock(
  clients: Clients,
  method: DescMethod,
  firstUser: bigint,
  count: number,
): Promise<readonly Usual[]> {
  const { name, parent } = method;
  const users = Array.from({ length: count }, (_, index) => firstUser + BigInt(index));
  const keys = users.map((userId) => `stock ${userId}`);
  await writeAll(
    clients,
    users.map((userId, index) => ({
      case: "topUp",
      value: { userId, amount: rub("1000"), idempotencyKey: keys[index] ?? "" },
    })),
  );
  const deductions = await writeAll(
    clients,
    users.map((userId) => ({
      case: "deduct",
      value: { userId, amount: rub("10"), idempotencyKey: `deducted ${userId}` },
    })),
  );
  const holds = await writeAll(
    clients,
    users.map((userId) => ({
      case: "placeHold",
      value: { userId, amount: rub("10"), idempotencyKey: `held ${userId}` },
    })),
  );
  const jobs = parent.name === "JobService" && name !== "CreateJob" ? await jobsFor(clients, name, users) : [];
  const locks = /^(Heartbeat|Release)Lock$/.test(name) ? await locksFor(clients, users) : [];
  return users.map((userId, index) => {
    const idempotencyKey = name === "GetOutcome" ? keys[index] : `${name} ${userId}`;
    const amount = rub("1");
    return {
      user_id: userId,
      to_user_id: RECIPIENT,
      user_ids: [userId],
      amount,
      "Money.currency": amount.currency,
      "Money.amount": amount.amount,
      cost: amount,
      credit_limit: amount,
      idempotency_key: idempotencyKey,
      "BatchWriteRequest.idempotency_key": undefined,
      request_id: `request ${userId}`,
      reason: "because",
      transaction_id: idOf(deductions[index], "transaction"),
      hold_id: idOf(holds[index], "hold"),
      job_id: jobs[index]?.id ?? 1n,
      job_ids: [jobs[index]?.id ?? 1n],
      model_id: modelOf(userId),
      model_ids: [modelOf(userId)],
      status: JobStatus.PROCESSING,
      worker_id: "worker",
      lock_key: userId,
      instance_id: "instance",
      fencing_token: jobs[index]?.fencingToken ?? locks[index] ?? 1n,
      writes: [{ write: { case: "topUp", value: { userId, amount, idempotencyKey } } }],
    };
  });
}

async function writeAll({ ledger }: Clients, writes: readonly OneWrite[]): Promise<readonly WriteResult[]> {
  const results: WriteResult[] = [];
  for (let from = 0; from < writes.length; from += BATCH) {
    const answer = await ledger.batchWrite({ writes: writes.slice(from, from + BATCH).map((write) => ({ write })) });
    results.push(...answer.results);
  }
  return results;
}

function idOf(result: WriteResult | undefined, of: "transaction" | "hold"): bigint {
  const value = result?.result.value as Readonly<Record<string, { readonly id: bigint } | undefined>> | undefined;
  const id = value?.[of]?.id;
  if (id === undefined) throw new Error(`there is no ${of} in ${JSON.stringify(result?.result.case)}`);
  return id;
}

function modelOf(userId: bigint): string {
  return `model ${userId}`;
}

async function jobsFor({ jobs }: Clients, method: string, users: readonly bigint[]) {
  const made: { id: bigint; fencingToken: bigint | undefined }[] = [];
  for (const userId of users) {
    const modelId = modelOf(userId);
    const { job } = await jobs.createJob({ userId, modelId, cost: rub("1"), idempotencyKey: `created ${userId}` });
    const id = job?.id ?? 0n;
    if (method === "RetryJob") await jobs.cancelJob({ jobId: id });
    const lease = claimed.has(method)
      ? await jobs.claimJobs({ workerId: "worker", modelIds: [modelId], leaseDuration: { seconds: 3600n } })
      : undefined;
    made.push({ id, fencingToken: lease?.jobs[0]?.fencingToken });
  }
  return made;
}

async function locksFor({ locks }: Clients, users: readonly bigint[]): Promise<readonly bigint[]> {
  const tokens: bigint[] = [];
  for (const lockKey of users)
    tokens.push((await locks.acquireLock({ lockKey, instanceId: "instance", ttl: { seconds: 3600n } })).fencingToken);
  return tokens;
}
