// The PostgreSQL that ledgerd runs by itself: it keeps its data, whoever is killed and whenever, and it ends with the process that owns it.

import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, existsSync, lstatSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir, totalmem, userInfo } from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";
import pg from "pg";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { startEmbedded } from "../src/postgres/embedded/embedded.ts";
import { writeAccess } from "../src/postgres/embedded/embedded-access.ts";
import { defaultFolder, leaveFolder, runAs, takeFolder, type Owner } from "../src/postgres/embedded/embedded-folder.ts";
import { migrate } from "../src/postgres/schema/migrate.ts";
import { pressCtrlC, runLedgerd, servesAt, startLedgerd, type Command } from "./harness/command.ts";
import { connectTo, type TestDatabase } from "./harness/database.ts";
import { startInstance, type Instance } from "./harness/instance.ts";
import { isAlive } from "./harness/processes.ts";
import { isInstalled } from "./harness/programs.ts";
import { clientsOf, newKey, type Clients } from "./harness/service.ts";
import { until } from "./harness/until.ts";
import { LAWFUL_ANSWERS, waitingCall } from "./harness/waiting-call.ts";

const rub = (amount: string) => ({ currency: "RUB", amount });

const folders: string[] = [];

afterAll(async () => {
  for (const folder of folders) {
    // A test that failed may have left its server behind.
    const pid = existsSync(pidFile(folder)) ? postmasterOf(folder) : Number.NaN;
    if (isAlive(pid)) process.kill(pid, "SIGQUIT");
    await until(() => !isAlive(pid));
    rmSync(folder, { recursive: true, force: true });
  }
});

/** A folder that the database's user gets at, with nothing in it. */
function newFolder(): string {
  const folder = mkdtempSync(path.join(tmpdir(), "ledgerd-embedded-"));
  chmodSync(folder, 0o755);
  folders.push(folder);
  return folder;
}

/** Starts `ledgerd serve` on a folder, durably. */
function serveFrom(folder: string): Promise<Instance> {
  return startInstance("", { LEDGERD_DATA_DIR: folder, LEDGERD_DURABILITY: "required" });
}

function pidFile(folder: string): string {
  return path.join(folder, "data/postmaster.pid");
}

function postmasterOf(folder: string): number {
  return Number.parseInt(readFileSync(pidFile(folder), "utf8"), 10);
}

function ownerOf(folder: string): Owner {
  return JSON.parse(readFileSync(path.join(folder, "owner.json"), "utf8")) as Owner;
}

/** A session in the database that a live owner serves, past it. */
function sessionIn(folder: string, login = "postgres"): ReturnType<typeof connectTo> {
  return connectTo(`postgres://${login}@${encodeURIComponent(ownerOf(folder).socketFolder)}:5432/ledgerd`);
}

async function topUp({ ledger }: Clients, userId: bigint, amount: string): Promise<void> {
  await ledger.topUp({ userId, amount: rub(amount), idempotencyKey: newKey() });
}

async function balanceOf({ ledger }: Clients, userId: bigint): Promise<string | undefined> {
  return (await ledger.getBalance({ userId })).balance?.balance?.amount;
}

/** With the data of user 1, who has 100.00, and no server. */
let folder: string;

beforeAll(async () => {
  folder = newFolder();
  await using instance = await serveFrom(folder);
  await topUp(instance, 1n, "100");
  await instance.end("SIGTERM");
});

