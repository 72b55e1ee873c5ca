// `ledgerd rebuild`: repairs what hangs on the log, shows how far it is, and names each change, and all that it left.

import { describe } from "../verification/finding.ts";
import type { Progress } from "./progress.ts";
import { rebuildLedger, type Repair, type RebuildOptions, type RebuildSummary } from "../verification/rebuild.ts";

/** Rebuilds; answers what was done. */
export async function runRebuild(options: RebuildOptions, progress: Progress): Promise<RebuildSummary> {
  let summary: RebuildSummary | undefined;
  try {
    for await (const event of rebuildLedger(options)) {
      if (event.kind === "progress") progress.report(event);
      else if (event.kind === "repaired") progress.tell("repaired", event.repair, textOfRepair(event.repair));
      else if (event.kind === "left") progress.tell("left", event.finding, `left as it is: ${describe(event.finding)}`);
      else summary = event.summary;
    }
  } finally {
    progress.clear();
  }
  if (summary === undefined) throw new Error("the rebuild ended without a summary");
  progress.tell("summary", summary, textOf(summary));
  return summary;
}

function textOfRepair({ userId, currency, holdId, columns }: Repair): string {
  const changes = columns.map(({ what, before, after }) => `${what} ${before === "" ? "" : `${before} → `}${after}`).join(", ");
  return `repaired: user ${userId}, ${currency}${holdId === undefined ? "" : `, hold ${holdId}`}: ${changes}`;
}

function textOf({ rows, accounts, repairedBalances, repairedHolds, left, seconds }: RebuildSummary): string {
  const count = (number: number): string => number.toLocaleString("en");
  const rest = left === 0 ? "" : `; ${count(left)} differences are left, named above`;
  return `${count(repairedBalances)} balances and ${count(repairedHolds)} holds repaired, out of ${count(rows)} transactions of ${count(accounts)} accounts in ${seconds} s${rest}`;
}
