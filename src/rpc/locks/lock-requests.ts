// The requests about locks: checked, and turned into domain values.

import { z } from "zod";
import { FIRST_KEY } from "../../domain/lock.ts";
import { pageTokenText } from "../pages.ts";
import { id, leaseInterval, leaseIntervalOrDefault, name, pageSize, printableText, waitInterval } from "../validation.ts";

const lockKey = z.bigint().refine((key) => key >= FIRST_KEY, "must not be below -2^62: those are ledgerd's own");

/** The schemas of requests about locks. */
export const lockSchemas = {
  acquireLock: z.object({ lockKey, instanceId: name(100), ttl: leaseIntervalOrDefault, wait: waitInterval, requestId: printableText }),
  heartbeatLock: z.object({ lockKey, fencingToken: id, ttl: leaseInterval.optional() }),
  releaseLock: z.object({ lockKey, fencingToken: id }),
  getLock: z.object({ lockKey }),
  listLocks: z.object({ pageSize, pageToken: pageTokenText }),
  watchLock: z.object({ lockKey }),
};
