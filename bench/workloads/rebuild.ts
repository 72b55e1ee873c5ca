// rebuild: all balance rows restored from the log, against the sums that they come down to by one statement. That one proves nothing: so does
// `--trust-log`, and the log that is proved on the way, and verification, stand beside it.

import { migrate } from "../../src/postgres/schema/migrate.ts";
import { addChainedHistory } from "../chained-history.ts";
import { inSession } from "../database.ts";
import type { Load, Window } from "../load/meter.ts";
import type { ProveTask } from "../load/prove.ts";
import { rateRatio, type Workload } from "../workload.ts";

const ROWS = 1_000_000;

/** Before each round, at the cost of none. */
const LOSE_BALANCES = "TRUNCATE ledgerd.user_balances";
const LOSE_SUMS = "DROP TABLE IF EXISTS public.sums; CREATE TABLE public.sums (LIKE ledgerd.user_balances INCLUDING ALL)";

export const rebuild: Workload = {
  id: "rebuild",
  what: `all balances restored from a log of ${ROWS / 1000},000 rows, beside INSERT … SELECT sum() GROUP BY into a table of the same shape`,
  unit: "rows of the log",
  family: "rebuild",
  prepare: async (stage) => {
    stage.say(`making a log with ${ROWS} rows, all of whose hashes are right`);
    const url = await stage.emptyDatabase("rebuild");
    await migrate(url);
    await addChainedHistory(url, { rows: ROWS, users: stage.options.users });
    const measure = (what: ProveTask["what"], prepare?: string) => async (window: Window): Promise<Load> => {
      if (prepare !== undefined) await inSession(url, (client) => client.query(prepare));
      return (what === "sum" ? stage.rival : stage.caller).perform("prove", { url, what, rows: ROWS }, window);
    };
    return {
      contenders: {
        trusting: { title: "ledgerd rebuild --trust-log", measure: measure("rebuild --trust-log", LOSE_BALANCES) },
        proving: { title: "ledgerd rebuild", measure: measure("rebuild", LOSE_BALANCES) },
        verify: { title: "ledgerd verify", measure: measure("verify") },
        sum: { title: "INSERT … SELECT sum() GROUP BY", measure: measure("sum", LOSE_SUMS) },
      },
      ratios: { ratio: rateRatio("trusting", "sum"), ratio_proving: rateRatio("proving", "sum"), ratio_verify: rateRatio("verify", "sum") },
      notes: ["the one statement proves nothing; nor does --trust-log, which `ratio` is about. The others compute each row's hash"],
    };
  },
};
