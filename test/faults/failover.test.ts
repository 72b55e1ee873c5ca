// PostgreSQL fails over: what a standby that is promoted doesn't have must not be told as if it were still there, nor
// given twice.

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Code, type CallOptions } from "@connectrpc/connect";
import { currenciesWith } from "../../src/domain/money/currency.ts";
import { verifyLedger } from "../../src/verification/verify.ts";
import type { VerifyEvent } from "../../src/verification/events.ts";
import { openPool } from "../../src/postgres/connection/pool.ts";
import { journalsWaiting } from "../harness/blocker.ts";
import { patient } from "../harness/patience.ts";
import { describeFailure, failureOf, newKey, serve, type Clients, type TestService } from "../harness/service.ts";
import { startPair, STANDBY, type Pair } from "../harness/standby.ts";
import { startSwitchProxy, type SwitchProxy } from "../harness/switch-proxy.ts";
import { until } from "../harness/until.ts";

const rub = (amount: string) => ({ currency: "RUB", amount });

const topUp = ({ ledger }: Clients, userId: bigint) =>
  ledger.topUp({ userId, amount: rub("1"), idempotencyKey: newKey() });

/** Makes so many calls at once. */
const times = <T>(count: number, call: () => Promise<T>) => Promise.all(Array.from({ length: count }, call));

/** What a stream told, by its ids, and how it ended. */
interface Told {
  readonly ids: bigint[];
  readonly positions: string[];
  readonly ended: Promise<Awaited<ReturnType<typeof failureOf>>>;
}

/** Watches the log; it is caught up once there are positions. */
function watchLog({ ledger }: Clients, position = "", gone?: AbortSignal): Told {
  const told = { ids: [] as bigint[], positions: [] as string[] };
  const watch = async (): Promise<void> => {
    const options: CallOptions = { timeoutMs: 0, ...(gone === undefined ? {} : { signal: gone }) };
    for await (const { event, position: at } of ledger.watchTransactions({ position }, options)) {
      if (event.case === "transaction") told.ids.push(event.value.id);
      told.positions.push(at);
    }
  };
  return { ...told, ended: failureOf(watch()) };
}

async function idsIn({ query }: Pair["primary"]): Promise<readonly bigint[]> {
  return (await query<{ id: bigint }>("SELECT id FROM ledgerd.transactions ORDER BY id")).map(({ id }) => id);
}

