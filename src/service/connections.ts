// The connections of a service to its database: how many of each kind, and what their sessions rely on.

import type { Logger } from "pino";
import type { DatabasePool } from "slonik";
import type { Config } from "../config.ts";
import { openPool, RUNTIME_ROLE } from "../postgres/connection/pool.ts";
import { openPools, poolConnections, type Pools, type PoolSize } from "../postgres/connection/pools.ts";
import { logged } from "../upkeep/repeat.ts";
import { PROOF_CONNECTIONS } from "../verification/requested.ts";

/** On which reads wait to be durable. */
const DURABILITY_CONNECTIONS = 1;

/** Opens the pools; they are closed with what was opened. */
export function poolsOf(url: string, config: Config, log: Logger, opened: AsyncDisposableStack): Promise<Pools> {
  const calls = { min: config.postgres.poolMin, max: config.postgres.poolMax };
  return openPools(calls, async (size) => opened.adopt(await connect(url, config, log, size), (open) => open.end()));
}

/** A process that serves alone prepares one group while another one is committed. Of several, each does well with one: see docs/performance.md. */
const LANES_ALONE = 2;

export function lanesOf(config: Config): number {
  return config.journal.lanes ?? LANES_ALONE;
}

/** How many connections a process may open at most: see pools.ts. */
export function connectionsOf(config: Config): number {
  return poolConnections(config.postgres.poolMax) + DURABILITY_CONNECTIONS + PROOF_CONNECTIONS + lanesOf(config);
}

function connect(url: string, config: Config, log: Logger, { min, max }: PoolSize): Promise<DatabasePool> {
  return openPool({
    url,
    // Everything that is read has an index; a plan that is kept from when a table was small must not scan it when it is
    // large.
    settings: { role: RUNTIME_ROLE, enable_seqscan: "off" },
    // Nor must it read all of a user's rows to sort them where an index has their order. Before PostgreSQL 18 a step that
    // is switched off costs 10^10: where a sort is needed nevertheless, all plans seem to cost the same, and lists walked
    // through the whole log. 18 counts such steps instead.
    settingsSince18: { enable_sort: "off" },
    mustTakeWrites: true,
    min,
    max,
    connectTimeoutMs: config.postgres.connectTimeoutMs,
    queryTimeoutMs: config.postgres.queryTimeoutMs,
    idleTimeoutMs: config.postgres.idleTimeoutMs,
    onError: logged("an idle connection", log),
  });
}
