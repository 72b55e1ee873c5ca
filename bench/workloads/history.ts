// history: batches on ledgers that have a past, a large one in one partition and over ten, and a tenth of it, against the same with none. Each has
// a database and a service of its own.

import { addHistory, PARTITION } from "../history.ts";
import type { Stage } from "../stage.ts";
import { rateRatio, type Workload } from "../workload.ts";
import { batchesOn, bestInFlight } from "./batch.ts";

/** Ids left in the partition that is written to: a history that filled it would leave all new rows to an empty one. */
const ROOM = 1_500_000;
const PARTS = 10;

export const history: Workload = {
  id: "history",
  what: "batches on a log with a past, beside the same on one without; the ratio is that of the largest, in one partition",
  unit: "deductions",
  family: "history",
  prepare: async (stage) => {
    const tenth = Math.floor(stage.options.history / PARTS);
    const rows = tenth * PARTS;
    const end = Math.ceil((rows + ROOM) / PARTITION) * PARTITION;
    const inOne = (count: number): number[] => [end - ROOM - count];
    const overTen = Array.from({ length: PARTS }, (_, index) => (index + 1) * PARTITION - ROOM - tenth);
    const none = await withHistory(stage, "history_none", "no rows before", 0, inOne(0));
    const some = await withHistory(stage, "history_some", `${tenth} rows before`, tenth, inOne(tenth));
    const most = await withHistory(stage, "history_most", `${rows} rows before`, rows, inOne(rows));
    const ten = await withHistory(stage, "history_ten", `${rows} rows before, in ten partitions`, rows, overTen);
    const inFlight = await bestInFlight(stage, none.ledger, stage.options.users);
    const contenders = Object.fromEntries(
      Object.entries({ none, some, most, ten }).map(([name, { title, ledger }]) => [name, batchesOn(stage, ledger, title, inFlight, stage.options.users)]),
    );
    await stage.checkpoint();
    // Each of the services runs for the first time.
    for (const { measure } of Object.values(contenders)) await measure(stage.options.window);
    const fits = PARTITION - ROOM;
    return {
      contenders,
      ratios: { ratio: rateRatio("most", "none"), ratio_some: rateRatio("some", "none"), ratio_ten_partitions: rateRatio("ten", "none") },
      notes: rows <= fits ? [] : [`of ${rows} rows, ${fits} lie in the partition that is written to: it has ${PARTITION} ids, and what is measured needs room`],
    };
  },
};

/** A ledger with so many rows, which begin at these ids. */
async function withHistory(stage: Stage, database: string, title: string, rows: number, firstIds: readonly number[]) {
  stage.say(`making a log with ${title}`);
  const url = await stage.ledgerDatabase(database);
  await addHistory(url, { rows, users: stage.options.users, firstIds });
  return { title, ledger: await stage.openLedger(url) };
}
