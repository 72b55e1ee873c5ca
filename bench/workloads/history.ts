// history: batches on ledgers that have a past, of a million rows and of ten, in one partition and over ten, against the same with none. Each has a
// database and a service of its own.

import { addHistory, PARTITION } from "../history.ts";
import type { Ledger } from "../ledger.ts";
import type { Stage } from "../stage.ts";
import { rateRatio, type Contender, type Workload } from "../workload.ts";
import { batchesOf } from "./batch.ts";

/** Ids left in the partition that is written to: a history that filled it would leave all new rows to an empty one. */
const ROOM = 1_500_000;
const PARTS = 10;

export const history: Workload = {
  id: "history",
  what: "batches on a log with a past, beside the same on one without; the ratio is that of the largest, in one partition",
  unit: "deductions",
  family: "history",
  prepare: async (stage) => {
    const most = stage.options.history - (stage.options.history % PARTS);
    const some = Math.min(1_000_000, most);
    const end = Math.ceil((most + ROOM) / PARTITION) * PARTITION;
    const inOne = (rows: number): number[] => [end - ROOM - rows];
    const overTen = Array.from({ length: PARTS }, (_, index) => (index + 1) * PARTITION - ROOM - most / PARTS);
    return {
      contenders: {
        none: await withHistory(stage, "history_none", "no rows before", 0, inOne(0)),
        some: await withHistory(stage, "history_some", `${some} rows before`, some, inOne(some)),
        most: await withHistory(stage, "history_most", `${most} rows before`, most, inOne(most)),
        ten: await withHistory(stage, "history_ten", `${most} rows before, in ten partitions`, most, overTen),
      },
      ratios: { ratio: rateRatio("most", "none"), ratio_some: rateRatio("some", "none"), ratio_ten_partitions: rateRatio("ten", "none") },
      notes: most > PARTITION - ROOM ? [`of ${most} rows, ${PARTITION - ROOM} lie in the partition that is written to: it has ${PARTITION} ids, and the measured writes need room`] : [],
    };
  },
};

async function withHistory(stage: Stage, database: string, title: string, rows: number, firstIds: readonly number[]): Promise<Contender> {
  const ledger = await stage.shared<Ledger>(database, async () => {
    stage.say(`making a log with ${title}`);
    const url = await stage.ledgerDatabase(database);
    await addHistory(url, { rows, users: stage.options.users, firstIds });
    return stage.openLedger(url);
  });
  return batchesOf(stage, ledger, stage.options.users, title);
}
