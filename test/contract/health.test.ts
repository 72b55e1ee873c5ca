// Readiness, as probes see it: before, while and after the database is away.

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Code, ConnectError, createClient, type Client } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { Health, HealthCheckResponse_ServingStatus as Status } from "../../src/gen/grpc/health/v1/health_pb.ts";
import { startPostgres, type OwnPostgres } from "../harness/postgres.ts";
import { failureOf, newKey, serve, type TestService } from "../harness/service.ts";
import { until } from "../harness/until.ts";

const names = ["", "ledger.v1.LedgerService", "ledger.v1.JobService", "ledger.v1.LockService", "ledger.v1.AdminService"];

let postgres: OwnPostgres;
let service: TestService;
let health: Client<typeof Health>;

beforeAll(async () => {
  postgres = await startPostgres();
  service = await serve(postgres.url, { LEDGERD_DURABILITY: "required" });
  health = createClient(Health, createGrpcTransport({ baseUrl: `http://${service.grpcAddress}` }));
});

afterAll(async () => {
  await service.close();
  await postgres[Symbol.asyncDispose]();
});

const check = async (): Promise<readonly (Status | undefined)[]> =>
  (await Promise.all(names.map((name) => health.check({ service: name })))).map(({ status }) => status);

const all = (status: Status): readonly Status[] => names.map(() => status);

async function probe(path: string): Promise<{ status: number; body: unknown }> {
  const response = await fetch(`http://${service.httpAddress}${path}`);
  return { status: response.status, body: await response.json() };
}

/** By either of its names. */
async function healthz(): Promise<{ status: number; body: unknown }> {
  const answer = await probe("/readyz");
  expect(await probe("/healthz")).toEqual(answer);
  return answer;
}

const write = () => service.ledger.topUp({ userId: 1n, amount: { amount: "1" }, idempotencyKey: newKey() });

describe("while the database is there", () => {
  test("the service as a whole and each of its services serve", async () => {
    expect(await check()).toEqual(all(Status.SERVING));
    expect(await healthz()).toEqual({ status: 200, body: { status: "SERVING" } });
  });

  test("List names the service as a whole and each of its services", async () => {
    const { statuses } = await health.list({});
    expect(Object.fromEntries(Object.entries(statuses).map(([name, { status }]) => [name, status]))).toEqual(
      Object.fromEntries(names.map((name) => [name, Status.SERVING])),
    );
  });

  test("a schema that lacks a migration isn't served from, one that a newer version has migrated is", async () => {
    const newest = "SELECT max(number) FROM ledgerd.schema_migrations";
    const [taken] = await postgres.query<{ number: number; name: string; checksum: string }>(
      `DELETE FROM ledgerd.schema_migrations WHERE number = (${newest}) RETURNING number, name, checksum`,
    );
    await until(async () => (await check())[0] === Status.NOT_SERVING);
    const add = "INSERT INTO ledgerd.schema_migrations (number, name, checksum) VALUES ($1, $2, $3)";
    await postgres.query(add, [5000, "of a newer version", ""]);
    await until(async () => (await check())[0] === Status.SERVING);
    await postgres.query("DELETE FROM ledgerd.schema_migrations WHERE number = 5000");
    await postgres.query(add, [taken?.number, taken?.name, taken?.checksum]);
    await until(async () => (await check())[0] === Status.SERVING);
  });

  test("a service that isn't there is unknown to Check, and to Watch until it comes", async () => {
    const unknown = await health.check({ service: "ledger.v1.Nothing" }).catch((error: unknown) => error);
    expect(unknown).toBeInstanceOf(ConnectError);
    expect((unknown as ConnectError).code).toBe(Code.NotFound);
    for await (const { status } of health.watch({ service: "ledger.v1.Nothing" })) {
      expect(status).toBe(Status.SERVICE_UNKNOWN);
      break;
    }
  });
});

test("a database that is stopped and comes back takes the service out and back in, by itself", async () => {
  await write();
  const seen: Status[] = [];
  const gone = new AbortController();
  const watching = (async () => {
    for await (const { status } of health.watch({ service: "" }, { signal: gone.signal })) seen.push(status);
  })().catch((error: unknown) => error);

  await postgres.stop();
  await until(() => seen.at(-1) === Status.NOT_SERVING);
  expect(await check()).toEqual(all(Status.NOT_SERVING));
  expect(await healthz()).toMatchObject({ status: 503, body: { status: "NOT_SERVING", problem: expect.stringMatching(/can't be (reached|used: it is shutting down)/) as string } });
  expect(await probe("/livez"), "the process is none the worse for it").toEqual({ status: 200, body: { status: "ALIVE" } });
  const refused = { code: Code.Unavailable, reason: "DATABASE_UNAVAILABLE" };
  expect(await failureOf(write()), "a write says so").toMatchObject(refused);
  expect(await failureOf(service.ledger.getBalance({ userId: 1n })), "a read says so").toMatchObject(refused);

  await postgres.start();
  await until(() => seen.at(-1) === Status.SERVING);
  expect(seen[0]).toBe(Status.SERVING);
  expect(new Set(seen)).toEqual(new Set([Status.SERVING, Status.NOT_SERVING]));
  await until(async () => (await check()).every((status) => status === Status.SERVING));
  await until(async () => (await healthz()).status === 200);
  expect((await write()).balance?.sequence, "what was refused changed nothing").toBe(2n);
  gone.abort();
  await watching;
});

test("an instance that shuts down is taken out before it goes", async () => {
  const leaving = await serve(postgres.url, { LEDGERD_DURABILITY: "required" });
  const client = createClient(Health, createGrpcTransport({ baseUrl: `http://${leaving.grpcAddress}` }));
  const seen: Status[] = [];
  const watching = (async () => {
    for await (const { status } of client.watch({ service: "" })) seen.push(status);
  })().catch((error: unknown) => error);
  await until(() => seen.length > 0);
  await leaving.close();
  await watching;
  expect(seen).toEqual([Status.SERVING, Status.NOT_SERVING]);
});
