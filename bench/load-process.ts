// A process that makes load, from its parent's side.

import { fork, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import path from "node:path";
import type { Report, Tasks } from "./load/main.ts";
import type { Load, Window } from "./load/meter.ts";

/** Performs one task at a time. */
export class LoadProcess {
  readonly #child: ChildProcess;

  constructor() {
    // What it prints is for people: standard output is ours.
    this.#child = fork(path.join(import.meta.dirname, "load/main.ts"), { stdio: ["ignore", 2, 2, "ipc"] });
  }

  /** Performs a task; throws what went wrong in it. */
  async perform<K extends keyof Tasks>(kind: K, task: Tasks[K], window: Window): Promise<Load> {
    const ended = new AbortController();
    const onExit = (): void => ended.abort(new Error(`the process that makes load ended while it did ${kind}`));
    this.#child.once("exit", onExit);
    try {
      this.#child.send({ kind, task, window });
      const [report] = (await once(this.#child, "message", { signal: ended.signal })) as [Report];
      if ("error" in report) throw Object.assign(new Error(`${kind}: ${report.error.message}`), { stack: report.error.stack });
      return report.load;
    } catch (error) {
      throw ended.signal.aborted ? ended.signal.reason : error;
    } finally {
      this.#child.off("exit", onExit);
    }
  }

  async stop(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const exit = once(this.#child, "exit");
    this.#child.kill();
    await exit;
  }
}
