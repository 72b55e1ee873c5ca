// What the environment may say: each variable, how it is written, what counts without it, and what it is for.

import { z } from "zod";
import { MAX_DIGITS, type Currency } from "../domain/money/currency.ts";
import type { Schedule } from "../domain/schedule.ts";
import { problemOfUrl } from "../postgres/connection/url.ts";

/** Where to listen. */
export interface Address {
  readonly host: string;
  readonly port: number;
}

/** A setting's entry in the README. */
export interface Setting {
  readonly name: string;
  readonly default: string;
  readonly description: string;
}

const SECOND = 1000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const unitsOfTime: Readonly<Record<string, number>> = { ms: 1, s: SECOND, m: MINUTE, h: HOUR };

/** Milliseconds, written as `500ms`, `10s`, `5m` or `1h`. */
function duration(minMs: number, maxMs: number) {
  const problem = `must be a duration from ${writeDuration(minMs)} to ${writeDuration(maxMs)}, such as 500ms, 10s, 5m or 1h`;
  return z
    .string()
    .regex(/^\d{1,9}(ms|s|m|h)$/, problem)
    .transform(milliseconds)
    .refine((ms) => ms >= minMs && ms <= maxMs, problem);
}

function milliseconds(text: string): number {
  return Number.parseInt(text, 10) * (unitsOfTime[text.replace(/^\d+/, "")] ?? Number.NaN);
}

function writeDuration(ms: number): string {
  if (ms >= HOUR && ms % HOUR === 0) return `${ms / HOUR}h`;
  return ms >= SECOND ? `${ms / SECOND}s` : `${ms}ms`;
}

function count(min: number, max: number) {
  const problem = `must be a whole number from ${min} to ${max}, such as ${Math.min(max, min * 10)}`;
  return z
    .string()
    .regex(/^\d{1,9}$/, problem)
    .transform(Number)
    .refine((n) => n >= min && n <= max, problem);
}

/** The most processes that may take calls. */
export const MAX_WORKERS = 64;

/** How many processes take calls. */
const workers = count(1, MAX_WORKERS);

/** How many days archives are kept. */
const keepDays = count(1, 36_500);

/** `daily 03:00` or `every 6h`. */
const schedule = z
  .string()
  .regex(/^(off|daily ([01]\d|2[0-3]):[0-5]\d|every [1-9]\d{0,5}(s|m|h))$/, "must be off, a time of day in UTC such as daily 03:00, or an interval such as every 6h")
  .transform((text): Schedule => {
    const [kind, when = ""] = text.split(" ");
    if (kind === "daily") return { kind, minute: Number(when.slice(0, 2)) * 60 + Number(when.slice(3)) };
    return kind === "every" ? { kind, intervalMs: milliseconds(when) } : { kind: "off" };
  });

/** `host:port`; an IPv6 host in brackets. Port 0 takes a free one. */
const address = z
  .string()
  .regex(/^(\[[0-9a-fA-F:]+\]|[^:[\]\s]+):\d{1,5}$/, "must be host:port, such as 127.0.0.1:50051 or [::]:50051")
  .transform((text): Address => {
    const colon = text.lastIndexOf(":");
    return { host: text.slice(0, colon).replace(/^\[|\]$/g, ""), port: Number(text.slice(colon + 1)) };
  })
  .refine(({ port }) => port <= 65_535, "must have a port up to 65535, such as 127.0.0.1:50051");

const currencyCode = z.string().regex(/^[A-Z]{3}$/, "must be a currency's code of three upper-case letters, such as RUB");

/** `CRD:6,TOK:0`: codes and their fraction digits. */
const units = z
  .string()
  .regex(/^([A-Z]{3}:\d{1,2}(,[A-Z]{3}:\d{1,2})*)?$/, "must be codes with their fraction digits, such as CRD:6,TOK:0")
  .transform((text): readonly Currency[] =>
    text === "" ? [] : text.split(",").map((unit) => ({ code: unit.slice(0, 3), digits: Number(unit.slice(4)) })),
  )
  .refine((list) => list.every((unit) => unit.digits <= MAX_DIGITS), `must have at most ${MAX_DIGITS} fraction digits, such as CRD:6`)
  .refine((list) => new Set(list.map(({ code }) => code)).size === list.length, "must name each code once, such as CRD:6,TOK:0");

const databaseUrl = z.string().superRefine((text, context) => {
  const message = problemOfUrl(text);
  if (message !== undefined) context.addIssue({ code: "custom", message });
});

/** A name of DNS, or an IPv6 address in brackets, and a port if it counts. */
const webHost = /^([a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])(:\d{1,5})?$/;

/** `ledger.internal,ledger.example.com:8443`: names, each with or without a port. */
const webHosts = itemsOf(
  "names with or without a port, such as ledger.internal,ledger.example.com:8443",
  (name) => webHost.test(name),
);

/** `https://app.example.com`: what browsers send as `Origin`. */
const webOrigins = itemsOf(
  "origins as browsers send them, such as https://app.example.com,http://localhost:3000",
  (origin) => /^https?:[^*]*$/.test(origin) && URL.parse(origin)?.origin === origin,
);

