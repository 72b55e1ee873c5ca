// Configuration: what the environment may say, what counts where it says nothing, and how all that is wrong is told at once.

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { type Config, environmentWith, readConfig, unknownVariables } from "../src/config.ts";
import { describeSettings } from "../src/settings/environment.ts";

type Environment = Readonly<Record<string, string | undefined>>;

function configOf(env: Environment): Config {
  const read = readConfig(env);
  if ("problems" in read) throw new Error(read.problems.join("\n"));
  return read.config;
}

function problemsOf(env: Environment): readonly string[] {
  const read = readConfig(env);
  return "problems" in read ? read.problems : [];
}

describe("an empty environment", () => {
  test("gives the defaults of the design", () => {
    const { money, ...settings } = configOf({});
    const { currencies, defaultCurrency } = money;
    expect(settings).toEqual({
      logLevel: "info",
      postgres: {
        url: undefined,
        migrationUrl: undefined,
        dataFolder: undefined,
        poolMin: 2,
        poolMax: 20,
        connectTimeoutMs: 10_000,
        queryTimeoutMs: 30_000,
        idleTimeoutMs: 600_000,
        migrate: "auto",
        durability: "required",
        separation: "required",
      },
      servers: {
        grpc: { host: "127.0.0.1", port: 50_051 },
        http: { host: "127.0.0.1", port: 8080 },
        webHosts: [],
        webOrigins: [],
        connectionLimit: 10_000,
        messageLimit: 4_194_304,
      },
      processes: { workers: undefined, stallLimitMs: 30_000 },
      journal: { lanes: undefined, groupLimit: 500, queueLimit: 10_000 },
      calls: {
        defaultDeadlineMs: 5000,
        maxDeadlineMs: 60_000,
        streamMaxAgeMs: 3_600_000,
        streamLimit: 1000,
        drainTimeoutMs: 20_000,
        feedPollMs: 100,
        waitPollMs: 100,
      },
      upkeep: { sweepPauseMs: 1000, rescuePauseMs: 5000, verifyRate: 1000, verifyPauseMs: 600_000 },
      backups: { folder: undefined, schedule: { kind: "off" }, keepDays: 7 },
      adoption: { from: undefined },
    });
    expect(defaultCurrency).toBe("RUB");
    expect(currencies.get("RUB")).toEqual({ code: "RUB", digits: 2 });
    expect(currencies.has("CRD")).toBe(false);
  });

  test("is what variables that are set to an empty text amount to", () => {
    const empty = Object.fromEntries(describeSettings().map(({ name }) => [name, ""]));
    expect(configOf(empty)).toEqual(configOf({}));
    expect(configOf({ DATABASE_URL: undefined }).postgres.url).toBeUndefined();
  });
});

