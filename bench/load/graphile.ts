// graphile-worker, as its users use it: jobs are added one at a time, by many callers, and run by a pool of workers; the task does nothing. What it
// offers to do in batches is off: its local queue, and the delays for completing or failing several together.
//
// Its rate hardly depends on the numbers of connections: each added job is announced by NOTIFY, and PostgreSQL commits those one after the other.

import { setTimeout as delay } from "node:timers/promises";
import { Logger, makeWorkerUtils, run as runWorkers } from "graphile-worker";
import { CREATING, MOST_WAITING, REST_MS } from "./jobs.ts";
import { Meter, type Load, type Window } from "./meter.ts";

/** Where its tables are, and how many jobs to run at once. */
export interface GraphileTask {
  readonly url: string;
  readonly concurrency: number;
}

/** Connections of those who add jobs. */
const ADDING = 4;

/** Keeps adding and working. An operation is a job, from before it is added until its completion is written. */
export async function run({ url, concurrency }: GraphileTask, window: Window): Promise<Load> {
  const preset = (maxPoolSize: number) => ({
    worker: { connectionString: url, maxPoolSize, logger: new Logger(() => () => undefined), localQueue: { size: -1 }, completeJobBatchDelay: -1, failJobBatchDelay: -1 },
  });
  const utils = await makeWorkerUtils({ preset: preset(ADDING) });
  // It listens for new jobs on a connection of its own.
  const runner = await runWorkers({ preset: preset(concurrency + 1), concurrency, noHandleSignals: true, taskList: { bench: () => undefined } });
  const meter = new Meter(window);
  const addedAt = new Map<string, number>();
  const count = { added: 0, done: 0, failed: 0 };
  runner.events.on("job:complete", ({ job, error }) => {
    if (error !== null) count.failed += 1;
    count.done += 1;
    meter.add(addedAt.get(job.id) ?? performance.now());
    addedAt.delete(job.id);
  });

  const keepAdding = async (): Promise<void> => {
    while (!meter.isOver()) {
      if (count.added - count.done > MOST_WAITING) {
        await delay(REST_MS);
        continue;
      }
      count.added += 1;
      const from = performance.now();
      addedAt.set((await utils.addJob("bench", { prompt: "p" })).id, from);
    }
  };
  await Promise.all(Array.from({ length: CREATING }, keepAdding));
  while (count.done < count.added) await delay(REST_MS);
  await runner.stop();
  await utils.release();
  if (count.failed > 0) throw new Error(`${count.failed} jobs of graphile-worker failed`);
  return meter.load();
}
