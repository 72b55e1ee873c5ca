import { defineConfig } from "vitest/config";
import { TEST_LIMIT_MS } from "./test/harness/patience.ts";

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    globalSetup: ["./test/harness/global-setup.ts"],
    pool: "forks",
    maxWorkers: 2,
    testTimeout: TEST_LIMIT_MS,
    hookTimeout: TEST_LIMIT_MS,
    reporters: ["default", "./test/harness/summary-reporter.ts"],
  },
});
