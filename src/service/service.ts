// The one place where the parts are put together: configuration, database, journal, handlers, doors. Whoever starts a service, a test too, does
// it here.

import { randomUUID } from "node:crypto";
import { hostname } from "node:os";
import { setImmediate as immediate, setTimeout as delay } from "node:timers/promises";
import type { Logger } from "pino";
import type { DatabasePool } from "slonik";
import type { Config } from "../config.ts";
import { bringUpToDate, openDatabase } from "./database.ts";
import { ownLocks } from "../domain/lock.ts";
import { AdminService } from "../gen/ledger/v1/admin_service_pb.ts";
import { JobService } from "../gen/ledger/v1/job_service_pb.ts";
import { LedgerService } from "../gen/ledger/v1/ledger_service_pb.ts";
import { LockService } from "../gen/ledger/v1/lock_service_pb.ts";
import { describe } from "../verification/finding.ts";
import { BackgroundProof, PROOF_CONNECTIONS, Proofs } from "../verification/requested.ts";
import { ScheduledBackups } from "../upkeep/scheduled-backups.ts";
import { balancesOf } from "../postgres/reads/balances.ts";
import { claimsOf } from "../postgres/jobs/claims.ts";
import { Durability } from "../postgres/protocol/durability.ts";
import { reasonOf } from "../postgres/connection/connect.ts";
import { failureOf } from "../postgres/connection/errors.ts";
import { Feed } from "../postgres/feed/feed.ts";
import { historyOf } from "../postgres/reads/history.ts";
import { holdsOf } from "../postgres/reads/holds.ts";
import { JobQueue } from "../postgres/jobs/job-queue.ts";
import { JobWatch } from "../postgres/jobs/job-watch.ts";
import { jobsOf } from "../postgres/jobs/jobs.ts";
import { openJournal, type Journal } from "../postgres/journal/journal.ts";
import { Leadership } from "../upkeep/leadership.ts";
import { LockWaits } from "../postgres/locks/lock-waits.ts";
import { locksOf } from "../postgres/locks/locks.ts";
import { knownMigrations } from "../postgres/schema/migrate.ts";
import { addPartitions } from "../postgres/schema/partitions.ts";
import { openPools, poolConnections, type Pools, type PoolSize } from "../postgres/connection/pools.ts";
import { openPool, RUNTIME_ROLE } from "../postgres/connection/pool.ts";
import { readableClaims } from "../postgres/jobs/readable-claims.ts";
import { rowsFor } from "../postgres/rows/rows.ts";
import { safetyProblems } from "../postgres/schema/safety.ts";
import { ledgerOf } from "../backup/sql/snapshot.ts";
import { statusOf, type Status } from "../postgres/status.ts";
import { transactionsOf } from "../postgres/reads/transactions.ts";
import { repeat, rescueJobs, sweepHolds } from "../upkeep/sweeps.ts";
import { verificationsOf } from "../verification/sql/verifications.ts";
import { runBackup } from "../upkeep/backup-process.ts";
import { descriptorLimit } from "../servers/descriptors.ts";
import { adminHandlers } from "../rpc/admin/admin-service.ts";
import { answersFor } from "../rpc/answers.ts";
import { openGrpcDoor } from "../servers/grpc/grpc-server.ts";
import { createGuard } from "../rpc/guard.ts";
import { jobSchemas } from "../rpc/jobs/job-requests.ts";
import { jobHandlers } from "../rpc/jobs/job-service.ts";
import { ledgerHandlers } from "../rpc/ledger/ledger-service.ts";
import { listenHere, type Listen, type Listener } from "../servers/listener.ts";
import { lockHandlers } from "../rpc/locks/lock-service.ts";
import { metricsText } from "../servers/web/metrics.ts";
import { Payers } from "../rpc/jobs/payers.ts";
import { Peers, type Excess } from "../servers/peers.ts";
import { readSchemas } from "../rpc/ledger/read-requests.ts";
import { createReadiness, type Readiness } from "../servers/readiness.ts";
import { createTranslate } from "../rpc/errors.ts";
import { openWebDoor } from "../servers/web/web-server.ts";
import { writeSchemas } from "../rpc/ledger/write-requests.ts";
import { version } from "../version.ts";

