// PostgreSQL fails under load: what was acknowledged stays, nothing is done twice, and the service goes on by itself.

import { afterAll, beforeAll, expect, test } from "vitest";
import { readinessOf } from "../harness/health.ts";
import { startInstance, type Instance } from "../harness/instance.ts";
import { checkWrites, Load, type Fault } from "../harness/load.ts";
import { startPostgres, type OwnPostgres } from "../harness/postgres.ts";
import { until } from "../harness/until.ts";

const opened = new AsyncDisposableStack();
let postgres: OwnPostgres;
let instance: Instance;
let isServing: () => Promise<boolean>;
let lastUser = 0n;

beforeAll(async () => {
  postgres = opened.use(await startPostgres());
  instance = opened.use(await startInstance(postgres.url, { LEDGERD_DURABILITY: "required" }));
  isServing = readinessOf(instance.grpcAddress);
});

afterAll(() => opened.disposeAsync());

/** The sessions of the service, the journal's last. */
async function sessions(): Promise<readonly number[]> {
  const found = await postgres.query<{ pid: number }>("SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'ledgerd%' ORDER BY application_name");
  return found.map(({ pid }) => pid);
}

/** Returns once none of these sessions is left, and PostgreSQL takes new ones. */
async function ended(pids: readonly number[]): Promise<void> {
  await until(async () => {
    const left = await sessions().catch(() => pids);
    return !left.some((pid) => pids.includes(pid));
  });
}

const restart =
  (mode: "fast" | "immediate"): Fault =>
  async () => {
    const restarted = postgres.restart(mode);
    return () => restarted;
  };

const terminateSessions: Fault = async () => {
  const pids = await sessions();
  await postgres.query("SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) AS s (pid)", [pids]);
  return () => ended(pids);
};

/** The server ends all other sessions too, and recovers as from a crash. */
const killBackend: Fault = async () => {
  const pids = await sessions();
  process.kill(pids.at(-1) ?? Number.NaN, "SIGKILL");
  return () => ended(pids);
};

test.each<readonly [string, number, Fault]>([
  ["PostgreSQL is restarted, fast", 2, restart("fast")],
  ["PostgreSQL is restarted, immediately", 2, restart("immediate")],
  ["all sessions are terminated", 6, terminateSessions],
  ["a backend is killed", 3, killBackend],
])("where %s, acknowledged writes stay, none is done twice, and the service goes on by itself", async (_what, rounds, fault) => {
  await using load = new Load({ grpcAddress: instance.grpcAddress, firstUser: (lastUser += 100n) });
  let hit = 0;
  // Not every time a call is under way.
  for (let round = 0; round < rounds || hit === 0; round++) {
    await load.goesOn();
    hit += await load.hitBy(fault);
  }
  await load.goesOn();
  await until(isServing);
  await load.finish();
  expect(["COMMIT_OUTCOME_UNKNOWN", "DATABASE_UNAVAILABLE"], "why calls failed").toEqual(expect.arrayContaining([...load.failures]));
  await checkWrites(postgres.url, load);
});
