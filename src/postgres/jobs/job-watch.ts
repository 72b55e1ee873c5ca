// The live states of jobs. Changes that follow each other closely may be told as one; the last one is always told.

import { Failure } from "../../domain/failure.ts";
import type { Job } from "../../domain/jobs/job.ts";
import { encodeKept } from "../rows/rows.ts";
import type { Change, Changes, Jobs } from "./jobs.ts";
import { Poller } from "../sharing/poller.ts";
import { oneEachTurn, restWhileBusy, Turns, type Taker } from "../sharing/turns.ts";

/** Less than how far back a look for changes goes. */
const LONGEST_PAUSE_MS = 10_000;

/** Watches jobs, for all callers of one process. */
export class JobWatch {
  readonly #jobs: Jobs;
  readonly #byId: Poller<bigint, Job | undefined>;
  readonly #ofUser: Poller<bigint, Changes>;
  /**
   * What a watch reads for itself, it reads in its turn, part by part: 2,200 watches of users with many jobs, whose
   * callers had gone, read all of them nevertheless, and a service beside that was at a tenth of its rate for 20 s.
   */
  readonly #beginning = new Turns(1, restWhileBusy());
  /** Of changes, which are few and are waited for, two at a time, without a rest: as many as there are connections. */
  readonly #goingOn = new Turns(2, oneEachTurn());

  /** Changes are looked for by `live`, for all who watch; what each one reads for itself goes by `own`. */
  constructor(live: Jobs, own: Jobs, pollMs: number) {
    this.#jobs = own;
    this.#byId = new Poller(async (ids) => {
      const found = new Map((await live.byIds(ids)).map((job) => [job.id, job]));
      return ids.map((id) => found.get(id));
    }, pollMs);
    this.#ofUser = new Poller<bigint, Changes>(async (userIds) => {
      const { timeline, changes } = await live.changed(userIds);
      const changed = Map.groupBy(changes, ({ userId }) => userId);
      return userIds.map((userId) => ({ timeline, changes: changed.get(userId) ?? [] }));
    }, pollMs);
  }

  /** Something was committed: no need to wait for the next poll. */
  wake(): void {
    this.#byId.wake();
    this.#ofUser.wake();
  }

  /** One job, as it is and after each change, until it is final. Ends at once if there is none. */
  async *job(id: bigint, signal: AbortSignal): AsyncGenerator<Job> {
    let last = "";
    for await (const job of this.#byId.watch(id, signal)) {
      if (job === undefined) return;
      const state = stateOf(job);
      if (state !== last) yield job;
      last = state;
      if (job.completedAt !== undefined) return;
    }
  }

  /**
   * A user's jobs: those that aren't final, then all changes. Throws `Failure` when PostgreSQL has failed over: a job
   * that went back to what it was before, or is gone, has not changed; a new watch tells what is there.
   */
  async *user(userId: bigint, signal: AbortSignal): AsyncGenerator<Job> {
    /** As of the last look: what isn't in that any more can only come again by a change. */
    let told = new Map<bigint, bigint>();
    /** Those that were told and aren't final: after a pause so long that changes may have been missed, they are read again. */
    const open = new Set<bigint>();
    const tell = (job: Job): Job => {
      if (job.completedAt === undefined) open.add(job.id);
      else open.delete(job.id);
      return job;
    };
    const beginning = this.#beginning.taker(signal);
    const goingOn = this.#goingOn.taker(signal);
    const changes = this.#ofUser.watch(userId, signal);
    try {
      // What has changed before the first look is no news, unless it isn't final.
      const first = await changes.next();
      if (first.done === true) return;
      const { timeline } = first.value;
      told = timesOf(first.value.changes);
      let lookedAt = performance.now();
      for await (const job of this.#read(() => this.#jobs.unfinished(userId), beginning)) yield tell(job);
      for await (const { timeline: present, changes: look } of changes) {
        if (present !== timeline) {
          throw new Failure("DATABASE_UNAVAILABLE", { cause: new Error("PostgreSQL failed over meanwhile") });
        }
        const before = told;
        told = timesOf(look);
        const isLate = performance.now() - lookedAt > LONGEST_PAUSE_MS;
        const missed = isLate ? [...open, ...(await goingOn.take(() => this.#jobs.unfinished(userId)))] : [];
        goingOn.leave();
        lookedAt = performance.now();
        const changed = look.filter(({ jobId, changedAt }) => before.get(jobId) !== changedAt).map(({ jobId }) => jobId);
        const news = new Set([...changed, ...missed]);
        if (news.size === 0) continue;
        for await (const job of this.#read(() => [...news], goingOn)) yield tell(job);
      }
    } finally {
      // Whoever leaves while the first jobs are told would be looked for again and again.
      await changes.return(undefined);
    }
  }

  /** The jobs that are found, a part in each turn; none any more once the watch is over. */
  async *#read(find: () => readonly bigint[] | Promise<readonly bigint[]>, taker: Taker): AsyncGenerator<Job> {
    try {
      const parts = this.#jobs.inParts(await taker.take(find));
      for (;;) {
        const part = await taker.take(() => parts.next());
        if (part.done === true) return;
        yield* part.value;
      }
    } finally {
      taker.leave();
    }
  }
}

function timesOf(look: readonly Change[]): Map<bigint, bigint> {
  return new Map(look.map(({ jobId, changedAt }) => [jobId, changedAt]));
}

/** What watchers are told of: all but the end of the lease, which each heartbeat moves. */
function stateOf(job: Job): string {
  return encodeKept({ ...job, leaseExpiresAt: undefined });
}