/** A service that takes calls. */
export interface Service {
  readonly grpcAddress: string;
  readonly httpAddress: string;
  /** Drains and ends everything, the database last. */
  readonly close: () => Promise<void>;
}

/** What others may be waiting for in another process, and has changed. */
export type News = "transactions" | "jobs" | "locks";

/** What a service has from the process that started it: connections, and other services beside it that work on the same database. */
export interface Surroundings {
  readonly grpc: Listen;
  readonly http: Listen;
  /** Tells the others what changed here. */
  readonly tell: (news: News) => void;
  /** Has this listener told what changed at the others. It may be told late, or not at all: they are polled as well. */
  readonly hear: (listener: (news: News) => void) => void;
}

/** A service by itself. */
const alone: Surroundings = { grpc: listenHere, http: listenHere, tell: () => undefined, hear: () => undefined };

/** The service must not be started with this configuration or database. */
export class StartupProblem extends Error {}

const READINESS_PAUSE_MS = 500;
/** A database that takes longer to answer a look is as good as away. */
const READINESS_LIMIT_MS = 2000;
const PARTITIONS_PAUSE_MS = 10_000;
/** How often the schedule of backups is looked at. */
const BACKUP_PAUSE_MS = 2000;
/** Between rounds of the verification in the background; short beside the rounds, which keep to the rate by themselves. */
const VERIFY_ROUND_PAUSE_MS = 500;
/** On which reads wait to be durable. */
const DURABILITY_CONNECTIONS = 1;
/** Of a process: some 30 that are always open, and a backup, files, connections that replace others. */
const OTHER_DESCRIPTORS = 64;
const TOO_MANY_CONNECTIONS =
  "connections refused: the limit is LEDGERD_CONNECTION_LIMIT, and at most half of what ulimit -n leaves";
const COUNTED_PAUSE_MS = 10_000;

/** Starts a service, ready to take calls when this returns. */
export async function startService(config: Config, log: Logger, surroundings = alone): Promise<Service> {
  await using opened = new AsyncDisposableStack();
  const listeners = await takePorts(config, surroundings, log, opened);
  const storage = await openStorage(config, log, opened, surroundings);
  const noted: typeof failureOf = (error) => {
    storage.status.note(error);
    return failureOf(error);
  };
  const translate = createTranslate(noted, ({ error, ...incident }) => log.error({ ...incident, err: error }, "internal error"));
  const shutdown = new AbortController();
  const { guard, enterStream, empty } = createGuard({
    defaultDeadlineMs: config.LEDGERD_DEFAULT_DEADLINE,
    maxDeadlineMs: config.LEDGERD_MAX_DEADLINE,
    streamMaxAgeMs: config.LEDGERD_STREAM_MAX_AGE,
    streamLimit: config.LEDGERD_STREAM_LIMIT,
    shutdown: shutdown.signal,
    translate,
  });
  const parts = { ...storage, ...contractParts(config), translate, version: version() };
  const entries = [
    guard(LedgerService, ledgerHandlers(parts)),
    guard(JobService, jobHandlers(parts)),
    guard(LockService, lockHandlers(parts)),
    guard(AdminService, adminHandlers(parts)),
  ];
  const readiness = createReadiness(
    entries.map(({ service }) => service.typeName),
    (problem) => (problem === undefined ? log.info("ready") : log.warn({ problem }, "not ready")),
  );
  await look(storage.status, readiness);
  startUpkeep(config, storage, readiness, log, opened);
  const { verifications, backgroundProof, backups } = storage;
  const metrics = async (): Promise<string> =>
    metricsText(await verifications.last(), backgroundProof.rows, backups === undefined ? undefined : { newest: await backups.newest(), failures: backups.failures });

  const messageLimit = config.LEDGERD_MESSAGE_LIMIT;
  const { health, problem } = readiness;
  const ends = { shutdown: shutdown.signal, streamMaxAgeMs: config.LEDGERD_STREAM_MAX_AGE };
  const peers = new Peers(config.LEDGERD_STREAM_LIMIT, connectionsEnded(log));
  const both = { peers, entries, messageLimit, translate };
  const grpcDoor = openGrpcDoor({ ...both, listener: listeners.grpc, health, enterStream, ...ends });
  const unsent = logged("answering", log);
  const webDoor = openWebDoor({
    ...both,
    listener: listeners.http,
    access: { hosts: config.LEDGERD_WEB_HOSTS, origins: config.LEDGERD_WEB_ORIGINS },
    problem,
    metrics,
    log: unsent,
  });
  opened.defer(async () => {
    readiness.drain();
    shutdown.abort();
    const left = Promise.race([empty(), delay(config.LEDGERD_DRAIN_TIMEOUT, undefined, { ref: false })]);
    await Promise.all([grpcDoor, webDoor].map((door) => door.close(left)));
  });
  const running = opened.move();
  return { grpcAddress: grpcDoor.address, httpAddress: webDoor.address, close: () => running.disposeAsync() };
}

