// Waits for something to become true, by asking again and again; a test's own timeout ends it.

import { setTimeout as delay } from "node:timers/promises";
import { WAIT_LIMIT_MS } from "./patience.ts";

const PAUSE_MS = 10;

/** Returns once the condition holds; throws if it doesn't within minutes. */
export async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  const limit = performance.now() + WAIT_LIMIT_MS;
  while (!(await condition())) {
    if (performance.now() > limit) throw new Error(`it took longer than ${WAIT_LIMIT_MS} ms: ${condition.toString()}`);
    await delay(PAUSE_MS);
  }
}
