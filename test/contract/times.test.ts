// Times and durations, whatever a client sends: taken, or refused by the field's name, in every field of these types
// and by both doors.

import type { DescMessage } from "@bufbuild/protobuf";
import type { Timestamp } from "@bufbuild/protobuf/wkt";
import type { Transport } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport } from "@connectrpc/connect-node";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { AdminService } from "../../src/gen/ledger/v1/admin_service_pb.ts";
import { ErrorReasonSchema } from "../../src/gen/ledger/v1/errors_pb.ts";
import { JobService, type Job } from "../../src/gen/ledger/v1/job_service_pb.ts";
import { LedgerService } from "../../src/gen/ledger/v1/ledger_service_pb.ts";
import { LockService } from "../../src/gen/ledger/v1/lock_service_pb.ts";
import { boundaryTimes, time, YEAR_1 } from "../harness/boundary-times.ts";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { clientsOver, failureOf, newKey, serve, type Clients, type TestService } from "../harness/service.ts";
import { nameOf, requestWith, timeFieldsOf, type Message, type TimeField } from "../harness/time-fields.ts";
import { streamWrites, type OneWrite } from "../harness/write-stream.ts";

let database: TestDatabase;
let service: TestService;
let doors: Readonly<Record<string, Clients>>;

beforeAll(async () => {
  database = await createDatabase();
  service = await serve(database.url);
  const web = { baseUrl: `http://${service.httpAddress}`, httpVersion: "1.1" as const };
  const transports: Readonly<Record<string, Transport>> = {
    gRPC: createGrpcTransport({ baseUrl: `http://${service.grpcAddress}` }),
    "Connect with protobuf": createConnectTransport(web),
    "Connect with JSON": createConnectTransport({ ...web, useBinaryFormat: false }),
  };
  doors = Object.fromEntries(Object.entries(transports).map(([name, transport]) => [name, clientsOver(transport)]));
});

afterAll(async () => {
  await service.close();
  await database[Symbol.asyncDispose]();
});

const fields = timeFieldsOf([LedgerService, JobService, LockService, AdminService]);
let lastLock = 0n;

/** What a request needs beside its times to be right; of nothing that exists, so that all are answered at once. */
const bases: Readonly<Record<string, () => Message>> = {
  "ledger.v1.GetBalanceRequest": () => ({ userId: 1n }),
  "ledger.v1.BatchGetBalancesRequest": () => ({ userIds: [1n] }),
  "ledger.v1.PlaceHoldRequest": () => ({ userId: 1n, amount: { amount: "1" }, idempotencyKey: newKey() }),
  "ledger.v1.BatchWriteRequest": () => ({}),
  "ledger.v1.StreamWritesRequest": () => ({}),
  "ledger.v1.Write": () => ({}),
  "ledger.v1.ListTransactionsRequest": () => ({ userId: 1n }),
  "ledger.v1.GetStatementRequest": () => ({ userId: 1n }),
  "ledger.v1.ListJobsRequest": () => ({ userId: 1n }),
  "ledger.v1.CreateJobRequest": () => ({ userId: 1n, modelId: "m", cost: { amount: "0" }, idempotencyKey: newKey() }),
  "ledger.v1.ClaimJobsRequest": () => ({ workerId: "w", modelIds: ["none"] }),
  "ledger.v1.HeartbeatJobRequest": () => ({ jobId: 1n, fencingToken: 1n }),
  "ledger.v1.AcquireLockRequest": () => ({ lockKey: (lastLock += 1n), instanceId: "i" }),
  "ledger.v1.HeartbeatLockRequest": () => ({ lockKey: 1n, fencingToken: 1n }),
};

function basis({ typeName }: DescMessage): Message {
  return bases[typeName]?.() ?? expect.unreachable(`${typeName} leads to a time: say above what else it needs`);
}

/** What a call was answered: a reason, and what is said with it; of one that succeeded neither. */
interface Answered {
  readonly reason: string;
  readonly message: string;
}

/** Calls by one door. */
async function answered(
  door: string,
  { service: { typeName }, method }: TimeField,
  request: Message,
  headers: Readonly<Record<string, string>> = {},
): Promise<Answered> {
  const clients = doors[door] ?? expect.unreachable();
  if (method.methodKind === "bidi_streaming") return answeredOnStream(clients, request);
  const names: Readonly<Record<string, keyof Clients>> = {
    LedgerService: "ledger",
    JobService: "jobs",
    LockService: "locks",
    AdminService: "admin",
  };
  const client = clients[names[typeName.replace(/.*\./, "")] ?? "ledger"] as unknown as Readonly<
    Record<string, (request: Message, options: object) => Promise<unknown>>
  >;
  const call = (client[method.localName] ?? expect.unreachable(method.name))(request, { headers });
  return call.then(
    () => ({ reason: "", message: "" }),
    () => failureOf(call),
  );
}

