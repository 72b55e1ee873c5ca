// Rounds: in each, all contenders are measured once, one after the other, in turn from the first and from the last.

import type { Window } from "./load/meter.ts";
import { cpuOf } from "./processes.ts";
import type { Stage } from "./stage.ts";
import type { Contender, Lineup, Round, Sample } from "./workload.ts";

/** Measures some line-ups together; whoever is in several of them is measured once for all. Answers the rounds of each. */
export async function measure(stage: Stage, lineups: readonly Lineup[], window: Window): Promise<readonly (readonly Round[])[]> {
  const contenders = [...new Set(lineups.flatMap((lineup) => Object.values(lineup.contenders)))];
  const rounds = lineups.every(({ once }) => once === true) ? 1 : stage.options.rounds;
  const samples = new Map<Contender, Sample>();
  const seen: Round[][] = lineups.map(() => []);
  for (let round = 1; round <= rounds; round += 1) {
    for (const contender of round % 2 === 0 ? contenders.toReversed() : contenders) {
      stage.say(`  round ${round} of ${rounds}: ${contender.title}`);
      samples.set(contender, await sampleOf(stage, contender, window));
    }
    for (const [index, lineup] of lineups.entries()) {
      const taken = Object.entries(lineup.contenders).map(([name, contender]) => [name, samples.get(contender) as Sample]);
      seen[index]?.push(Object.fromEntries(taken) as Round);
    }
  }
  return seen;
}

async function sampleOf(stage: Stage, { measure: run, ledger }: Contender, window: Window): Promise<Sample> {
  await stage.checkpoint();
  const service = ledger?.pid;
  const before = { service: service === undefined ? undefined : cpuOf(service), postgres: cpuOf(stage.postmaster) };
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
      postgres: used(stage.postmaster, before.postgres),
    },
    callerCores: load.cpuMs / load.tookMs,
  };
}
