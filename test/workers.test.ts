// The worker loops of docs/workers.md, run as they are printed, against a server that goes away and comes back.

import { execFileSync, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { JobStatus, type Job } from "../src/gen/ledger/v1/job_service_pb.ts";
import { createDatabase, type TestDatabase } from "./harness/database.ts";
import { checkDatabase } from "./harness/inspect.ts";
import { startInstance, type Instance } from "./harness/instance.ts";
import { newKey } from "./harness/service.ts";
import { until } from "./harness/until.ts";

const root = path.resolve(import.meta.dirname, "..");
const docs = readFileSync(path.join(root, "docs/workers.md"), "utf8");
const rub = (amount: string) => ({ currency: "RUB", amount });
const MODEL = "cat-painter";
const settings = { LEDGERD_WAIT_POLL: "20ms", LEDGERD_JOB_SWEEP_INTERVAL: "50ms" };

let database: TestDatabase;
let instance: Instance;
let folder = "";

beforeAll(async () => {
  database = await createDatabase();
  instance = await startInstance(database.url, settings);
});

afterAll(async () => {
  await instance.end("SIGTERM");
  await checkDatabase(database);
  await database[Symbol.asyncDispose]();
});

/** The blocks of one language that the docs print. */
function printed(language: string): readonly string[] {
  return [...docs.matchAll(new RegExp(`\`\`\`${language}\\n([\\s\\S]*?)\`\`\``, "g"))].map(([, text = ""]) => text);
}

const inProject = (file: string): string => path.join(folder, file);

/** A project of its own, with the proto files and what this repository has installed. */
function makeProject(): void {
  folder = mkdtempSync(path.join(tmpdir(), "ledgerd-worker-"));
  cpSync(path.join(root, "proto/ledger"), inProject("proto/ledger"), { recursive: true });
  symlinkSync(path.join(root, "node_modules"), inProject("node_modules"));
}

afterEach(() => rmSync(folder, { recursive: true, force: true }));

const contentsOf = (file: string): string => readFileSync(inProject(file), { encoding: "utf8", flag: "a+" });

/** Creates a job whose prompt says what is to go wrong; its id. */
async function createJob(prompt: string): Promise<bigint> {
  const request = { userId: 42n, modelId: MODEL, prompt, cost: rub("10"), maxAttempts: 1, idempotencyKey: newKey() };
  const { job } = await instance.jobs.createJob(request);
  return job?.id ?? 0n;
}

async function whenFinal(jobId: bigint): Promise<Job | undefined> {
  const read = async () => (await instance.jobs.getJob({ jobId })).job;
  await until(async () => (await read())?.completeTime !== undefined);
  return read();
}

/** Waits until the worker is at a job that waits for a word, does something, and gives the word. */
async function during(prompt: string, event: () => Promise<void>): Promise<void> {
  await until(() => contentsOf("begun").includes(`${prompt}\n`));
  await event();
  writeFileSync(inProject(prompt), "");
}

/** The lease is over; another worker takes the job, and completes it. */
async function loseLease(jobId: bigint): Promise<void> {
  await database.query("UPDATE ledgerd.jobs SET max_attempts = 2, lease_expires_at = now() WHERE id = $1", [jobId]);
  const claim = { workerId: "another", modelIds: [MODEL], wait: { seconds: 30n } };
  const [claimed] = (await instance.jobs.claimJobs(claim)).jobs;
  expect(claimed?.job?.id).toBe(jobId);
  const lease = { jobId, fencingToken: claimed?.fencingToken ?? 0n };
  await instance.jobs.completeJob({ ...lease, resultUrl: "https://cats/another", finalCost: rub("1") });
}

/** The server dies at once, something happens, and it is back at its address. */
async function restartServer(meanwhile: () => Promise<void>): Promise<void> {
  const { grpcAddress } = instance;
  await instance.end("SIGKILL");
  await meanwhile();
  instance = await startInstance(database.url, { ...settings, LEDGERD_GRPC_ADDR: grpcAddress });
}

/** The work is done while there is no server to say so to. */
async function finishWithoutServer(): Promise<void> {
  writeFileSync(inProject("restart"), "");
  await until(() => contentsOf("done").includes("restart\n"));
}

/** Runs a worker until it has done everything that it is given. */
async function checkWorker(program: string, args: readonly string[], address: string): Promise<void> {
  await instance.ledger.topUp({ userId: 42n, amount: rub("1000"), idempotencyKey: newKey() });
  const { balance: before } = await instance.ledger.getBalance({ userId: 42n });
  const env = { PATH: process.env["PATH"] ?? "", LEDGERD: address };
  const worker = spawn(program, args, { cwd: folder, env, stdio: ["ignore", "inherit", "pipe"] });
  let told = "";
  worker.stderr.setEncoding("utf8").on("data", (text: string) => (told += text));
  const ended = once(worker, "exit");
  try {
    await checkChores();
  } catch (error) {
    throw new Error(`the worker said:\n${told}`, { cause: error });
  } finally {
    worker.kill("SIGKILL");
    await ended;
  }
  const { balance: after } = await instance.ledger.getBalance({ userId: 42n });
  const charged = Number(before?.balance?.amount) - Number(after?.balance?.amount);
  expect([charged, after?.held?.amount], "7.50 twice, 10 three times, 1, and 1 by another worker").toEqual([
    47,
    "0.00",
  ]);
  expect(told).toContain("25.00; 10.00 was charged");
  const prompts = contentsOf("begun").split("\n").slice(0, -1);
  expect(new Set(prompts).size, "each job was done once").toBe(prompts.length);
}

async function checkChores(): Promise<void> {
  const completed = (amount: string) => ({
    status: JobStatus.COMPLETED,
    attempt: 1,
    resultUrl: "https://cats/1",
    finalCost: rub(amount),
  });
  const failed = (errorMessage: string) => ({
    status: JobStatus.FAILED,
    errorMessage: expect.stringContaining(errorMessage) as string,
  });
  for (const [prompt, expected] of [
    ["7.50", completed("7.50")],
    // More than is held, too exact, and no number: what was held.
    ["25.00", completed("10.00")],
    ["7.505", completed("10.00")],
    ["dear", completed("10.00")],
    ["a dog", failed("only cats")],
    ["nul", failed("a\uFFFDb")],
    ["half", failed("half a pair: ")],
    ["emoji", failed("… (cut at 2,000 characters)")],
    ["long url", failed("result_url must have at most 2000 characters")],
  ] as const) {
    expect(await whenFinal(await createJob(prompt)), prompt).toMatchObject(expected);
  }
  const lost = await createJob("lost");
  await during("lost", () => loseLease(lost));
  const restarted = await createJob("restart");
  await during("restart", () => restartServer(finishWithoutServer));
  expect(await whenFinal(restarted)).toMatchObject(completed("7.50"));
  // Now it waits for jobs.
  await restartServer(() => Promise.resolve());
  expect(await whenFinal(await createJob("1.00"))).toMatchObject(completed("1.00"));
  const anothers = {
    status: JobStatus.COMPLETED,
    attempt: 2,
    resultUrl: "https://cats/another",
    finalCost: rub("1.00"),
  };
  expect(await whenFinal(lost)).toMatchObject(anothers);
}

test("the loop in TypeScript works as it is printed", async () => {
  makeProject();
  writeFileSync(inProject("buf.gen.yaml"), printed("yaml")[0] ?? "");
  for (const commands of printed("sh").slice(0, 2))
    execFileSync("sh", ["-e", "-c", commands], { cwd: folder, stdio: ["ignore", "ignore", "inherit"] });
  writeFileSync(inProject("worker.ts"), printed("ts")[0] ?? "");
  writeFileSync(inProject("work.ts"), workInTypeScript);
  const options = [
    "--strict",
    "--target",
    "esnext",
    "--module",
    "nodenext",
    "--allowImportingTsExtensions",
    "--types",
    "node",
  ];
  execFileSync("npx", ["tsc", "--noEmit", "--ignoreConfig", "--skipLibCheck", ...options, "worker.ts"], {
    cwd: folder,
    stdio: "inherit",
  });
  await checkWorker(process.execPath, ["worker.ts"], `http://${instance.grpcAddress}`);
});

test("the loop in Python works as it is printed", async (context) => {
  const isThere = spawnSync("python3", ["-c", "import grpc_tools, grpc_status"]).status === 0;
  if (!isThere) return context.skip("grpcio-tools and grpcio-status for Python are not on this machine");
  makeProject();
  execFileSync("sh", ["-e", "-c", printed("sh")[2] ?? ""], { cwd: folder });
  writeFileSync(inProject("worker.py"), printed("python")[0] ?? "");
  writeFileSync(inProject("work.py"), workInPython);
  await checkWorker("python3", ["worker.py"], instance.grpcAddress);
});

const workInTypeScript = `
import { appendFileSync, existsSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import type { Job } from "./gen/ledger/v1/job_service_pb.ts";

const errors: Readonly<Record<string, string>> = {
  "a dog": "only cats", nul: "a\\0b", half: "half a pair: \\ud83d", emoji: "😀".repeat(5000),
};

export async function work({ prompt }: Job, signal: AbortSignal) {
  appendFileSync("begun", prompt + "\\n");
  if (prompt in errors) throw new Error(errors[prompt]);
  while ((prompt === "lost" || prompt === "restart") && !existsSync(prompt)) await delay(10, undefined, { signal });
  appendFileSync("done", prompt + "\\n");
  const amount = /^\\d/.test(prompt) || prompt === "dear" ? prompt : "7.50";
  const resultUrl = "https://cats/1" + (prompt === "long url" ? "1".repeat(2000) : "");
  return { resultUrl, finalCost: { currency: "RUB", amount } };
}
`;

const workInPython = `
import os, time

ERRORS = {"a dog": "only cats", "nul": "a\\0b", "half": "half a pair: \\ud83d", "emoji": "😀" * 5000}

def note(file, prompt):
    with open(file, "a") as notes: notes.write(prompt + "\\n")

def work(job, stopped):
    note("begun", job.prompt)
    if job.prompt in ERRORS: raise ValueError(ERRORS[job.prompt])
    while job.prompt in ("lost", "restart") and not os.path.exists(job.prompt): time.sleep(0.01)
    note("done", job.prompt)
    cost = job.prompt if job.prompt[0].isdigit() or job.prompt == "dear" else "7.50"
    return "https://cats/1" + ("1" * 2000 if job.prompt == "long url" else ""), cost
`;
