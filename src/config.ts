// What can be configured, by environment variables alone. The only reader of process.env.

import { readFileSync } from "node:fs";
import type { z } from "zod";
import { currenciesWith, type Currencies, type Currency } from "./domain/money/currency.ts";
import { withPassFile, problemOfUrl } from "./postgres/connection/url.ts";
import { environment } from "./settings/environment.ts";

/** The validated settings, grouped by the parts that they are for. Times are in milliseconds. */
export type Config = ReturnType<typeof grouped>;

type Environment = Readonly<Record<string, string | undefined>>;

/** The settings, or all that is wrong with them, each a line that names the variable. */
export function readConfig(env: Environment = process.env): { config: Config } | { problems: readonly string[] } {
  // An empty variable is one that isn't set: that is how compose files and shells clear one.
  const given = Object.fromEntries(Object.entries(env).filter(([, value]) => value !== undefined && value !== ""));
  const parsed = environment.safeParse(given);
  const wrong = (parsed.error?.issues ?? []).map((issue) => `${issue.path.join(".")} ${issue.message}${quote(String(issue.path[0]), given)}`);
  const url = urlOf("DATABASE_URL", given);
  const migrationUrl = urlOf("LEDGERD_MIGRATION_URL", given);
  const adoptFrom = urlOf("LEDGERD_ADOPT_FROM", given);
  const unread = [url, migrationUrl, adoptFrom].flatMap((one) => ("problem" in one ? [one.problem] : []));
  const problems = [...wrong, ...unread, ...contradictions(given)];
  if (!parsed.success || problems.length > 0) return { problems };
  if ("problem" in url || "problem" in migrationUrl || "problem" in adoptFrom) return { problems };
  const urls = { DATABASE_URL: url.url, LEDGERD_MIGRATION_URL: migrationUrl.url, LEDGERD_ADOPT_FROM: adoptFrom.url };
  return { config: grouped(parsed.data, urls) };
}

function grouped(given: z.output<typeof environment>, urls: Readonly<Record<UrlSetting, string | undefined>>) {
  return {
    logLevel: given.LEDGERD_LOG_LEVEL,
    postgres: {
      url: urls.DATABASE_URL,
      migrationUrl: urls.LEDGERD_MIGRATION_URL,
      dataFolder: given.LEDGERD_DATA_DIR,
      poolMin: given.LEDGERD_POOL_MIN,
      poolMax: given.LEDGERD_POOL_MAX,
      connectTimeoutMs: given.LEDGERD_CONNECT_TIMEOUT,
      queryTimeoutMs: given.LEDGERD_QUERY_TIMEOUT,
      idleTimeoutMs: given.LEDGERD_IDLE_TIMEOUT,
      migrate: given.LEDGERD_MIGRATE,
      durability: given.LEDGERD_DURABILITY,
      separation: given.LEDGERD_SEPARATION,
    },
    servers: {
      grpc: given.LEDGERD_GRPC_ADDR,
      http: given.LEDGERD_HTTP_ADDR,
      webHosts: given.LEDGERD_WEB_HOSTS,
      webOrigins: given.LEDGERD_WEB_ORIGINS,
      connectionLimit: given.LEDGERD_CONNECTION_LIMIT,
      messageLimit: given.LEDGERD_MESSAGE_LIMIT,
    },
    processes: {
      workers: given.LEDGERD_WORKERS,
      stallLimitMs: given.LEDGERD_STALL_LIMIT,
    },
    money: {
      defaultCurrency: given.LEDGERD_DEFAULT_CURRENCY,
      /** ISO 4217 and the configured units. */
      currencies: currenciesWith(given.LEDGERD_UNITS),
    },
    journal: {
      lanes: given.LEDGERD_LANES,
      groupLimit: given.LEDGERD_GROUP_LIMIT,
      queueLimit: given.LEDGERD_QUEUE_LIMIT,
    },
    calls: {
      defaultDeadlineMs: given.LEDGERD_DEFAULT_DEADLINE,
      maxDeadlineMs: given.LEDGERD_MAX_DEADLINE,
      streamMaxAgeMs: given.LEDGERD_STREAM_MAX_AGE,
      streamLimit: given.LEDGERD_STREAM_LIMIT,
      drainTimeoutMs: given.LEDGERD_DRAIN_TIMEOUT,
      feedPollMs: given.LEDGERD_FEED_POLL,
      waitPollMs: given.LEDGERD_WAIT_POLL,
    },
    upkeep: {
      sweepPauseMs: given.LEDGERD_SWEEP_INTERVAL,
      rescuePauseMs: given.LEDGERD_JOB_SWEEP_INTERVAL,
      verifyRate: given.LEDGERD_VERIFY_RATE,
      verifyPauseMs: given.LEDGERD_VERIFY_PAUSE,
    },
    backups: {
      folder: given.LEDGERD_BACKUP_DIR,
      schedule: given.LEDGERD_BACKUP_SCHEDULE,
      keepDays: given.LEDGERD_BACKUP_KEEP_DAYS,
    },
    adoption: {
      from: urls.LEDGERD_ADOPT_FROM,
    },
  };
}