/**
 * Takes both ports before the database is touched: a start on a port that is taken changes nothing. Who comes while
 * the service starts waits, and is let in when it takes calls, or turned away if it never does.
 */
async function takePorts(config: Config, { grpc, http }: Surroundings, log: Logger, opened: AsyncDisposableStack) {
  const most = callersOf(config);
  const take = async (setting: "LEDGERD_GRPC_ADDR" | "LEDGERD_HTTP_ADDR", listen: Listen): Promise<Listener> => {
    const refused = counted((count) => log.warn({ setting, refused: count, limit: most }, TOO_MANY_CONNECTIONS));
    return opened.adopt(await placed(setting, listen(config[setting], { most, refused })), async ({ cut, close }) => {
      cut();
      await close();
    });
  };
  return { grpc: await take("LEDGERD_GRPC_ADDR", grpc), http: await take("LEDGERD_HTTP_ADDR", http) };
}

/** Says how many connections were ended for which excess. */
function connectionsEnded(log: Logger): (why: Excess) => void {
  const says = new Map<Excess, () => void>();
  return (why) => {
    const say = says.get(why) ?? counted((count) => log.warn({ why, ended: count }, "connections ended: they took too much"));
    says.set(why, say);
    say();
  };
}

/** Says how often something has happened: at once, and then no more often than each few seconds. */
function counted(say: (count: number) => void): () => void {
  let count = 0;
  let pause: NodeJS.Timeout | undefined;
  const sayIfAny = (): void => {
    pause = undefined;
    if (count === 0) return;
    say(count);
    count = 0;
    pause = setTimeout(sayIfAny, COUNTED_PAUSE_MS).unref();
  };
  return () => {
    count += 1;
    if (pause === undefined) sayIfAny();
  };
}

/** What opens where a setting says; if it can't listen there, the error names the setting. */
export async function placed<T>(setting: keyof Config, opening: Promise<T>): Promise<T> {
  try {
    return await opening;
  } catch (cause) {
    if (!(cause instanceof Error && "syscall" in cause)) throw cause;
    throw new StartupProblem(`${setting} must be a free address of this machine, such as 127.0.0.1:0 for any free port: ${cause.message}`, { cause });
  }
}

type Storage = Awaited<ReturnType<typeof openStorage>>;

