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
  const ledger = await stage.ledger();
  const ledgerd = batchesOn(stage, ledger, "ledgerd", await bestInFlight(stage, ledger, users), users);
  const limits = await limitOf(stage, users);
  const { pgbench, notes } = await seedUnderPgbench(stage, "deduct", users);
  const ratios = {
    ...(pgbench === undefined ? {} : { ratio: rateRatio("ledgerd", "pgbench") }),
    ratio_limit: rateRatio("ledgerd", "limit"),
    ...("limit_with_keys" in limits ? { ratio_limit_with_keys: rateRatio("ledgerd", "limit_with_keys") } : {}),
  };
  return { contenders: { ledgerd, ...limits, ...(pgbench === undefined ? {} : { pgbench }) }, ratios, notes };
}

/** The number of batches in flight with which a ledger is fastest. */
export function bestInFlight(stage: Stage, ledger: Ledger, users: number): Promise<number> {
  return bestOf(stage, "batches in flight", IN_FLIGHT, (inFlight, window) => batches(stage, ledger, inFlight, users, window));
}

/** Batches on a ledger, so many of them in flight. */
export function batchesOn(stage: Stage, ledger: Ledger, name: string, inFlight: number, users: number): Contender {
  return { title: `${name}, ${inFlight} batches of ${SIZE} in flight`, ledger, measure: (window) => batches(stage, ledger, inFlight, users, window) };
}

function batches(stage: Stage, ledger: Ledger, inFlight: number, users: number, window: Window): Promise<Load> {
  return ledger.takeFrom(stage.caller, "batch", { address: ledger.address, inFlight, size: SIZE, users }, window);
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
