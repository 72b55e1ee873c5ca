// Rounds of work that follow each other for as long as a service runs.

import { setTimeout as delay } from "node:timers/promises";
import type { Logger } from "pino";

/** Something that is done again and again. */
export interface Repeated {
  /** Returns when the round at hand is over. */
  readonly stop: () => Promise<void>;
}

/** Does `round` again and again, with a pause between; a round that fails is logged, and the next one tries again. */
export function repeat(pauseMs: number, round: () => Promise<unknown>, onError: (error: unknown) => void): Repeated {
  const stopping = new AbortController();
  const running = (async () => {
    while (!stopping.signal.aborted) {
      await round().catch(onError);
      // Ends early, by an error of its own, when we are stopped.
      await delay(pauseMs, undefined, { signal: stopping.signal }).catch(() => undefined);
    }
  })();
  return {
    stop: () => {
      stopping.abort();
      return running;
    },
  };
}

/** What tells the log that a round of something has failed. */
export function logged(what: string, log: Logger): (error: unknown) => void {
  return (error) => log.warn({ err: error }, `${what} failed`);
}
