// The command line, as an OS process: what it takes, what it prints where, what it ends with, and what it tells an operator.

import { execFile } from "node:child_process";
import { once } from "node:events";
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type AddressInfo, type Server } from "node:net";
import { availableParallelism, tmpdir } from "node:os";
import path from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { startEmbedded, type EmbeddedPostgres } from "../src/postgres/embedded/embedded.ts";
import { version } from "../src/version.ts";
import { logOf, runLedgerd, servesAt, startLedgerd, workersOf } from "./harness/command.ts";
import { connectTo, createDatabase, type TestDatabase } from "./harness/database.ts";
import { isInstalled } from "./harness/programs.ts";
import { clientsOf, newKey } from "./harness/service.ts";
import { until } from "./harness/until.ts";
import { LAWFUL_ANSWERS, waitingCall } from "./harness/waiting-call.ts";

const rub = (amount: string) => ({ currency: "RUB", amount });

/** On the server that all tests share, which isn't durable. */
const relaxed = { LEDGERD_DURABILITY: "relaxed" };

let database: TestDatabase;

beforeAll(async () => {
  database = await createDatabase();
});

afterAll(async () => {
  await database[Symbol.asyncDispose]();
});

function linesOf(text: string): readonly string[] {
  return text.split("\n").slice(0, -1);
}

/** Takes a free port, and answers nobody there. */
async function listen(): Promise<{ server: Server; address: string }> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  return { server, address: `127.0.0.1:${(server.address() as AddressInfo).port}` };
}

/** Returns once the service has asked the database something, on its own account, at least half a second later than this was called. */
async function stillAtWork(): Promise<void> {
  const [start] = await database.query("SELECT clock_timestamp() + interval '500 ms' AS later");
  const asked = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'ledgerd' AND query_start > $1";
  await until(async () => (await database.query(asked, [start?.["later"]])).length > 0);
}

describe("ledgerd", () => {
  test.each(["help", "--help"])("%s explains every command on standard output", async (word) => {
    const { code, stdout, stderr } = await runLedgerd([word]);
    expect([code, stderr]).toEqual([0, ""]);
    for (const line of ["usage: ledgerd", "serve ", "migrate ", "migrate --plan ", "help ", "version ", "serve --workers N ", "verify ", "verify --digest FILE ", "verify --write-digest FILE ", "rebuild ", "rebuild --trust-log ", "backup --to DIR ", "restore --from FILE ", "restore --no-verify ", "adopt --from-file FILE "]) expect(stdout).toContain(line);
  });

  test.each(["version", "-v"])("%s prints the version alone", async (word) => {
    expect(await runLedgerd([word])).toEqual({ code: 0, stdout: `${version()}\n`, stderr: "" });
  });

  test.each([
    [["destroy"], "there is no command destroy"],
    [["serve", "--plan"], "--plan goes with migrate, not with serve"],
    [["migrate", "serve"], "one command at a time, not: migrate serve"],
    [["serve", "--from", "postgres://h/d"], "--from goes with restore and adopt, not with serve"],
    [["migrate", "--force"], "Unknown option '--force'"],
    [["migrate", "--workers", "2"], "--workers goes with serve, not with migrate"],
    [["serve", "--workers", "0"], '--workers must be a whole number from 1 to 64, such as 10; it is "0"'],
    [["--workers=many"], '--workers must be a whole number from 1 to 64, such as 10; it is "many"'],
    [["rebuild", "--digest", "file"], "--digest goes with verify, not with rebuild"],
    [["--write-digest", "file"], "--write-digest goes with verify, not with serve"],
    [["verify", "--trust-log"], "--trust-log goes with rebuild, not with verify"],
    [["worker"], "there is no command worker"],
  ])("%j is refused with 2, and points to help", async (args, problem) => {
    const { code, stdout, stderr } = await runLedgerd(args);
    expect([code, stdout]).toEqual([2, ""]);
    expect(linesOf(stderr)).toEqual([expect.stringContaining(`ledgerd: ${problem}`), "ledgerd: see `ledgerd help`"]);
  });

  test("refuses a bad configuration with 2, one line for each problem", async () => {
    const { code, stdout, stderr } = await runLedgerd(["serve"], { DATABASE_URL: "s3cret", LEDGERD_LANES: "0", LEDGERD_POOL_MIN: "30" });
    expect([code, stdout]).toEqual([2, ""]);
    expect(linesOf(stderr)).toEqual([
      expect.stringMatching(/^ledgerd: DATABASE_URL must /),
      expect.stringMatching(/^ledgerd: LEDGERD_LANES must /),
      expect.stringMatching(/^ledgerd: LEDGERD_POOL_MIN must /),
    ]);
    expect(stderr).not.toContain("s3cret");
  });
});

