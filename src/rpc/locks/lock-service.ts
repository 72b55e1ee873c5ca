// LockService: leases for whoever must be the only one to do something.

import type { Currencies } from "../../domain/money/currency.ts";
import { FIRST_KEY, type Lock } from "../../domain/lock.ts";
import {
  AcquireLockRequestSchema,
  GetLockRequestSchema,
  HeartbeatLockRequestSchema,
  ListLocksRequestSchema,
  LockSchema,
  ReleaseLockRequestSchema,
  WatchLockRequestSchema,
  type Lock as LockMessage,
  type LockService,
} from "../../gen/ledger/v1/lock_service_pb.ts";
import type { LockWaits } from "../../postgres/locks/lock-waits.ts";
import type { Locks } from "../../postgres/locks/locks.ts";
import { time } from "../answers.ts";
import { sizeOf } from "../answer-size.ts";
import { lockSchemas as requests } from "./lock-requests.ts";
import { cursorOf, oneNumber, pageOf } from "../pages.ts";
import { errorOfRefusal } from "../errors.ts";
import { validate } from "../validation.ts";
import { endOfWait, type Handlers } from "../call.ts";

/** What the handlers work with. */
export interface LockParts {
  readonly currencies: Currencies;
  readonly locks: Locks;
  readonly lockWaits: LockWaits;
  /** Is told of each lock that was released. */
  readonly lockReleased: () => void;
}

const lockSize = sizeOf(LockSchema);

/** The handlers of LockService. */
export function lockHandlers({ locks, lockWaits, lockReleased, currencies }: LockParts): Handlers<typeof LockService> {
  const lost = (lockKey: bigint, fencingToken: bigint) => errorOfRefusal({ reason: "LOCK_LOST", lockKey, fencingToken }, false, currencies);
  return {
    acquireLock: async (request, call) => {
      const { lockKey: key, wait, ...own } = validate(requests.acquireLock, AcquireLockRequestSchema, request);
      const { won, lock } = await lockWaits.acquire({ key, ...own }, endOfWait(call, wait));
      const { fencingToken, instanceId, expiresAt } = lock;
      if (won) return { fencingToken, expireTime: time(expiresAt) };
      throw errorOfRefusal({ reason: "LOCK_HELD", lockKey: key, instanceId, expiresAt }, false, currencies);
    },

    heartbeatLock: async (request) => {
      const { lockKey, fencingToken, ttl } = validate(requests.heartbeatLock, HeartbeatLockRequestSchema, request);
      const lock = await locks.heartbeat(lockKey, fencingToken, ttl);
      if (lock === undefined) throw lost(lockKey, fencingToken);
      return { expireTime: time(lock.expiresAt) };
    },

    releaseLock: async (request) => {
      const { lockKey, fencingToken } = validate(requests.releaseLock, ReleaseLockRequestSchema, request);
      if (!(await locks.release(lockKey, fencingToken))) throw lost(lockKey, fencingToken);
      lockReleased();
      return {};
    },

    getLock: async (request) => {
      const { lockKey } = validate(requests.getLock, GetLockRequestSchema, request);
      const [lock] = await locks.read([lockKey]);
      return lock === undefined ? {} : { lock: lockMessage(lock) };
    },

    listLocks: async (request) => {
      const { pageSize, pageToken } = validate(requests.listLocks, ListLocksRequestSchema, request);
      const [after = FIRST_KEY - 1n] = cursorOf(["locks"], pageToken, oneNumber) ?? [];
      const found = await locks.list(after, pageSize + 1);
      const cursor = ({ key }: Lock) => [key];
      const page = pageOf(["locks"], { found, size: pageSize, message: lockMessage, sizeOf: lockSize, cursor });
      return { locks: page.messages, nextPageToken: page.nextPageToken };
    },

    watchLock: async function* (request, { signal }) {
      const { lockKey } = validate(requests.watchLock, WatchLockRequestSchema, request);
      let last: Lock | undefined;
      for await (const lock of lockWaits.watch(lockKey, signal)) {
        if (lock.held !== last?.held || lock.fencingToken !== last.fencingToken) yield { lock: lockMessage(lock) };
        last = lock;
      }
    },
  };
}

/** A lock as a message. */
function lockMessage(lock: Lock): LockMessage {
  const { key: lockKey, held, instanceId, fencingToken } = lock;
  const times = { acquireTime: time(lock.acquiredAt), heartbeatTime: time(lock.heartbeatAt), expireTime: time(lock.expiresAt) };
  return { $typeName: "ledger.v1.Lock", lockKey, held, instanceId, fencingToken, ...(fencingToken === 0n ? {} : times) };
}
