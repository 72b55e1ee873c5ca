// One of several processes that serve ends, or all do, or the first one: what was acknowledged stays, nothing is done twice, the others go on, and
// nobody is left behind.

import { execFile } from "node:child_process";
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { logOf, pressCtrlC, servesAt, startLedgerd, workersOf, type Command } from "../harness/command.ts";
import { connectTo, createDatabase, type TestDatabase } from "../harness/database.ts";
import { checkWrites, Load } from "../harness/load.ts";
import { servingUrl } from "../harness/logins.ts";
import { isAlive } from "../harness/processes.ts";
import { clientsOf, type Clients } from "../harness/service.ts";
import { until } from "../harness/until.ts";
import { balanceAfter, LAWFUL_ANSWERS, waitingCall } from "../harness/waiting-call.ts";

const WORKERS = 2;

const opened = new AsyncDisposableStack();
const loads: Load[] = [];
let lastUser = 0n;
/** On the server that all tests share, which isn't durable: it isn't what fails here. */
let database: TestDatabase;

beforeAll(async () => {
  database = opened.use(await createDatabase());
});

afterAll(() => opened.disposeAsync());

interface Serving {
  readonly command: Command;
  readonly grpc: string;
  readonly http: string;
}

/** Begins to start a command that serves by several processes, in a process group of its own as a shell would. */
function begin(settings: Readonly<Record<string, string>> = {}): Command {
  const defaults = { DATABASE_URL: database.url, LEDGERD_DURABILITY: "relaxed", LEDGERD_WORKERS: String(WORKERS) };
  return opened.use(startLedgerd(["serve"], { ...defaults, ...settings }, "own"));
}

/** Starts one, and returns when it serves. */
async function start(settings: Readonly<Record<string, string>> = {}): Promise<Serving> {
  const command = begin(settings);
  return { command, ...(await servesAt(command)) };
}

const newUsers = (): bigint => (lastUser += 100n);

function newLoad({ grpc }: Serving): Load {
  const load = new Load({ grpcAddress: grpc, firstUser: newUsers() });
  loads.push(load);
  return load;
}

const processOf = async ({ admin }: Clients): Promise<number> => (await admin.getServiceStatus({})).processId;

/** Clients of each of its processes. */
async function clientsOfEach({ command, grpc }: Serving): Promise<ReadonlyMap<number, Clients>> {
  const found = new Map<number, Clients>();
  await until(async () => {
    const clients = clientsOf(grpc);
    found.set(await processOf(clients), clients);
    return workersOf(command).every((pid) => found.has(pid));
  });
  return found;
}

/** What its log says of how its processes ended. */
const endsOf = ({ command }: Serving) => logOf(command).filter(({ msg }) => msg === "a worker ended; another one takes its place");

/** Returns once so many of its processes have said that they end. */
async function shuttingDown({ command }: Serving, count: number): Promise<void> {
  await until(() => logOf(command).filter(({ msg }) => msg === "shutting down").length === count);
}

/** Returns once a process that isn't one of these is ready. */
async function successorOf({ command }: Serving, before: readonly number[]): Promise<void> {
  const isReady = (pid: number): boolean => logOf(command).some((line) => line["msg"] === "ready" && line["pid"] === pid);
  await until(() => workersOf(command).some((pid) => !before.includes(pid) && isReady(pid)));
}