/** The same, with a `wait` cut short by a deadline that the client doesn't know of. */
async function answeredSoon(door: string, field: TimeField, request: Message): Promise<Answered> {
  if (!("wait" in request)) return answered(door, field, request);
  const answer = await answered(door, field, request, { "grpc-timeout": "150m", "connect-timeout-ms": "150" });
  // On a slow machine it may have passed before anybody could say that there is nothing.
  return answer.reason === "DEADLINE_PASSED" ? { reason: "", message: "" } : answer;
}

async function answeredOnStream(clients: Clients, request: Message): Promise<Answered> {
  const writes = request["writes"] as readonly { readonly write: OneWrite }[];
  const [result] = await streamWrites(
    clients,
    writes.map(({ write }) => write),
  );
  const refusal = result?.result.case === "refusal" ? result.result.value : undefined;
  return refusal === undefined
    ? { reason: "", message: "" }
    : { reason: ErrorReasonSchema.value[refusal.reason]?.localName ?? "", message: refusal.message };
}

/** Of a write on a stream, errors tell the fields within that write. */
const toldName = (field: TimeField): string =>
  field.method.methodKind === "bidi_streaming" ? nameOf(field).replace(/^writes\[0\]\./, "") : nameOf(field);
const doorsOf = ({ method }: TimeField): readonly string[] =>
  method.methodKind === "bidi_streaming" ? ["gRPC"] : Object.keys(doors);

test("requests have such fields", () => {
  expect(fields.length).toBeGreaterThan(15);
  expect(new Set(fields.map(({ kind }) => kind)).size).toBe(2);
});

describe.each(fields.map((field) => ({ name: `${field.method.name}.${nameOf(field)}`, field })))(
  "$name",
  ({ field }) => {
    const told = expect.objectContaining({
      reason: "INVALID_REQUEST",
      message: expect.stringContaining(`malformed: ${toldName(field)} must`) as string,
    }) as Answered;

    test("takes what is right, or refuses it by its name, alike by each door", async () => {
      for (const value of boundaryTimes[field.kind].right) {
        const calls = doorsOf(field).map(async (door) => answeredSoon(door, field, requestWith(field, value, basis)));
        const [first, ...others] = await Promise.all(calls);
        const about = `${value.seconds} s ${value.nanos} ns`;
        expect(first?.reason, about).not.toBe("INTERNAL");
        if (first?.reason === "INVALID_REQUEST") expect(first, about).toEqual(told);
        for (const other of others) expect(other.reason, about).toBe(first?.reason);
      }
    });

    test("refuses by its name what is neither a time nor a duration", async () => {
      for (const value of boundaryTimes[field.kind].wrong) {
        // JSON has no way to write these.
        for (const door of doorsOf(field).filter((name) => name !== "Connect with JSON")) {
          expect(
            await answered(door, field, requestWith(field, value, basis)),
            `${value.seconds} s ${value.nanos} ns, by ${door}`,
          ).toEqual(told);
        }
      }
    });
  },
);

test("a job's time comes back as it was sent, to the microsecond, in lists and to whoever claims it", async () => {
  const sent: Timestamp[] = [];
  for (const runTime of boundaryTimes.Timestamp.right) {
    const { job } = await service.jobs.createJob({
      userId: 2n,
      modelId: "times",
      cost: { amount: "0" },
      idempotencyKey: newKey(),
      runTime,
    });
    sent.push(time(runTime.seconds, runTime.nanos - (runTime.nanos % 1000)));
    expect(job?.runTime).toEqual(sent.at(-1));
  }
  const timesOf = (found: readonly (Job | undefined)[]) => found.map((job) => job?.runTime);
  for (const door of Object.values(doors))
    expect(timesOf((await door.jobs.listJobs({ userId: 2n })).jobs)).toEqual(sent.toReversed());
  const { jobs } = await service.jobs.claimJobs({ workerId: "w", modelIds: ["times"], maxJobs: 100 });
  const now = BigInt(Date.now()) / 1000n;
  expect(timesOf(jobs.map(({ job }) => job))).toEqual(
    sent
      .filter(({ seconds }) => seconds <= now)
      .toSorted((a, b) => Number(a.seconds - b.seconds || BigInt(a.nanos - b.nanos))),
  );
});

test("periods and moments before 1970 are answered, and before all there is nothing", async () => {
  const userId = 3n;
  await service.ledger.topUp({ userId, amount: { amount: "5" }, idempotencyKey: newKey() });
  for (const startTime of [time(YEAR_1), time(-2n, 500_000_000), time(0n)]) {
    expect(await service.ledger.getStatement({ userId, startTime })).toMatchObject({
      openingBalance: { amount: "0.00" },
      closingBalance: { amount: "5.00" },
    });
    expect((await service.ledger.listTransactions({ userId, startTime })).transactions).toHaveLength(1);
    expect((await service.ledger.listTransactions({ userId, endTime: startTime })).transactions).toEqual([]);
    expect(await service.ledger.getBalance({ userId, asOf: { case: "asOfTime", value: startTime } })).toMatchObject({
      balance: { sequence: 0n },
      provisional: false,
    });
  }
});