describe("a server on a folder", () => {
  let instance: Instance;

  beforeAll(async () => {
    instance = await serveFrom(folder);
  });

  afterAll(async () => {
    await instance.end("SIGTERM");
  });

  test("has the data of the one before", async () => {
    expect(await balanceOf(instance, 1n)).toBe("100.00");
  });

  test("refuses a second one there, naming its process", async () => {
    const { code, stdout, stderr } = await runLedgerd(["serve"], { LEDGERD_DATA_DIR: folder });
    expect([code, stdout]).toEqual([1, ""]);
    expect(stderr).toBe(`ledgerd: process ${instance.process.pid} serves the data in ${folder}; stop it first, or set LEDGERD_DATA_DIR to another folder\n`);
    expect(await balanceOf(instance, 1n), "and isn't disturbed").toBe("100.00");
  });

  test("lets `ledgerd migrate` use its PostgreSQL, and goes on", async () => {
    const pid = postmasterOf(folder);
    expect(await runLedgerd(["migrate"], { LEDGERD_DATA_DIR: folder })).toEqual({ code: 0, stdout: "the schema is up to date\n", stderr: "" });
    expect([postmasterOf(folder), isAlive(pid)]).toEqual([pid, true]);
    expect(await balanceOf(instance, 1n)).toBe("100.00");
  });

  test("runs PostgreSQL for itself alone: not as root, on no network, its socket where nobody else may enter", async () => {
    const { socketFolder } = ownerOf(folder);
    // A socket belongs to the user of the process that made it.
    const { uid } = statSync(path.join(socketFolder, ".s.PGSQL.5432"));
    if (process.getuid?.() === 0) expect(uid).not.toBe(0);
    else expect(uid).toBe(process.getuid?.());
    const { uid: owner, mode } = statSync(socketFolder);
    expect([owner, mode & 0o777]).toEqual([uid, 0o700]);
    const session = await sessionIn(folder);
    expect((await session.query("SHOW listen_addresses")).rows).toEqual([{ listen_addresses: "" }]);
    await session.end();
  });

  test("lets nobody log in over its socket but ledgerd's own user and root, as the kernel knows them", async () => {
    const session = await sessionIn(folder);
    const rules = await session.query("SELECT type, database, user_name, auth_method, options FROM pg_hba_file_rules");
    const map = await session.query<{ name: string }>("SELECT sys_name AS name FROM pg_ident_file_mappings ORDER BY 1");
    await session.end();
    const rule = { type: "local", user_name: ["all"], auth_method: "peer", options: ["map=ledgerd"] };
    expect(rules.rows).toEqual([{ ...rule, database: ["all"] }, { ...rule, database: ["replication"] }]);
    expect(map.rows.map(({ name }) => name)).toEqual([...new Set(["root", userInfo().username])].toSorted());
  });

  // Root may enter the socket's folder in any case; its stand-in, whose the folder is, may be another service's user, too.
  test.skipIf(process.getuid?.() !== 0)("refuses even the user that PostgreSQL runs as", async () => {
    for (const login of ["postgres", "ledgerd_serve"]) {
      const client = new pg.Client({ host: ownerOf(folder).socketFolder, user: login, database: "ledgerd" });
      process.seteuid?.(runAs().uid ?? 0);
      // It is connected to before this returns.
      const connected = client.connect();
      process.seteuid?.(0);
      await expect(connected, login).rejects.toThrow(`Peer authentication failed for user "${login}"`);
    }
  });

  test("serves by a login that can become neither the owner nor a superuser", async () => {
    await topUp(instance, 9n, "1");
    const owner = await sessionIn(folder);
    const { rows } = await owner.query<{ name: string; login: string }>(
      `SELECT DISTINCT application_name AS name, usename AS login FROM pg_stat_activity
       WHERE application_name ~ '^ledgerd' ORDER BY 1`,
    );
    await owner.end();
    expect(rows.map(({ name }) => name)).toEqual(expect.arrayContaining(["ledgerd", "ledgerd journal"]));
    expect(new Set(rows.map(({ login }) => login))).toEqual(new Set(["ledgerd_serve"]));
    const session = await sessionIn(folder, rows[0]?.login);
    const attempts = [
      "SET ROLE ledgerd_migrator",
      "SET ROLE postgres",
      "SET SESSION AUTHORIZATION postgres",
      "SET ROLE ledgerd_runtime; SET ROLE NONE; ALTER TABLE ledgerd.transactions DISABLE TRIGGER ALL",
      "RESET ROLE; ALTER TABLE ledgerd.transactions DISABLE TRIGGER ALL",
      "SET session_replication_role = replica",
    ];
    for (const attempt of attempts) await expect(session.query(attempt), attempt).rejects.toMatchObject({ code: "42501" });
    await session.end();
  });

  test("is reached by the commands that are run beside it, and by the line of psql in the docs", async (context) => {
    const to = newFolder();
    const commands = [["verify"], ["rebuild"], ["backup", "--to", to], ["migrate", "--plan"]];
    const ended = await Promise.all(commands.map((args) => runLedgerd(args, { LEDGERD_DATA_DIR: folder })));
    expect(ended.map(({ code, stderr }) => [code, stderr])).toEqual(commands.map(() => [0, ""]));
    if (!isInstalled("psql")) return context.skip("psql is not on this machine");
    const docs = readFileSync(path.resolve(import.meta.dirname, "../docs/connecting.md"), "utf8");
    const [, line = ""] = /^(psql .*)$/m.exec(docs) ?? [];
    const at = `${line.replace("./.ledgerd", folder)} -Atc 'SELECT count(*) > 0 FROM ledgerd.transactions'`;
    const env = { PATH: `${path.dirname(process.execPath)}:${process.env["PATH"] ?? ""}` };
    expect(execFileSync("sh", ["-c", at], { env, encoding: "utf8" })).toBe("t\n");
  });

  test("gives PostgreSQL a share of the memory: more than its own default where there are 2 GiB, and no more than an eighth", async () => {
    const session = await sessionIn(folder);
    const { rows } = await session.query<{ megabytes: number }>("SELECT (pg_size_bytes(current_setting('shared_buffers')) / 1048576)::int AS megabytes");
    await session.end();
    const memory = Math.min(totalmem(), process.constrainedMemory() || Number.POSITIVE_INFINITY) / 2 ** 20;
    const megabytes = rows[0]?.megabytes ?? 0;
    expect(megabytes).toBeLessThanOrEqual(Math.max(128, memory / 8));
    if (memory >= 2048) expect(megabytes).toBeGreaterThan(128);
  });

  test("leaves PostgreSQL's writes durable, and its checkpoints four gigabytes apart", async () => {
    const session = await sessionIn(folder);
    const { rows } = await session.query<{ name: string; setting: string }>(
      `SELECT name, current_setting(name) AS setting FROM pg_settings
       WHERE name IN ('fsync', 'synchronous_commit', 'full_page_writes', 'max_wal_size') ORDER BY name`,
    );
    await session.end();
    expect(rows.map(({ name, setting }) => `${name}=${setting}`)).toEqual(["fsync=on", "full_page_writes=on", "max_wal_size=4GB", "synchronous_commit=on"]);
  });

  test("brings PostgreSQL back by itself where it is killed, and where it is killed again while it comes back", async () => {
    const first = postmasterOf(folder);
    process.kill(first, "SIGKILL");
    await until(() => existsSync(pidFile(folder)) && postmasterOf(folder) !== first && isAlive(postmasterOf(folder)));
    const second = postmasterOf(folder);
    process.kill(second, "SIGKILL");
    const request = { userId: 2n, amount: rub("5"), idempotencyKey: newKey() };
    await until(() => instance.ledger.topUp(request).then(() => true, () => false));
    expect([first, second]).not.toContain(postmasterOf(folder));
    expect([await balanceOf(instance, 1n), await balanceOf(instance, 2n)]).toEqual(["100.00", "5.00"]);
  });
});

