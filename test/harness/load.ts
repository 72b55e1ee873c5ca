// Writers that don't rest: concurrent callers that move money between a few users, each write under a key of its own, whatever happens to
// the service meanwhile. They remember what they were told, and that is held against the log.

import { setTimeout as delay } from "node:timers/promises";
import { Code, ConnectError } from "@connectrpc/connect";
import type { QueryResultRow } from "pg";
import { expect } from "vitest";
import { ErrorInfoSchema } from "../../src/gen/google/rpc/error_details_pb.ts";
import { connectTo } from "./database.ts";
import { checkDatabase, type StoredLedger } from "./inspect.ts";
import { clientsOf, newKey, type Clients } from "./service.ts";
import { checkTold, type Answer } from "./told.ts";
import { until } from "./until.ts";

/** One write, which is asked for under its key until it has an outcome. */
interface Write {
  readonly method: "topUp" | "deduct" | "transfer";
  readonly request: { readonly userId: bigint; readonly toUserId: bigint; readonly amount: { readonly amount: string }; readonly idempotencyKey: string };
  /** The answer, or the reason of a refusal that is final for the key. */
  outcome: Answer | string | undefined;
}

/** One call of a write. */
interface Attempt {
  ended: boolean;
}

/** Does harm, and answers how to wait until it is over. */
export type Fault = () => Promise<() => Promise<unknown>>;

/** How to put load on an instance. */
export interface LoadOptions {
  readonly grpcAddress: string;
  readonly firstUser: bigint;
  /** The deadline of each call; absent: the server's. */
  readonly timeoutMs?: number;
}

const WORKERS = 16;
const CONNECTIONS = 4;
const USERS = 5;
const RETRY_PAUSE_MS = 20;

/** What is done, in turn; the last one is always refused. */
const MOVES = [["topUp", "10"], ["deduct", "3"], ["transfer", "4"], ["deduct", "1000000"]] as const;

/** Load on one instance, from its making until it is ended. */
export class Load {
  readonly #options: LoadOptions;
  readonly #writes: Write[] = [];
  readonly #inFlight = new Set<Attempt>();
  readonly #failures = new Set<string>();
  readonly #workers: readonly Promise<void>[];
  #connections: readonly Clients[];
  #outcomes = 0;
  #failedCalls = 0;
  /** No more new writes. */
  #finishing = false;
  /** No more calls at all. */
  #abandoned = false;

  constructor(options: LoadOptions) {
    this.#options = options;
    this.#connections = connect(options.grpcAddress);
    this.#workers = Array.from({ length: WORKERS }, (_, worker) => this.#work(worker));
  }

