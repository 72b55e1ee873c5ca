// The connections of a process that serves, and who takes from which. Nobody waits behind those of another kind:
// however many callers read and watch, leases are held, the live feed moves on, and probes are answered. Beside these,
// a process has one on which reads wait to be durable, two for verifications, and one for each lane of the journal.

import type { DatabasePool } from "slonik";

/** The pools. What bounds each is that it has no more connections; its users wait for each other, in order. */
export interface Pools {
  /** Calls: their reads, claims and locks. `LEDGERD_POOL_MAX` connections. */
  readonly calls: DatabasePool;
  /**
   * What serves all who wait or watch: the end of the log, changes of jobs, jobs for workers that wait, the service's
   * status. One look of each kind at a time serves all of a process.
   */
  readonly live: DatabasePool;
  /** What each watch reads for itself until it is level: pages of the log, and the jobs that a user has at first. */
  readonly catchingUp: DatabasePool;
  /** The process's own work: leases of what one instance does for all, expired holds, lost jobs, partitions. */
  readonly background: DatabasePool;
  /** The look that readiness comes from. */
  readonly readiness: DatabasePool;
}

/** How many connections each has, beside those for calls. */
const SIZES = { live: 2, catchingUp: 2, background: 3, readiness: 1 };

/** All of them together, with those for calls. */
export function poolConnections(calls: number): number {
  return Object.values(SIZES).reduce((sum, size) => sum + size, calls);
}

/** How many connections a pool has at most, and how many it keeps when they are idle. */
export interface PoolSize {
  readonly min: number;
  readonly max: number;
}

/** Opens them, the one for calls with so many. */
export async function openPools(calls: PoolSize, open: (size: PoolSize) => Promise<DatabasePool>): Promise<Pools> {
  return {
    calls: await open(calls),
    live: await open({ min: 0, max: SIZES.live }),
    catchingUp: await open({ min: 0, max: SIZES.catchingUp }),
    background: await open({ min: 0, max: SIZES.background }),
    readiness: await open({ min: 0, max: SIZES.readiness }),
  };
}
