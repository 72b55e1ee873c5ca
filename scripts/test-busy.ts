// Runs the tests beside busy loops that take the CPUs: what passes only on an idle machine fails here.
//   node scripts/test-busy.ts                        all tests, three times
//   node scripts/test-busy.ts --passes 1 test/jobs   once, some files; what isn't ours is for vitest

import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { z } from "zod";

const LOOPS = 6;
const PASSES = 3;

/** It ends by itself when whoever started it is gone. */
const LOOP = "const starter = process.ppid; while (process.ppid === starter);";

const root = path.resolve(import.meta.dirname, "..");
const folder = mkdtempSync(path.join(tmpdir(), "ledgerd-busy-"));
const reportFile = path.join(folder, "report.json");

const reportSchema = z.object({
  testResults: z.array(
    z.object({
      name: z.string(),
      status: z.string(),
      assertionResults: z.array(z.object({ fullName: z.string(), status: z.string() })),
    }),
  ),
});

const stopping = new AbortController();
let running: ChildProcess | undefined;

for (const signal of ["SIGINT", "SIGTERM"] as const) {
  process.on(signal, () => {
    stopping.abort(signal);
    running?.kill(signal);
  });
}

/** Whether every pass passed. */
async function main(): Promise<boolean> {
  const { passes, rest } = readArguments(process.argv.slice(2));
  const loops = Array.from({ length: LOOPS }, () => spawn(process.execPath, ["-e", LOOP], { stdio: "ignore" }));
  print(`${LOOPS} busy loops: ${loops.map(({ pid }) => pid).join(" ")}`);
  const results: string[] = [];
  let passed = true;
  try {
    for (let pass = 1; pass <= passes && !stopping.signal.aborted; pass++) {
      const { line, isGood } = await runTests(rest);
      results.push(`pass ${pass} of ${passes}: ${line}`);
      print("", ...results);
      passed &&= isGood;
    }
  } finally {
    for (const loop of loops) loop.kill("SIGKILL");
  }
  return passed;
}

function readArguments(given: readonly string[]): { passes: number; rest: readonly string[] } {
  const at = given.indexOf("--passes");
  if (at < 0) return { passes: PASSES, rest: given };
  const passes = Number(given[at + 1]);
  if (!Number.isInteger(passes) || passes < 1) throw new Error("--passes must be followed by a whole number from 1");
  return { passes, rest: given.toSpliced(at, 2) };
}

/** Runs them once; the line tells how many passed, what failed, and how long it took. */
async function runTests(rest: readonly string[]): Promise<{ line: string; isGood: boolean }> {
  const begun = performance.now();
  rmSync(reportFile, { force: true });
  const vitest = path.join(root, "node_modules/vitest/vitest.mjs");
  const reporters = ["--reporter=default", "--reporter=json", `--outputFile.json=${reportFile}`];
  running = spawn(process.execPath, [vitest, "run", ...reporters, ...rest], { cwd: root, stdio: "inherit" });
  const [code] = (await once(running, "exit")) as [number | null];
  const minutes = ((performance.now() - begun) / 60_000).toFixed(1);
  if (stopping.signal.aborted) return { line: `stopped by ${stopping.signal.reason}`, isGood: false };
  const { testResults } = reportSchema.parse(JSON.parse(readFileSync(reportFile, "utf8")));
  const tests = testResults.flatMap(({ name, assertionResults }) =>
    assertionResults.map(({ fullName, status }) => ({ title: `${path.relative(root, name)}: ${fullName}`, status })),
  );
  const failed = tests.filter(({ status }) => status === "failed").map(({ title }) => title);
  const unread = testResults.filter(({ status, assertionResults }) =>
    status === "failed" && assertionResults.every((test) => test.status !== "failed"));
  const names = [...failed, ...unread.map(({ name }) => `${path.relative(root, name)}: the file as a whole`)];
  const passed = tests.filter(({ status }) => status === "passed").length;
  const line = `${passed} passed, ${names.length} failed, in ${minutes} min`;
  return { line: [line, ...names.map((name) => `  failed: ${name}`)].join("\n"), isGood: code === 0 };
}

function print(...lines: readonly string[]): void {
  for (const line of lines) process.stdout.write(`${line}\n`);
}

try {
  process.exitCode = (await main()) ? 0 : 1;
} finally {
  rmSync(folder, { recursive: true });
}