describe("of several processes that serve", () => {
  let serving: Serving;

  beforeAll(async () => {
    serving = await start();
  });

  test("one that ends again and again is started again after growing pauses, and the other one goes on", async () => {
    const [steady = 0] = workersOf(serving.command);
    const client = (await clientsOfEach(serving)).get(steady) ?? expect.unreachable();
    const victim = (): number | undefined => workersOf(serving.command).find((pid) => pid !== steady);
    for (let last = 0, death = 0; death < 4; death++) {
      await until(() => ![undefined, last].includes(victim()));
      last = victim() ?? 0;
      process.kill(last, "SIGKILL");
    }
    await successorOf(serving, [steady]);
    expect(await processOf(client)).toBe(steady);
    expect(endsOf(serving).map(({ level, signal, pauseMs }) => [level, signal, pauseMs])).toEqual([0, 100, 200, 400].map((pauseMs) => [40, "SIGKILL", pauseMs]));
  });

  test("one that an operator ends answers what it has taken, and another one takes its place at once", async () => {
    await using load = newLoad(serving);
    const before = endsOf(serving).length;
    for (const pid of workersOf(serving.command)) {
      await load.goesOn();
      const pids = workersOf(serving.command);
      process.kill(pid, "SIGTERM");
      await successorOf(serving, pids);
    }
    await load.goesOn();
    await load.finish();
    expect(["NGHTTP2_REFUSED_STREAM", "SHUTTING_DOWN"], "why calls failed: they were not tried").toEqual(expect.arrayContaining([...load.failures]));
    expect(endsOf(serving).slice(before).map(({ level, code, pauseMs }) => [level, code, pauseMs])).toEqual([[30, 0, 0], [30, 0, 0]]);
  });

  test("one is killed under load: another one takes its place, and the other one's callers aren't disturbed", async () => {
    await using load = newLoad(serving);
    await load.goesOn();
    // All that is under way may have been answered when it is killed: then another one is.
    for (let hit = 0; hit === 0; ) {
      const before = workersOf(serving.command);
      const [victim = 0] = await load.processes();
      const other = before.find((pid) => pid !== victim) ?? 0;
      const undisturbed = (await clientsOfEach(serving)).get(other) ?? expect.unreachable();
      hit = await load.hitBy(async () => {
        process.kill(victim, "SIGKILL");
        return () => successorOf(serving, before);
      });
      expect(await processOf(undisturbed)).toBe(other);
    }
    expect([...(await clientsOfEach(serving)).keys()], "the new one takes calls").toEqual(expect.arrayContaining([...workersOf(serving.command)]));
    await load.goesOn();
    await load.finish();
  });

  test("one that stands still gets no callers: all come to the other one", async () => {
    const before = workersOf(serving.command);
    const [steady = 0, victim = 0] = before;
    process.kill(victim, "SIGSTOP");
    const asking = Array.from({ length: 40 }, () => processOf(clientsOf(serving.grpc)));
    expect(new Set(await Promise.all(asking))).toEqual(new Set([steady]));
    process.kill(victim, "SIGKILL");
    await successorOf(serving, before);
  });

  test("all are killed under load: others take their places on the same ports", async () => {
    await using load = newLoad(serving);
    await load.goesOn();
    const before = workersOf(serving.command);
    for (const pid of before) process.kill(pid, "SIGKILL");
    await successorOf(serving, before);
    await load.goesOn();
    await load.finish();
    expect((await fetch(`http://${serving.http}/healthz`)).status).toBe(200);
  });

  test("all answer what they have taken when they are told to end by Ctrl-C, again and again, under load; what they have not taken was not tried", async () => {
    await using load = newLoad(serving);
    const pids = workersOf(serving.command);
    const before = logOf(serving.command).filter(({ msg }) => msg === "shutting down").length;
    await load.goesOn();
    const call = await waitingCall(database, clientsOf(serving.grpc), newUsers());
    pressCtrlC(serving.command);
    await shuttingDown(serving, before + 1 + WORKERS);
    pressCtrlC(serving.command);
    await until(() => fetch(`http://${serving.http}/healthz`).then(() => false, () => true));
    pressCtrlC(serving.command);
    await call.release();
    expect(LAWFUL_ANSWERS).toContain(await call.answer);
    expect(await serving.command.ended).toBe(0);
    expect(pids.filter(isAlive), "processes that are left").toEqual([]);
    await load.abandon();
    expect(["NGHTTP2_REFUSED_STREAM", "ECONNREFUSED", "SHUTTING_DOWN"], "why calls failed").toEqual(expect.arrayContaining([...load.failures]));
    await shuttingDown(serving, before + 1 + WORKERS);
  });

  test("acknowledged writes have stayed, and none was done twice, through all of that", async () => {
    await checkWrites(database.url, ...loads);
  });
});

