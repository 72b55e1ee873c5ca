// unary, unary_hot: 256 concurrent Deducts, against the seed's five statements under pgbench.

import type { Ledger } from "../ledger.ts";
import type { Stage } from "../stage.ts";
import { rateRatio, type Contender, type Lineup, type Workload } from "../workload.ts";
import { seedUnderPgbench } from "./seed.ts";

const IN_FLIGHT = 256;

export const unary: Workload = {
  id: "unary",
  what: `${IN_FLIGHT} concurrent Deducts, beside the seed's five statements under pgbench`,
  unit: "deductions",
  family: "spread",
  prepare: (stage) => prepare(stage, stage.options.users),
};

export const unaryHot: Workload = {
  id: "unary_hot",
  what: `${IN_FLIGHT} concurrent Deducts on one user, beside the same statements on one user`,
  unit: "deductions",
  family: "hot",
  prepare: (stage) => prepare(stage, 1),
};

async function prepare(stage: Stage, users: number): Promise<Lineup> {
  const ledgerd = await deductsOneByOne(stage, users);
  const { pgbench, notes } = await seedUnderPgbench(stage, "deduct", users);
  if (pgbench === undefined) return { contenders: { ledgerd }, ratios: {}, notes };
  return { contenders: { ledgerd, pgbench }, ratios: { ratio: rateRatio("ledgerd", "pgbench") }, notes };
}

/** Unary Deducts, as many at a time as this workload has. */
export async function deductsOneByOne(stage: Stage, users: number): Promise<Contender> {
  return deductsOn(stage, await stage.ledger(), "ledgerd", users);
}

/** The same on any ledger. */
export function deductsOn(stage: Stage, ledger: Ledger, name: string, users: number): Contender {
  const task = { address: ledger.address, method: "Deduct", inFlight: IN_FLIGHT, users } as const;
  const measure: Contender["measure"] = (window) => ledger.takeFrom(stage.caller, "unary", task, window);
  return { title: `${name}, ${IN_FLIGHT} Deducts at a time`, ledger, measure };
}
