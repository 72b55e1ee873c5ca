// A worker as the first process sees it: a child process that serves, and ends sooner or later.

import { fork, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import path from "node:path";
import { NewsQueue, MISSED_PULSES, PULSE_MS } from "./channel.ts";
import type { PortName, PortState, ToPrimary, ToWorker } from "./channel.ts";
import { sendable, type PortHandle } from "./port.ts";
import type { News } from "../service/host.ts";

/** How a worker ended. */
export interface End {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  /** What it said was wrong, or why it could not even be started. */
  readonly problem: string | undefined;
}

/** Is told what a worker tells. */
export interface Listener {
  readonly serving: (worker: WorkerProcess) => void;
  /** It takes no more callers; told again when it has ended. */
  readonly draining: (worker: WorkerProcess) => void;
  readonly stands: (worker: WorkerProcess, port: PortName, state: PortState) => void;
  /** It has said nothing for a while. */
  readonly silent: (worker: WorkerProcess) => void;
  /** It can't listen on a port, by this number of an error. */
  readonly deaf: (port: PortName, errno: number) => void;
  readonly news: (worker: WorkerProcess, news: readonly News[]) => void;
}

/** Not main.ts, which is loaded before there is a compile cache. */
const ENTRY = path.resolve(import.meta.dirname, "../cli/run.ts");
/**
 * What V8 is told. The young generation's most, in MB: a group's values live until it is committed; with 16, a write of a stream took a fifth more of the
 * service's CPU for copying them; with V8's own default, a worker has 310 MB resident, and a write takes a tenth less. And what functions do is noted from
 * their first call on, not from their eighth or so: code that comes out of the compile cache took longer to be optimized than code compiled anew.
 */
const V8 = ["--max-semi-space-size=32", "--no-lazy-feedback-allocation"];

/** One child process. */
export class WorkerProcess {
  readonly startedAt = performance.now();
  /** Whether it came to serve. */
  readonly served: Promise<boolean>;
  readonly ended: Promise<End>;
  readonly #child: ChildProcess;
  readonly #news: NewsQueue;
  /** How many pulses in a row it has missed; undefined until it says something for the first time: it starts. */
  #missedPulses: number | undefined;
  #problem: string | undefined;

  /** One that is silent for as long as `stallLimitMs` is killed. */
  constructor(env: NodeJS.ProcessEnv, stallLimitMs: number, listener: Listener) {
    // Detached, in a process group of its own: Ctrl-C reaches the first process alone, which then tells its workers.
    this.#child = fork(ENTRY, ["worker"], { env, detached: true, execArgv: [...process.execArgv, ...V8] });
    // By itself Node would let this process end without having heard of the worker's end: from the first handle that
    // was sent, the channel doesn't keep it up, and two workers that die at once may be buried before the second one's
    // channel is seen to be closed.
    this.#child.channel?.ref();
    this.#news = new NewsQueue((news) => this.#send({ kind: "news", news }).catch(() => undefined));
    this.ended = this.#end();
    const serving = Promise.withResolvers<boolean>();
    this.served = Promise.race([serving.promise, this.ended.then(() => false)]);
    this.#child.on("message", (message: ToPrimary) => {
      this.#missedPulses = 0;
      if (message.kind === "pulse") this.#pulse(message, listener);
      else if (message.kind === "news") listener.news(this, message.news);
      else if (message.kind === "deaf") listener.deaf(message.port, message.errno);
      else if (message.kind === "problem") this.#problem = message.problem;
      else listener[message.kind](this);
      if (message.kind === "serving") serving.resolve(true);
    });
    const looks = setInterval(() => this.#look(stallLimitMs, listener), PULSE_MS).unref();
    void this.ended.then(() => clearInterval(looks));
    void this.ended.then(() => listener.draining(this));
  }

  get pid(): number | undefined {
    return this.#child.pid;
  }

  /** Tells it how many callers it may have at a port, and gives it a handle of the port if it lacks one. */
  allow(port: PortName, ceiling: number, handle?: PortHandle): void {
    // One that has ended needs none.
    this.#send({ kind: "ceiling", port, ceiling }, handle).catch(() => undefined);
  }

  tell(news: News): void {
    this.#news.tell(news);
  }

  /** Tells it to end, as an operator would. */
  stop(): void {
    this.#child.kill("SIGTERM");
  }

  async #end(): Promise<End> {
    try {
      // Not at its exit: what it said last may still be on its way.
      const [code, signal] = (await once(this.#child, "close")) as [number | null, NodeJS.Signals | null];
      return { code, signal, problem: this.#problem };
    } catch (error) {
      return { code: null, signal: null, problem: `it could not be started: ${String(error)}` };
    }
  }

  #pulse({ ports }: ToPrimary & { readonly kind: "pulse" }, { stands }: Listener): void {
    for (const [port, state] of Object.entries(ports)) stands(this, port as PortName, state);
  }

  /** Called once in each pulse. */
  #look(stallLimitMs: number, listener: Listener): void {
    if (this.#missedPulses === undefined) return;
    this.#missedPulses += 1;
    if (this.#missedPulses === MISSED_PULSES) listener.silent(this);
    if (this.#missedPulses * PULSE_MS < stallLimitMs) return;
    this.#problem ??= `it was killed: it had given no sign of life for ${stallLimitMs / 1000} s`;
    this.#child.kill("SIGKILL");
  }

  #send(message: ToWorker, handle?: PortHandle): Promise<void> {
    return new Promise((resolve, reject) => {
      const attached = handle === undefined ? undefined : sendable(handle);
      this.#child.send(message, attached, (error) => (error === null ? resolve() : reject(error)));
    });
  }
}
