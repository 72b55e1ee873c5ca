// lone: one Deduct at a time, against the seed's statements issued one by one by plain pg in Node. What is compared is the median latency.

import { latencyRatio, type Workload } from "../workload.ts";
import { seedDatabase } from "./seed.ts";

export const lone: Workload = {
  id: "lone",
  what: "one Deduct at a time, beside the seed's five statements by plain pg in Node; the ratio is of median latencies",
  unit: "deductions",
  family: "lone",
  prepare: async (stage) => {
    const { users } = stage.options;
    const ledger = await stage.ledger();
    const task = { address: ledger.address, method: "Deduct", inFlight: 1, users } as const;
    const url = await seedDatabase(stage);
    return {
      contenders: {
        ledgerd: { title: "ledgerd, one Deduct at a time", ledger, measure: (window) => ledger.takeFrom(stage.caller, "unary", task, window) },
        pg: { title: "seed's statements, pg in Node", measure: (window) => stage.rival.perform("seedDeducts", { url, users }, window) },
      },
      ratios: { ratio: latencyRatio("ledgerd", "pg") },
      notes: [],
    };
  },
};
