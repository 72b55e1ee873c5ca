// How a long command tells how far it is.

import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { Progress, type Output } from "../../src/cli/progress.ts";

/** Keeps what is written. */
function paper(isTTY: boolean, columns = 80): Output & { readonly text: () => string } {
  let written = "";
  return { isTTY, columns, write: (text) => (written += text), text: () => written };
}

describe("progress", () => {
  beforeEach(() => void vi.useFakeTimers({ toFake: ["performance"] }));
  afterEach(() => void vi.useRealTimers());

  test("is a JSON object a line where no terminal is, on standard output alone; a phase that goes on is told at most once a second", () => {
    const [stdout, stderr] = [paper(false), paper(false)];
    const progress = new Progress("verify", stdout, stderr);
    progress.report({ phase: "accounts", done: 0, total: 10 });
    vi.advanceTimersByTime(999);
    progress.report({ phase: "accounts", done: 5, total: 10 });
    vi.advanceTimersByTime(1);
    progress.report({ phase: "accounts", done: 6, total: 10 });
    progress.report({ phase: "log", done: 3 });
    progress.tell("summary", { differences: 2n }, "two differences");
    progress.clear();
    expect(stderr.text()).toBe("");
    expect(stdout.text().split("\n").slice(0, -1).map((line) => JSON.parse(line) as unknown)).toEqual([
      { event: "progress", command: "verify", phase: "accounts", done: 0, total: 10, rate: 0 },
      { event: "progress", command: "verify", phase: "accounts", done: 6, total: 10, rate: 6 },
      { event: "progress", command: "verify", phase: "log", done: 3, rate: expect.any(Number) as number },
      { event: "summary", command: "verify", differences: "2" },
    ]);
  });

  test("is a bar on a terminal, on standard error, within its width; it makes room for what is told as text", () => {
    const [stdout, stderr] = [paper(true), paper(true, 60)];
    const progress = new Progress("verify", stdout, stderr);
    progress.report({ phase: "accounts", done: 1_500_000, total: 3_000_000 });
    expect(stderr.text()).toContain("\r\u001B[Kaccounts [###############---------------] 50 %: ");
    expect(stderr.text().length).toBeLessThan(4 + 60);
    progress.tell("difference", { kind: "balance_wrong" }, "balance_wrong: user 1");
    progress.tell("summary", {}, "1 difference");
    expect(stderr.text().endsWith("\r\u001B[K"), "the bar is gone").toBe(true);
    expect(stdout.text()).toBe("balance_wrong: user 1\n1 difference\n");
  });
});
