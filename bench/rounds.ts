// Rounds: in each, all contenders are measured once, one after the other, in turn from the first and from the last.

import type { Window } from "./load/meter.ts";
import { cpuOf } from "./processes.ts";
import type { Stage } from "./stage.ts";
import type { Contender, Lineup, Round, Sample } from "./workload.ts";

/** What the rounds of a line-up showed, or what went wrong in one of its contenders. */
export type Seen = readonly Round[] | Error;

/** Measures some line-ups together; whoever is in several of them is measured once for all. Who fails is left out from then on, the others go on. */
export async function measure(stage: Stage, lineups: readonly Lineup[], window: Window): Promise<readonly Seen[]> {
  const contenders = [...new Set(lineups.flatMap((lineup) => Object.values(lineup.contenders)))];
  const rounds = lineups.every(({ once }) => once === true) ? 1 : stage.options.rounds;
  const samples = new Map<Contender, Sample[]>(contenders.map((contender) => [contender, []]));
  const failures = new Map<Contender, Error>();
  for (let round = 1; round <= rounds; round += 1) {
    for (const contender of round % 2 === 0 ? contenders.toReversed() : contenders) {
      if (failures.has(contender)) continue;
      stage.say(`  round ${round} of ${rounds}: ${contender.title}`);
      try {
        samples.get(contender)?.push(await sampleOf(stage, contender, window));
      } catch (error) {
        failures.set(contender, error instanceof Error ? error : new Error(String(error)));
      }
    }
  }
  return lineups.map(({ contenders: own }) => {
    const failure = Object.values(own).map((contender) => failures.get(contender)).find((error) => error !== undefined);
    const roundOf = (index: number): Round => Object.fromEntries(Object.entries(own).map(([name, contender]) => [name, samples.get(contender)?.[index] as Sample]));
    return failure ?? Array.from({ length: rounds }, (_, index) => roundOf(index));
  });
}

async function sampleOf(stage: Stage, { measure: run, ledger }: Contender, window: Window): Promise<Sample> {
  const service = ledger?.pid;
  const postmaster = ledger?.postmaster ?? stage.postmaster;
  const before = { service: service === undefined ? undefined : cpuOf(service), postgres: cpuOf(postmaster) };
  const load = await run(window);
  const used = (pid: number, from: number | undefined): number | undefined => {
    const to = cpuOf(pid);
    return to === undefined || from === undefined ? undefined : ((to - from) * 1000) / load.operations;
  };
  return {
    ...load,
    cpuPerOperation: {
      caller: (load.cpuMs * 1000) / load.operations,
      service: service === undefined ? undefined : used(service, before.service),
      postgres: used(postmaster, before.postgres),
    },
    callerCores: load.cpuMs / load.tookMs,
  };
}
