// What happens to streams of writes when PostgreSQL, or the service, dies under them: every write that was sent again under its key is done once.

import { afterAll, beforeAll, expect, test } from "vitest";
import { ErrorReasonSchema } from "../../src/gen/ledger/v1/errors_pb.ts";
import type { WriteResult } from "../../src/gen/ledger/v1/ledger_service_pb.ts";
import { connectTo } from "../harness/database.ts";
import { readinessOf } from "../harness/health.ts";
import { checkDatabase } from "../harness/inspect.ts";
import { startInstance, type Instance } from "../harness/instance.ts";
import { startPostgres, type OwnPostgres } from "../harness/postgres.ts";
import { newKey } from "../harness/service.ts";
import { checkTold, type Answer } from "../harness/told.ts";
import { until } from "../harness/until.ts";
import { streamWrites, WriteStream, type OneWrite } from "../harness/write-stream.ts";

/** Writes of a stream that are sent and not answered. */
const IN_FLIGHT = 300;
const USERS = 5n;

const opened = new AsyncDisposableStack();
let postgres: OwnPostgres;
let lastUser = 0n;

beforeAll(async () => {
  postgres = opened.use(await startPostgres());
});

afterAll(() => opened.disposeAsync());

async function start(): Promise<Instance> {
  return opened.use(await startInstance(postgres.url, { LEDGERD_DURABILITY: "required" }));
}

/** A stream that is kept full of writes, among a few users of its own, and what each was answered. */
class Flood {
  readonly writes: OneWrite[] = [];
  readonly results: WriteResult[] = [];
  readonly #stream: WriteStream;
  readonly #firstUser: bigint;
  #finishing = false;
  /** Resolves at the stream's end, with what broke it. */
  readonly ended: Promise<unknown>;

  constructor(instance: Instance) {
    this.#firstUser = lastUser + 1n;
    lastUser += USERS;
    this.#stream = new WriteStream(instance);
    this.#send(IN_FLIGHT);
    this.ended = this.#run().catch((error: unknown) => error);
  }

  /** Returns once so many more writes were answered. */
  async goesOn(count = 1000): Promise<void> {
    const enough = this.results.length + count;
    await until(() => this.results.length >= enough);
  }

  /** Sends nothing more, and returns when all is answered. */
  async finish(): Promise<void> {
    this.#finishing = true;
    this.#stream.close();
    await this.ended;
  }

  async #run(): Promise<void> {
    for (let more = await this.#stream.next(); more !== undefined; more = await this.#stream.next()) {
      this.results.push(...more);
      if (!this.#finishing) this.#send(more.length);
    }
  }

  #send(count: number): void {
    const writes = Array.from({ length: count }, (_, index): OneWrite => {
      const place = BigInt(this.writes.length + index);
      const value = { userId: this.#firstUser + (place % USERS), amount: { amount: "1" }, idempotencyKey: newKey() };
      return place % 7n === 6n ? { case: "transfer", value: { ...value, toUserId: this.#firstUser + ((place + 1n) % USERS) } } : { case: "topUp", value };
    });
    this.writes.push(...writes);
    for (let from = 0; from < count; from += 10) this.#stream.send(...writes.slice(from, from + 10));
  }
}

function answerOf({ result }: WriteResult): Answer | undefined {
  return result.case === "refusal" || result.case === undefined ? undefined : result.value;
}

/** Why writes got no outcome. */
function failuresIn(results: readonly WriteResult[]): readonly string[] {
  const reasons = results.flatMap(({ result }) => (result.case === "refusal" && !result.value.stored ? [result.value.reason] : []));
  return [...new Set(reasons)].map((reason) => ErrorReasonSchema.value[reason]?.localName ?? "");
}

/** Sends everything again on another stream: what was told before is told again, and then all of it is in the log, once. */
async function checkAgain({ writes, results }: Flood, instance: Instance): Promise<void> {
  const again = await streamWrites(instance, writes, 500);
  for (const [index, result] of results.entries()) {
    const told = answerOf(result);
    if (told !== undefined) expect(answerOf(again[index] as WriteResult)).toEqual({ ...told, replayed: true });
  }
  const session = await connectTo(postgres.url);
  const ledger = await checkDatabase({ query: async (text, values = []) => (await session.query(text, [...values])).rows as never });
  await session.end();
  const refused = writes.filter((_, index) => answerOf(again[index] as WriteResult) === undefined).map(keyOf);
  const done = again.flatMap((result) => answerOf(result) ?? []);
  checkTold(ledger, done);
  const keys = new Set(writes.map(keyOf));
  const written = ledger.log.flatMap(({ idempotencyKey = "", type }) => (keys.has(idempotencyKey) && type !== "transfer_in" ? [idempotencyKey] : []));
  expect(written.length + refused.length, "each once").toBe(writes.length);
  expect(new Set([...written, ...refused])).toEqual(keys);
}

const keyOf = ({ value }: OneWrite): string => ({ idempotencyKey: "", ...value }).idempotencyKey;

test("where PostgreSQL is killed, the stream goes on: each write is answered, and done once when those without an outcome are sent again", async () => {
  const instance = await start();
  const isServing = readinessOf(instance.grpcAddress);
  const flood = new Flood(instance);
  // Not every time a commit is under way; what isn't committed yet may be by another attempt.
  for (let round = 0; round < 2 || failuresIn(flood.results).length === 0; round++) {
    await flood.goesOn();
    await postgres.restart("immediate");
    await until(isServing);
  }
  await flood.goesOn();
  await flood.finish();
  expect(await flood.ended, "nothing broke it").toBeUndefined();
  expect(flood.results.length, "every write has a result").toBe(flood.writes.length);
  const possible = ["COMMIT_OUTCOME_UNKNOWN", "DATABASE_UNAVAILABLE", "NOT_TRIED"];
  expect(possible).toEqual(expect.arrayContaining([...failuresIn(flood.results)]));
  await checkAgain(flood, instance);
});

test("where the service is killed, the stream breaks, and its writes are done once when they are sent again on another", async () => {
  const [instance, other] = await Promise.all([start(), start()]);
  const flood = new Flood(instance);
  await flood.goesOn();
  await instance.end("SIGKILL");
  expect(await flood.ended).toBeInstanceOf(Error);
  expect(flood.results.length, "some were hit").toBeLessThan(flood.writes.length);
  await checkAgain(flood, other);
});
