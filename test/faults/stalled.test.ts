// A worker that stands still, or has no descriptors, gets no callers: the others serve them at once. One that goes on
// standing still is replaced, and a first process that stood still replaces nobody.

import { execFileSync } from "node:child_process";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { logOf, servesAt, startLedgerd, workersOf, type Command } from "../harness/command.ts";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { clientsOf } from "../harness/service.ts";
import { until } from "../harness/until.ts";

const STALL_LIMIT_MS = 4000;

let database: TestDatabase;
let command: Command;
let grpc: string;

beforeAll(async () => {
  database = await createDatabase();
  const limits = { LEDGERD_WORKERS: "2", LEDGERD_STALL_LIMIT: `${STALL_LIMIT_MS}ms`, LEDGERD_POOL_MIN: "0" };
  command = startLedgerd(["serve"], { DATABASE_URL: database.url, LEDGERD_DURABILITY: "relaxed", ...limits });
  grpc = (await servesAt(command)).grpc;
});

afterAll(async () => {
  await command[Symbol.asyncDispose]();
  await database[Symbol.asyncDispose]();
});

/** Who answers a new caller. */
const answerer = async (): Promise<number> => (await clientsOf(grpc).admin.getServiceStatus({})).processId;

const endsOf = () => logOf(command).filter(({ msg }) => msg === "a worker ended; another one takes its place");

describe("of two workers,", () => {
  test("one that has no descriptors leaves callers to the other one, and takes part again when it has some", async () => {
    const [poor = 0, steady = 0] = workersOf(command);
    expect(new Set([await answerer(), await answerer()])).toEqual(new Set([poor, steady]));
    const said = execFileSync("prlimit", ["--pid", `${poor}`, "--nofile"], { encoding: "utf8" });
    const [, limit = ""] = /files +(\d+) +\d+ files/.exec(said) ?? [];
    execFileSync("prlimit", ["--pid", `${poor}`, "--nofile=20:"]);
    // Until it has noticed, its callers are cut off.
    const noticed = async (): Promise<boolean> => (await answerer().catch(() => poor)) === steady;
    await until(async () => (await noticed()) && (await noticed()) && (await noticed()));
    const answered = await Promise.all(Array.from({ length: 40 }, answerer));
    expect(new Set(answered)).toEqual(new Set([steady]));
    execFileSync("prlimit", ["--pid", `${poor}`, `--nofile=${limit}:`]);
    await until(async () => (await answerer()) === poor);
    expect(endsOf()).toHaveLength(0);
  });

  test("one that stands still is replaced after a while, and until then the other one serves", async () => {
    const [stalled = 0, steady = 0] = workersOf(command);
    process.kill(stalled, "SIGSTOP");
    const answered = new Set<number>();
    while (endsOf().length === 0) answered.add(await answerer());
    expect([...answered].slice(0, 1)).toEqual([steady]);
    expect([...answered]).not.toContain(stalled);
    const problem = "it was killed: it had given no sign of life for 4 s";
    expect(endsOf()).toMatchObject([{ level: 40, worker: stalled, signal: "SIGKILL", problem }]);
    await until(async () => ![stalled, steady].includes(await answerer()));
  });

  test("none is replaced when the first process stood still for longer, and callers are served meanwhile", async () => {
    const before = workersOf(command);
    const { pid: first = Number.NaN } = command.process;
    process.kill(first, "SIGSTOP");
    const since = performance.now();
    // More callers than a ceiling that was told before lets in.
    const answered = new Set<number>();
    while (performance.now() - since < STALL_LIMIT_MS + 500) answered.add(await answerer());
    process.kill(first, "SIGCONT");
    // It has heard of workers again, and looked at them, when the next callers are spread evenly.
    const four = async () => [await answerer(), await answerer(), await answerer(), await answerer()];
    await until(async () => new Set(await four()).size === 2);
    expect(workersOf(command)).toEqual(before);
    expect([...answered].every((pid) => before.includes(pid))).toBe(true);
  });
});
