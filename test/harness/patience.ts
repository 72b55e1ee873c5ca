// How long tests wait: only to end what hangs, so much longer than anything takes beside six busy loops.

const MINUTE = 60_000;

/** For a condition to become true, or a process to end. */
export const WAIT_LIMIT_MS = 3 * MINUTE;

/** For a test or a hook, which may wait more than once. */
export const TEST_LIMIT_MS = 10 * MINUTE;

/** The deadline of calls whose time a test doesn't look at, as a setting of the service. */
export const CALL_DEADLINE = "300s";

/** The same for a client that has a deadline of its own. */
export const patient = { timeoutMs: 5 * MINUTE };
