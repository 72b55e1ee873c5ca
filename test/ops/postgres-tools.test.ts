// What docs/integrity.md says of PostgreSQL's own tools beside archives: pg_dump and pg_restore, and recovery to a point in time from a base backup and
// the WAL. They come with a server of the same version, so this needs one from the system's packages.

import { execFile } from "node:child_process";
import { chownSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test, type TestContext } from "vitest";
import { SERVING_LOGIN } from "../../src/postgres/embedded/embedded-access.ts";
import { runAs } from "../../src/postgres/embedded/embedded-folder.ts";
import { migrate } from "../../src/postgres/schema/migrate.ts";
import { archiveOf, restoreInto } from "../harness/archives.ts";
import { olderPrograms, startBare, type BareServer } from "../harness/bare-postgres.ts";
import { runLedgerd } from "../harness/command.ts";
import { connectTo, createDatabase } from "../harness/database.ts";
import { tablesIn } from "../harness/ledger-tables.ts";
import { newKey, serve } from "../harness/service.ts";
import { until } from "../harness/until.ts";
import { writeVariedLedger } from "../harness/varied-ledger.ts";

const programs = olderPrograms();
const user = runAs();
const folder = mkdtempSync(path.join(tmpdir(), "ledgerd-tools-"));
const wal = path.join(folder, "wal");
const digest = path.join(folder, "digest.gz");

/** Runs one of PostgreSQL's programs. */
async function run(program: string, ...args: readonly string[]): Promise<void> {
  await promisify(execFile)(path.join(programs ?? "", program), args, { ...user, cwd: "/" });
}

/** The socket of a server, for programs that take no URL. */
const hostOf = (url: string): string => decodeURIComponent(new URL(url).hostname);

async function inSession<T>(url: string, work: (query: <R extends object>(text: string) => Promise<R[]>) => Promise<T>): Promise<T> {
  const client = await connectTo(url);
  try {
    return await work(async <R extends object>(text: string) => (await client.query<R>(text)).rows);
  } finally {
    await client.end();
  }
}

describe("on a PostgreSQL with its own tools", () => {
  let server: BareServer;
  let url: string;

  beforeAll(async () => {
    if (programs === undefined) return;
    mkdirSync(wal);
    for (const owned of [folder, wal]) if (user.uid !== undefined && user.gid !== undefined) chownSync(owned, user.uid, user.gid);
    server = await startBare(programs, { archive_mode: "on", archive_command: `cp %p ${wal}/%f` });
    await inSession(server.url("postgres", "postgres"), (query) => query("CREATE DATABASE ledgerd"));
    url = server.url("postgres", "ledgerd");
    await migrate(url);
    await inSession(url, (query) => query(`CREATE ROLE ${SERVING_LOGIN} LOGIN IN ROLE ledgerd_runtime`));
    await using service = await serve(url);
    await writeVariedLedger(service);
    await service.close();
    expect((await runLedgerd(["verify", "--write-digest", digest], { DATABASE_URL: url })).code).toBe(0);
  });

  afterAll(async () => {
    if (programs !== undefined) await server[Symbol.asyncDispose]();
    rmSync(folder, { recursive: true, force: true });
  });

  function needsPrograms(context: TestContext): void {
    if (programs === undefined) context.skip("no PostgreSQL 15, 16 or 17 in /usr/lib/postgresql");
  }

  test("a dump made by pg_dump is restored by pg_restore: the same, and right by the digest", async (context) => {
    needsPrograms(context);
    const before = await inSession(url, (query) => tablesIn({ query }));
    await run("pg_dump", "-h", hostOf(url), "-U", "postgres", "-Fc", "-f", path.join(folder, "dump"), "ledgerd");
    await run("createdb", "-h", hostOf(url), "-U", "postgres", "restored");
    const restored = server.url("postgres", "restored");
    await run("pg_restore", "-h", hostOf(url), "-U", "postgres", "-d", "restored", "--exit-on-error", path.join(folder, "dump"));
    expect(await inSession(restored, (query) => tablesIn({ query }))).toEqual(before);
    for (const statement of ["DELETE FROM ledgerd.transactions WHERE user_id > 0", "TRUNCATE ledgerd.transactions_000000"]) {
      await expect(inSession(restored, (query) => query(statement)), statement).rejects.toThrow(/append-only/);
    }
    expect(await runLedgerd(["verify", "--digest", digest], { DATABASE_URL: restored })).toMatchObject({ code: 0, stderr: "" });
    await using service = await serve(restored);
    await service.ledger.topUp({ userId: 1n, amount: { amount: "1" }, idempotencyKey: newKey() });
  });

  test("an archive goes from one version of PostgreSQL to another and back", async (context) => {
    needsPrograms(context);
    const before = await inSession(url, (query) => tablesIn({ query }));
    const archives = path.join(folder, "archives");
    await using newer = await createDatabase("empty");
    await restoreInto(newer.url, (await archiveOf(url, archives)).file);
    expect(await tablesIn(newer)).toEqual(before);
    await run("createdb", "-h", hostOf(url), "-U", "postgres", "older");
    const older = server.url("postgres", "older");
    await restoreInto(older, (await archiveOf(newer.url, archives)).file);
    expect(await inSession(older, (query) => tablesIn({ query }))).toEqual(before);
  });

  test("a base backup and the archived WAL bring the ledger back to the moment before a mistake, with all that was written until then", async (context) => {
    needsPrograms(context);
    const base = path.join(folder, "base");
    await run("pg_basebackup", "-h", hostOf(url), "-U", "postgres", "-D", base, "-c", "fast");
    await using service = await serve(url);
    const { transaction } = await service.ledger.topUp({ userId: 7n, amount: { amount: "70" }, idempotencyKey: newKey() });
    await service.close();
    const moment = await inSession(url, async (query) => {
      const contents = await tablesIn({ query });
      await query("SELECT pg_create_restore_point('before the mistake')");
      await query("DELETE FROM ledgerd.user_balances WHERE user_id > 0");
      const [switched] = await query<{ file: string }>("SELECT pg_walfile_name(pg_switch_wal()) AS file");
      await until(async () => (await query(`SELECT FROM pg_stat_archiver WHERE last_archived_wal >= '${switched?.file}'`)).length > 0);
      return contents;
    });

    writeFileSync(path.join(base, "recovery.signal"), "");
    const recovery = { restore_command: `cp ${wal}/%f %p`, recovery_target_name: "before the mistake", recovery_target_action: "promote" };
    await using recovered = await startBare(programs ?? "", recovery, base);
    const there = recovered.url("postgres", "ledgerd");
    await until(() => inSession(there, async (query) => (await query("SELECT WHERE NOT pg_is_in_recovery()")).length > 0));
    expect(await inSession(there, (query) => tablesIn({ query }))).toEqual(moment);
    expect(await runLedgerd(["verify", "--digest", digest], { DATABASE_URL: there })).toMatchObject({ code: 0, stderr: "" });
    await using again = await serve(there);
    expect((await again.ledger.getBalance({ userId: 7n })).balance?.balance).toEqual(transaction?.balanceAfter);
  });
});
