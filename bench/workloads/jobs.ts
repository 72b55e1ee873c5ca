// jobs: created, claimed by fifties and completed with their money, against graphile-worker, which has no money to move: jobs added one at a time,
// run and completed, without its batching.

import type { Load, Window } from "../load/meter.ts";
import type { Stage } from "../stage.ts";
import { rateRatio, type Contender, type Workload } from "../workload.ts";
import { bestOf } from "./best.ts";

/** How many jobs graphile-worker runs at once: among these the best is looked for. */
const CONCURRENCY = [2, 4, 8, 16];

export const jobs: Workload = {
  id: "jobs",
  what: "jobs created, claimed by fifties and completed with the money, beside graphile-worker without batching and without money",
  unit: "jobs",
  family: "jobs",
  prepare: async (stage) => {
    const ledger = await stage.ledger();
    const task = { address: ledger.address, users: stage.options.users };
    const ledgerd: Contender = { title: "ledgerd, jobs with their money", ledger, measure: (window) => ledger.takeFrom(stage.caller, "jobs", task, window) };
    return { contenders: { ledgerd, graphile: await graphileWorker(stage) }, ratios: { ratio: rateRatio("ledgerd", "graphile") }, notes: [] };
  },
};

async function graphileWorker(stage: Stage): Promise<Contender> {
  const url = await stage.emptyDatabase("graphile");
  const measure = (concurrency: number, window: Window): Promise<Load> => stage.rival.perform("graphile", { url, concurrency }, window);
  const concurrency = await bestOf(stage, "jobs at once, graphile-worker", CONCURRENCY, measure);
  return { title: `graphile-worker, ${concurrency} jobs at once`, measure: (window) => measure(concurrency, window) };
}
