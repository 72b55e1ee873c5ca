// The benchmark's command line: `npm run bench -- --help`. Each workload is measured in rounds together with what it is compared with, on the same
// PostgreSQL with full durability; in the end the log is held against what was answered.

import { Misuse, readOptions, USAGE, type Options } from "./options.ts";
import { jsonOf, settingsOf, tableOf, type LogCheck, type Result } from "./report.ts";
import { measure } from "./rounds.ts";
import { Stage } from "./stage.ts";
import type { Lineup, Workload } from "./workload.ts";
import { QUICK, workloads } from "./workloads/all.ts";

const FAILED = 1;
const MISUSED = 2;

async function main(args: readonly string[]): Promise<number> {
  let options: Options | "help";
  try {
    options = readOptions(args, workloads.map(({ id }) => id), QUICK);
  } catch (error) {
    if (!(error instanceof Misuse)) throw error;
    say(`bench: ${error.message}\n\n${USAGE}`);
    return MISUSED;
  }
  if (options === "help") {
    const known = workloads.map(({ id, what }) => `  ${id.padEnd(12)} ${what}\n`).join("");
    process.stdout.write(`${USAGE}\nworkloads:\n\n${known}`);
    return 0;
  }
  return Stage.use(options, say, (stage) => runAll(stage, options));
}

async function runAll(stage: Stage, options: Options): Promise<number> {
  const results: Result[] = [];
  for (const group of groupsOf(options)) results.push(...(await measured(stage, group, options)));
  // A load that broke off leaves calls whose answers nobody saw.
  const log = results.some((result) => "error" in result) ? { error: "not checked, since workloads failed" } : await checkLogs(stage);
  const settings = settingsOf(options, await stage.settings());
  const inOrder = workloads.flatMap((workload) => results.filter((result) => result.workload === workload));
  process.stdout.write(`${options.json ? jsonOf(inOrder, log, settings) : tableOf(inOrder, log, settings)}\n`);
  return "error" in log ? FAILED : 0;
}

/**
 * One after the other; in short rounds, those that have contenders in common together, which are then measured once for all. `lone` first: of what
 * heavy load leaves behind to the server, such as vacuuming, a single call sees most.
 */
function groupsOf({ ids, quick }: Options): readonly (readonly Workload[])[] {
  const wanted = workloads.filter(({ id }) => ids.includes(id)).toSorted((one, other) => Number(other.id === "lone") - Number(one.id === "lone"));
  return [...Map.groupBy(wanted, ({ id, family }) => (quick ? family : id)).values()];
}

/** What can't be prepared or measured is said, and keeps none of the others from being measured. */
async function measured(stage: Stage, group: readonly Workload[], { window }: Options): Promise<readonly Result[]> {
  say(group.map(({ id }) => id).join(", "));
  await stage.checkpoint();
  const results: Result[] = [];
  const ready: { readonly workload: Workload; readonly lineup: Lineup }[] = [];
  for (const workload of group) {
    try {
      ready.push({ workload, lineup: await workload.prepare(stage) });
    } catch (error) {
      results.push({ workload, error: failure(error) });
    }
  }
  const seen = await measure(stage, ready.map(({ lineup }) => lineup), window);
  for (const [index, one] of ready.entries()) {
    const rounds = seen[index] ?? [];
    results.push(rounds instanceof Error ? { workload: one.workload, error: failure(rounds) } : { ...one, rounds });
  }
  return results;
}

/** The stack is for standard error. */
function failure(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  say(error.stack ?? error.message);
  return error.message;
}

async function checkLogs(stage: Stage): Promise<LogCheck> {
  try {
    return { answered: await stage.checkLogs() };
  } catch (error) {
    return { error: failure(error) };
  }
}

function say(message: string): void {
  process.stderr.write(`${message}\n`);
}

process.exitCode = await main(process.argv.slice(2));