describe("a setting", () => {
  test.each([
    ["LEDGERD_GRPC_ADDR", ({ servers }: Config) => servers.grpc, "0.0.0.0:1", { host: "0.0.0.0", port: 1 }],
    ["LEDGERD_GRPC_ADDR", ({ servers }: Config) => servers.grpc, "[::1]:0", { host: "::1", port: 0 }],
    ["LEDGERD_HTTP_ADDR", ({ servers }: Config) => servers.http, "ledger.internal:65535", { host: "ledger.internal", port: 65_535 }],
    ["LEDGERD_CONNECT_TIMEOUT", ({ postgres }: Config) => postgres.connectTimeoutMs, "250ms", 250],
    ["LEDGERD_QUERY_TIMEOUT", ({ postgres }: Config) => postgres.queryTimeoutMs, "45s", 45_000],
    ["LEDGERD_IDLE_TIMEOUT", ({ postgres }: Config) => postgres.idleTimeoutMs, "5m", 300_000],
    ["LEDGERD_STREAM_MAX_AGE", ({ calls }: Config) => calls.streamMaxAgeMs, "24h", 86_400_000],
    ["LEDGERD_DRAIN_TIMEOUT", ({ calls }: Config) => calls.drainTimeoutMs, "0s", 0],
    ["LEDGERD_LANES", ({ journal }: Config) => journal.lanes, "64", 64],
    ["LEDGERD_WORKERS", ({ processes }: Config) => processes.workers, "64", 64],
    ["LEDGERD_POOL_MIN", ({ postgres }: Config) => postgres.poolMin, "0", 0],
    ["LEDGERD_LOG_LEVEL", ({ logLevel }: Config) => logLevel, "silent", "silent"],
    ["LEDGERD_MIGRATE", ({ postgres }: Config) => postgres.migrate, "never", "never"],
    ["LEDGERD_DURABILITY", ({ postgres }: Config) => postgres.durability, "relaxed", "relaxed"],
    ["LEDGERD_SEPARATION", ({ postgres }: Config) => postgres.separation, "relaxed", "relaxed"],
    ["LEDGERD_DEFAULT_CURRENCY", ({ money }: Config) => money.defaultCurrency, "JPY", "JPY"],
    ["LEDGERD_WEB_HOSTS", ({ servers }: Config) => servers.webHosts, "Ledger.internal, ledger:8443,[::1]:80", ["ledger.internal", "ledger:8443", "[::1]:80"]],
    ["LEDGERD_WEB_ORIGINS", ({ servers }: Config) => servers.webOrigins, "https://App.example.com,http://localhost:3000", ["https://app.example.com", "http://localhost:3000"]],
    ["LEDGERD_DATA_DIR", ({ postgres }: Config) => postgres.dataFolder, "data here", "data here"],
    ["DATABASE_URL", ({ postgres }: Config) => postgres.url, "postgresql://u:p@h/d?sslmode=require", "postgresql://u:p@h/d?sslmode=require"],
  ] as const)("%s is read where it belongs", (name, placeIn, text, value) => {
    expect(placeIn(configOf({ [name]: text }))).toEqual(value);
  });

  test.each([
    ["LEDGERD_GRPC_ADDR", "50051", "host:port"],
    ["LEDGERD_GRPC_ADDR", ":50051", "host:port"],
    ["LEDGERD_GRPC_ADDR", "::1:50051", "host:port"],
    ["LEDGERD_HTTP_ADDR", "http://localhost:80", "host:port"],
    ["LEDGERD_HTTP_ADDR", "localhost:65536", "65535"],
    ["LEDGERD_WEB_HOSTS", "http://ledger.internal", "names with or without a port"],
    ["LEDGERD_WEB_HOSTS", "ledger.internal,", "names with or without a port"],
    ["LEDGERD_WEB_HOSTS", "*", "names with or without a port"],
    ["LEDGERD_WEB_ORIGINS", "*", "https://app.example.com"],
    ["LEDGERD_WEB_ORIGINS", "null", "https://app.example.com"],
    ["LEDGERD_WEB_ORIGINS", "app.example.com", "https://app.example.com"],
    ["LEDGERD_WEB_ORIGINS", "https://app.example.com/", "https://app.example.com"],
    ["LEDGERD_WEB_ORIGINS", "https://app.example.com:443", "https://app.example.com"],
    ["LEDGERD_WEB_ORIGINS", "https://*.example.com", "https://app.example.com"],
    ["LEDGERD_LANES", "0", "from 1 to 64"],
    ["LEDGERD_LANES", "65", "from 1 to 64"],
    ["LEDGERD_LANES", "1e1", "whole number"],
    ["LEDGERD_WORKERS", "0", "from 1 to 64"],
    ["LEDGERD_WORKERS", "65", "from 1 to 64"],
    ["LEDGERD_POOL_MAX", "-1", "whole number"],
    ["LEDGERD_POOL_MAX", "2.5", "whole number"],
    ["LEDGERD_QUERY_TIMEOUT", "30", "500ms, 10s, 5m or 1h"],
    ["LEDGERD_QUERY_TIMEOUT", "99ms", "from 100ms to 600s"],
    ["LEDGERD_QUERY_TIMEOUT", "11m", "from 100ms to 600s"],
    ["LEDGERD_STREAM_MAX_AGE", "1d", "500ms, 10s, 5m or 1h"],
    ["LEDGERD_LOG_LEVEL", "verbose", "debug, info, warn, error or silent"],
    ["LEDGERD_MIGRATE", "yes", "auto or never"],
    ["LEDGERD_DURABILITY", "none", "required or relaxed"],
    ["LEDGERD_SEPARATION", "no", "required or relaxed"],
    ["LEDGERD_BACKUP_SCHEDULE", "daily", "daily 03:00"],
    ["LEDGERD_BACKUP_SCHEDULE", "daily 24:00", "daily 03:00"],
    ["LEDGERD_BACKUP_SCHEDULE", "every 0h", "every 6h"],
    ["LEDGERD_BACKUP_KEEP_DAYS", "0", "from 1 to 36500"],
    ["LEDGERD_DEFAULT_CURRENCY", "rub", "upper-case"],
    ["LEDGERD_DEFAULT_CURRENCY", "CRD", "LEDGERD_UNITS"],
    ["LEDGERD_UNITS", "CRD", "CRD:6,TOK:0"],
    ["LEDGERD_UNITS", "crd:6", "CRD:6,TOK:0"],
    ["LEDGERD_UNITS", "CRD:6,", "CRD:6,TOK:0"],
    ["LEDGERD_UNITS", "CRD:13", "at most 12 fraction digits"],
    ["LEDGERD_UNITS", "CRD:6,CRD:2", "each code once"],
    ["LEDGERD_UNITS", "JPY:2", "JPY has 0 fraction digits"],
  ])("%s=%s is refused by one line with its name, what is wrong, what is right, and what it is", (name, text, wrong) => {
    expect(problemsOf({ [name]: text })).toEqual([expect.stringMatching(/ must (be|have|name|not) .*(such as|or) /) as string]);
    const [line = ""] = problemsOf({ [name]: text });
    expect(line.startsWith(`${name} must `), line).toBe(true);
    expect(line).toContain(wrong);
    expect(line.endsWith(`; it is ${JSON.stringify(text)}`), line).toBe(true);
  });

  test.each(["mysql://u:s3cret@h/d", "u:s3cret@h/d", "postgres://u:s3#cret@h/d"])(
    "DATABASE_URL is never quoted, for its password's sake: %s",
    (url) => {
      expect(problemsOf({ DATABASE_URL: url })).toEqual(["DATABASE_URL must be a URL such as postgres://user:password@host:5432/database"]);
    },
  );
});

