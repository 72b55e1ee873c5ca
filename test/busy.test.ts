// `npm run test:busy`: it says what failed beside its busy loops, and leaves none of them behind.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { isAlive } from "./harness/processes.ts";
import { until } from "./harness/until.ts";

const root = path.resolve(import.meta.dirname, "..");
let folder: string;

beforeEach(() => {
  folder = mkdtempSync(path.join(tmpdir(), "ledgerd-busy-test-"));
  symlinkSync(path.join(root, "node_modules"), path.join(folder, "node_modules"));
});

afterEach(() => rmSync(folder, { recursive: true }));

/** Runs the tests of this text beside busy loops. */
function runBusy(text: string, ...args: readonly string[]) {
  const imports = 'import { writeFileSync } from "node:fs";\nimport { expect, test } from "vitest";\n';
  writeFileSync(path.join(folder, "some.test.ts"), imports + text);
  const script = path.join(root, "scripts/test-busy.ts");
  const child = spawn(process.execPath, [script, ...args, "--root", folder], { stdio: ["ignore", "pipe", "ignore"] });
  let printed = "";
  child.stdout.setEncoding("utf8").on("data", (more: string) => (printed += more));
  const ended = once(child, "close").then(() => child.exitCode);
  const loops = (): readonly number[] =>
    (/^6 busy loops: (.*)$/m.exec(printed)?.[1] ?? "").split(" ").map(Number);
  return { child, ended, loops, printed: () => printed };
}

test("names the tests that failed, pass by pass, and fails", async () => {
  const text = 'test("holds", () => {});\ntest("breaks", () => expect(1).toBe(2));\n';
  const { ended, loops, printed } = runBusy(text, "--passes", "2");
  expect(await ended, printed()).toBe(1);
  for (const pass of [1, 2]) {
    const said = `^pass ${pass} of 2: 1 passed, 1 failed, in .* min\n  failed: .*some\\.test\\.ts: breaks$`;
    expect(printed()).toMatch(new RegExp(said, "m"));
  }
  expect(loops()).toHaveLength(6);
  expect(loops().filter(isAlive)).toEqual([]);
});

test("ends with its loops and its tests when it is told to", async () => {
  const begun = path.join(folder, "begun");
  const work = `writeFileSync(${JSON.stringify(begun)}, "");\n  return new Promise(() => {});`;
  const hangs = `test("hangs", () => {\n  ${work}\n}, 600_000);\n`;
  const { child, ended, loops, printed } = runBusy(hangs);
  await until(() => existsSync(begun) || child.exitCode !== null);
  expect(loops().filter(isAlive)).toHaveLength(6);
  child.kill("SIGTERM");
  expect(await ended, printed()).toBe(1);
  expect(printed()).toContain("pass 1 of 3: stopped by SIGTERM");
  expect(loops().filter(isAlive)).toEqual([]);
});
