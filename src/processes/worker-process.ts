// A worker as the first process sees it: a child process that serves, and ends sooner or later.

import { fork, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import type { Socket } from "node:net";
import path from "node:path";
import type { News } from "../service.ts";
import { Bulletin, type DoorName, type ToPrimary, type ToWorker } from "./messages.ts";

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
  /** It gets no more connections; told again when it has ended. */
  readonly draining: (worker: WorkerProcess) => void;
  readonly left: (worker: WorkerProcess, door: DoorName) => void;
  /** A worker that is ending did not take a connection that it was given. */
  readonly declined: (door: DoorName, connection: Socket) => void;
  readonly news: (worker: WorkerProcess, news: readonly News[]) => void;
}

/** Not main.ts, which is loaded before there is a compile cache. */
const ENTRY = path.resolve(import.meta.dirname, "../run.ts");
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
  readonly #bulletin: Bulletin;
  /**
   * Connections that it has not taken yet, kept open on our side as well. Node would close them by itself when the worker has got them, but
   * forgets them when it ends before that: their callers waited for ever.
   */
  readonly #underway = new Map<number, { readonly door: DoorName; readonly connection: Socket }>();
  #given = 0;
  #problem: string | undefined;

  constructor(env: NodeJS.ProcessEnv, listener: Listener) {
    // Detached, in a process group of its own: Ctrl-C reaches the first process alone, which then tells its workers.
    this.#child = fork(ENTRY, ["worker"], { env, detached: true, execArgv: [...process.execArgv, ...V8] });
    // By itself Node would let this process end without having heard of the worker's end: from the first connection that was handed over, the
    // channel doesn't keep it up, and two workers that die at once may be buried before the second one's channel is seen to be closed.
    this.#child.channel?.ref();
    this.#bulletin = new Bulletin((news) => this.#send({ kind: "news", news }).catch(() => undefined));
    this.ended = this.#end();
    const serving = Promise.withResolvers<boolean>();
    this.served = Promise.race([serving.promise, this.ended.then(() => false)]);
    this.#child.on("message", (message: ToPrimary) => {
      if (message.kind === "left") listener.left(this, message.door);
      else if (message.kind === "news") listener.news(this, message.news);
      else if (message.kind === "taken") this.#letGo(message.id);
      else if (message.kind === "declined") this.#takeBack(message.id, listener);
      else if (message.kind === "problem") this.#problem = message.problem;
      else listener[message.kind](this);
      if (message.kind === "serving") serving.resolve(true);
    });
    void this.ended.then(() => listener.draining(this));
  }

  get pid(): number | undefined {
    return this.#child.pid;
  }

  /** Gives it a connection. */
  give(door: DoorName, connection: Socket): void {
    const id = (this.#given += 1);
    this.#underway.set(id, { door, connection });
    this.#send({ kind: "connection", door, id }, connection).catch(() => this.#letGo(id));
  }

  tell(news: News): void {
    this.#bulletin.tell(news);
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
    } finally {
      for (const id of this.#underway.keys()) this.#letGo(id);
    }
  }

  /** Closes our side of a connection: that ends it, unless the worker has it. */
  #letGo(id: number): void {
    this.#underway.get(id)?.connection.destroy();
    this.#underway.delete(id);
  }

  /** Hands back a connection that it did not take. */
  #takeBack(id: number, { declined }: Listener): void {
    const given = this.#underway.get(id);
    this.#underway.delete(id);
    if (given !== undefined) declined(given.door, given.connection);
  }

  #send(message: ToWorker, connection?: Socket): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#child.send(message, connection, { keepOpen: true }, (error) => (error === null ? resolve() : reject(error)));
    });
  }
}