test("of several processes, who comes while one ends comes to another one, though the first process stands still", async () => {
  const serving = await start();
  const [ending = 0] = workersOf(serving.command);
  const clients = (await clientsOfEach(serving)).get(ending) ?? expect.unreachable();
  const call = await waitingCall(database, clients, newUsers());
  const { pid: first = 0 } = serving.command.process;
  process.kill(first, "SIGSTOP");
  process.kill(ending, "SIGTERM");
  await until(() => logOf(serving.command).some(({ pid, problem }) => pid === ending && problem === "shutting down"));
  const callers = Array.from({ length: 8 }, () => processOf(clientsOf(serving.grpc)));
  expect(await Promise.all(callers)).not.toContain(ending);
  process.kill(first, "SIGCONT");
  await call.release();
  expect(LAWFUL_ANSWERS).toContain(await call.answer);
  await until(() => endsOf(serving).length === 1);
  serving.command.process.kill("SIGTERM");
  expect(await serving.command.ended).toBe(0);
});

test("Ctrl-C while they start ends them well, too", async () => {
  const command = begin();
  await until(() => workersOf(command).length === WORKERS);
  const pids = workersOf(command);
  pressCtrlC(command);
  expect(await command.ended).toBe(0);
  expect(pids.filter(isAlive)).toEqual([]);
});

test("one that is killed while all end has the command end with 1, and say why", async () => {
  const serving = await start();
  const [victim = 0] = workersOf(serving.command);
  // So it can't end by itself before it is killed.
  process.kill(victim, "SIGSTOP");
  serving.command.process.kill("SIGTERM");
  await shuttingDown(serving, WORKERS);
  process.kill(victim, "SIGKILL");
  expect(await serving.command.ended).toBe(1);
  expect(serving.command.printed.stderr).toMatch(/\nledgerd: a worker ended with SIGKILL when it was told to end\n$/);
});

test("the first process hears of the ends of two that die at once", async () => {
  const script = path.resolve(import.meta.dirname, "../harness/burial.ts");
  const addresses = { LEDGERD_GRPC_ADDR: "127.0.0.1:0", LEDGERD_HTTP_ADDR: "127.0.0.1:0" };
  const env = { PATH: process.env["PATH"], DATABASE_URL: servingUrl(database.url), LEDGERD_DURABILITY: "relaxed", ...addresses };
  const { stdout } = await promisify(execFile)(process.execPath, [script], { env });
  expect(JSON.parse(stdout)).toEqual(Array.from({ length: WORKERS }, () => ({ code: null, signal: "SIGKILL" })));
});

test("where the first process is killed, the others answer what they have taken and end; the next command goes on with the PostgreSQL and the ports", async () => {
  const folder = mkdtempSync(path.join(tmpdir(), "ledgerd-processes-"));
  const pidFile = path.join(folder, "data/postmaster.pid");
  opened.defer(async () => {
    // A test that failed may have left its server behind.
    if (existsSync(pidFile)) process.kill(Number.parseInt(readFileSync(pidFile, "utf8"), 10), "SIGQUIT");
    await until(() => !existsSync(pidFile));
    rmSync(folder, { recursive: true });
  });
  chmodSync(folder, 0o755);
  const settings = { LEDGERD_DATA_DIR: folder, DATABASE_URL: "" };
  const killed = await start({ ...settings, LEDGERD_POOL_MAX: "100" });
  const { socketFolder } = JSON.parse(readFileSync(path.join(folder, "owner.json"), "utf8")) as { socketFolder: string };
  const connect = (): ReturnType<typeof connectTo> => connectTo(`postgres://postgres@${encodeURIComponent(socketFolder)}:5432/ledgerd`);
  const session = await connect();
  const query = async (text: string) => (await session.query(text)).rows;
  expect(await query("SHOW max_connections"), "there is room for all").toEqual([{ max_connections: String(WORKERS * (100 + 8 + 2 + 1 + 1) + 20) }]);

  const call = await waitingCall({ connect, query } as TestDatabase, clientsOf(killed.grpc), newUsers());
  const pids = workersOf(killed.command);
  killed.command.process.kill("SIGKILL");
  await shuttingDown(killed, WORKERS);
  await call.release();
  const answer = await call.answer;
  expect(LAWFUL_ANSWERS).toContain(answer);
  await until(() => !pids.some(isAlive));
  await session.end();

  const next = await start({ ...settings, LEDGERD_WORKERS: "1", LEDGERD_GRPC_ADDR: killed.grpc, LEDGERD_HTTP_ADDR: killed.http });
  const { balance } = await clientsOf(next.grpc).ledger.getBalance({ userId: call.userId });
  expect(balance?.balance?.amount).toBe(balanceAfter(answer));
  next.command.process.kill("SIGTERM");
  expect(await next.command.ended).toBe(0);
});