describe("a server that ends", () => {
  test("takes PostgreSQL and all its traces with it; of two that start at once, only one gets the folder", async () => {
    await using one = startLedgerd(["serve"], { LEDGERD_DATA_DIR: folder });
    await using other = startLedgerd(["serve"], { LEDGERD_DATA_DIR: folder });
    const first = await Promise.race([one.ended.then(() => one), other.ended.then(() => other)]);
    const [loser, winner] = first === one ? [one, other] : [other, one];
    expect(await loser.ended).toBe(1);
    expect(loser.printed.stderr).toContain(`ledgerd: process ${winner.process.pid} serves the data in ${folder};`);
    await servesAt(winner);
    const pid = postmasterOf(folder);
    const { socketFolder } = ownerOf(folder);
    winner.process.kill("SIGTERM");
    expect(await winner.ended).toBe(0);
    expect([isAlive(pid), existsSync(socketFolder)]).toEqual([false, false]);
    expect(readdirSync(folder).filter((name) => name !== "programs")).toEqual(["data"]);
  });

  test("by Ctrl-C, which its whole process group gets, lets calls end before the database goes; pressing it again and again spoils nothing", async () => {
    await using command = startLedgerd(["serve"], { LEDGERD_DATA_DIR: folder }, "own");
    const clients = clientsOf((await servesAt(command)).grpc);
    const pid = postmasterOf(folder);
    const session = await sessionIn(folder);
    const inside = { query: async (text: string) => (await session.query(text)).rows, connect: () => sessionIn(folder) } as TestDatabase;
    const call = await waitingCall(inside, clients, 4n);
    pressCtrlC(command);
    await until(() => command.printed.stderr.includes("shutting down"));
    await call.release();
    expect(LAWFUL_ANSWERS).toContain(await call.answer);
    await session.end();
    await until(() => !isAlive(pid) || !pressCtrlC(command));
    expect(await command.ended).toBe(0);
  });

  test("by SIGKILL leaves PostgreSQL behind, which the next one ends; what was acknowledged is there", async () => {
    const killed = await serveFrom(folder);
    await topUp(killed, 3n, "7");
    const pid = postmasterOf(folder);
    const { socketFolder } = ownerOf(folder);
    await killed.end("SIGKILL");
    expect(isAlive(pid), "the orphan").toBe(true);
    await using next = await serveFrom(folder);
    expect([isAlive(pid), existsSync(socketFolder)]).toEqual([false, false]);
    expect(await balanceOf(next, 3n)).toBe("7.00");
    await next.end("SIGTERM");
  });
});