/** Items between commas, in lower case, as browsers send them; spaces around them don't count. */
function itemsOf(wanted: string, isRight: (item: string) => boolean) {
  return z
    .string()
    .transform((text): readonly string[] => (text === "" ? [] : text.toLowerCase().split(",")))
    .transform((items) => items.map((item) => item.trim()))
    .refine((items) => items.every(isRight), `must be ${wanted}`);
}

/** All variables that are ours. */
export const environment = z.object({
  DATABASE_URL: databaseUrl
    .optional()
    .describe(
      "The PostgreSQL (15 to 18) to use, with libpq's parameters: [Connecting](docs/connecting.md). Without it, ledgerd " +
        "runs a PostgreSQL of its own",
    ),
  DATABASE_URL_FILE: z.string().optional().describe("A file that holds what `DATABASE_URL` would"),
  LEDGERD_MIGRATION_URL: databaseUrl
    .optional()
    .describe(
      "The same database by a login that may change the schema, for migrations, `restore` and `adopt` alone: " +
        "[Logins](docs/connecting.md#logins). Without it these take the login of `DATABASE_URL`, and `serve` on an old schema " +
        "refuses to start",
    ),
  LEDGERD_MIGRATION_URL_FILE: z.string().optional().describe("A file that holds what `LEDGERD_MIGRATION_URL` would"),
  LEDGERD_ADOPT_FROM: databaseUrl
    .optional()
    .describe("The old application's database, for `adopt` alone: [Adoption](docs/adoption.md). `--from-file` says it as well"),
  LEDGERD_ADOPT_FROM_FILE: z.string().optional().describe("A file that holds what `LEDGERD_ADOPT_FROM` would"),
  PGPASSFILE: z
    .string()
    .optional()
    .describe(
      "A file of passwords, as libpq has it, for a URL that has none and names no file. Without it: `.pgpass` " +
        "in the home folder",
    ),
  LEDGERD_DATA_DIR: z
    .string()
    .optional()
    .describe(
      "Where its own PostgreSQL keeps everything. Without it: `.ledgerd` in the current folder, or a folder per clone in `/var/lib/ledgerd` " +
        "where the database's user can't reach that one",
    ),
  LEDGERD_GRPC_ADDR: address.prefault("127.0.0.1:50051").describe("Where gRPC listens: the API, health and reflection"),
  LEDGERD_HTTP_ADDR: address.prefault("127.0.0.1:8080").describe("Where the web port listens: Connect (JSON by curl), gRPC-Web, `/livez`, `/readyz` (= `/healthz`) and `/metrics`"),
  LEDGERD_WEB_HOSTS: webHosts
    .prefault("")
    .describe(
      "Names by which the web port may be called, beside `localhost` and IP addresses: `ledger.internal`, or with a port " +
        "that then counts too. They are compared with the header `Host`: [Browsers](docs/browsers.md)",
    ),
  LEDGERD_WEB_ORIGINS: webOrigins
    .prefault("")
    .describe(
      "Origins whose pages may call the web port from a browser: `https://app.example.com`. [Browsers](docs/browsers.md)",
    ),
  LEDGERD_WORKERS: workers
    .optional()
    .describe("Processes that take calls, 1 to 64; `--workers` says the same, and wins. Without it: one for each core"),
  LEDGERD_STALL_LIMIT: duration(SECOND, 24 * HOUR)
    .prefault("30s")
    .describe("After how long without a sign of life one of several processes that take calls is killed and replaced"),
  LEDGERD_CONNECTION_LIMIT: count(1, 1_000_000)
    .prefault("10000")
    .describe(
      "Connections at most at each port of each process, and no more than its descriptors (`ulimit -n`) leave room " +
        "for; one more is closed at once",
    ),
  LEDGERD_LOG_LEVEL: z
    .enum(["debug", "info", "warn", "error", "silent"], "must be debug, info, warn, error or silent")
    .prefault("info")
    .describe("What is logged, as JSON lines on standard error"),
  LEDGERD_DEFAULT_CURRENCY: currencyCode.prefault("RUB").describe("The currency of requests that name none"),
  LEDGERD_UNITS: units.prefault("").describe("Units beside ISO 4217, with their fraction digits: `CRD:6,TOK:0`. Never change the digits of one that is in use"),
  LEDGERD_POOL_MIN: count(0, 1000).prefault("2").describe("Connections for reads that each process keeps open"),
  LEDGERD_POOL_MAX: count(1, 1000).prefault("20").describe("Connections for reads at most, of each process"),
  LEDGERD_CONNECT_TIMEOUT: duration(100, MINUTE).prefault("10s").describe("How long connecting to PostgreSQL may take"),
  LEDGERD_QUERY_TIMEOUT: duration(100, 10 * MINUTE).prefault("30s").describe("How long a statement that reads may take"),
  LEDGERD_IDLE_TIMEOUT: duration(SECOND, 24 * HOUR).prefault("600s").describe("After how long an idle connection is closed"),
  LEDGERD_LANES: count(1, 64)
    .optional()
    .describe("Groups of writes that each process commits at the same time, each on a connection of its own. Without it: 2 in a process that serves alone, 1 in each of several"),
  LEDGERD_GROUP_LIMIT: count(1, 10_000).prefault("500").describe("Writes in one group at most"),
  LEDGERD_QUEUE_LIMIT: count(1, 1_000_000).prefault("10000").describe("Writes that may wait for their group in each process; over it, calls are refused with `OVERLOADED`. Streams of writes take half of it, and wait"),
  LEDGERD_DEFAULT_DEADLINE: duration(10, HOUR).prefault("5s").describe("The deadline of a call that has none, and of each write of a stream, once it is in the queue"),
  LEDGERD_MAX_DEADLINE: duration(10, HOUR).prefault("60s").describe("The longest deadline of a call; a longer one is cut to it"),
  LEDGERD_STREAM_MAX_AGE: duration(SECOND, 24 * HOUR).prefault("1h").describe("After how long a stream is ended, cleanly"),
  LEDGERD_STREAM_LIMIT: count(1, 100_000).prefault("1000").describe(
    "Streams that may be open at the same time in each process; of one connection a quarter, at most 200: [Limits](docs/limits.md)",
  ),
  LEDGERD_MESSAGE_LIMIT: count(1024, 64 * 1024 * 1024).prefault("4194304").describe("The largest request, in bytes; of a method whose fields can't hold as much, less"),
  LEDGERD_FEED_POLL: duration(5, MINUTE).prefault("100ms").describe("How often watchers look for what other instances wrote"),
  LEDGERD_SWEEP_INTERVAL: duration(10, HOUR).prefault("1s").describe("How often expired holds are looked for"),
  LEDGERD_JOB_SWEEP_INTERVAL: duration(10, HOUR).prefault("5s").describe("How often jobs are looked for whose worker's lease is over"),
  LEDGERD_VERIFY_RATE: count(0, 1_000_000).prefault("1000").describe("How many transactions a second the verification in the background goes through, on one instance for all; `0`: there is none"),
  LEDGERD_VERIFY_PAUSE: duration(100, 24 * HOUR).prefault("10m").describe("How long the verification in the background rests before it begins, and begins anew"),
  LEDGERD_WAIT_POLL: duration(5, MINUTE).prefault("100ms").describe("How often those who wait for jobs or locks, or watch them, see what other instances did"),
  LEDGERD_DRAIN_TIMEOUT: duration(0, 10 * MINUTE).prefault("20s").describe("How long calls may go on after SIGTERM"),
  LEDGERD_MIGRATE: z
    .enum(["auto", "never"], "must be auto or never")
    .prefault("auto")
    .describe(
      "Whether `serve` brings the schema up to date at start, by `LEDGERD_MIGRATION_URL`; with `never` it refuses to start " +
        "on an old schema",
    ),
  LEDGERD_BACKUP_DIR: z
    .string()
    .min(1, "must be a folder, such as /var/backups/ledgerd")
    .optional()
    .describe("The folder for archives: of `ledgerd backup`, of the schedule, and of the backups before major migrations"),
  LEDGERD_BACKUP_SCHEDULE: schedule.prefault("off").describe("When `serve` takes a backup by itself: `daily 03:00` (UTC), `every 6h`, or `off`. One that was missed is made up for"),
  LEDGERD_BACKUP_KEEP_DAYS: keepDays.prefault("7").describe("For how many days archives are kept; `--keep-days` says the same, and wins. The newest one always stays"),
  LEDGERD_DURABILITY: z
    .enum(["required", "relaxed"], "must be required or relaxed")
    .prefault("required")
    .describe("`required` refuses a PostgreSQL whose settings can lose acknowledged writes (`fsync`, `full_page_writes`, `synchronous_commit`); `relaxed` serves nevertheless"),
  LEDGERD_SEPARATION: z
    .enum(["required", "relaxed"], "must be required or relaxed")
    .prefault("required")
    .describe(
      "`required` refuses to serve as a login that could become more than `ledgerd_runtime`; `relaxed` serves nevertheless, " +
        "with a warning, and migrates as that login",
    ),
});

/** How many workers a flag asks for, or what is wrong with it. */
export function readWorkers(flag: string): number | string {
  const parsed = workers.safeParse(flag);
  return parsed.data ?? `--workers ${parsed.error?.issues[0]?.message}; it is ${JSON.stringify(flag)}`;
}

/** How many days a flag asks for, or what is wrong with it. */
export function readKeepDays(flag: string): number | string {
  const parsed = keepDays.safeParse(flag);
  return parsed.data ?? `--keep-days ${parsed.error?.issues[0]?.message}; it is ${JSON.stringify(flag)}`;
}

/** All settings, for the README's table. */
export function describeSettings(): readonly Setting[] {
  return Object.entries(environment.shape).map(([name, schema]) => {
    const missing = schema.safeParse(undefined);
    const fallback = "defaultValue" in schema.def ? schema.def.defaultValue : "";
    return { name, default: missing.success ? fallback : "", description: schema.description ?? "" };
  });
}