describe("ledgerd serve", () => {
  test("is what ledgerd does when it isn't told; it prints one line, with both addresses and a call that works when pasted", async (context) => {
    await using command = startLedgerd([], { DATABASE_URL: database.url, ...relaxed });
    const { grpc, http } = await servesAt(command);
    const { ledger } = clientsOf(grpc);
    await ledger.topUp({ userId: 1n, amount: rub("12.50"), idempotencyKey: newKey() });
    expect((await fetch(`http://${http}/healthz`)).status).toBe(200);

    const [, call = ""] = /; try: (.*)\n$/.exec(command.printed.stdout) ?? [];
    expect(call).toContain(http);
    if (isInstalled("curl")) {
      const { stdout } = await promisify(execFile)("sh", ["-c", call], { env: { PATH: process.env["PATH"] } });
      expect(JSON.parse(stdout)).toMatchObject({ balance: { userId: "1", balance: rub("12.50") } });
    }
    command.process.kill("SIGTERM");
    expect(await command.ended).toBe(0);
    expect(linesOf(command.printed.stdout), "nothing after that line").toHaveLength(1);
    if (!isInstalled("curl")) context.skip("the line's call needs curl");
  });

  test("serves with one process for each core where nobody says how many, by the same line and the same log", async () => {
    await using command = startLedgerd([], { DATABASE_URL: database.url, ...relaxed, LEDGERD_WORKERS: "", LEDGERD_LANE: "4" });
    const { grpc, http } = await servesAt(command);
    const cores = availableParallelism();
    expect(workersOf(command)).toHaveLength(cores === 1 ? 0 : cores);
    if (existsSync("/proc")) for (const pid of workersOf(command)) expect(readFileSync(`/proc/${pid}/environ`, "utf8")).toMatch(/\0NODE_COMPILE_CACHE=\S+\/node_modules\/\.cache\/ledgerd\0/);
    await clientsOf(grpc).ledger.topUp({ userId: 3n, amount: rub("1"), idempotencyKey: newKey() });
    expect((await fetch(`http://${http}/healthz`)).status).toBe(200);
    command.process.kill("SIGTERM");
    expect(await command.ended).toBe(0);
    expect(linesOf(command.printed.stdout), "nothing after that line").toHaveLength(1);
    expect(logOf(command).filter(({ variable }) => variable === "LEDGERD_LANE"), "what is misspelt is told once").toHaveLength(1);
  });

  test("has its processes load what the first one has compiled", async () => {
    const cache = mkdtempSync(path.join(tmpdir(), "ledgerd-compiled-"));
    try {
      const settings = { ...relaxed, LEDGERD_WORKERS: "2", NODE_COMPILE_CACHE: cache, NODE_DEBUG_NATIVE: "COMPILE_CACHE" };
      await using command = startLedgerd(["serve"], { DATABASE_URL: database.url, ...settings });
      const printed = () => command.printed.stderr + command.printed.stdout;
      await until(() => printed().includes("ledgerd serves gRPC"));
      const compiled = [...printed().matchAll(/saving transpilation cache for StrippedTypeScript \S+(\/src\/\S+)/g)].map(([, file]) => file);
      expect(compiled).toContain("/src/cli/run.ts");
      expect(compiled).toEqual([...new Set(compiled)]);
    } finally {
      rmSync(cache, { recursive: true });
    }
  });

  test("says it in one line, with 1, where its processes find that they can't serve", async () => {
    const { code, stdout, stderr } = await runLedgerd(["serve", "--workers", "5"], { DATABASE_URL: database.url, LEDGERD_LOG_LEVEL: "error" });
    expect([code, stdout]).toEqual([1, ""]);
    expect(linesOf(stderr)).toEqual([expect.stringMatching(/^ledgerd: this database can't be served from: .*fsync is off/)]);
  });

  test("warns where the database has room for fewer connections than its processes may open", async () => {
    await using command = startLedgerd(["serve"], { DATABASE_URL: database.url, ...relaxed, LEDGERD_WORKERS: "2", LEDGERD_POOL_MAX: "200" });
    await servesAt(command);
    const warnings = logOf(command).filter(({ msg }) => String(msg).startsWith("PostgreSQL has room for fewer connections"));
    expect(warnings.map(({ level, connections, room }) => [level, connections, room])).toEqual([[40, 2 * (200 + 8 + 2 + 1 + 1), 297]]);
  });

  test("logs JSON lines on standard error: how it goes, and settings that are misspelt", async () => {
    await using command = startLedgerd(["serve"], { DATABASE_URL: database.url, ...relaxed, LEDGERD_LANE: "4" });
    await servesAt(command);
    command.process.kill("SIGINT");
    expect(await command.ended, "Ctrl-C ends it well").toBe(0);
    const log = logOf(command);
    expect(log).toContainEqual(expect.objectContaining({ level: 30, msg: "ready" }));
    expect(log).toContainEqual(expect.objectContaining({ level: 40, variable: "LEDGERD_LANE" }));
    expect(log).toContainEqual(expect.objectContaining({ level: 30, msg: "shutting down", signal: "SIGINT" }));
  });

  test("logs nothing below LEDGERD_LOG_LEVEL", async () => {
    const { code, stderr } = await runLedgerd(["migrate"], { DATABASE_URL: database.url, LEDGERD_LANE: "4", LEDGERD_LOG_LEVEL: "error" });
    expect([code, stderr]).toEqual([0, ""]);
  });

  test("lets calls end that are under way when it is told to stop, twice even, and ends with 0", async () => {
    await using command = startLedgerd(["serve"], { DATABASE_URL: database.url, ...relaxed });
    const { grpc, http } = await servesAt(command);
    const call = await waitingCall(database, clientsOf(grpc), 2n);
    command.process.kill("SIGTERM");
    await until(() => command.printed.stderr.includes("shutting down"));
    command.process.kill("SIGTERM");
    await until(() => fetch(`http://${http}/healthz`).then(() => false, () => true));
    await Promise.race([stillAtWork(), command.ended]);
    await call.release();
    expect(LAWFUL_ANSWERS).toContain(await call.answer);
    expect(await command.ended).toBe(0);
    expect(logOf(command).filter(({ msg }) => msg === "shutting down")).toHaveLength(1);
  });

  test.each([
    ["LEDGERD_GRPC_ADDR", "1"],
    ["LEDGERD_HTTP_ADDR", "1"],
    ["LEDGERD_GRPC_ADDR", "2"],
    ["LEDGERD_HTTP_ADDR", "2"],
  ])("says in one line that the address of %s is taken, with processes: %s, and has changed nothing by then", async (setting, workers) => {
    const { server, address } = await listen();
    await using empty = await createDatabase("empty");
    const settings = { ...relaxed, LEDGERD_LOG_LEVEL: "error", [setting]: address };
    const { code, stdout, stderr } = await runLedgerd(["serve", "--workers", workers], { DATABASE_URL: empty.url, ...settings });
    expect(await empty.query("SELECT FROM pg_namespace WHERE nspname = 'ledgerd'"), "it has migrated").toEqual([]);
    const folder = path.join(tmpdir(), `ledgerd-untouched-${process.pid}`);
    const embedded = await runLedgerd(["serve", "--workers", workers], { LEDGERD_DATA_DIR: folder, ...settings });
    expect(embedded.stderr).toBe(stderr);
    expect(existsSync(folder), "it has made a PostgreSQL of its own").toBe(false);
    server.close();
    expect([code, stdout]).toEqual([1, ""]);
    expect(linesOf(stderr)).toEqual([expect.stringMatching(`^ledgerd: ${setting} must be a free address .*, such as 127\\.0\\.0\\.1:0 .*EADDRINUSE.* ${address}$`)]);
  });
});

describe("a DATABASE_URL that leads nowhere is told in one line, without the password", () => {
  /** One that asks for passwords. */
  let strict: EmbeddedPostgres;
  let folder: string;

  beforeAll(async () => {
    folder = mkdtempSync(path.join(tmpdir(), "ledgerd-cli-"));
    chmodSync(folder, 0o755);
    const file = path.join(folder, "hba.conf");
    writeFileSync(file, "local all postgres,ledgerd_serve trust\nlocal all all scram-sha-256\n");
    strict = await startEmbedded({ folder, settings: { fsync: "off", hba_file: file }, log: () => undefined });
    const admin = await connectTo(strict.url);
    await admin.query("CREATE ROLE clerk LOGIN PASSWORD 'right'");
    await admin.end();
  });

  afterAll(async () => {
    await strict.stop();
    rmSync(folder, { recursive: true });
  });

  async function complaintOf(url: string, command = "serve", settings: Readonly<Record<string, string>> = {}): Promise<string> {
    const { code, stdout, stderr } = await runLedgerd([command], { DATABASE_URL: url, ...settings });
    expect([code, stdout]).toEqual([1, ""]);
    expect(linesOf(stderr)).toHaveLength(1);
    expect(stderr).not.toContain("s3cret");
    expect(stderr).toMatch(/^ledgerd: can't connect to postgres:.* DATABASE_URL /);
    return stderr;
  }

  test.each(["serve", "migrate"])("by %s: nobody listens there", async (command) => {
    // No other test takes this port, as it might one that was free a moment ago.
    const address = "127.0.0.1:1";
    expect(await complaintOf(`postgres://u:s3cret@${address}/d?password=s3cret`, command)).toContain(`ECONNREFUSED ${address}`);
  });

  test("nobody answers there, within LEDGERD_CONNECT_TIMEOUT", async () => {
    const { server, address } = await listen();
    expect(await complaintOf(`postgres://u:s3cret@${address}/d`, "serve", { LEDGERD_CONNECT_TIMEOUT: "100ms" })).toContain(`u@${address}/d: timeout`);
    server.close();
  });

  test("there is no such database", async () => {
    expect(await complaintOf(strict.url.replace(/ledgerd$/, "elsewhere"))).toContain('database "elsewhere" does not exist');
  });

  test("the password is wrong", async () => {
    expect(await complaintOf(strict.url.replace("postgres@", "clerk:s3cret@"))).toContain('password authentication failed for user "clerk"');
  });
});

test("a login without rights is told in one line which one it needs", async () => {
  const login = `clerk_${database.url.slice(-12)}`;
  await database.query(`CREATE ROLE ${login} LOGIN`);
  const { code, stderr } = await runLedgerd(["serve"], { DATABASE_URL: database.url.replace("postgres@", `${login}@`), ...relaxed });
  expect([code, linesOf(stderr)]).toEqual([1, [expect.stringContaining(`GRANT ledgerd_runtime TO ${login};`)]]);
  await database.query(`GRANT ledgerd_runtime TO ${login}`);
  await using command = startLedgerd(["serve"], { DATABASE_URL: database.url.replace("postgres@", `${login}@`), ...relaxed });
  await servesAt(command);
  await database.query(`DROP ROLE ${login}`);
});