describe("settings together", () => {
  test("are told all that is wrong with them at once, that between them too", () => {
    const problems = problemsOf({
      DATABASE_URL: "nonsense",
      LEDGERD_GRPC_ADDR: "nonsense",
      LEDGERD_LANES: "0",
      LEDGERD_POOL_MIN: "30",
      LEDGERD_UNITS: "USD:3",
      LEDGERD_MIGRATE: "nonsense",
    });
    expect(problems.map((line) => line.slice(0, line.indexOf(" "))).toSorted()).toEqual([
      "DATABASE_URL",
      "LEDGERD_GRPC_ADDR",
      "LEDGERD_LANES",
      "LEDGERD_MIGRATE",
      "LEDGERD_POOL_MIN",
      "LEDGERD_UNITS",
    ]);
  });

  test("keep the pool's minimum within its maximum", () => {
    expect(configOf({ LEDGERD_POOL_MIN: "5", LEDGERD_POOL_MAX: "5" }).postgres).toMatchObject({ poolMin: 5, poolMax: 5 });
    expect(problemsOf({ LEDGERD_POOL_MIN: "6", LEDGERD_POOL_MAX: "5" })).toEqual(['LEDGERD_POOL_MIN must not be above LEDGERD_POOL_MAX, such as 5; it is "6"']);
    expect(problemsOf({ LEDGERD_POOL_MAX: "1" }), "the default counts as well").toHaveLength(1);
  });

  test("give a schedule of backups its folder", () => {
    const folder = { LEDGERD_BACKUP_DIR: "/var/backups/ledgerd" };
    expect(configOf({ ...folder, LEDGERD_BACKUP_SCHEDULE: "daily 03:05" }).backups.schedule).toEqual({ kind: "daily", minute: 185 });
    expect(configOf({ ...folder, LEDGERD_BACKUP_SCHEDULE: "every 6h" }).backups.schedule).toEqual({ kind: "every", intervalMs: 6 * 3600 * 1000 });
    expect(configOf(folder).backups.schedule).toEqual({ kind: "off" });
    expect(problemsOf({ LEDGERD_BACKUP_SCHEDULE: "daily 03:05" })).toEqual(['LEDGERD_BACKUP_SCHEDULE needs LEDGERD_BACKUP_DIR, such as /var/backups/ledgerd; it is "daily 03:05"']);
  });

  test("give the units beside ISO 4217, one of which may be the default currency", () => {
    const units = { LEDGERD_UNITS: "CRD:6,TOK:0,USD:2", LEDGERD_DEFAULT_CURRENCY: "CRD" };
    const { currencies, defaultCurrency: fallback } = configOf(units).money;
    expect(fallback).toBe("CRD");
    expect(["CRD", "TOK", "USD", "KWD"].map((code) => currencies.get(code)?.digits)).toEqual([6, 0, 2, 3]);
  });
});

