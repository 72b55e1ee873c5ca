// The process that makes load: apart from who is measured, and alive over all rounds, so that its own start is in none of them. It is told one
// task at a time by its parent, and answers what it saw.

import type { BatchTask } from "./batch.ts";
import type { ConnectsTask } from "./connects.ts";
import type { CopyTask } from "./copy.ts";
import type { GraphileTask } from "./graphile.ts";
import type { JobsTask } from "./jobs.ts";
import type { Load, Window } from "./meter.ts";
import type { PacedTask } from "./paced.ts";
import type { ProveTask } from "./prove.ts";
import type { SeedDeductsTask } from "./seed-deducts.ts";
import type { SelectBalanceTask } from "./select-balance.ts";
import type { StreamTask } from "./stream.ts";
import type { UnaryTask } from "./unary.ts";
import type { UnnestTask } from "./unnest.ts";
import type { WatchTask } from "./watch.ts";
import type { WatchesTask } from "./watches.ts";

/** All kinds of load, and what each needs to know. */
export interface Tasks {
  readonly unary: UnaryTask;
  readonly stream: StreamTask;
  readonly batch: BatchTask;
  readonly paced: PacedTask;
  readonly jobs: JobsTask;
  readonly watch: WatchTask;
  readonly watches: WatchesTask;
  readonly connects: ConnectsTask;
  readonly seedDeducts: SeedDeductsTask;
  readonly selectBalance: SelectBalanceTask;
  readonly unnest: UnnestTask;
  readonly copy: CopyTask;
  readonly graphile: GraphileTask;
  readonly prove: ProveTask;
}

/** What the parent sends. */
export type Order = { [K in keyof Tasks]: { readonly kind: K; readonly task: Tasks[K]; readonly window: Window } }[keyof Tasks];

/** What it is answered. */
export type Report = { readonly load: Load } | { readonly error: { readonly message: string; readonly stack: string } };

/** Each is loaded when it is first asked for. */
async function perform(order: Order): Promise<Load> {
  switch (order.kind) {
    case "unary":
      return (await import("./unary.ts")).run(order.task, order.window);
    case "stream":
      return (await import("./stream.ts")).run(order.task, order.window);
    case "batch":
      return (await import("./batch.ts")).run(order.task, order.window);
    case "paced":
      return (await import("./paced.ts")).run(order.task, order.window);
    case "jobs":
      return (await import("./jobs.ts")).run(order.task, order.window);
    case "watch":
      return (await import("./watch.ts")).run(order.task);
    case "watches":
      return (await import("./watches.ts")).run(order.task, order.window);
    case "connects":
      return (await import("./connects.ts")).run(order.task);
    case "seedDeducts":
      return (await import("./seed-deducts.ts")).run(order.task, order.window);
    case "selectBalance":
      return (await import("./select-balance.ts")).run(order.task, order.window);
    case "unnest":
      return (await import("./unnest.ts")).run(order.task, order.window);
    case "copy":
      return (await import("./copy.ts")).run(order.task);
    case "prove":
      return (await import("./prove.ts")).run(order.task);
    case "graphile":
      return (await import("./graphile.ts")).run(order.task, order.window);
  }
}

process.on("message", (order: Order) => {
  perform(order)
    .then((load): Report => ({ load }))
    .catch((error: unknown): Report => ({ error: error instanceof Error ? { message: error.message, stack: error.stack ?? "" } : { message: String(error), stack: "" } }))
    .then((report) => process.send?.(report))
    .catch((error: unknown) => {
      throw error;
    });
});
