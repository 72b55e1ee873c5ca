// open_loop: Deducts at a fixed rate, half of what `unary` reaches here and now. Latencies count from the moment a call was due. There is nothing
// to compare with: the ratio is p99 over p50.

import { figuresOf } from "../statistics.ts";
import type { Stage } from "../stage.ts";
import type { Workload } from "../workload.ts";
import { deductsOneByOne } from "./unary.ts";

const LOOKS = 3;

export const openLoop: Workload = {
  id: "open_loop",
  what: "Deducts at half the rate of unary, latencies from the moment each is due; the ratio is p99 over p50",
  unit: "deductions",
  family: "open_loop",
  prepare: async (stage) => {
    const ledger = await stage.ledger();
    const capacity = await unaryCapacity(stage);
    const task = { address: ledger.address, perSecond: Math.round(capacity / 2), users: stage.options.users };
    const title = `ledgerd, ${task.perSecond} Deducts a second`;
    return {
      contenders: { ledgerd: { title, ledger, measure: (window) => ledger.takeFrom(stage.caller, "paced", task, window) } },
      ratios: { ratio: ({ ledgerd }) => (ledgerd?.p99 ?? Number.NaN) / (ledgerd?.p50 ?? Number.NaN) },
      notes: [`unary reached ${Math.round(capacity)} calls a second right before`],
    };
  },
};

async function unaryCapacity(stage: Stage): Promise<number> {
  stage.say("measuring how much unary reaches");
  const { measure } = await deductsOneByOne(stage, stage.options.users);
  const rates: number[] = [];
  for (let look = 0; look < LOOKS; look += 1) rates.push((await measure(stage.options.window)).rate);
  return figuresOf(rates).median;
}
