// The last line of a run: `N passed, N failed, N skipped`, and before it why each skipped test was skipped.

import type { Reporter, TestModule } from "vitest/node";

export default class SummaryReporter implements Reporter {
  onTestRunEnd(modules: readonly TestModule[], unhandled: readonly unknown[]): void {
    let passed = 0;
    let failed = unhandled.length;
    const skipped: string[] = [];
    for (const module of modules) {
      failed += module.errors().length;
      for (const test of module.children.allTests()) {
        const result = test.result();
        if (result.state === "passed") passed += 1;
        else if (result.state === "failed") failed += 1;
        else skipped.push(`skipped: ${test.fullName}${"note" in result && result.note !== undefined ? ` (${result.note})` : ""}\n`);
      }
    }
    process.stdout.write(`\n${skipped.join("")}${passed} passed, ${failed} failed, ${skipped.length} skipped\n`);
  }
}
