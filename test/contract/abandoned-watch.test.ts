// A watcher that has gone costs nothing more, however much of the log it had before it.

import { once } from "node:events";
import { connect, type ClientHttp2Session, type ClientHttp2Stream, type IncomingHttpHeaders } from "node:http2";
import { afterEach, beforeEach, expect, test } from "vitest";
import type { WatchTransactionsResponse } from "../../src/gen/ledger/v1/ledger_service_pb.ts";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { serve, type TestService } from "../harness/service.ts";
import { until } from "../harness/until.ts";

/** How many pages, of up to 500 rows, of the log have been read for watchers. */
async function pagesRead({ query }: TestDatabase): Promise<number> {
  const [found] = await query<{ pages: number }>(
    `SELECT coalesce(sum(calls), 0)::int AS pages FROM pg_stat_statements
     WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND query ~ 't.id > \\$1 AND t.id <= \\$2 AND '`,
  );
  return found?.pages ?? 0;
}

let database: TestDatabase;
let service: TestService;

beforeEach(async () => {
  database = await createDatabase();
  await database.query("CREATE EXTENSION pg_stat_statements");
  await database.query(
    `INSERT INTO ledgerd.transactions (user_id, sequence, type, amount, balance_after, held_after, credit_limit_after, hash)
     SELECT i, 1, 'topup', 1, 1, 0, 0, sha256(i::text::bytea) FROM generate_series(1, 20000) i`,
  );
  service = await serve(database.url, { LEDGERD_STREAM_LIMIT: "1" });
});

afterEach(async () => {
  await service.close();
  await database[Symbol.asyncDispose]();
});

/** What a watch sees first. Fails while another one is open. */
async function firstOf(userId: bigint): Promise<string | undefined> {
  const gone = new AbortController();
  const { value } = await service.ledger.watchTransactions({ userId }, { signal: gone.signal, timeoutMs: 0 })[Symbol.asyncIterator]().next();
  gone.abort();
  return (value as WatchTransactionsResponse | undefined)?.event.case;
}

test("a watch that its caller has cancelled stops paging through the past", async () => {
  expect(await firstOf(0n)).toBe("transaction");
  // There is room for the next stream when the first one's handler has ended.
  await until(() => firstOf(1n).then(() => true, () => false));
  // Of forty: a small one, by which the feed sees how large rows are, the two that HTTP/2 takes before it makes the feed
  // wait, the next one, which is read meanwhile, and one that may have been asked for when it left.
  expect(await pagesRead(database)).toBeLessThanOrEqual(5);
});

/** How many times statements have been executed that match. */
async function executions({ query }: TestDatabase, pattern: string): Promise<number> {
  const [found] = await query<{ calls: number }>(
    `SELECT coalesce(sum(calls), 0)::int AS calls FROM pg_stat_statements
     WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND query ~ $1`,
    [pattern],
  );
  return found?.calls ?? 0;
}

/** How many times jobs have been read for watches, by their ids. */
function jobReads(of: TestDatabase): Promise<number> {
  return executions(of, "FROM ledgerd.jobs j WHERE j.id = ANY");
}

test("watches of jobs whose callers have gone read no more of them", async () => {
  const [watches, jobs] = [20, 40];
  await using crowded = await serve(database.url, { LEDGERD_STREAM_LIMIT: `${4 * watches}` });
  for (let job = 0; job < jobs; job++) {
    const large = { prompt: "x".repeat(100_000), cost: { amount: "0" } };
    await crowded.jobs.createJob({ userId: 5n, modelId: "m", ...large, idempotencyKey: `job ${job}` });
  }
  const before = await jobReads(database);
  const gone = new AbortController();
  const called = Array.from({ length: watches }, () =>
    crowded.jobs.watchJobs({ userId: 5n }, { signal: gone.signal, timeoutMs: 0 })[Symbol.asyncIterator](),
  );
  const next = called.map((watch) => watch.next());
  await Promise.any(next);
  gone.abort();
  await Promise.allSettled(next);
  // There is room for as many when all have ended.
  const another = async (): Promise<boolean> => {
    const over = new AbortController();
    const again = called.map(() => crowded.ledger.watchTransactions({ userId: 1n }, { signal: over.signal }));
    const letIn = await Promise.allSettled(again.map((watch) => watch[Symbol.asyncIterator]().next()));
    over.abort();
    return letIn.every(({ status }) => status === "fulfilled");
  };
  await until(another);
  // Each is told the jobs in two parts, behind a look at how large they are: those of the first, and of one that was next.
  expect((await jobReads(database)) - before).toBeLessThanOrEqual(6);
  // Nor are changes looked for any more: not once while readiness is looked at twice.
  const looks = (): Promise<number> => executions(database, "ledgerd.timeline\\(\\) AS timeline");
  const readiness = (): Promise<number> => executions(database, "pg_is_in_recovery\\(\\) AS replica");
  await until(async () => {
    const [seen, ready] = [await looks(), await readiness()];
    await until(async () => (await readiness()) > ready + 1);
    return (await looks()) === seen;
  });
});

/** A watch that nobody reads, from when it has begun. */
interface UnreadWatch {
  readonly stream: ClientHttp2Stream;
  /** Its deadline has not passed before this. */
  readonly over: number;
  /** The pages that had been read before it. */
  readonly before: number;
}

/**
 * With a deadline in so many seconds; where the machine is so slow that it passes before the watch begins, with a later
 * one.
 */
async function watchThatBegins(session: ClientHttp2Session, seconds: number): Promise<UnreadWatch> {
  const before = await pagesRead(database);
  const over = performance.now() + seconds * 1000;
  const path = "/ledger.v1.LedgerService/WatchTransactions";
  const type = { "content-type": "application/grpc" };
  const stream = session.request({ ":method": "POST", ":path": path, ...type, "grpc-timeout": `${seconds}S` }).end(Buffer.alloc(5));
  const [response] = (await once(stream, "response")) as [IncomingHttpHeaders];
  return "grpc-status" in response ? watchThatBegins(session, 2 * seconds) : { stream, over, before };
}

/**
 * One whose caller stands still when its deadline passes, and so isn't told. Where the machine is so slow that HTTP/2 still
 * has room by then, the caller is told: one with a later deadline then.
 */
async function watchThatIsNotTold(session: ClientHttp2Session, seconds: number): Promise<UnreadWatch> {
  const watch = await watchThatBegins(session, seconds);
  const first = await firstOf(1n).catch(() => "refused");
  if (performance.now() < watch.over) expect(first, "there is no room yet").toBe("refused");
  await until(() => firstOf(1n).then(() => true, () => false));
  if (!watch.stream.closed) return watch;
  expect(seconds, "it was told each time").toBeLessThan(60);
  return watchThatIsNotTold(session, 2 * seconds);
}

test("a watch whose deadline has passed stops, too, even where its caller stands still and doesn't hear of it", async () => {
  const session = connect(`http://${service.grpcAddress}`);
  const { before } = await watchThatIsNotTold(session, 1);
  expect((await pagesRead(database)) - before).toBeLessThanOrEqual(5);
  session.destroy();
});
