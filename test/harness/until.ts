// Waits for something to become true, by asking again and again; a test's own timeout ends it.

import { setTimeout as delay } from "node:timers/promises";

const PAUSE_MS = 10;
const LIMIT_MS = 30_000;

/** Returns once the condition holds; throws if it doesn't within half a minute. */
export async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  const limit = performance.now() + LIMIT_MS;
  while (!(await condition())) {
    if (performance.now() > limit) throw new Error(`it took longer than ${LIMIT_MS} ms: ${condition.toString()}`);
    await delay(PAUSE_MS);
  }
}
