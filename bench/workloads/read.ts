// read: GetBalance, 256 concurrent, against SELECT balance by plain pg in a Node process, and under pgbench as the limit.

import type { Load, Window } from "../load/meter.ts";
import type { Stage } from "../stage.ts";
import { rateRatio, type Contender, type Workload } from "../workload.ts";
import { bestOf } from "./best.ts";
import { seedDatabase, seedUnderPgbench } from "./seed.ts";

const IN_FLIGHT = 256;
const CONNECTIONS = [4, 8, 16, 32];

export const read: Workload = {
  id: "read",
  what: `${IN_FLIGHT} concurrent GetBalances, beside SELECT balance by plain pg in Node, and under pgbench as the limit`,
  unit: "reads",
  family: "read",
  prepare: async (stage) => {
    const { users } = stage.options;
    const ledger = await stage.ledger();
    const task = { address: ledger.address, method: "GetBalance", inFlight: IN_FLIGHT, users } as const;
    const ledgerd: Contender = { title: `ledgerd, ${IN_FLIGHT} GetBalances at a time`, ledger, measure: (window) => stage.caller.perform("unary", task, window) };
    const pg = await selects(stage);
    // The rival is warm from the search for its best; the service reads for the first time.
    await ledgerd.measure({ warmUpMs: 0, measuredMs: 2000 });
    const { pgbench, notes } = await seedUnderPgbench(stage, "read", users);
    const ratio = rateRatio("ledgerd", "pg");
    if (pgbench === undefined) return { contenders: { ledgerd, pg }, ratios: { ratio }, notes };
    return { contenders: { ledgerd, pg, pgbench }, ratios: { ratio, ratio_limit: rateRatio("ledgerd", "pgbench") }, notes };
  },
};

async function selects(stage: Stage): Promise<Contender> {
  const url = await seedDatabase(stage);
  const measure = (connections: number, window: Window): Promise<Load> =>
    stage.rival.perform("selectBalance", { url, connections, users: stage.options.users }, window);
  const connections = await bestOf(stage, "connections, SELECT by pg", CONNECTIONS, measure);
  return { title: `seed's SELECT, pg in Node, ${connections} connections`, measure: (window) => measure(connections, window) };
}