describe("when a standby that lacks the last rows is promoted, behind a proxy that lets connections wait,", () => {
  /** So many are drawn and lost: more than PostgreSQL logs ahead of a sequence. */
  const LOST = 40;
  const user = 1n;
  let pair: Pair;
  let proxy: SwitchProxy;
  let service: TestService;
  let kept: readonly bigint[];
  let told: Told;
  let jobsWatch: Promise<Awaited<ReturnType<typeof failureOf>>>;
  let verifying: AsyncGenerator<VerifyEvent, void>;
  let lockTokens: readonly bigint[];
  let jobTokens: readonly bigint[];

  const acquire = async ({ locks }: Clients, lockKey: bigint) => {
    const wanted = { lockKey, instanceId: "a", ttl: { seconds: 1n }, wait: { seconds: 30n } };
    return (await locks.acquireLock(wanted)).fencingToken;
  };
  const claim = async ({ jobs }: Clients) => {
    const wanted = { workerId: "w", modelIds: ["m"], maxJobs: LOST, leaseDuration: { seconds: 60n } };
    return (await jobs.claimJobs(wanted)).jobs.map(({ fencingToken }) => fencingToken);
  };
  const createJob = ({ jobs }: Clients) =>
    jobs.createJob({ userId: user, modelId: "m", prompt: "p", cost: rub("0"), idempotencyKey: newKey() });

  beforeAll(async () => {
    pair = await startPair();
    proxy = await startSwitchProxy(pair.primary.url);
    service = await serve(proxy.url);
    await times(LOST, () => createJob(service));
    await times(10, () => topUp(service, user));
    await pair.caughtUp();
    kept = await idsIn(pair.primary);
    await pair.standby.stop();

    told = watchLog(service);
    const userJobs = async (): Promise<void> => {
      for await (const _ of service.jobs.watchJobs({ userId: user }, { timeoutMs: 0 })) continue;
    };
    jobsWatch = failureOf(userJobs());
    verifying = verification(proxy.url);
    await verifying.next();
    const keys = Array.from({ length: LOST }, (_, index) => BigInt(index));
    lockTokens = await Promise.all(keys.map((key) => acquire(service, key)));
    jobTokens = await claim(service);
    await times(LOST, () => topUp(service, user));
    await until(() => told.ids.length === kept.length + LOST);

    await proxy.pause();
    await pair.failOver();
    // Others were quicker: the promoted server's log already goes further than the lost one did.
    await using other = await serve(pair.standby.url);
    await times(2 * LOST, () => topUp(other, user));
    await proxy.resume(pair.standby.url);
  });

  afterAll(async () => {
    await service.close();
    await proxy[Symbol.asyncDispose]();
    await pair[Symbol.asyncDispose]();
  });

  test("an open watch ends with FEED_POSITION_LOST, and has told nothing of the other log", async () => {
    const last = told.positions.at(-1);
    const lost = { code: Code.OutOfRange, reason: "FEED_POSITION_LOST", metadata: { position: last } };
    expect(await told.ended).toMatchObject(lost);
    expect(told.ids.slice(0, kept.length)).toEqual(kept);
    expect(told.ids).toHaveLength(kept.length + LOST);
    const present = new Set(await idsIn(pair.standby));
    const again = told.ids.slice(kept.length).filter((id) => present.has(id));
    expect(again.length, "ids are given again").toBeGreaterThan(0);
    expect(await watchLog(service, last).ended, "watched again from there").toMatchObject(lost);
  });

  test("a watch from a position that both have tells all rows of the promoted one behind it", async () => {
    const gone = new AbortController();
    const rest = watchLog(service, told.positions[kept.length - 1], gone.signal);
    const present = (await idsIn(pair.standby)).slice(kept.length);
    await until(() => rest.ids.length >= present.length);
    gone.abort();
    await rest.ended.catch(() => undefined);
    expect(rest.ids).toEqual(present);
  });

  test("a watch of a user's jobs ends, so that a new one tells what became of them", async () => {
    expect(await jobsWatch).toMatchObject({ code: Code.Unavailable, reason: "DATABASE_UNAVAILABLE" });
  });

  test("a verification that is under way ends, and takes nothing for a difference", async () => {
    const rest = async (): Promise<void> => {
      for await (const event of verifying) expect(event.kind).not.toBe("finding");
    };
    await expect(rest()).rejects.toMatchObject({ reason: "DATABASE_UNAVAILABLE" });
  });

  test("no fencing token is given twice, of locks and of jobs, whichever instance gives the first one", async () => {
    await using other = await serve(pair.standby.url);
    const keys = Array.from({ length: 20 }, (_, index) => BigInt(1000 + index));
    const locks = await Promise.all([...keys, 0n].map((key, index) => acquire(index % 2 === 0 ? service : other, key)));
    const jobs = await claim(service);
    expect(locks.every((token) => token > largest(lockTokens))).toBe(true);
    expect(jobs.length).toBe(jobTokens.length);
    expect(jobs.every((token) => token > largest(jobTokens))).toBe(true);
    expect(new Set(locks).size).toBe(locks.length);
    expect(largest(locks) - (locks[0] ?? 0n), "they jumped once").toBeLessThan(1_000_000n);
  });

  test("the function of the seed draws its tokens behind the lost ones, too", async () => {
    await pair.standby.query("SELECT ledgerd.update_lock_heartbeat(5000, 'seed')");
    const read = "SELECT fencing_token AS token FROM ledgerd.lock_heartbeat WHERE lock_key = 5000";
    const [lock] = await pair.standby.query<{ token: bigint }>(read);
    expect(lock?.token).toBeGreaterThan(largest(lockTokens));
  });
});

function largest(tokens: readonly bigint[]): bigint {
  return tokens.reduce((most, token) => (token > most ? token : most), 0n);
}

/** What a call is answered, or how it fails, as a text. */
async function answerOf(call: Promise<unknown>): Promise<string> {
  const answer = await call.catch(describeFailure);
  return JSON.stringify(answer, (_name, value: unknown) => (typeof value === "bigint" ? value.toString() : value));
}

/** Whether an answer has this time anywhere. */
function tellsOf(answer: string, micros: bigint): boolean {
  const [seconds, rest] = [micros / 1_000_000n, micros % 1_000_000n];
  const texts = [`"seconds":"${seconds}","nanos":${rest * 1000n}`, `.${String(rest).padStart(6, "0")}Z`];
  return texts.some((text) => answer.includes(text));
}