describe("the environment's other variables", () => {
  test("are no problem, and those that look like ours are reported", () => {
    const env = { PATH: "/bin", PGHOST: "h", LEDGERD_LANE: "4", LEDGERD_POOL_MAX: "3", ledgerd_lanes: "4", LEDGERD_DATABASE_URL: "x" };
    expect(configOf(env).journal.lanes).toBeUndefined();
    expect(unknownVariables(env)).toEqual(["LEDGERD_LANE", "LEDGERD_DATABASE_URL"]);
  });
});

describe("the description of the settings", () => {
  test("says of each what it is for", () => {
    for (const { name, description } of describeSettings()) expect(description, name).toMatch(/^[`A-Z].{10}/);
    expect(new Set(describeSettings().map(({ description }) => description)).size, "each its own").toBe(describeSettings().length);
  });

  test("names exactly those that there are, with defaults that mean what the code takes", () => {
    const settings = describeSettings();
    const defaults = Object.fromEntries(settings.map((setting) => [setting.name, setting.default]));
    expect(configOf(defaults)).toEqual(configOf({}));
    const without = settings.filter((setting) => setting.default === "").map(({ name }) => name);
    expect(without).toEqual([
      "DATABASE_URL",
      "DATABASE_URL_FILE",
      "LEDGERD_MIGRATION_URL",
      "LEDGERD_MIGRATION_URL_FILE",
      "LEDGERD_ADOPT_FROM",
      "LEDGERD_ADOPT_FROM_FILE",
      "PGPASSFILE",
      "LEDGERD_DATA_DIR",
      "LEDGERD_WEB_HOSTS",
      "LEDGERD_WEB_ORIGINS",
      "LEDGERD_WORKERS",
      "LEDGERD_UNITS",
      "LEDGERD_LANES",
      "LEDGERD_BACKUP_DIR",
    ]);
    expect(unknownVariables(defaults)).toEqual([]);
  });
});

describe("the database's URL", () => {
  const folder = mkdtempSync(path.join(tmpdir(), "ledgerd-config-"));
  const file = path.join(folder, "url");

  afterAll(() => rmSync(folder, { recursive: true }));

  test("may come from a file, for secrets that are mounted", () => {
    writeFileSync(file, "postgres://u:p@h/d\n");
    expect(configOf({ DATABASE_URL_FILE: file }).postgres.url).toBe("postgres://u:p@h/d");
  });

  test("comes from one place", () => {
    writeFileSync(file, "postgres://u:p@h/d\n");
    expect(problemsOf({ DATABASE_URL_FILE: file, DATABASE_URL: "postgres://u@h/d" })).toEqual([
      "DATABASE_URL_FILE must not be set beside DATABASE_URL: one or the other says it",
    ]);
  });

  test("is refused in a file as elsewhere, without being told", () => {
    writeFileSync(file, "postgres://u:s3cret@h/d?sslmode=verify-full");
    const [problem, ...others] = problemsOf({ DATABASE_URL_FILE: file });
    expect(problem).toMatch(/^DATABASE_URL_FILE must hold what DATABASE_URL would, which must say by sslrootcert /);
    expect([others, problem?.includes("s3cret")]).toEqual([[], false]);
    expect(problemsOf({ DATABASE_URL_FILE: path.join(folder, "nowhere") })).toEqual([
      expect.stringMatching(/^DATABASE_URL_FILE must be a file with the database's URL: ENOENT/),
    ]);
  });

  test("takes its password from PGPASSFILE where it has none", () => {
    expect(configOf({ DATABASE_URL: "postgres://u@h/d", PGPASSFILE: "/p" }).postgres.url).toBe("postgres://u@h/d?passfile=%2Fp");
    expect(configOf({ DATABASE_URL: "postgres://u:p@h/d", PGPASSFILE: "/p" }).postgres.url).toBe("postgres://u:p@h/d");
    expect(configOf({ PGPASSFILE: "/p" }).postgres.url).toBeUndefined();
  });

  test("for migrations comes from as many places, and belongs to another one", () => {
    const others = { DATABASE_URL: "postgres://u@h/d" };
    writeFileSync(file, "postgres://m:s3cret@h/d\n");
    expect(configOf({ ...others, LEDGERD_MIGRATION_URL: "postgres://m@h/d", PGPASSFILE: "/p" }).postgres.migrationUrl).toBe("postgres://m@h/d?passfile=%2Fp");
    expect(configOf({ ...others, LEDGERD_MIGRATION_URL_FILE: file }).postgres.migrationUrl).toBe("postgres://m:s3cret@h/d");
    expect(configOf(others).postgres.migrationUrl).toBeUndefined();
    expect(problemsOf({ ...others, LEDGERD_MIGRATION_URL_FILE: file, LEDGERD_MIGRATION_URL: "postgres://m@h/d" })).toEqual([
      "LEDGERD_MIGRATION_URL_FILE must not be set beside LEDGERD_MIGRATION_URL: one or the other says it",
    ]);
    expect(problemsOf({ ...others, LEDGERD_MIGRATION_URL: "s3cret" })).toEqual([
      "LEDGERD_MIGRATION_URL must be a URL such as postgres://user:password@host:5432/database",
    ]);
    for (const name of ["LEDGERD_MIGRATION_URL", "LEDGERD_MIGRATION_URL_FILE"]) {
      expect(problemsOf({ [name]: name.endsWith("FILE") ? file : "postgres://m:s3cret@h/d" })).toEqual([
        "LEDGERD_MIGRATION_URL must not be set without DATABASE_URL: they lead to the same database",
      ]);
    }
  });

  test("is for further processes in one place as well, and that for migrations is not for them", () => {
    expect(environmentWith("postgres://u@h/d", { LEDGERD_LANES: "1" })).toMatchObject({
      DATABASE_URL: "postgres://u@h/d",
      DATABASE_URL_FILE: "",
      LEDGERD_MIGRATION_URL: "",
      LEDGERD_MIGRATION_URL_FILE: "",
      LEDGERD_LANES: "1",
    });
  });
});
