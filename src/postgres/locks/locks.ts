// Locks as rows of lock_heartbeat. Time is the database's, taken under the row's lock; so are the tokens, which makes
// them grow. (Over a failover as well: `token_source` sees to that, once for all, in the first transaction that draws
// one.)

import { sql, type DatabasePool } from "slonik";
import { z } from "zod";
import { freeLock, type Lock } from "../../domain/lock.ts";

/** Who wants a lock. */
export interface Acquire {
  readonly key: bigint;
  readonly instanceId: string;
  /** In microseconds. */
  readonly ttl: bigint;
  /** The caller's id of this call; empty: none. */
  readonly requestId: string;
}

const lockColumns = sql.fragment`
  l.lock_key, l.expires_at > clock_timestamp() AS held, l.instance_id, l.fencing_token,
  (extract(epoch FROM l.acquired_at) * 1000000)::int8 AS acquired_at,
  (extract(epoch FROM l.last_heartbeat) * 1000000)::int8 AS last_heartbeat,
  (extract(epoch FROM l.expires_at) * 1000000)::int8 AS expires_at`;

const lockRow = z
  .object({
    lock_key: z.bigint(),
    held: z.boolean(),
    instance_id: z.string(),
    fencing_token: z.bigint(),
    acquired_at: z.bigint(),
    last_heartbeat: z.bigint(),
    expires_at: z.bigint(),
  })
  .transform((row): Lock => ({
    key: row.lock_key,
    held: row.held,
    instanceId: row.instance_id,
    fencingToken: row.fencing_token,
    acquiredAt: row.acquired_at,
    heartbeatAt: row.last_heartbeat,
    expiresAt: row.expires_at,
  }));

/** Takes, extends, releases and reads locks. */
export interface Locks {
  /** The lease, if the lock is free, or if this very call took it before; undefined while another one is valid. */
  readonly acquire: (acquire: Acquire) => Promise<Lock | undefined>;
  /** Extends a valid lease, by this many microseconds from now or by what it was taken for; undefined if it is over. */
  readonly heartbeat: (key: bigint, fencingToken: bigint, ttl: bigint | undefined) => Promise<Lock | undefined>;
  /** Ends a valid lease; answers whether it was ended by this or by an earlier such call. */
  readonly release: (key: bigint, fencingToken: bigint) => Promise<boolean>;
  /** The locks with these keys, in their order. */
  readonly read: (keys: readonly bigint[]) => Promise<readonly Lock[]>;
  /** Up to `limit` held locks with keys above `after`, by key. */
  readonly list: (after: bigint, limit: number) => Promise<readonly Lock[]>;
}

/** The locks, over a pool. */
export function locksOf(pool: DatabasePool): Locks {
  return { acquire, heartbeat, release, read, list };

  async function acquire({ key, instanceId, ttl, requestId }: Acquire): Promise<Lock | undefined> {
    const lease = sql.fragment`${ttl}::int8 * interval '1 microsecond'`;
    const request = requestId === "" ? null : requestId;
    // The repeat of a call finds its own lease, and leaves it as it is.
    const free = sql.fragment`l.expires_at <= clock_timestamp()`;
    // Of the source that VALUES has made sure of.
    const taken = await pool.maybeOne(sql.type(lockRow)`
      INSERT INTO ledgerd.lock_heartbeat AS l (lock_key, instance_id, last_heartbeat, fencing_token, ttl, acquired_at, expires_at, request_id)
      VALUES (${key}, ${instanceId}, clock_timestamp(), nextval(ledgerd.token_source('ledgerd.lock_token_seq')), ${lease},
              clock_timestamp(), clock_timestamp() + ${lease}, ${request})
      ON CONFLICT (lock_key) DO UPDATE SET
        instance_id = EXCLUDED.instance_id, request_id = EXCLUDED.request_id, released = FALSE,
        last_heartbeat = CASE WHEN ${free} THEN clock_timestamp() ELSE l.last_heartbeat END,
        fencing_token = CASE WHEN ${free} THEN nextval('ledgerd.lock_token_seq') ELSE l.fencing_token END,
        ttl = CASE WHEN ${free} THEN EXCLUDED.ttl ELSE l.ttl END,
        acquired_at = CASE WHEN ${free} THEN clock_timestamp() ELSE l.acquired_at END,
        expires_at = CASE WHEN ${free} THEN clock_timestamp() + ${lease} ELSE l.expires_at END
      WHERE ${free} OR (l.instance_id = EXCLUDED.instance_id AND l.request_id = EXCLUDED.request_id)
      RETURNING ${lockColumns}`);
    return taken ?? undefined;
  }

  async function heartbeat(key: bigint, fencingToken: bigint, ttl: bigint | undefined): Promise<Lock | undefined> {
    const lease = ttl === undefined ? sql.fragment`l.ttl` : sql.fragment`${ttl}::int8 * interval '1 microsecond'`;
    const extended = await pool.maybeOne(sql.type(lockRow)`
      UPDATE ledgerd.lock_heartbeat l
      SET last_heartbeat = clock_timestamp(), expires_at = greatest(l.expires_at, clock_timestamp() + ${lease})
      WHERE l.lock_key = ${key} AND l.fencing_token = ${fencingToken} AND l.expires_at > clock_timestamp()
      RETURNING ${lockColumns}`);
    return extended ?? undefined;
  }

  async function release(key: bigint, fencingToken: bigint): Promise<boolean> {
    const released = await pool.maybeOne(sql.type(lockRow)`
      UPDATE ledgerd.lock_heartbeat l
      SET released = TRUE, expires_at = least(l.expires_at, clock_timestamp())
      WHERE l.lock_key = ${key} AND l.fencing_token = ${fencingToken} AND (l.released OR l.expires_at > clock_timestamp())
      RETURNING ${lockColumns}`);
    return released !== null;
  }

  async function read(keys: readonly bigint[]): Promise<readonly Lock[]> {
    const found = await pool.any(sql.type(lockRow)`
      SELECT ${lockColumns} FROM ledgerd.lock_heartbeat l WHERE l.lock_key = ANY(${sql.array(keys, "int8")})`);
    const byKey = new Map(found.map((lock) => [lock.key, lock]));
    return keys.map((key) => byKey.get(key) ?? freeLock(key));
  }

  async function list(after: bigint, limit: number): Promise<readonly Lock[]> {
    return pool.any(sql.type(lockRow)`
      SELECT ${lockColumns}
      FROM ledgerd.lock_heartbeat l
      WHERE l.lock_key > ${after} AND l.expires_at > clock_timestamp()
      ORDER BY l.lock_key
      LIMIT ${limit}`);
  }
}
