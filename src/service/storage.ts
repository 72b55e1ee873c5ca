// The database of a service: brought up to date, found safe, and all that reads and writes it.

import type { Logger } from "pino";
import type { DatabasePool } from "slonik";
import type { Config } from "../config.ts";
import { StartupProblem } from "../domain/problem.ts";
import { RUNTIME_ROLE } from "../postgres/connection/pool.ts";
import type { Pools } from "../postgres/connection/pools.ts";
import { Feed } from "../postgres/feed/feed.ts";
import { claimsOf } from "../postgres/jobs/claims.ts";
import { JobQueue } from "../postgres/jobs/job-queue.ts";
import { JobWatch } from "../postgres/jobs/job-watch.ts";
import { jobsOf } from "../postgres/jobs/jobs.ts";
import { readableClaims } from "../postgres/jobs/readable-claims.ts";
import { openJournal, type Journal } from "../postgres/journal/journal.ts";
import { LockWaits } from "../postgres/locks/lock-waits.ts";
import { locksOf } from "../postgres/locks/locks.ts";
import { Durability } from "../postgres/protocol/durability.ts";
import { balancesOf } from "../postgres/reads/balances.ts";
import { historyOf } from "../postgres/reads/history.ts";
import { holdsOf } from "../postgres/reads/holds.ts";
import { transactionsOf } from "../postgres/reads/transactions.ts";
import { rowsFor } from "../postgres/rows/rows.ts";
import { addPartitions } from "../postgres/schema/partitions.ts";
import { safetyProblems } from "../postgres/schema/safety.ts";
import { statusOf } from "../postgres/status.ts";
import { Payers } from "../rpc/jobs/payers.ts";
import { describe } from "../verification/finding.ts";
import { BackgroundProof, Proofs } from "../verification/requested.ts";
import { verificationsOf } from "../verification/sql/verifications.ts";
import { backupsOf } from "./backups.ts";
import { connectionsOf, lanesOf, poolsOf } from "./connections.ts";
import { bringUpToDate, openDatabase } from "./database.ts";
import type { News, Host } from "./host.ts";

/** All of it. */
export type Storage = Awaited<ReturnType<typeof openStorage>>;

/** The database, migrated and found safe, and all that reads and writes it. */
export async function openStorage(
  config: Config,
  log: Logger,
  opened: AsyncDisposableStack,
  host: Host,
) {
  const database = opened.adopt(await openDatabase(config, log, connectionsOf(config), "serve"), ({ close }) => close());
  await bringUpToDate(database, config, log);
  const pools = await poolsOf(database.url, config, log, opened);
  const { calls: pool, live, catchingUp, background } = pools;
  await assertSafe(background, config);
  await background.oneFirst(addPartitions);

  const rows = rowsFor(config.money.currencies);
  const durability = opened.adopt(new Durability(database.url, config.postgres.connectTimeoutMs), (open) => open.close());
  const feed = new Feed({ live, behind: catchingUp, rows, durability, pollMs: config.calls.feedPollMs });
  const jobs = jobsOf(pool, rows);
  const locks = locksOf(pool);
  const claimsBy = (connections: DatabasePool) => readableClaims(claimsOf(connections, rows), () => journal);
  const jobQueue = new JobQueue(claimsBy(live), claimsBy(pool), config.calls.waitPollMs);
  const jobWatch = new JobWatch(jobsOf(live, rows), jobsOf(catchingUp, rows), config.calls.waitPollMs);
  const lockWaits = new LockWaits(locks, config.calls.waitPollMs);
  const happened = newsOf({ feed, jobQueue, jobWatch, lockWaits }, host);
  const journal: Journal = openJournal(
    {
      url: database.url,
      rows,
      lanes: lanesOf(config),
      groupLimit: config.journal.groupLimit,
      queueLimit: config.journal.queueLimit,
      connectTimeoutMs: config.postgres.connectTimeoutMs,
      durability,
      onCommit: (aboutJobs) => {
        happened("transactions");
        if (aboutJobs) happened("jobs");
      },
    },
    pool,
  );
  opened.adopt(journal, ({ close }) => close());
  return {
    partitions: () => background.oneFirst(addPartitions),
    upkeep: { holds: holdsOf(background, rows), claims: claimsOf(background, rows), locks: locksOf(background) },
    backups: backupsOf(config, database.url, background, log),
    ...openProofs(database.url, pools, config, log),
    durability,
    feed,
    journal,
    rows,
    balances: balancesOf(pool, rows),
    transactions: transactionsOf(pool, rows),
    history: historyOf(pool, rows),
    holds: holdsOf(pool, rows),
    jobs,
    claims: claimsOf(pool, rows),
    jobQueue,
    jobWatch,
    payers: new Payers(jobs),
    locks,
    lockWaits,
    lockReleased: () => happened("locks"),
    status: statusOf(pools, feed),
  };
}

/** Those who wait for what others do. */
interface Waiting {
  readonly feed: Feed;
  readonly jobQueue: JobQueue;
  readonly jobWatch: JobWatch;
  readonly lockWaits: LockWaits;
}

/** Wakes those who wait, here and in the other processes, when something has happened here; and here when it has there. */
function newsOf(waiting: Waiting, { tell, hear }: Host): (news: News) => void {
  const wake = {
    transactions: () => waiting.feed.wake(),
    jobs: () => {
      waiting.jobQueue.wake();
      waiting.jobWatch.wake();
    },
    locks: () => waiting.lockWaits.wake(),
  };
  hear((news) => wake[news]());
  return (news) => {
    wake[news]();
    tell(news);
  };
}

async function assertSafe(background: DatabasePool, { postgres: { durability } }: Config): Promise<void> {
  const problems = await safetyProblems(background, durability);
  if (problems.length > 0) throw new StartupProblem(`this database can't be served from: ${problems.join("; ")}`);
}

/** Verification and rebuilding: those that are asked for, and the one in the background. */
function openProofs(url: string, { background: pool, live }: Pools, config: Config, log: Logger) {
  const { currencies } = config.money;
  const { connectTimeoutMs } = config.postgres;
  const ledger = { url, role: RUNTIME_ROLE, pool, currencies, connectTimeoutMs };
  const backgroundProof = new BackgroundProof({
    ...ledger,
    rowsPerSecond: config.upkeep.verifyRate,
    pauseMs: config.upkeep.verifyPauseMs,
    log: (finding) => log.error({ ...finding, event: "difference" }, describe(finding)),
  });
  return { proofs: new Proofs(ledger), backgroundProof, verifications: verificationsOf(live) };
}