test("a folder as earlier versions left it, where all were trusted and one login did all, is served by two logins", async () => {
  const old = newFolder();
  const server = await startEmbedded({ folder: old, log: () => undefined });
  await migrate(server.url);
  const session = await connectTo(server.url);
  await session.query("DROP ROLE ledgerd_serve");
  await session.end();
  await server.stop();
  const rules = path.join(old, "data/pg_hba.conf");
  writeFileSync(rules, "local all all trust\nhost all all 127.0.0.1/32 trust\nlocal replication all trust\n");
  writeFileSync(path.join(old, "data/pg_ident.conf"), "");
  await using instance = await serveFrom(old);
  await topUp(instance, 1n, "3");
  expect(await balanceOf(instance, 1n)).toBe("3.00");
  const inside = await sessionIn(old, "ledgerd_serve");
  await expect(inside.query("SET ROLE ledgerd_migrator")).rejects.toMatchObject({ code: "42501" });
  await inside.end();
  await instance.end("SIGTERM");
  expect(readFileSync(rules, "utf8"), "whoever starts it by hand trusts nobody either").not.toContain("trust");
  expect(statSync(rules).uid).toBe(statSync(path.join(old, "data")).uid);
});

test("rules that the database's user has put elsewhere are written in their place, not there", () => {
  const data = newFolder();
  const elsewhere = path.join(newFolder(), "precious");
  writeFileSync(elsewhere, "precious");
  symlinkSync(elsewhere, path.join(data, "pg_hba.conf"));
  writeAccess(data, {});
  expect([readFileSync(elsewhere, "utf8"), lstatSync(path.join(data, "pg_hba.conf")).isFile()]).toEqual(["precious", true]);
});