  /** Why calls failed: reasons of the service, and what else went wrong on the way. */
  get failures(): readonly string[] {
    return [...this.#failures];
  }

  /** How many calls wait for their answer. */
  get inFlight(): number {
    return this.#inFlight.size;
  }

  /** The processes that its callers are connected to. */
  async processes(): Promise<readonly number[]> {
    const answers = await Promise.all(this.#connections.map(({ admin }) => admin.getServiceStatus({})));
    return answers.map(({ processId }) => processId);
  }

  /** Returns once so many more writes have their outcome. */
  async goesOn(count = 100): Promise<void> {
    const enough = this.#outcomes + count;
    await until(() => this.#outcomes >= enough);
  }

  /** Returns once the calls that wait now have ended, in whatever way. */
  async waitersGone(): Promise<void> {
    const waiting = [...this.#inFlight];
    await until(() => waiting.every(({ ended }) => ended));
  }

  /** Has a fault strike, and answers how many calls it hit: those that failed from then on, or were in flight and still waited when it was over. */
  async hitBy(strike: Fault): Promise<number> {
    const before = this.#failedCalls;
    const over = await strike();
    const inFlight = [...this.#inFlight];
    await over();
    return this.#failedCalls - before + inFlight.filter(({ ended }) => !ended).length;
  }

  /** Begins no more writes, and returns when all have their outcome; it may be asked for at another instance. */
  async finish(grpcAddress = this.#options.grpcAddress): Promise<void> {
    this.#connections = connect(grpcAddress);
    this.#finishing = true;
    await Promise.all(this.#workers);
  }

  /** Begins no more calls, and returns when none waits. */
  async abandon(): Promise<void> {
    this.#finishing = true;
    this.#abandoned = true;
    await Promise.all(this.#workers);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.abandon();
  }

  /** Fails unless the log has what was acknowledged, once, as it was answered; and nothing of what was refused, or never got an outcome. */
  check(ledger: StoredLedger): void {
    const outcomes = this.#writes.map(({ outcome }) => outcome);
    checkTold(ledger, outcomes.filter((outcome) => typeof outcome === "object"));
    expect(new Set(outcomes.filter((outcome) => typeof outcome === "string")), "why writes were refused").toEqual(new Set(["INSUFFICIENT_FUNDS"]));
    const acknowledged = this.#writes.filter(({ outcome }) => typeof outcome === "object").map(({ request }) => request.idempotencyKey);
    const asked = new Set(this.#writes.map(({ request }) => request.idempotencyKey));
    const written = ledger.log.flatMap(({ idempotencyKey: key }) => (key !== undefined && asked.has(key) ? [key] : []));
    expect(written.toSorted(), "the log has what was acknowledged, each once, and nothing else").toEqual(acknowledged.toSorted());
  }

  async #work(worker: number): Promise<void> {
    while (!this.#finishing) {
      const write = this.#newWrite();
      while (!this.#abandoned && !(await this.#attempt(write, worker))) await delay(RETRY_PAUSE_MS);
    }
  }

  #newWrite(): Write {
    const place = this.#writes.length;
    const user = (step: number): bigint => this.#options.firstUser + BigInt((place + step) % USERS);
    const [method, amount] = MOVES[place % MOVES.length] ?? MOVES[0];
    const toUserId = user(1 + (place % (USERS - 1)));
    const write: Write = { method, request: { userId: user(0), toUserId, amount: { amount }, idempotencyKey: newKey() }, outcome: undefined };
    this.#writes.push(write);
    return write;
  }

  /** Calls once; answers whether the write has its outcome now. */
  async #attempt(write: Write, worker: number): Promise<boolean> {
    const connection = this.#connections[worker % CONNECTIONS];
    if (connection === undefined) throw new Error("there is no connection");
    const { timeoutMs } = this.#options;
    const attempt: Attempt = { ended: false };
    this.#inFlight.add(attempt);
    try {
      write.outcome = await connection.ledger[write.method](write.request, timeoutMs === undefined ? {} : { timeoutMs });
    } catch (error) {
      const { reason, final } = describe(error);
      if (final) write.outcome = reason;
      else this.#failures.add(reason);
    }
    attempt.ended = true;
    this.#inFlight.delete(attempt);
    const told = write.outcome !== undefined;
    if (told) this.#outcomes += 1;
    else this.#failedCalls += 1;
    return told;
  }
}

function connect(grpcAddress: string): readonly Clients[] {
  return Array.from({ length: CONNECTIONS }, () => clientsOf(grpcAddress));
}

/** Why a call failed, and whether that is final for its key. Where the service didn't say it, the client's own words are taken. */
function describe(error: unknown): { reason: string; final: boolean } {
  if (!(error instanceof ConnectError)) throw error;
  const [info] = error.findDetails(ErrorInfoSchema);
  if (info !== undefined) return { reason: info.reason, final: info.metadata["stored"] === "true" };
  const [word] = /\b(NGHTTP2_[A-Z_]+|E[A-Z]{5,})\b/.exec(error.message) ?? [];
  return { reason: word ?? Code[error.code], final: false };
}

/** Checks the whole database, and that it holds what these writers were told. */
export async function checkWrites(databaseUrl: string, ...loads: readonly Load[]): Promise<void> {
  const session = await connectTo(databaseUrl);
  const query = async <R extends QueryResultRow>(text: string, values: readonly unknown[] = []): Promise<R[]> =>
    (await session.query<R>(text, [...values])).rows;
  try {
    const ledger = await checkDatabase({ query });
    for (const load of loads) load.check(ledger);
  } finally {
    await session.end();
  }
}
