// The benchmark: what its command line takes and prints, how it counts, and that its caller speaks HTTP/2 and protobuf as the service does.

import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { createServer } from "node:http2";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { promisify } from "node:util";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { run as runBatches } from "../bench/load/batch.ts";
import { run as runConnects } from "../bench/load/connects.ts";
import { run as runStreams } from "../bench/load/stream.ts";
import { run as runUnary } from "../bench/load/unary.ts";
import { run as runWatch } from "../bench/load/watch.ts";
import { run as runWatches } from "../bench/load/watches.ts";
import { checkLog, takenIn } from "../bench/log.ts";
import { readOptions } from "../bench/options.ts";
import { countedIn } from "../bench/pgbench.ts";
import { parseStat } from "../bench/processes.ts";
import { jsonOf, settingsOf, tableOf } from "../bench/report.ts";
import { figuresOf, slopeOf } from "../bench/statistics.ts";
import { appliedBy, Deducts } from "../bench/wire/deducts.ts";
import { framed, GrpcConnection, PREFIX } from "../bench/wire/http2.ts";
import { QUICK, workloads } from "../bench/workloads/all.ts";
import { BatchWriteRequestSchema, BatchWriteResponseSchema, DeductRequestSchema } from "../src/gen/ledger/v1/ledger_service_pb.ts";
import { checkDatabase } from "./harness/inspect.ts";
import { createDatabase, type TestDatabase } from "./harness/database.ts";
import { newKey, serve, type TestService } from "./harness/service.ts";
import { until } from "./harness/until.ts";

const run = promisify(execFile);
const RUN = path.resolve(import.meta.dirname, "../bench/run.ts");
const ids = workloads.map(({ id }) => id);

describe("the command line", () => {
  const read = (...args: string[]) => readOptions(args, ids, QUICK);

  test("without names measures all workloads, with --quick the first eight, and always in the order of the table", () => {
    expect(read()).toMatchObject({ ids });
    expect(read("--quick")).toMatchObject({ ids: ["unary", "unary_hot", "lone", "stream", "stream_hot", "batch", "batch_hot", "read"] });
    expect(read("read", "unary")).toMatchObject({ ids: ["unary", "read"], quick: false, json: false, workers: undefined });
  });

  test.each([
    { args: ["unari"], says: /no workload unari; there are: unary, / },
    { args: ["--slow"], says: /'--slow'/ },
    { args: ["--rounds", "0"], says: /--rounds must be a whole number from 1 to 1000, not 0/ },
    { args: ["--workers", "1.5"], says: /--workers must be a whole number/ },
    { args: ["--seconds", "soon"], says: /--seconds must be a number from 0.1 to 3600, not soon/ },
    { args: ["--quick", "unary", "history"], says: /--quick knows unary, .*; leave it out to measure history/ },
  ])("says what is wrong with $args", ({ args, says }) => {
    expect(() => read(...args)).toThrow(says);
  });

  test("ends with 2 when it is misused, and prints nothing but the reason and the usage, on standard error", async () => {
    const ended = await run(process.execPath, [RUN, "--json", "unari"]).catch((error: unknown) => error);
    expect(ended).toMatchObject({ code: 2, stdout: "", stderr: expect.stringMatching(/^bench: there is no workload unari[\s\S]*usage: npm run bench/) as string });
  });

  test("with --json prints one object alone on standard output, with the ratio and all that it comes from", async () => {
    const args = ["lone", "--json", "--rounds", "2", "--seconds", "0.5", "--users", "1000"];
    const { stdout, stderr } = await run(process.execPath, [RUN, ...args]);
    const result = JSON.parse(stdout) as { workloads: [{ ratio: number; figures: Record<string, { rounds: object[] }> }]; log: { answered: string }; settings: object };
    const [lone, ...others] = result.workloads;
    expect(others).toEqual([]);
    expect(lone).toMatchObject({ id: "lone", ratio: expect.any(Number) as number, spread: { ratio: [expect.any(Number), expect.any(Number)] } });
    expect(Object.entries(lone.figures).map(([name, { rounds }]) => [name, rounds.length])).toEqual([["ledgerd", 2], ["pg", 2]]);
    expect(Number(result.log.answered)).toBeGreaterThan(0);
    const postgres = { fsync: "on", synchronous_commit: "on", full_page_writes: "on" };
    expect(result.settings).toMatchObject({ rounds: 2, seconds: 0.5, users: 1000, postgres });
    expect(stderr).toContain("round 2 of 2");
  });
});

test("stopped in the middle, it leaves nothing behind", async () => {
  // As root, PostgreSQL runs as another user.
  const folder = mkdtempSync(path.join(tmpdir(), "ledgerd-stopped-"));
  chmodSync(folder, 0o755);
  const child = spawn(process.execPath, [RUN, "lone", "--seconds", "60", "--users", "100"], { env: { ...process.env, TMPDIR: folder }, stdio: ["ignore", "ignore", "pipe"] });
  const ended = once(child, "close");
  let said = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => (said += text));
  await until(() => said.includes("round 1") || child.exitCode !== null);
  child.kill("SIGINT");
  await ended;
  expect(child.exitCode, said).toBe(1);
  expect(said).toContain("stopped by SIGINT");
  expect(readdirSync(folder)).toEqual([]);
  rmSync(folder, { recursive: true });
});