describe("a start that makes the data", () => {
  const fresh = newFolder();

  /** Starts a server, and returns while its initdb is at work. */
  async function startMaking(): Promise<Command> {
    const before = readdirSync(fresh);
    const command = startLedgerd(["serve"], { LEDGERD_DATA_DIR: fresh }, "own");
    const unfinished = (): string => readdirSync(fresh).find((name) => name.startsWith("data") && !before.includes(name)) ?? "";
    await until(() => existsSync(path.join(fresh, unfinished(), "base")));
    expect(existsSync(path.join(fresh, "data"))).toBe(false);
    return command;
  }

  test("and is killed doesn't disturb the next one, which may be told to stop by Ctrl-C and still leaves the data whole", async () => {
    await using killed = await startMaking();
    killed.process.kill("SIGKILL");
    await killed.ended;
    await using stopped = await startMaking();
    pressCtrlC(stopped);
    expect([await stopped.ended, stopped.printed.stderr]).toEqual([0, expect.not.stringContaining("failed")]);
    expect(readdirSync(fresh).filter((name) => name !== "programs"), "nothing else is left").toEqual(["data"]);
    expect(await runLedgerd(["migrate"], { LEDGERD_DATA_DIR: fresh })).toEqual({ code: 0, stdout: "the schema is up to date\n", stderr: "" });
    expect(existsSync(pidFile(fresh)), "a command that ends takes its PostgreSQL with it").toBe(false);
  });
});

test("a PostgreSQL that can't come back is tried again, by one start at a time, until it can", async () => {
  const log: string[] = [];
  const server = await startEmbedded({ folder, log: (message) => log.push(message) });
  const needed = path.join(folder, "data/global/pg_control");
  try {
    renameSync(needed, `${needed}.away`);
    process.kill(postmasterOf(folder), "SIGKILL");
    await until(() => log.filter((message) => message.includes("did not start")).length >= 3);
    renameSync(`${needed}.away`, needed);
    await until(() => connectTo(server.url).then((session) => session.end().then(() => true), () => false));
  } finally {
    await server.stop();
  }
  expect(log.filter((message) => message.includes("ended by itself"))).toHaveLength(1);
  expect(existsSync(pidFile(folder))).toBe(false);
});

