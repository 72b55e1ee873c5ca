// The seed's database, and its statements under pgbench at its best number of clients: what several workloads are compared with.

import { bestClients, findPgbench, measurePgbench, type Pgbench } from "../pgbench.ts";
import { makeSeedTables } from "../seed.ts";
import type { Stage } from "../stage.ts";
import type { Contender } from "../workload.ts";

/** How many transactions are enough to see with how many clients a script is fastest: about half a second's. */
const TRIED = { deduct: 2000, deduct_hot: 500, read: 10_000 } as const;

/** The seed's tables, with as many users as ledgerd has. */
export function seedDatabase(stage: Stage): Promise<string> {
  return stage.shared("seed", async () => {
    const url = await stage.emptyDatabase("seed");
    await makeSeedTables(url, stage.options.users);
    return url;
  });
}

/** One of its scripts under pgbench, over so many users; or why not. */
export function seedUnderPgbench(stage: Stage, script: Pgbench["script"], users: number): Promise<{ readonly pgbench?: Contender; readonly notes: readonly string[] }> {
  return stage.shared(`pgbench ${script} ${users}`, async () => {
    const program = findPgbench();
    if (program === undefined) return { notes: ["not compared with pgbench, which is not on this machine: it comes with PostgreSQL's programs"] };
    const pgbench = { program, url: await seedDatabase(stage), script, users };
    stage.say(`looking for pgbench's best number of clients`);
    const clients = await bestClients(pgbench, TRIED[script === "deduct" && users === 1 ? "deduct_hot" : script] * (stage.options.quick ? 1 : 4));
    const title = `seed's ${script === "read" ? "SELECT" : "statements"}, pgbench, ${clients} clients`;
    return { pgbench: { title, measure: (window) => measurePgbench(pgbench, clients, window) }, notes: [] };
  });
}