describe("the figures", () => {
  test("are the median, the least and the most", () => {
    expect(figuresOf([3, 1, 2])).toEqual({ median: 2, min: 1, max: 3 });
    expect(figuresOf([4, 1, 3, 2])).toEqual({ median: 2.5, min: 1, max: 4 });
    expect(figuresOf([])).toEqual({ median: Number.NaN, min: Number.NaN, max: Number.NaN });
  });

  test("grow by the slope of the closest line", () => {
    expect(slopeOf([{ x: 0, y: 1 }, { x: 1, y: 3 }, { x: 2, y: 5 }])).toBe(2);
    expect(slopeOf([{ x: 0, y: 5 }, { x: 1, y: 4 }, { x: 2, y: 6 }])).toBe(0.5);
  });

  test("of pgbench count what ended within the measured time", () => {
    const logs = ["0 1 900 0 100 0\n1 1 2000 0 100 600000\n", "2 1 4000 0 101 0\n2 2 3000 0 101 100000\n"];
    expect(countedIn(logs, 1000)).toEqual({ operations: 4, rate: 3, p50: 3, p99: 4 });
  });

  test("of a process are read past whatever its name contains", () => {
    const fields = ["S", "7", ...Array.from({ length: 9 }, () => "0"), "1", "2", "3", "4", "20"];
    expect(parseStat(`42 (a) b (c) ${fields.join(" ")}\n`)).toEqual({ pid: 42, parent: 7, ownMs: 30, childrenMs: 70 });
  });

  test("that are not available are said to be, in the table and as null", () => {
    const [workload] = workloads;
    if (workload === undefined) throw new Error("there are no workloads");
    const load = { operations: 10, rate: 5, p50: 1, p99: 2, cpuMs: 3, tookMs: 1000, cpuPerOperation: { caller: 300, service: undefined, postgres: undefined }, callerCores: 0.1 };
    const lineup = { contenders: { ledgerd: { title: "ledgerd", measure: () => Promise.resolve(load) } }, ratios: {}, notes: ["pgbench is not on this machine"] };
    const options = readOptions(["unary"], ids, QUICK);
    if (options === "help") throw new Error("asked for help");
    const settings = settingsOf(options, {});
    const results = [{ workload, lineup, rounds: [{ ledgerd: load }] }];
    expect(JSON.parse(jsonOf(results, { answered: 10n }, settings))).toMatchObject({
      workloads: [{ id: "unary", ratio: null, notes: lineup.notes, figures: { ledgerd: { rounds: [{ rate: 5, cpu_us: { caller: 300, service: null, postgres: null } }] } } }],
    });
    expect(tableOf(results, { answered: 10n }, settings)).toMatch(/ledgerd +5 \[5, 5\] +1\.00 +2\.00 +300\.0 +n\/a +n\/a +0\.10\n {2}\(pgbench is not on this machine\)/);
  });
});

describe("the requests", () => {
  test("are those of the contract, each with a key of its own and one of the users", () => {
    const lone = new Deducts(1000, "deduct");
    const one = lone.next();
    const deduct = fromBinary(DeductRequestSchema, one.subarray(PREFIX));
    expect(deduct).toMatchObject({ amount: { currency: "", amount: "0.01" }, idempotencyKey: lone.keyOf(one).toString() });

    const messages = new Deducts(1000, { writes: 500 }).next(2);
    const half = messages.length / 2;
    const writes = [messages.subarray(PREFIX, half), messages.subarray(half + PREFIX)].flatMap((message) => fromBinary(BatchWriteRequestSchema, message).writes);
    const deducts = writes.map(({ write }) => (write.case === "deduct" ? write.value : undefined));
    expect(new Set(deducts.map((each) => each?.idempotencyKey)).size).toBe(1000);
    expect(deducts.filter((each) => each?.amount?.amount !== "0.01")).toEqual([]);
    const users = deducts.map((each) => Number(each?.userId));
    expect(Math.min(...users)).toBeGreaterThanOrEqual(1);
    expect(Math.max(...users)).toBeLessThanOrEqual(1000);
    // By chance, next to never fewer.
    expect(new Set(users).size).toBeGreaterThan(500);
  });

  test("count as applied only where the answer says so", () => {
    const applied = { result: { case: "deduct" as const, value: { replayed: false } } };
    const refused = { result: { case: "refusal" as const, value: { message: "too poor" } } };
    const encoded = (...results: (typeof applied | typeof refused)[]): Buffer => Buffer.from(toBinary(BatchWriteResponseSchema, create(BatchWriteResponseSchema, { results })));
    expect(appliedBy(encoded(applied, applied))).toBe(2);
    expect(() => appliedBy(encoded(applied, refused))).toThrow("a write was not applied: too poor");
  });
});

