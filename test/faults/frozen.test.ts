// PostgreSQL stands still under load, as on a disk that hangs: callers aren't kept beyond their deadlines, and what it does when it goes on
// is done once.

import { afterAll, beforeAll, expect, test } from "vitest";
import { connectTo } from "../harness/database.ts";
import { readinessOf } from "../harness/health.ts";
import { startInstance, type Instance } from "../harness/instance.ts";
import { checkWrites, Load } from "../harness/load.ts";
import { patient } from "../harness/patience.ts";
import { startPostgres, type OwnPostgres } from "../harness/postgres.ts";
import { until } from "../harness/until.ts";

const ROUNDS = 2;

const opened = new AsyncDisposableStack();
let postgres: OwnPostgres;
let instance: Instance;
let isServing: () => Promise<boolean>;

beforeAll(async () => {
  postgres = opened.use(await startPostgres());
  const settings = { LEDGERD_DURABILITY: "required", LEDGERD_CONNECT_TIMEOUT: "5s" };
  instance = opened.use(await startInstance(postgres.url, settings));
  isServing = readinessOf(instance.grpcAddress);
});

afterAll(() => opened.disposeAsync());

/** Stops all processes of the server where they are, until the stack is disposed of: the postmaster first, so that there will be no others. */
async function freeze(frozen: AsyncDisposableStack): Promise<void> {
  const session = await connectTo(postgres.url);
  frozen.defer(() => session.end());
  const stop = async (query: string): Promise<void> => {
    for (const { pid } of (await session.query<{ pid: number }>(query)).rows) {
      process.kill(pid, "SIGSTOP");
      frozen.defer(() => void process.kill(pid, "SIGCONT"));
    }
  };
  await stop("SELECT split_part(pg_read_file('postmaster.pid'), E'\\n', 1)::int AS pid");
  await stop("SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()");
}

test("where PostgreSQL stands still, callers are let go at their deadlines, and nothing is done twice when it goes on", async () => {
  await using load = new Load({ grpcAddress: instance.grpcAddress, firstUser: 1n, timeoutMs: 300 });
  for (let round = 0; round < ROUNDS; round++) {
    await load.goesOn();
    await using frozen = new AsyncDisposableStack();
    const hit = await load.hitBy(async () => {
      await freeze(frozen);
      // By then what was answered before has arrived, and the calls that wait came later.
      await until(async () => !(await isServing()));
      return () => load.waitersGone();
    });
    expect(hit, "calls were hit").toBeGreaterThan(0);
    await frozen.disposeAsync();
    await until(isServing);
  }
  await load.goesOn();
  await load.finish();
  expect(["DeadlineExceeded", "DEADLINE_PASSED"], "why calls failed").toEqual(expect.arrayContaining([...load.failures]));
  await checkWrites(postgres.url, load);
});

test("where PostgreSQL stands still for so long that its sessions are given up, nothing is done twice when those go on", async () => {
  await using load = new Load({ grpcAddress: instance.grpcAddress, firstUser: 101n, ...patient });
  await load.goesOn();
  await using frozen = new AsyncDisposableStack();
  const hit = await load.hitBy(async () => {
    await freeze(frozen);
    return () => until(() => load.failures.length > 0);
  });
  expect(hit, "calls were hit").toBeGreaterThan(0);
  await frozen.disposeAsync();
  await load.goesOn();
  await load.finish();
  expect(["COMMIT_OUTCOME_UNKNOWN", "DATABASE_UNAVAILABLE"], "why calls failed").toEqual(expect.arrayContaining([...load.failures]));
  await checkWrites(postgres.url, load);
});
