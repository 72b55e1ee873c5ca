// How the database is, for operators and for readiness.

import { sql } from "slonik";
import { z } from "zod";
import { reasonOf } from "./connection/connect.ts";
import { tellsOfDamage } from "./connection/errors.ts";
import type { Feed } from "./feed/feed.ts";
import { shared } from "./sharing/gather.ts";
import type { Pools } from "./connection/pools.ts";

const statusRow = z.object({ database_version: z.string(), schema_version: z.number(), partitions: z.number(), headroom: z.bigint() });
const readinessRow = z.object({ replica: z.boolean(), read_only: z.boolean(), schema_version: z.number() });

/**
 * Whether sessions that begin now are read-only: those that have begun keep what they got from the database or the login.
 * What is set for a login in a database comes before what is set for the login, that before the database's, and the
 * server's own comes last.
 */
const startsReadOnly = sql.fragment`
  coalesce(
    (SELECT substring(item FROM '=(.*)')::bool
     FROM pg_db_role_setting s, unnest(s.setconfig) AS item
     WHERE s.setdatabase IN (0, (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()))
       AND s.setrole IN (0, (SELECT r.oid FROM pg_roles r WHERE r.rolname = session_user))
       AND starts_with(item, 'default_transaction_read_only=')
     ORDER BY s.setrole = 0, s.setdatabase = 0
     LIMIT 1),
    current_setting('default_transaction_read_only')::bool
  )`;

/** How the database is. */
export interface DatabaseState {
  readonly databaseVersion: string;
  readonly schemaVersion: number;
  /** The connections for calls, and who waits for one. */
  readonly pool: { readonly acquired: number; readonly idle: number; readonly waiting: number };
  /** Of the log, and how many ids there are until another one is needed. */
  readonly partitions: { readonly count: number; readonly headroom: bigint };
  /** How many ids the reader of the log's end is behind. */
  readonly feedLag: bigint;
}

/** Reads the state of the database. */
export interface Status {
  /** Tells the state of the pool for calls, and so doesn't wait for that. */
  readonly read: () => Promise<DatabaseState>;
  /** Why the database can't take writes; undefined if it can. Throws if it can't be reached. */
  readonly problem: (schemaVersion: number) => Promise<string | undefined>;
  /** Takes in what a call failed by. */
  readonly note: (error: unknown) => void;
}

/** The reads of the database's state. */
export function statusOf({ calls, live, readiness }: Pools, feed: Feed): Status {
  /** Why nothing here can be trusted any more, until somebody has looked at it, and started anew. */
  let damage: string | undefined;
  return { read: shared(read), problem, note };

  function note(error: unknown): void {
    if (damage === undefined && tellsOfDamage(error)) damage = reasonOf(error);
  }

  async function read(): Promise<DatabaseState> {
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

  async function problem(schemaVersion: number): Promise<string | undefined> {
    if (damage !== undefined) return `the database's data is damaged: ${damage}; mend it, and start ledgerd again`;
    const found = await readiness.one(sql.type(readinessRow)`
      SELECT pg_is_in_recovery() AS replica, ${startsReadOnly} AS read_only,
             (SELECT coalesce(max(number), 0) FROM ledgerd.schema_migrations) AS schema_version`);
    if (found.replica) return "the database is a replica and takes no writes";
    if (found.read_only) return "the database takes no writes: default_transaction_read_only is on";
    // A newer one is right: migrations leave what earlier versions rely on, so that old processes serve beside new ones.
    if (found.schema_version < schemaVersion) return `the database has schema ${found.schema_version}, this ledgerd needs ${schemaVersion}`;
    return undefined;
  }
}