/** The database, migrated and found safe, and all that reads and writes it. */
async function openStorage(config: Config, log: Logger, opened: AsyncDisposableStack, { tell, hear }: Surroundings) {
  const database = opened.adopt(await openDatabase(config, log, connectionsOf(config), "serve"), ({ close }) => close());
  await bringUpToDate(database, config, log);
  const pools = await poolsOf(database.url, config, log, opened);
  const { calls: pool, live, catchingUp, background } = pools;
  await assertSafe(background, config);
  await background.oneFirst(addPartitions);

  const rows = rowsFor(config.currencies);
  const durability = opened.adopt(new Durability(database.url, config.LEDGERD_CONNECT_TIMEOUT), (open) => open.close());
  const feed = new Feed({ live, behind: catchingUp, rows, durability, pollMs: config.LEDGERD_FEED_POLL });
  const jobs = jobsOf(pool, rows);
  const locks = locksOf(pool);
  const claimsBy = (connections: DatabasePool) => readableClaims(claimsOf(connections, rows), () => journal);
  const jobQueue = new JobQueue(claimsBy(live), claimsBy(pool), config.LEDGERD_WAIT_POLL);
  const jobWatch = new JobWatch(jobsOf(live, rows), jobsOf(catchingUp, rows), config.LEDGERD_WAIT_POLL);
  const lockWaits = new LockWaits(locks, config.LEDGERD_WAIT_POLL);
  const wake = {
    transactions: () => feed.wake(),
    jobs: () => {
      jobQueue.wake();
      jobWatch.wake();
    },
    locks: () => lockWaits.wake(),
  };
  hear((news) => wake[news]());
  const happened = (news: News): void => {
    wake[news]();
    tell(news);
  };
  const journal: Journal = openJournal(
    {
      url: database.url,
      rows,
      lanes: lanesOf(config),
      groupLimit: config.LEDGERD_GROUP_LIMIT,
      queueLimit: config.LEDGERD_QUEUE_LIMIT,
      connectTimeoutMs: config.LEDGERD_CONNECT_TIMEOUT,
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
    background,
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

async function assertSafe(background: DatabasePool, { LEDGERD_DURABILITY: durability }: Config): Promise<void> {
  const problems = await safetyProblems(background, durability);
  if (problems.length > 0) throw new StartupProblem(`this database can't be served from: ${problems.join("; ")}`);
}

function poolsOf(url: string, config: Config, log: Logger, opened: AsyncDisposableStack): Promise<Pools> {
  const calls = { min: config.LEDGERD_POOL_MIN, max: config.LEDGERD_POOL_MAX };
  return openPools(calls, async (size) => opened.adopt(await connect(url, config, log, size), (open) => open.end()));
}

/** Verification and rebuilding: those that are asked for, and the one in the background. */
function openProofs(url: string, { background: pool, live }: Pools, config: Config, log: Logger) {
  const { currencies, LEDGERD_CONNECT_TIMEOUT: connectTimeoutMs } = config;
  const ledger = { url, role: RUNTIME_ROLE, pool, currencies, connectTimeoutMs };
  const backgroundProof = new BackgroundProof({
    ...ledger,
    rowsPerSecond: config.LEDGERD_VERIFY_RATE,
    pauseMs: config.LEDGERD_VERIFY_PAUSE,
    log: (finding) => log.error({ ...finding, event: "difference" }, describe(finding)),
  });
  return { proofs: new Proofs(ledger), backgroundProof, verifications: verificationsOf(live) };
}

/** A process that serves alone prepares one group while another one is committed. Of several, each does well with one: see docs/performance.md. */
const LANES_ALONE = 2;

function lanesOf(config: Config): number {
  return config.LEDGERD_LANES ?? LANES_ALONE;
}

/** How many connections a process may open at most: see pools.ts. */
export function connectionsOf(config: Config): number {
  return poolConnections(config.LEDGERD_POOL_MAX) + DURABILITY_CONNECTIONS + PROOF_CONNECTIONS + lanesOf(config);
}

/**
 * How many callers a process takes at most at each of its two doors: each has one half of the descriptors that are
 * left, so that neither starves the other.
 */
export function callersOf(config: Config): number {
  const left = descriptorLimit() - connectionsOf(config) - OTHER_DESCRIPTORS;
  return Math.max(1, Math.min(config.LEDGERD_CONNECTION_LIMIT, Math.floor(left / 2)));
}

function connect(url: string, config: Config, log: Logger, { min, max }: PoolSize): Promise<DatabasePool> {
  return openPool({
    url,
    // Everything that is read has an index; a plan that is kept from when a table was small must not scan it when it is
    // large.
    settings: { role: RUNTIME_ROLE, enable_seqscan: "off" },
    // Nor must it read all of a user's rows to sort them where an index has their order. Before PostgreSQL 18 a step that
    // is switched off costs 10^10: where a sort is needed nevertheless, all plans seem to cost the same, and lists walked
    // through the whole log. 18 counts such steps instead.
    settingsSince18: { enable_sort: "off" },
    mustTakeWrites: true,
    min,
    max,
    connectTimeoutMs: config.LEDGERD_CONNECT_TIMEOUT,
    queryTimeoutMs: config.LEDGERD_QUERY_TIMEOUT,
    idleTimeoutMs: config.LEDGERD_IDLE_TIMEOUT,
    onError: logged("an idle connection", log),
  });
}

function contractParts({ currencies, LEDGERD_DEFAULT_CURRENCY: fallback }: Config) {
  return {
    currencies,
    writes: writeSchemas(currencies, fallback),
    reads: readSchemas(currencies, fallback),
    jobRequests: jobSchemas(currencies, fallback),
    answers: answersFor(currencies),
  };
}

/** The work in the background; each part is safe to run on every instance at once. */
function startUpkeep(config: Config, storage: Storage, readiness: Readiness, log: Logger, opened: AsyncDisposableStack): void {
  const { background, rows, journal, status, backgroundProof, backups } = storage;
  const holds = holdsOf(background, rows);
  const claims = claimsOf(background, rows);
  const shared: readonly [string, number, bigint, () => Promise<unknown>][] = [
    ["sweeping expired holds", config.LEDGERD_SWEEP_INTERVAL, ownLocks.expireHolds, () => sweepHolds(holds, journal)],
    ["rescuing jobs", config.LEDGERD_JOB_SWEEP_INTERVAL, ownLocks.rescueJobs, () => rescueJobs(claims, journal)],
    ["adding partitions", PARTITIONS_PAUSE_MS, ownLocks.addPartitions, () => background.oneFirst(addPartitions)],
  ];
  const instanceId = `${hostname()}:${process.pid}:${randomUUID().slice(0, 8)}`;
  const locks = locksOf(background);
  for (const [what, pauseMs, key, round] of shared) {
    const leadership = new Leadership(locks, key, instanceId, pauseMs);
    opened.defer(() => leadership.resign().catch(logged(`resigning from ${what}`, log)));
    opened.adopt(repeat(pauseMs, () => leadership.lead(round), logged(what, log)), ({ stop }) => stop());
  }
  if (backups !== undefined) startBackups(backups, new Leadership(locks, ownLocks.backUp, instanceId, BACKUP_PAUSE_MS), log, opened);
  if (config.LEDGERD_VERIFY_RATE > 0) {
    const leadership = new Leadership(locks, ownLocks.verify, instanceId, VERIFY_ROUND_PAUSE_MS);
    opened.defer(() => leadership.resign().catch(logged("resigning from verifying", log)));
    const rounds = repeat(VERIFY_ROUND_PAUSE_MS, () => leadership.lead((token) => backgroundProof.round(token)), logged("verifying", log));
    opened.defer(() => backgroundProof.stop(rounds.stop));
  }
  opened.adopt(repeat(READINESS_PAUSE_MS, () => look(status, readiness), logged("looking at the database", log)), ({ stop }) => stop());
}

/** The backups by the schedule, if there is one. */
function backupsOf(config: Config, url: string, background: DatabasePool, log: Logger): ScheduledBackups | undefined {
  const { LEDGERD_BACKUP_DIR: folder, LEDGERD_BACKUP_SCHEDULE: schedule, LEDGERD_BACKUP_KEEP_DAYS: keepDays } = config;
  if (folder === undefined || schedule.kind === "off") return undefined;
  const take = async (signal: AbortSignal): Promise<void> => {
    log.info({ folder }, "taking a backup");
    await runBackup({ url, folder, keepDays, signal });
  };
  return new ScheduledBackups({ schedule, folder, ledger: () => ledgerOf(background), take });
}

function startBackups(backups: ScheduledBackups, leadership: Leadership, log: Logger, opened: AsyncDisposableStack): void {
  const failed = (error: unknown): void => log.error({ err: error }, "the backup failed");
  opened.defer(() => leadership.resign().catch(logged("resigning from taking backups", log)));
  opened.adopt(repeat(BACKUP_PAUSE_MS, () => leadership.lead(() => backups.takeIfDue()), failed), ({ stop }) => stop());
  opened.defer(() => backups.stop());
}

/** Takes a look at the database, and reports what it found. */
async function look(status: Status, readiness: Readiness): Promise<void> {
  try {
    readiness.report(await Promise.race([status.problem(knownMigrations().length), tooLate()]));
  } catch (error) {
    const why = failureOf(error)?.why;
    readiness.report(why === undefined ? `the database can't be reached: ${reasonOf(error)}` : `the database can't be used: ${why}`);
  }
}

async function tooLate(): Promise<string> {
  await delay(READINESS_LIMIT_MS, undefined, { ref: false });
  // An answer that came while this process was busy is there by then: it was not the database that took so long.
  await immediate();
  return `the database took longer than ${READINESS_LIMIT_MS} ms to answer`;
}

function logged(what: string, log: Logger): (error: unknown) => void {
  return (error) => log.warn({ err: error }, `${what} failed`);
}
