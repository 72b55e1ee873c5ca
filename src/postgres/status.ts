// How the database is, for operators and for readiness.

import { sql } from "slonik";
import { z } from "zod";
import type { Feed } from "./feed.ts";
import { shared } from "./gather.ts";
import type { Pools } from "./pools.ts";

const statusRow = z.object({ database_version: z.string(), schema_version: z.number(), partitions: z.number(), headroom: z.bigint() });
const readinessRow = z.object({ replica: z.boolean(), schema_version: z.number() });

/** Reads the state of the database. */
export type Status = ReturnType<typeof statusOf>;

/** The reads of the database's state. */
export function statusOf({ calls, live, readiness }: Pools, feed: Feed) {
  return { read: shared(read), problem };

  /** Tells the state of the pool for calls, and so doesn't wait for that. */
  async function read() {
    const found = await live.one(sql.type(statusRow)`
      SELECT current_setting('server_version') AS database_version,
             (SELECT coalesce(max(number), 0) FROM ledgerd.schema_migrations) AS schema_version,
             p.partitions, (p.partitions_end - s.last_value) AS headroom
      FROM ledgerd.transactions_id_seq s,
           LATERAL (SELECT count(*)::int AS partitions,
                           max(substring(pg_get_expr(c.relpartbound, c.oid) FROM 'TO \\(''(\\d+)''\\)')::int8) AS partitions_end
                    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
                    WHERE i.inhparent = 'ledgerd.transactions'::regclass) AS p`);
    const { acquiredConnections, idleConnections, waitingClients } = calls.state();
    return {
      databaseVersion: found.database_version,
      schemaVersion: found.schema_version,
      pool: { acquired: acquiredConnections, idle: idleConnections, waiting: waitingClients },
      partitions: { count: found.partitions, headroom: found.headroom },
      feedLag: await feed.lag(),
    };
  }

  /** Why the database can't take writes; undefined if it can. Throws if it can't be reached. */
  async function problem(schemaVersion: number): Promise<string | undefined> {
    const found = await readiness.one(sql.type(readinessRow)`
      SELECT pg_is_in_recovery() AS replica, (SELECT coalesce(max(number), 0) FROM ledgerd.schema_migrations) AS schema_version`);
    if (found.replica) return "the database is a replica and takes no writes";
    // A newer one is right: migrations leave what earlier versions rely on, so that old processes serve beside new ones.
    if (found.schema_version < schemaVersion) return `the database has schema ${found.schema_version}, this ledgerd needs ${schemaVersion}`;
    return undefined;
  }
}
