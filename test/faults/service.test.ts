// The service itself ends under load, at once or in order: what was acknowledged stays, and nothing is done twice.

import { afterAll, beforeAll, expect, test } from "vitest";
import { connectTo } from "../harness/database.ts";
import { readinessOf } from "../harness/health.ts";
import { startInstance, type Instance } from "../harness/instance.ts";
import { checkWrites, Load } from "../harness/load.ts";
import { startPostgres, type OwnPostgres } from "../harness/postgres.ts";
import { until } from "../harness/until.ts";
import { LAWFUL_ANSWERS, waitingCall } from "../harness/waiting-call.ts";

const ROUNDS = 2;

const opened = new AsyncDisposableStack();
let postgres: OwnPostgres;
let lastUser = 0n;

beforeAll(async () => {
  postgres = opened.use(await startPostgres());
});

afterAll(() => opened.disposeAsync());

const newUsers = (): bigint => (lastUser += 100n);

/** Starts an instance, at the address of one that has ended if that is given. */
async function start(grpcAddress = "127.0.0.1:0"): Promise<Instance> {
  return opened.use(await startInstance(postgres.url, { LEDGERD_DURABILITY: "required", LEDGERD_GRPC_ADDR: grpcAddress }));
}

test("where it is killed and started again, acknowledged writes stay, and none is done twice", async () => {
  let instance = await start();
  const { grpcAddress } = instance;
  await using load = new Load({ grpcAddress, firstUser: newUsers() });
  for (let round = 0; round < ROUNDS; round++) {
    await load.goesOn();
    const hit = await load.hitBy(async () => {
      const ended = instance.end("SIGKILL");
      return async () => {
        await ended;
        instance = await start(grpcAddress);
      };
    });
    expect(hit, "calls were hit").toBeGreaterThan(0);
  }
  await load.goesOn();
  await load.finish();
  await checkWrites(postgres.url, load);
  expect(await instance.end("SIGTERM")).toBe(0);
});

test("where some of several are killed, another goes on undisturbed, and tells what became of their calls", async () => {
  const [other, one, two] = await Promise.all([start(), start(), start()]);
  const firstUser = newUsers();
  await using undisturbed = new Load({ grpcAddress: other.grpcAddress, firstUser });
  const loads = [undisturbed];
  for (const instance of [one, two]) {
    await using load = new Load({ grpcAddress: instance.grpcAddress, firstUser });
    loads.push(load);
    await load.goesOn();
    const hit = await load.hitBy(async () => {
      instance.process.kill("SIGKILL");
      return () => undisturbed.goesOn();
    });
    expect(hit, "calls were hit").toBeGreaterThan(0);
    await load.finish(other.grpcAddress);
  }
  await undisturbed.finish();
  expect(undisturbed.failures).toEqual([]);
  await checkWrites(postgres.url, ...loads);
});

test("where it is told to end, it answers what it has taken, and what it has not taken was not tried", async () => {
  const loads: Load[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    const instance = await start();
    await using load = new Load({ grpcAddress: instance.grpcAddress, firstUser: newUsers() });
    loads.push(load);
    await load.goesOn();
    expect(load.inFlight, "calls were hit").toBeGreaterThan(0);
    expect(await instance.end("SIGTERM")).toBe(0);
    await load.abandon();
    expect(["NGHTTP2_REFUSED_STREAM", "ECONNREFUSED", "SHUTTING_DOWN"], "why calls failed").toEqual(expect.arrayContaining([...load.failures]));
  }
  // That the log has none of the writes without an outcome is part of it.
  await checkWrites(postgres.url, ...loads);
});

test("where it is told to end again and again while a call waits, it answers the call first", async () => {
  const instance = await start();
  const isServing = readinessOf(instance.grpcAddress);
  const call = await waitingCall({ ...postgres, connect: () => connectTo(postgres.url) }, instance, newUsers());
  const ended = instance.end("SIGTERM");
  await until(() => isServing().then(() => false, () => true));
  instance.process.kill("SIGTERM");
  instance.process.kill("SIGINT");
  await call.release();
  expect(LAWFUL_ANSWERS).toContain(await call.answer);
  expect(await ended).toBe(0);
});
