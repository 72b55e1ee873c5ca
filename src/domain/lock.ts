// Locks: leases on a number, for whoever must be the only one to do something.

/** A lock. Times in microseconds since 1970. */
export interface Lock {
  readonly key: bigint;
  /** Whether it is held right now. */
  readonly held: boolean;
  /** Who holds it, or held it last; empty: nobody ever did. */
  readonly instanceId: string;
  /** Of that lease; 0: there never was one. */
  readonly fencingToken: bigint;
  readonly acquiredAt: bigint;
  readonly heartbeatAt: bigint;
  readonly expiresAt: bigint;
}

/** Keys below are ledgerd's own. */
export const FIRST_KEY = -(2n ** 62n);

/** ledgerd's own locks: whoever holds one does that work for all instances. */
export const ownLocks = {
  expireHolds: FIRST_KEY - 1n,
  rescueJobs: FIRST_KEY - 2n,
  addPartitions: FIRST_KEY - 3n,
  verify: FIRST_KEY - 4n,
} as const;

/** A lock that nobody ever took. */
export function freeLock(key: bigint): Lock {
  return { key, held: false, instanceId: "", fencingToken: 0n, acquiredAt: 0n, heartbeatAt: 0n, expiresAt: 0n };
}
