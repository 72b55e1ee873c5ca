// The worker loops of docs/workers.md, run as they are printed.

import { execFileSync, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { JobStatus } from "../src/gen/ledger/v1/job_service_pb.ts";
import { createDatabase, type TestDatabase } from "./harness/database.ts";
import { checkDatabase } from "./harness/inspect.ts";
import { newKey, serve, type TestService } from "./harness/service.ts";
import { until } from "./harness/until.ts";

const root = path.resolve(import.meta.dirname, "..");
const docs = readFileSync(path.join(root, "docs/workers.md"), "utf8");
const printed = (language: string): string => new RegExp(`\`\`\`${language}\\n([\\s\\S]*?)\`\`\``).exec(docs)?.[1] ?? "";

let database: TestDatabase;
let service: TestService;
let folder: string;

beforeAll(async () => {
  database = await createDatabase();
  service = await serve(database.url, { LEDGERD_WAIT_POLL: "20ms" });
  folder = mkdtempSync(path.join(tmpdir(), "ledgerd-worker-"));
});

afterAll(async () => {
  await service.close();
  await checkDatabase(database);
  await database[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true });
});

/** Runs a worker until it has done one job well and given another one up. */
async function checkWorker(program: string, args: readonly string[], address: string): Promise<void> {
  const userId = 42n;
  await service.ledger.topUp({ userId, amount: { amount: "100" }, idempotencyKey: newKey() });
  const create = async (prompt: string): Promise<bigint> => {
    const { job } = await service.jobs.createJob({ userId, modelId: "cat-painter", prompt, cost: { amount: "10" }, maxAttempts: 1, idempotencyKey: newKey() });
    return job?.id ?? 0n;
  };
  const [good, bad] = [await create("a cat"), await create("a dog")];
  const worker = spawn(program, args, { cwd: folder, env: { PATH: process.env["PATH"] ?? "", LEDGERD: address }, stdio: ["ignore", "inherit", "inherit"] });
  const ended = once(worker, "exit");
  const stateOf = async (jobId: bigint) => (await service.jobs.getJob({ jobId })).job;
  try {
    await until(async () => (await stateOf(good))?.completeTime !== undefined && (await stateOf(bad))?.completeTime !== undefined);
  } finally {
    worker.kill("SIGKILL");
    await ended;
  }
  expect(await stateOf(good)).toMatchObject({ status: JobStatus.COMPLETED, resultUrl: "https://cats/1", finalCost: { currency: "RUB", amount: "7.50" } });
  expect(await stateOf(bad)).toMatchObject({ status: JobStatus.FAILED });
  expect((await stateOf(bad))?.errorMessage).toContain("only cats");
}

test("the loop in TypeScript works as it is printed", async () => {
  symlinkSync(path.join(root, "node_modules"), path.join(folder, "node_modules"));
  // What `buf generate` makes in a user's project.
  symlinkSync(path.join(root, "src/gen"), path.join(folder, "gen"));
  writeFileSync(path.join(folder, "package.json"), '{"type": "module"}');
  writeFileSync(path.join(folder, "worker.ts"), printed("ts"));
  const work = `export async function work(job) {
    if (job.prompt !== "a cat") throw new Error("only cats");
    return { resultUrl: "https://cats/1", finalCost: { currency: "RUB", amount: "7.50" } };
  }`;
  writeFileSync(path.join(folder, "work.ts"), work);
  await checkWorker(process.execPath, ["--preserve-symlinks", "worker.ts"], `http://${service.grpcAddress}`);
});

test("the loop in Python works as it is printed", async (context) => {
  if (spawnSync("python3", ["-c", "import grpc_tools"]).status !== 0) return context.skip("grpcio-tools for Python is not on this machine");
  const files = readdirSync(path.join(root, "proto/ledger/v1")).map((file) => `proto/ledger/v1/${file}`);
  execFileSync("python3", ["-m", "grpc_tools.protoc", "-I", "proto", `--python_out=${folder}`, `--grpc_python_out=${folder}`, ...files], { cwd: root });
  writeFileSync(path.join(folder, "worker.py"), printed("python"));
  writeFileSync(path.join(folder, "work.py"), 'def work(job, stopped):\n    if job.prompt != "a cat": raise ValueError("only cats")\n    return "https://cats/1", "7.50"\n');
  await checkWorker("python3", ["worker.py"], service.grpcAddress);
});
