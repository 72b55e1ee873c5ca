// graphile-worker, as its users use it: jobs are added one at a time, by several callers, and run by a pool of workers; the task does nothing. What
// it offers to do in batches is off: its local queue, and delays for completing or failing several together.

import { setTimeout as delay } from "node:timers/promises";
import { Logger, makeWorkerUtils, run as runWorkers } from "graphile-worker";
import pg from "pg";
import { CREATING, MOST_WAITING, REST_MS } from "./jobs.ts";
import { Meter, type Load, type Window } from "./meter.ts";

/** Where its tables are, how many jobs to run at once, and on how many connections to add. */
export interface GraphileTask {
  readonly url: string;
  readonly concurrency: number;
  readonly adding: number;
}

const silent = new Logger(() => () => undefined);
const preset = { worker: { logger: silent, localQueue: { size: -1 }, completeJobBatchDelay: -1, failJobBatchDelay: -1 } };

/** Keeps adding and working. An operation is a job, from before it is added to the start of its task; it is over when its row is gone. */
export async function run({ url, concurrency, adding }: GraphileTask, window: Window): Promise<Load> {
  const adders = new pg.Pool({ connectionString: url, max: adding });
  const pgPool = new pg.Pool({ connectionString: url, max: concurrency + 2 });
  const utils = await makeWorkerUtils({ pgPool: adders, preset });
  const meter = new Meter(window);
  const count = { added: 0, done: 0 };
  const runner = await runWorkers({
    pgPool,
    preset,
    concurrency,
    noHandleSignals: true,
    taskList: { bench: () => undefined },
  });
  const addedAt = new Map<string, number>();
  runner.events.on("job:complete", ({ job, error }) => {
    if (error !== null) throw error as Error;
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
      const job = await utils.addJob("bench", { prompt: "p" });
      addedAt.set(job.id, from);
    }
  };
  await Promise.all(Array.from({ length: CREATING }, keepAdding));
  while (count.done < count.added) await delay(REST_MS);
  await runner.stop();
  await utils.release();
  await Promise.all([adders.end(), pgPool.end()]);
  return meter.load();
}