async function* verification(url: string): AsyncGenerator<VerifyEvent, void> {
  const limits = { connectTimeoutMs: 5000, queryTimeoutMs: 10_000, idleTimeoutMs: 10_000 };
  const pool = await openPool({ url, min: 0, max: 1, ...limits, onError: () => undefined });
  const { signal } = new AbortController();
  try {
    yield* verifyLedger({ url, pool, currencies: currenciesWith([]), connectTimeoutMs: 5000, signal });
  } finally {
    await pool.end();
  }
}

describe("when a commit waits for its standby, the primary restarts alone, and the standby is promoted without it,", () => {
  const [userId, idempotencyKey] = [7n, newKey()];
  const request = { userId, amount: rub("5"), idempotencyKey };
  let pair: Pair;
  let proxy: SwitchProxy;
  let service: TestService;

  beforeAll(async () => {
    pair = await startPair();
    proxy = await startSwitchProxy(pair.primary.url);
    service = await serve(proxy.url);
    await topUp(service, userId);
    await pair.primary.query(`ALTER SYSTEM SET synchronous_standby_names = '${STANDBY}'`);
    await pair.primary.query("SELECT pg_reload_conf()");
    await topUp(service, userId);
    await pair.caughtUp();
  });

  afterAll(async () => {
    // First, so that the service waits for no standby where the test ended before its time.
    await proxy[Symbol.asyncDispose]();
    await service.close();
    await pair[Symbol.asyncDispose]();
  });

  test("what is told by key, by id and by the feed waits, and is never told of what is lost then", async () => {
    await pair.standby.stop();
    const write = failureOf(service.ledger.topUp(request, patient));
    await until(async () => (await journalsWaiting(pair.primary, "standby")) > 0);
    await pair.primary.restart("immediate");
    expect(await write).toMatchObject({ code: Code.Unavailable, reason: "COMMIT_OUTCOME_UNKNOWN" });
    const [lost] = await pair.primary.query<{ id: bigint; micros: bigint }>(
      `SELECT t.id, (extract(epoch FROM t.created_at) * 1000000)::int8 AS micros
       FROM ledgerd.transactions t WHERE t.user_id = $1 AND t.idempotency_key = $2`,
      [userId, idempotencyKey],
    );
    expect(lost, "it can be seen").toBeDefined();

    const seen = watchLog(service);
    await until(async () => seen.ids.length > 0 || (await isWaiting()));
    expect(seen.ids, "the feed has told something").toEqual([]);
    const third = { userId, currency: "RUB", sequence: 3n };
    const calls = [
      service.ledger.getOutcome({ userId, idempotencyKey }, patient),
      service.ledger.getTransaction({ name: { case: "transactionId", value: lost?.id ?? 0n } }, patient),
      service.ledger.getTransaction({ name: { case: "accountSequence", value: third } }, patient),
      service.ledger.topUp({ ...request, validateOnly: true }, patient),
      service.ledger.deduct({ ...request, amount: rub("1"), validateOnly: true }, patient),
    ].map(answerOf);
    const missing = await failureOf(service.ledger.getOutcome({ userId, idempotencyKey: newKey() }, patient));
    expect(missing.reason, "what isn't there has nothing to wait for").toBe("OUTCOME_NOT_FOUND");

    proxy.cut();
    await pair.failOver();
    await proxy.resume(pair.standby.url);
    for (const answer of await Promise.all(calls)) expect(tellsOf(answer, lost?.micros ?? 0n), answer).toBe(false);
    await seen.ended;
    expect(seen.ids).not.toContain(lost?.id);

    const told = await failureOf(service.ledger.getOutcome({ userId, idempotencyKey }));
    expect(told.reason).toBe("OUTCOME_NOT_FOUND");
    expect((await service.ledger.topUp(request)).replayed).toBe(false);
    const { transactions: [again] } = await service.ledger.getOutcome({ userId, idempotencyKey });
    expect(again?.amount).toMatchObject(rub("5.00"));
  });

  /** Whether the reads wait for the standby. */
  async function isWaiting(): Promise<boolean> {
    const waiting = "SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND application_name = 'ledgerd wait'";
    return (await pair.primary.query(waiting)).length > 0;
  }
});
