// Backup and restore: an archive is the ledger as it was at one moment, and the database that it is restored into goes on from there.

import { mkdtempSync, readdirSync, rmSync, statSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { backUp, type Backup } from "../../src/backup/backup.ts";
import { knownMigrations, migrate, type Migration } from "../../src/postgres/schema/migrate.ts";
import { archiveOf, restoreInto } from "../harness/archives.ts";
import { block } from "../harness/blocker.ts";
import { runLedgerd, startLedgerd } from "../harness/command.ts";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { checkDatabase } from "../harness/inspect.ts";
import { tablesIn } from "../harness/ledger-tables.ts";
import { Load } from "../harness/load.ts";
import { dumpSchema } from "../harness/schema-dump.ts";
import { failureOf, newKey, serve } from "../harness/service.ts";
import { until } from "../harness/until.ts";
import { oddTopUp, writeVariedLedger } from "../harness/varied-ledger.ts";

const root = mkdtempSync(path.join(tmpdir(), "ledgerd-backup-"));
const known = knownMigrations();
const rub = (amount: string) => ({ currency: "RUB", amount });

afterAll(() => rmSync(root, { recursive: true }));

/** A folder of a test's own. */
function newFolder(): string {
  return mkdtempSync(path.join(root, "archives-"));
}

/** A backup of a database, in a folder of its own. */
function archive(url: string, migrations = known): Promise<Backup> {
  return archiveOf(url, newFolder(), migrations);
}

/** Returns once a session of this name waits for a lock. */
function waits({ query }: TestDatabase, name: string): Promise<void> {
  const waiting = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' AND application_name = $1";
  return until(async () => (await query(waiting, [name])).length > 0);
}

/** A later version's migrations: ours, and one that gives holds a column. */
const later: readonly Migration[] = [
  ...known,
  {
    number: known.length + 1,
    name: "9999_later",
    sql: "ALTER TABLE ledgerd.holds ADD COLUMN IF NOT EXISTS later TEXT NOT NULL DEFAULT 'as before'",
    checksum: "f".repeat(64),
    major: false,
  },
];

describe("a ledger with something of everything, backed up and restored elsewhere", () => {
  let source: TestDatabase;
  let target: TestDatabase;
  let backup: Backup;
  let answers: ReadonlyMap<string, bigint>;

  beforeAll(async () => {
    source = await createDatabase();
    // The last row but some of one partition, so that the ledger goes over its border.
    await source.query("SELECT setval('ledgerd.transactions_id_seq', 29999990)");
    await source.query("SELECT ledgerd.add_transaction_partitions(20000000)");
    await using service = await serve(source.url);
    answers = await writeVariedLedger(service);
    await service.close();
    // Some are so long that the table comes in several parts.
    await source.query("UPDATE ledgerd.jobs SET prompt = repeat(chr(64 + id::int), 5000000) WHERE id <= 4");
    backup = await archive(source.url);
    target = await createDatabase("empty");
    await restoreInto(target.url, backup.file);
  });

  afterAll(async () => {
    await source[Symbol.asyncDispose]();
    await target[Symbol.asyncDispose]();
  });

  test("is the same there, each table row by row, and so is its schema", async () => {
    const tables = await tablesIn(source);
    expect(Object.keys(tables)).toEqual(expect.arrayContaining(["holds", "idempotency_keys", "jobs", "lock_heartbeat", "transactions", "unique_references", "user_balances"]));
    expect(await tablesIn(target)).toEqual(tables);
    expect(await dumpSchema(target)).toBe(await dumpSchema(source));
    expect((await checkDatabase(target)).log.length).toBeGreaterThan(20);
  });

  test("is counted in the archive's manifest", async () => {
    const counted = Object.fromEntries(backup.manifest.tables.map(({ name, rows }) => [name, rows]));
    expect(backup.manifest.tables.find(({ name }) => name === "jobs")?.parts.length).toBeGreaterThan(2);
    const { schema_migrations: _migrations, ...tables } = await tablesIn(source);
    expect(counted).toEqual(Object.fromEntries(Object.entries(tables).map(([name, contents]) => [name, Number.parseInt(contents, 10)])));
  });

  test("has partitions for all its ids and those to come, guarded like the first", async () => {
    const rows = await target.query("SELECT tableoid::regclass::text AS partition FROM ledgerd.transactions GROUP BY 1 ORDER BY 1");
    expect(rows).toEqual([{ partition: "ledgerd.transactions_000002" }, { partition: "ledgerd.transactions_000003" }]);
    for (const statement of ["UPDATE ledgerd.transactions SET amount = 1 WHERE user_id = 1", "DELETE FROM ledgerd.transactions WHERE user_id = 1", "TRUNCATE ledgerd.transactions_000003"]) {
      await expect(target.query(statement), statement).rejects.toThrow(/append-only/);
    }
  });

  test("goes on there: keys that were used replay, and neither ids nor tokens are given twice", async () => {
    const tokens = await source.query<{ jobs: bigint; locks: bigint; id: bigint }>(
      "SELECT (SELECT last_value FROM ledgerd.fencing_token_seq) AS jobs, (SELECT last_value FROM ledgerd.lock_token_seq) AS locks, max(id) AS id FROM ledgerd.transactions",
    );
    const last = tokens[0] ?? { jobs: 0n, locks: 0n, id: 0n };
    await using service = await serve(target.url);
    for (const [index, [idempotencyKey, id]] of [...answers].entries()) {
      const again = await service.ledger.topUp(oddTopUp(index, idempotencyKey));
      expect([again.replayed, again.transaction?.id]).toEqual([true, id]);
    }
    const refused = await failureOf(service.ledger.deduct({ userId: 3n, amount: rub("1"), idempotencyKey: "refused" }));
    expect([refused.reason, refused.metadata["stored"]]).toEqual(["INSUFFICIENT_FUNDS", "true"]);
    const { transaction } = await service.ledger.topUp({ userId: 1n, amount: rub("1"), idempotencyKey: newKey() });
    expect(transaction?.id).toBeGreaterThan(last.id);
    const { jobs } = await service.jobs.claimJobs({ workerId: "w", modelIds: ["m"], maxJobs: 1 });
    expect(jobs[0]?.fencingToken).toBeGreaterThan(last.jobs + 1_000_000n);
    expect((await service.locks.acquireLock({ lockKey: 6n, instanceId: "a", ttl: { seconds: 5n } })).fencingToken).toBeGreaterThan(last.locks + 1_000_000n);
    await checkDatabase(target);
  });

  test("can be restored once only: a database that holds a ledger is refused, and stays as it is", async () => {
    const before = await tablesIn(target);
    await expect(restoreInto(target.url, backup.file)).rejects.toThrow(/holds a ledger already \(rows in .*transactions.*\): restore into an empty one/);
    expect(await tablesIn(target)).toEqual(before);
  });
});

test("a ledger that is restored into the very database that it was taken of gives no token twice", async () => {
  await using database = await createDatabase();
  const acquire = async (lockKey: bigint): Promise<bigint> => {
    await using service = await serve(database.url);
    return (await service.locks.acquireLock({ lockKey, instanceId: "a" })).fencingToken;
  };
  await acquire(1n);
  const { file } = await archive(database.url);
  const lost = await acquire(2n);
  for (let time = 0; time < 2; time++) {
    await database.query("DROP SCHEMA ledgerd CASCADE");
    await restoreInto(database.url, file);
    expect(await acquire(3n)).toBeGreaterThan(lost + 1_000_000n);
  }
});

test("a backup under load is the ledger of one moment: its laws hold, and nothing in it is otherwise than where it came from", async () => {
  await using source = await createDatabase();
  await using service = await serve(source.url);
  await using load = new Load({ grpcAddress: service.grpcAddress, firstUser: 1n });
  await load.goesOn(300);
  const { file } = await archive(source.url);
  await load.goesOn(300);
  await load.finish();
  await using target = await createDatabase("empty");
  await restoreInto(target.url, file);
  const { log } = await checkDatabase(target);
  const { log: all } = await checkDatabase(source);
  const byId = new Map(all.map((row) => [row.id, row]));
  expect(log.length).toBeLessThan(all.length);
  expect(log).toEqual(log.map(({ id }) => byId.get(id)));
});

describe("an archive", () => {
  test("of an older schema is restored as it was, and then migrated", async () => {
    await using source = await createDatabase();
    await using service = await serve(source.url);
    await service.ledger.topUp({ userId: 1n, amount: rub("10"), idempotencyKey: newKey() });
    await service.ledger.placeHold({ userId: 1n, amount: rub("4"), idempotencyKey: newKey() });
    const { file } = await archive(source.url);
    await using target = await createDatabase("empty");
    await restoreInto(target.url, file, later);
    expect(await target.query("SELECT later FROM ledgerd.holds")).toEqual([{ later: "as before" }]);
    expect(await target.query("SELECT max(number) AS newest FROM ledgerd.schema_migrations")).toEqual([{ newest: later.length }]);
  });

  test("of a newer schema is refused, before anything is changed", async () => {
    await using source = await createDatabase();
    await migrate(source.url, { known: later });
    const { file } = await archive(source.url, later);
    await using target = await createDatabase("empty");
    await expect(restoreInto(target.url, file)).rejects.toThrow(`the archive has the schema ${later.length}, of ledgerd 0.0.1; this ledgerd knows ${known.length}: restore it by that version, or a later one`);
    expect(await target.query("SELECT nspname FROM pg_namespace WHERE nspname = 'ledgerd'")).toEqual([]);
  });

  test("is refused by an empty database whose schema is newer than it, with the remedy", async () => {
    await using source = await createDatabase();
    const { file } = await archive(source.url);
    await using target = await createDatabase("empty");
    await migrate(target.url, { known: later });
    await expect(restoreInto(target.url, file, later)).rejects.toThrow(/restore it into a database without the schema `ledgerd`/);
  });

  test("is refused by a database that a ledgerd serves from, with the pids of its sessions", async () => {
    await using source = await createDatabase();
    const { file } = await archive(source.url);
    await using target = await createDatabase();
    await using service = await serve(target.url);
    await service.ledger.getBalance({ userId: 1n });
    await expect(restoreInto(target.url, file)).rejects.toThrow(/a ledgerd serves from this database \(its sessions: \d+.*\): stop it first/);
  });

  test("isn't said to be restored where the database holds anything else than it in the end", async () => {
    await using source = await createDatabase();
    await using service = await serve(source.url);
    await writeVariedLedger(service);
    const { file } = await archive(source.url);
    const spoiled = async (table: string, change: string): Promise<void> => {
      await using target = await createDatabase();
      await target.query(`CREATE FUNCTION spoil() RETURNS TRIGGER LANGUAGE plpgsql AS 'BEGIN ${change}; END'`);
      await target.query(`CREATE TRIGGER spoil BEFORE INSERT ON ledgerd.${table} FOR EACH ROW EXECUTE FUNCTION spoil()`);
      try {
        await restoreInto(target.url, file);
      } finally {
        await expect(serve(target.url)).rejects.toThrow("was cut off");
      }
    };
    await expect(spoiled("holds", "RETURN NULL")).rejects.toThrow("PostgreSQL took 0 rows of holds.000001.copy.zst, which has");
    await expect(spoiled("unique_references", "INSERT INTO ledgerd.lock_heartbeat (lock_key, instance_id) VALUES (99, ''x''); RETURN NEW")).rejects.toThrow("rows in lock_heartbeat, the archive has");
    await expect(spoiled("user_balances", "NEW.chain_head := NULL; RETURN NEW")).rejects.toThrow("the digest of the chain heads is");
  });

  test("of a ledger with differences is restored as it was: they are named, the command ends with 1, and nobody serves from it until that is asked for; `rebuild` mends them then", async () => {
    await using source = await createDatabase();
    await using service = await serve(source.url);
    await service.ledger.topUp({ userId: 1n, amount: rub("10"), idempotencyKey: newKey() });
    await source.query("UPDATE ledgerd.user_balances SET balance = 11 WHERE user_id = 1");
    const { file } = await archive(source.url);
    await using target = await createDatabase("empty");
    const { code, stdout } = await runLedgerd(["restore", "--from", file], { DATABASE_URL: target.url });
    const lines = stdout.trim().split("\n").map((line) => JSON.parse(line) as Record<string, unknown>);
    expect(code).toBe(1);
    expect(lines.filter(({ event }) => event === "difference")).toMatchObject([{ kind: "balance_wrong", userId: "1" }]);
    expect(lines.at(-1)).toMatchObject({ event: "done", differences: 1, servable: false });
    await expect(serve(target.url)).rejects.toThrow("or a whole one that wasn't found to hold");
    const again = await runLedgerd(["restore", "--from", file], { DATABASE_URL: target.url });
    expect(again.code, "nor when it is run again").toBe(1);
    const unverified = await runLedgerd(["restore", "--from", file, "--no-verify"], { DATABASE_URL: target.url });
    expect([unverified.code, unverified.stdout]).toEqual([0, expect.not.stringContaining("verifying")]);
    expect(unverified.stdout).toContain('"servable":true');
    expect((await tablesIn(target))["user_balances"]).toBe((await tablesIn(source))["user_balances"]);
    expect((await runLedgerd(["rebuild"], { DATABASE_URL: target.url })).code).toBe(0);
    await checkDatabase(target);
  });

  test("isn't made of a database without a ledger", async () => {
    await using empty = await createDatabase("empty");
    await expect(archive(empty.url)).rejects.toThrow("there is no ledger in this database yet: nothing to back up");
  });
});

describe("cut off in the middle,", () => {
  let source: TestDatabase;

  beforeAll(async () => {
    source = await createDatabase();
    await using service = await serve(source.url);
    await writeVariedLedger(service);
  });

  afterAll(() => source[Symbol.asyncDispose]());

  test("a backup that is killed leaves no archive under its name, and the next one cleans up behind it once it is old", async () => {
    const folder = newFolder();
    const locked = await block(source, "LOCK TABLE ledgerd.user_balances IN ACCESS EXCLUSIVE MODE");
    await using command = startLedgerd(["backup", "--to", folder], { DATABASE_URL: source.url });
    await waits(source, "ledgerd backup");
    const [left = "", ...others] = readdirSync(folder);
    expect(left).toMatch(/^\.ledgerd-.*\.tar\.unfinished$/);
    expect(others).toEqual([]);
    command.process.kill("SIGKILL");
    await command.ended;
    await locked.release();
    expect(statSync(path.join(folder, left)).size).toBeGreaterThan(0);

    const first = await archiveOf(source.url, folder);
    expect(readdirSync(folder).toSorted()).toEqual([left, path.basename(first.file)].toSorted());
    utimesSync(path.join(folder, left), 0, 0);
    const second = await archiveOf(source.url, folder);
    expect(readdirSync(folder).toSorted()).toEqual([first.file, second.file].map((file) => path.basename(file)).toSorted());
  });

  test("a backup that is told to end leaves nothing, though it was waiting", async () => {
    const folder = newFolder();
    const locked = await block(source, "LOCK TABLE ledgerd.user_balances IN ACCESS EXCLUSIVE MODE");
    await using command = startLedgerd(["backup", "--to", folder], { DATABASE_URL: source.url });
    await waits(source, "ledgerd backup");
    command.process.kill("SIGTERM");
    expect(await command.ended).toBe(1);
    await locked.release();
    expect(command.printed.stderr).toBe("ledgerd: ended by SIGTERM\n");
    expect(readdirSync(folder)).toEqual([]);
  });

  test("a backup whose session PostgreSQL ends fails, and leaves nothing", async () => {
    const folder = newFolder();
    const locked = await block(source, "LOCK TABLE ledgerd.user_balances IN ACCESS EXCLUSIVE MODE");
    const failed = expect(archiveOf(source.url, folder)).rejects.toThrow(/terminating connection/);
    await waits(source, "ledgerd backup");
    await source.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'ledgerd backup'");
    await failed;
    await locked.release();
    expect(readdirSync(folder)).toEqual([]);
  });

  test("a backup waits for another one of the same database", async () => {
    const phases: string[] = [];
    const locked = await block(source, "LOCK TABLE ledgerd.user_balances IN ACCESS EXCLUSIVE MODE");
    const first = archive(source.url);
    await waits(source, "ledgerd backup");
    const second = backUp({ url: source.url, folder: newFolder(), keepDays: 7, version: "0.0.1", progress: (phase) => phases.push(phase) });
    await until(() => phases.includes("waiting for another backup"));
    await locked.release();
    await Promise.all([first, second]);
    expect(phases.at(-1)).toBe("verifying");
  });

  test("a restore that is killed leaves what nobody serves from, migrates or backs up, and goes on where it was when it is run again", async () => {
    const { file } = await archive(source.url);
    const other = await archive(source.url);
    await using target = await createDatabase();
    // user_balances is the last table: all others are there when it waits.
    const locked = await block(target, "LOCK TABLE ledgerd.user_balances IN SHARE MODE");
    await using command = startLedgerd(["restore", "--from", file], { DATABASE_URL: target.url });
    await waits(target, "ledgerd restore");
    await expect(restoreInto(target.url, file)).rejects.toThrow("another `ledgerd restore` works on this database");
    command.process.kill("SIGKILL");
    await command.ended;
    await locked.release();
    await until(async () => (await target.query("SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'ledgerd restore'")).length === 0);

    const refusal = /holds a part of an archive that is being restored, or whose restore was cut off.*: run that `ledgerd restore` again/;
    await expect(serve(target.url)).rejects.toThrow(refusal);
    await expect(serve(target.url, { LEDGERD_MIGRATE: "never" })).rejects.toThrow(refusal);
    await expect(migrate(target.url)).rejects.toThrow(refusal);
    await expect(archive(target.url)).rejects.toThrow(refusal);
    await expect(restoreInto(target.url, other.file)).rejects.toThrow("the restore of another archive into this database was cut off: go on with that one, or take an empty database");

    const loaded = await target.query("SELECT name, applied_at FROM ledgerd.schema_migrations WHERE number > 2000000000 ORDER BY number");
    expect(loaded.length).toBeGreaterThan(3);
    const rowsBefore = await target.query("SELECT xmin::text AS written_by FROM ledgerd.transactions ORDER BY id");
    await restoreInto(target.url, file);
    expect(await target.query("SELECT xmin::text AS written_by FROM ledgerd.transactions ORDER BY id"), "they were not loaded again").toEqual(rowsBefore);
    expect(await tablesIn(target)).toEqual(await tablesIn(source));
    await checkDatabase(target);
    await using service = await serve(target.url);
    await service.ledger.topUp({ userId: 1n, amount: rub("1"), idempotencyKey: newKey() });
  });
});

test("a restore that is cut off while it verifies leaves what nobody serves from, and is verified when it is run again", async () => {
  await using source = await createDatabase();
  await using service = await serve(source.url);
  await writeVariedLedger(service);
  await service.close();
  const { file } = await archive(source.url);
  await using target = await createDatabase();
  const cutOff = (phase: string): void => {
    if (phase.startsWith("verifying")) throw new Error("cut off");
  };
  await expect(restoreInto(target.url, file, known, cutOff)).rejects.toThrow("cut off");
  const { schema_migrations: _marks, ...restoredTables } = await tablesIn(target);
  expect(await tablesIn(source), "everything is there").toMatchObject(restoredTables);
  await expect(serve(target.url)).rejects.toThrow("run that `ledgerd restore` again (with --no-verify it may be served as it is)");
  const again = await runLedgerd(["restore", "--from", file], { DATABASE_URL: target.url });
  expect([again.code, again.stdout]).toEqual([0, expect.stringContaining('"phase":"verifying')]);
  await (await serve(target.url)).close();
});

describe("the command lines", () => {
  test("back up and restore, and tell what they did", async () => {
    await using source = await createDatabase();
    await using service = await serve(source.url);
    await service.ledger.topUp({ userId: 1n, amount: rub("10"), idempotencyKey: newKey() });
    const folder = path.join(newFolder(), "made", "by", "it");
    const backup = await runLedgerd(["backup", "--to", folder], { DATABASE_URL: source.url });
    expect(backup).toMatchObject({ code: 0, stderr: "" });
    const [name = ""] = readdirSync(folder);
    const file = path.join(folder, name);
    expect(statSync(file).mode & 0o777, "nobody else reads it").toBe(0o600);
    expect(JSON.parse(backup.stdout.trim().split("\n").at(-1) ?? "")).toMatchObject({ event: "done", command: "backup", file, removed: [] });
    await using target = await createDatabase("empty");
    const restored = await runLedgerd(["restore", "--from", file], { DATABASE_URL: target.url });
    expect(restored).toMatchObject({ code: 0, stderr: "" });
    expect(JSON.parse(restored.stdout.trim().split("\n").at(-1) ?? "")).toMatchObject({ event: "done", command: "restore", differences: 0 });
    expect((await tablesIn(target))["transactions"]).toBe((await tablesIn(source))["transactions"]);
  });

  test("refuse what is wrong with 2, and what can't be done with 1, each in a line that says what to do", async () => {
    const file = path.join(newFolder(), "text.tar");
    writeFileSync(file, "no archive");
    await using target = await createDatabase("empty");
    const see = "ledgerd: see `ledgerd help`\n";
    const cases: readonly (readonly [number, string, ...string[]])[] = [
      [2, `ledgerd: say where the archive goes: \`ledgerd backup --to DIR\`, or LEDGERD_BACKUP_DIR\n${see}`, "backup"],
      [2, `ledgerd: say which archive: \`ledgerd restore --from FILE\`\n${see}`, "restore"],
      [2, `ledgerd: --keep-days must be a whole number from 1 to 36500, such as 10; it is "0"\n${see}`, "backup", "--to", root, "--keep-days", "0"],
      [2, `ledgerd: --to goes with backup, not with serve\n${see}`, "serve", "--to", root],
      [1, "ledgerd: there is no ledger in this database yet: nothing to back up\n", "backup", "--to", root],
      [1, `ledgerd: ${file} is no archive of ledgerd, or was cut off or altered: it has no proper end\n`, "restore", "--from", file],
      [1, `ledgerd: can't read ${file}.absent: ENOENT: no such file or directory, open '${file}.absent'\n`, "restore", "--from", `${file}.absent`],
    ];
    const ended = await Promise.all(cases.map(([, , ...args]) => runLedgerd(args, { DATABASE_URL: target.url })));
    expect(ended.map(({ code, stderr }) => [code, stderr])).toEqual(cases.map(([code, said]) => [code, said]));
  });
});