describe("the caller", () => {
  const window = { warmUpMs: 0, measuredMs: 300 };
  const users = 3;
  let database: TestDatabase;
  let service: TestService;

  beforeAll(async () => {
    database = await createDatabase();
    service = await serve(database.url);
    for (let userId = 1n; userId <= users; userId += 1n) await service.ledger.topUp({ userId, amount: { amount: "100000" }, idempotencyKey: newKey() });
  });

  afterAll(async () => {
    await service.close();
    await database[Symbol.asyncDispose]();
  });

  test("makes calls and batches larger than the server's windows, and the log has each write once", async () => {
    const address = service.grpcAddress;
    const before = await takenIn(database.url);
    const deducts = await runUnary({ address, method: "Deduct", inFlight: 64, users }, window);
    const batches = await runBatches({ address, inFlight: 8, size: 1000, users }, window);
    expect(deducts.operations).toBeGreaterThanOrEqual(64);
    expect(batches.operations).toBeGreaterThanOrEqual(8000);
    const applied = BigInt(deducts.operations + batches.operations);
    await checkLog(database.url, before, { applied, failed: 0n });
    await expect(checkLog(database.url, before, { applied: applied + 1n, failed: 0n }), "one too few").rejects.toThrow("the log has");
    await expect(checkLog(database.url, before, { applied: applied - 1n, failed: 0n }), "one too many").rejects.toThrow("the log has");
    await checkLog(database.url, before, { applied: applied - 1n, failed: 1n });
    await checkDatabase(database);
  });

  test("keeps streams full to the measured time's end, one write per message or many, and each is in the log once", async () => {
    const address = service.grpcAddress;
    const before = await takenIn(database.url);
    const singly = await runStreams({ address, streams: 2, perMessage: 1, unanswered: 500, users }, window);
    const together = await runStreams({ address, streams: 2, perMessage: 50, unanswered: 2000, users }, window);
    expect(singly.operations).toBeGreaterThanOrEqual(2 * 500);
    expect(together.operations).toBeGreaterThanOrEqual(2 * 2000);
    await checkLog(database.url, before, { applied: BigInt(singly.operations + together.operations), failed: 0n });
  });

  test("reads balances, and the feed of the log to its present end", async () => {
    const reads = await runUnary({ address: service.grpcAddress, method: "GetBalance", inFlight: 8, users }, window);
    expect(reads.operations).toBeGreaterThanOrEqual(8);
    const [log] = await database.query<{ rows: bigint }>("SELECT count(*) AS rows FROM ledgerd.transactions");
    expect(BigInt((await runWatch({ address: service.grpcAddress })).operations)).toBe(log?.rows);
    const watched = await runWatches({ address: service.grpcAddress, watchers: 7 }, window);
    expect(watched.further, "it is seen to be ready").toEqual({ not_ready: 0 });
    const connected = await runConnects({ address: service.grpcAddress, connects: 30, idle: 5 });
    expect(connected.operations).toBe(30);
  });

  test("notices a balance that isn't the sum of its rows", async () => {
    const before = await takenIn(database.url);
    await database.query("UPDATE ledgerd.user_balances SET balance = balance - 1 WHERE user_id = 1");
    await expect(checkLog(database.url, before, { applied: 0n, failed: 0n })).rejects.toThrow("1 balances are not the sums");
    await database.query("UPDATE ledgerd.user_balances SET balance = balance + 1 WHERE user_id = 1");
  });

  test("sends no more than the server has room for, however late that reads", async () => {
    const server = createServer({ settings: { initialWindowSize: 1000 } });
    server.on("stream", (stream) => {
      let received = 0;
      stream.respond({ "content-type": "application/grpc" });
      stream.on("end", () => stream.end(framed(Buffer.from(String(received)))));
      // Not before everything that could be sent without asking has arrived.
      setImmediate(() => setImmediate(() => stream.on("data", (chunk: Buffer) => (received += chunk.length))));
    });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    const connection = await GrpcConnection.open(`127.0.0.1:${(server.address() as AddressInfo).port}`, "/test/Count");
    const messages = Array.from({ length: 4 }, (_, index) => framed(Buffer.alloc(100_000 * (index + 1))));
    const answers = await Promise.all(messages.map((message) => connection.call(message)));
    expect(answers.map(String)).toEqual(messages.map(({ length }) => String(length)));
    connection.close();
    await new Promise((resolve) => server.close(resolve));
  });

  test("is told when a call fails, by its method, and when it is refused", async () => {
    const connection = await GrpcConnection.open(service.grpcAddress, "/ledger.v1.LedgerService/NoSuchCall");
    await expect(connection.call(framed(Buffer.alloc(0)))).rejects.toThrow("/ledger.v1.LedgerService/NoSuchCall failed");
    connection.close();
    await expect(runBatches({ address: service.grpcAddress, inFlight: 1, size: 2, users: 1000 }, window)).rejects.toThrow("a write was not applied");
    await expect(runStreams({ address: service.grpcAddress, streams: 1, perMessage: 1, unanswered: 2, users: 1000 }, window)).rejects.toThrow("a write was not applied");
  });
});
