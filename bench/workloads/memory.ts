// memory: how much the service's processes keep in RAM while unary calls, and then streams, go on for minutes; and whether it grows.

import type { Ledger } from "../ledger.ts";
import type { Load } from "../load/meter.ts";
import { residentMb, treeOf } from "../processes.ts";
import { slopeOf } from "../statistics.ts";
import type { Contender, Workload } from "../workload.ts";

const LOOK_MS = 1000;

export const memory: Workload = {
  id: "memory",
  what: "the service's RSS while unary calls, and then streams, go on: the most of any of its processes, and how it grows",
  unit: "deductions",
  family: "memory",
  prepare: async (stage) => {
    const { users, minutes } = stage.options;
    const window = { warmUpMs: stage.options.window.warmUpMs, measuredMs: minutes * 60_000 };
    const ledger = await stage.openLedger(await stage.ledgerDatabase("memory"));
    const unary = { address: ledger.address, method: "Deduct", inFlight: 256, users } as const;
    const stream = { address: ledger.address, streams: 4, perMessage: 1, unanswered: 500, users };
    const watched = (title: string, run: () => Promise<Load>): Contender => ({ title, ledger, measure: () => watch(ledger, run) });
    return {
      contenders: {
        unary: watched(`ledgerd, unary for ${minutes} minutes`, () => ledger.takeFrom(stage.caller, "unary", unary, window)),
        stream: watched(`ledgerd, streams for ${minutes} minutes`, () => ledger.takeFrom(stage.caller, "stream", stream, window)),
      },
      ratios: {},
      notes: ["most_mb is of the largest of the service's processes, mb_per_minute its growth over the second half of the time"],
      once: true,
    };
  },
};

interface Look {
  readonly x: number;
  readonly y: number;
}

/** Looks at all processes of the service every second while the load goes on. */
async function watch(ledger: Ledger, run: () => Promise<Load>): Promise<Load> {
  const looks = new Map<number, Look[]>();
  const started = performance.now();
  const timer = setInterval(() => {
    for (const { pid } of treeOf(ledger.pid)) {
      const y = residentMb(pid);
      if (y !== undefined) looks.set(pid, [...(looks.get(pid) ?? []), { x: (performance.now() - started) / 60_000, y }]);
    }
  }, LOOK_MS);
  try {
    const load = await run();
    const half = load.tookMs / 60_000 / 2;
    const growth = [...looks.values()].map((seen) => slopeOf(seen.filter(({ x }) => x > half)));
    const most = [...looks.values()].flat().reduce((largest, { y }) => Math.max(largest, y), -Infinity);
    return { ...load, further: { most_mb: most, mb_per_minute: Math.max(...growth) } };
  } finally {
    clearInterval(timer);
  }
}
