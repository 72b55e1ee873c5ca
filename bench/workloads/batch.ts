// batch, batch_hot: BatchWrite of 500, against the seed's five statements under pgbench, and against the limit: the same rows by INSERT … SELECT
// FROM unnest and their balances by UPDATE … FROM unnest, on tables like ledgerd's, with no service.

import type { Ledger } from "../ledger.ts";
import type { Load, Window } from "../load/meter.ts";
import type { Stage } from "../stage.ts";
import { rateRatio, type Contender, type Lineup, type Workload } from "../workload.ts";
import { bestOf } from "./best.ts";
import { seedUnderPgbench } from "./seed.ts";

const SIZE = 500;
/** Among these numbers the best is looked for. */
const IN_FLIGHT = [2, 4, 8];
const CONNECTIONS = [1, 2, 4];

export const batch: Workload = {
  id: "batch",
  what: `BatchWrite of ${SIZE} Deducts, beside the seed's five statements under pgbench, and INSERT and UPDATE from unnest as the limit`,
  unit: "deductions",
  family: "spread",
  prepare: (stage) => prepare(stage, stage.options.users),
};

export const batchHot: Workload = {
  id: "batch_hot",
  what: `BatchWrite of ${SIZE} Deducts on one user, beside the same on one user`,
  unit: "deductions",
  family: "hot",
  prepare: (stage) => prepare(stage, 1),
};

async function prepare(stage: Stage, users: number): Promise<Lineup> {
  const ledgerd = await batchesOf(stage, await stage.ledger(), users, "ledgerd");
  const limits = await limitOf(stage, users);
  const { pgbench, notes } = await seedUnderPgbench(stage, "deduct", users);
  const ratios = {
    ...(pgbench === undefined ? {} : { ratio: rateRatio("ledgerd", "pgbench") }),
    ratio_limit: rateRatio("ledgerd", "limit"),
    ...("limit_with_keys" in limits ? { ratio_limit_with_keys: rateRatio("ledgerd", "limit_with_keys") } : {}),
  };
  return { contenders: { ledgerd, ...limits, ...(pgbench === undefined ? {} : { pgbench }) }, ratios, notes };
}

/** Batches on a ledger, with its best number of them in flight. */
export async function batchesOf(stage: Stage, ledger: Ledger, users: number, name: string): Promise<Contender> {
  const measure = (inFlight: number, window: Window): Promise<Load> =>
    ledger.takeFrom(stage.caller, "batch", { address: ledger.address, inFlight, size: SIZE, users }, window);
  const inFlight = await bestOf(stage, `batches in flight, ${name}`, IN_FLIGHT, measure);
  return { title: `${name}, ${inFlight} batches of ${SIZE} in flight`, ledger, measure: (window) => measure(inFlight, window) };
}

/** The limit, and with the keys' insert as well, each on its best number of connections. In short rounds without the latter. */
async function limitOf(stage: Stage, users: number): Promise<Readonly<Record<string, Contender>>> {
  const url = await stage.shared("limit", () => stage.ledgerDatabase("limits"));
  const contender = async (withKeys: boolean): Promise<Contender> => {
    const measure = (connections: number, window: Window): Promise<Load> =>
      stage.rival.perform("unnest", { url, connections, size: SIZE, users, withKeys }, window);
    const title = `INSERT and UPDATE from unnest${withKeys ? ", with keys" : ""}`;
    const connections = await bestOf(stage, `connections, ${title}`, CONNECTIONS, measure);
    return { title: `${title}, ${connections} connections`, measure: (window) => measure(connections, window) };
  };
  return { limit: await contender(false), ...(stage.options.quick ? {} : { limit_with_keys: await contender(true) }) };
}
