// When something is due that is done regularly: at a time of each day, or again after an interval. Times are UTC, in milliseconds since 1970.

/** When to do it. */
export type Schedule =
  | { readonly kind: "off" }
  /** So many minutes after midnight. */
  | { readonly kind: "daily"; readonly minute: number }
  | { readonly kind: "every"; readonly intervalMs: number };

const MINUTE_MS = 60_000;
const DAY_MS = 24 * 60 * MINUTE_MS;

/** Whether it is due now, having been done last at `last`; a time that was missed stays due. */
export function isDue(schedule: Schedule, last: number | undefined, now: number): boolean {
  switch (schedule.kind) {
    case "off":
      return false;
    case "daily":
      return last === undefined || last < lastTimeOfDay(schedule.minute, now);
    case "every":
      return last === undefined || last + schedule.intervalMs <= now;
  }
}

function lastTimeOfDay(minute: number, now: number): number {
  const today = now - (now % DAY_MS) + minute * MINUTE_MS;
  return today <= now ? today : today - DAY_MS;
}
