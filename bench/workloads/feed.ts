// feed: WatchTransactions from the start of a log until it has caught up, against COPY of the same table to a client.

import type { Load } from "../load/meter.ts";
import { addHistory } from "../history.ts";
import { rateRatio, type Workload } from "../workload.ts";

/** Rows of the log beside one for each user. */
const ROWS = 500_000;

export const feed: Workload = {
  id: "feed",
  what: `WatchTransactions catching up on ${ROWS / 1000},000 rows and more, beside COPY of the log to a client`,
  unit: "rows",
  family: "feed",
  prepare: async (stage) => {
    const url = await stage.ledgerDatabase("feed");
    await addHistory(url, { rows: ROWS, users: stage.options.users, firstIds: [1] });
    const ledger = await stage.openLedger(url);
    const rows = ROWS + stage.options.users;
    const all = (load: Load): Load => {
      if (load.operations !== rows) throw new Error(`the log has ${rows} rows, ${load.operations} were read`);
      return load;
    };
    return {
      contenders: {
        ledgerd: { title: "ledgerd, one watcher", ledger, measure: async (window) => all(await stage.caller.perform("watch", { address: ledger.address }, window)) },
        copy: { title: "COPY, pg in Node", measure: async (window) => all(await stage.rival.perform("copy", { url }, window)) },
      },
      ratios: { ratio: rateRatio("ledgerd", "copy") },
      notes: [],
    };
  },
};