/** Settings that are URLs of the database, and may hold a password. */
const urlSettings = ["DATABASE_URL", "LEDGERD_MIGRATION_URL", "LEDGERD_ADOPT_FROM"] as const;
type UrlSetting = (typeof urlSettings)[number];

/** A URL, from wherever it comes, with the file of passwords that it is to use. */
function urlOf(name: UrlSetting, given: Environment): { url: string | undefined } | { problem: string } {
  const { [name]: said, [`${name}_FILE`]: file, PGPASSFILE } = given;
  if (said !== undefined && file !== undefined) {
    return { problem: `${name}_FILE must not be set beside ${name}: one or the other says it` };
  }
  const url = file === undefined ? said : tryRead(file);
  if (url instanceof Error) return { problem: `${name}_FILE must be a file with the database's URL: ${url.message}` };
  if (url === undefined) return { url };
  const wrong = problemOfUrl(url);
  if (wrong === undefined) return { url: PGPASSFILE === undefined ? url : withPassFile(url, PGPASSFILE) };
  return file === undefined ? { url } : { problem: `${name}_FILE must hold what ${name} would, which ${wrong}` };
}

/** A file's text, without the end of its line; or why it can't be read. */
function tryRead(file: string): string | Error {
  try {
    return readFileSync(file, "utf8").trim();
  } catch (error) {
    return error instanceof Error ? error : new Error(String(error));
  }
}

/** What is wrong between settings. Each check looks at its own ones alone: it is made whatever is wrong elsewhere. */
function contradictions(given: Environment): readonly string[] {
  const problems: string[] = [];
  const isGiven = (name: UrlSetting): boolean => given[name] !== undefined || given[`${name}_FILE`] !== undefined;
  if (isGiven("LEDGERD_MIGRATION_URL") && !isGiven("DATABASE_URL")) {
    problems.push("LEDGERD_MIGRATION_URL must not be set without DATABASE_URL: they lead to the same database");
  }
  const pool = environment.pick({ LEDGERD_POOL_MIN: true, LEDGERD_POOL_MAX: true }).safeParse(given).data;
  if (pool !== undefined && pool.LEDGERD_POOL_MIN > pool.LEDGERD_POOL_MAX) {
    problems.push(`LEDGERD_POOL_MIN must not be above LEDGERD_POOL_MAX, such as ${pool.LEDGERD_POOL_MAX}; it is "${pool.LEDGERD_POOL_MIN}"`);
  }
  const backups = environment.pick({ LEDGERD_BACKUP_DIR: true, LEDGERD_BACKUP_SCHEDULE: true }).safeParse(given).data;
  if (backups !== undefined && backups.LEDGERD_BACKUP_SCHEDULE.kind !== "off" && backups.LEDGERD_BACKUP_DIR === undefined) {
    problems.push(`LEDGERD_BACKUP_SCHEDULE needs LEDGERD_BACKUP_DIR, such as /var/backups/ledgerd${quote("LEDGERD_BACKUP_SCHEDULE", given)}`);
  }
  const money = environment.pick({ LEDGERD_UNITS: true, LEDGERD_DEFAULT_CURRENCY: true }).safeParse(given).data;
  if (money === undefined) return problems;
  const currencies = tryCurrencies(money.LEDGERD_UNITS);
  if (currencies instanceof Error) {
    problems.push(`LEDGERD_UNITS must not redefine a currency, such as CRD:6: ${currencies.message}${quote("LEDGERD_UNITS", given)}`);
  } else if (!currencies.has(money.LEDGERD_DEFAULT_CURRENCY)) {
    problems.push(`LEDGERD_DEFAULT_CURRENCY must be of ISO 4217 or in LEDGERD_UNITS, such as RUB${quote("LEDGERD_DEFAULT_CURRENCY", given)}`);
  }
  return problems;
}

/** What a variable is set to, but for those that may contain a password. */
function quote(name: string, given: Environment): string {
  return urlSettings.some((one) => one === name) ? "" : `; it is ${JSON.stringify(given[name])}`;
}

function tryCurrencies(list: readonly Currency[]): Currencies | Error {
  try {
    return currenciesWith(list);
  } catch (error) {
    return error instanceof Error ? error : new Error(String(error));
  }
}

/**
 * The environment for a further process of ours on this database: that of this one, but for these settings, and for the
 * login that may change the schema.
 */
export function environmentWith(url: string, settings: Environment = {}): Environment {
  const others = Object.fromEntries(urlSettings.flatMap((name) => [[name, ""], [`${name}_FILE`, ""]]));
  return { ...process.env, ...others, DATABASE_URL: url, ...settings };
}

/** Variables that look like ours but aren't: a typing error would otherwise go unnoticed. */
export function unknownVariables(env: Environment = process.env): readonly string[] {
  return Object.keys(env).filter((name) => name.startsWith("LEDGERD_") && !(name in environment.shape));
}