describe("a folder's owner", () => {
  const nobody = { pid: process.pid, started: "another time", socketFolder: "" };

  test("that is dead gives way, though another process has its pid by now", () => {
    const own = newFolder();
    writeFileSync(path.join(own, "owner.json"), JSON.stringify(nobody));
    expect(takeFolder(own, {}, "/nowhere")).toEqual(nobody);
    expect(ownerOf(own)).toMatchObject({ pid: process.pid, socketFolder: "/nowhere" });
    expect(() => takeFolder(own, {}, "/elsewhere"), "a live one doesn't").toThrow(`process ${process.pid} serves the data in ${own}`);
    leaveFolder(own);
    expect(takeFolder(own, {}, "/elsewhere"), "nor is there a dead one after it has left").toBeUndefined();
  });

  test.skipIf(!existsSync("/proc/self/stat"))("is dead as a zombie, too: in a container there may be nobody to bury it", async () => {
    const own = newFolder();
    // The shell becomes a program that doesn't know of the child.
    const undertaker = spawn("sh", ["-c", "sleep 60 & echo $!; exec sleep 60"], { stdio: ["ignore", "pipe", "ignore"] });
    const [line] = (await once(createInterface(undertaker.stdout), "line")) as [string];
    const pid = Number(line);
    const [, , , started = ""] = /^(.*\)) (\S+ ){19}(\d+) /.exec(readFileSync(`/proc/${pid}/stat`, "utf8")) ?? [];
    const owner: Owner = { pid, started, socketFolder: "" };
    writeFileSync(path.join(own, "owner.json"), JSON.stringify(owner));
    expect(() => takeFolder(own, {}, "/nowhere"), "while it lives").toThrow(`process ${pid} serves`);
    process.kill(pid, "SIGKILL");
    // Where SIGCHLD is ignored, as a supervisor may leave it to its children, the kernel buries it at once.
    await until(() => !isAlive(pid));
    expect(takeFolder(own, {}, "/nowhere")).toEqual(owner);
    undertaker.kill("SIGKILL");
  });

  test("gives way too where it was killed while it took the folder, or its file is damaged", () => {
    const own = newFolder();
    writeFileSync(path.join(own, "owner.json"), "");
    writeFileSync(path.join(own, "owner.json.turn"), JSON.stringify(nobody));
    takeFolder(own, {}, "/nowhere");
    expect(ownerOf(own)).toMatchObject({ pid: process.pid, socketFolder: "/nowhere" });
    expect(readdirSync(own)).toEqual(["owner.json"]);
  });

  test("is one process only, whoever races to take over from a dead one", async () => {
    const contested = newFolder();
    const rounds = 1000;
    for (let round = 0; round < rounds; round += 1) {
      mkdirSync(path.join(contested, `${round}`));
      writeFileSync(path.join(contested, `${round}`, "owner.json"), JSON.stringify(nobody));
    }
    const racers = await Promise.all(Array.from({ length: 4 }, () => startRacer(contested, rounds)));
    const taken = (await Promise.all(racers.map(({ race }) => race()))).flat();
    racers.forEach(({ end }) => end());
    expect(taken.filter((round, index) => taken.indexOf(round) !== index), "those with two owners").toEqual([]);
    expect(taken).toHaveLength(rounds);
  });

  test("that is alive but has no PostgreSQL yet is waited for by the operator, not by `ledgerd migrate`", async () => {
    const own = newFolder();
    takeFolder(own, {}, path.join(own, "socket"));
    const { code, stderr } = await runLedgerd(["migrate"], { LEDGERD_DATA_DIR: own });
    expect([code, stderr]).toEqual([1, expect.stringMatching(/^ledgerd: can't connect to .* may still be starting; try again\n$/)]);
    leaveFolder(own);
  });
});

interface Racer {
  /** Tries to take all folders, and answers which it got. */
  readonly race: () => Promise<readonly number[]>;
  readonly end: () => void;
}

/** A process that is ready to race for the folders 0, 1, 2, … in a folder, and that lives until it is told to end. */
async function startRacer(contested: string, rounds: number): Promise<Racer> {
  const text = `
    import { takeFolder } from ${JSON.stringify(path.resolve(import.meta.dirname, "../src/postgres/embedded/embedded-folder.ts"))};
    process.stdin.on("data", () => {
      const taken = [];
      for (let round = 0; round < ${rounds}; round += 1) {
        try {
          takeFolder(${JSON.stringify(contested)} + "/" + round, {}, "");
          taken.push(round);
        } catch (error) {
          if (!error.message.startsWith("process ")) throw error;
        }
      }
      console.log(JSON.stringify(taken));
    });
    console.log("ready");`;
  const child = spawn(process.execPath, ["--input-type=module", "-e", text], { stdio: ["pipe", "pipe", "inherit"] });
  const lines = createInterface(child.stdout);
  await once(lines, "line");
  const race = async (): Promise<readonly number[]> => {
    child.stdin.write("go\n");
    const [line] = (await once(lines, "line")) as [string];
    return JSON.parse(line) as number[];
  };
  return { race, end: () => child.stdin.end() };
}

describe("the folder", () => {
  // Some user but root and us; only looked at, never become.
  const user = { uid: 65_533, gid: 65_533 };

  test("is .ledgerd here, unless the database's user can't get there: then one of its own for each clone", () => {
    const open = newFolder();
    const closed = path.join(open, "closed");
    const inside = path.join(closed, "clone");
    mkdirSync(inside, { recursive: true });
    expect(defaultFolder(inside, user)).toBe(path.join(inside, ".ledgerd"));
    chmodSync(closed, 0o700);
    expect(defaultFolder(inside, user)).toMatch(/^\/var\/lib\/ledgerd\/clone-[0-9a-f]{8}$/);
    expect(defaultFolder(inside, {}), "as ourselves we get there").toBe(path.join(inside, ".ledgerd"));
    expect(defaultFolder(closed, user)).not.toBe(defaultFolder(inside, user));
  });

  test("is refused by name where the database's user can't enter it", () => {
    const closed = newFolder();
    chmodSync(closed, 0o700);
    expect(() => takeFolder(path.join(closed, "data"), user, "")).toThrow(/user 65533 here, who can't enter .*LEDGERD_DATA_DIR/);
  });
});
