// Verification: what holds is found to hold, whatever is written meanwhile; and each damage is named.

import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { gunzipSync, gzipSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { currenciesWith } from "../../src/domain/money/currency.ts";
import { VerificationKind } from "../../src/gen/ledger/v1/admin_service_pb.ts";
import { chainHash, figuresOf } from "../../src/domain/journal/chain.ts";
import { rowsFor, transactionColumns } from "../../src/postgres/rows/rows.ts";
import { block } from "../harness/blocker.ts";
import { runLedgerd } from "../harness/command.ts";
import { past } from "../harness/damage.ts";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { newKey, serve, type TestService } from "../harness/service.ts";
import { until } from "../harness/until.ts";
import { verify, writeSome } from "../harness/verification.ts";

let database: TestDatabase;
let service: TestService;
let folder: string;
let lastUser = 1_000_000n;

beforeAll(async () => {
  folder = mkdtempSync(path.join(tmpdir(), "ledgerd-digest-"));
  database = await createDatabase();
  service = await serve(database.url, { LEDGERD_JOB_SWEEP_INTERVAL: "50ms", LEDGERD_WAIT_POLL: "20ms" });
  for (const first of [100n, 200n, 300n]) await writeSome(service, first);
});

afterAll(async () => {
  await service.close();
  await database[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true, force: true });
});

const rub = (amount: string) => ({ currency: "RUB", amount });

/** A user with so many top-ups of 1. */
async function userWith(rows: number): Promise<bigint> {
  const userId = (lastUser += 10n);
  const writes = Array.from({ length: rows }, () => ({ write: { case: "topUp" as const, value: { userId, amount: rub("1"), idempotencyKey: newKey() } } }));
  await service.ledger.batchWrite({ writes });
  return userId;
}

/** Damages the ledger, looks what is found of this, and takes the damage back. */
async function foundOf(damage: readonly string[], undo: readonly string[]) {
  await past(database, ...damage);
  const { findings, summary } = await verify(database.url);
  await past(database, ...undo);
  expect(summary.differences).toBe(findings.length);
  return findings;
}

/** Keeps the rows that a condition on the log names, and answers how to bring them back. */
async function keep(condition: string): Promise<string[]> {
  await database.query("DROP TABLE IF EXISTS public.kept");
  await database.query(`CREATE TABLE public.kept AS SELECT * FROM ledgerd.transactions WHERE ${condition}`);
  return [`DELETE FROM ledgerd.transactions WHERE id IN (SELECT id FROM public.kept)`, "INSERT INTO ledgerd.transactions SELECT * FROM public.kept"];
}

describe("a ledger that nobody damaged", () => {
  test("holds in all its parts, each of which was gone through", async () => {
    const { findings, summary } = await verify(database.url);
    expect(findings).toEqual([]);
    const [counted] = await database.query(`
      SELECT (SELECT count(*)::int FROM ledgerd.transactions) AS rows, (SELECT count(*)::int FROM ledgerd.user_balances WHERE sequence > 0) AS accounts,
             (SELECT count(*)::int FROM ledgerd.holds) AS holds, (SELECT count(*)::int FROM ledgerd.jobs) AS jobs,
             (SELECT count(*)::int FROM ledgerd.idempotency_keys) AS keys`);
    expect(summary).toMatchObject({ ...counted, differences: 0 });
  });
});

describe("each damage is named", () => {
  test("an amount that was edited: its hash, and the figures that no longer follow", async () => {
    const userId = await userWith(5);
    const undo = await keep(`user_id = ${userId} AND sequence = 3`);
    const findings = await foundOf([`UPDATE ledgerd.transactions SET amount = 100 WHERE user_id = ${userId} AND sequence = 3`], undo);
    expect(findings).toMatchObject([
      { kind: "row_altered", userId, currency: "RUB", sequence: 3n, what: "hash" },
      { kind: "figures_wrong", userId, sequence: 3n, what: "balance_after", expected: "10200 minor units", actual: "300" },
    ]);
  });

  test.each([
    ["description", "'another'"],
    ["metadata", `'{"order": "18"}'`],
    ["created_at", "created_at + interval '1 microsecond'"],
    ["actor", "'somebody'"],
    ["reference", "'another'"],
    ["hash", "sha256('\\x00')"],
  ])("a %s that was edited", async (column, value) => {
    const userId = await userWith(3);
    const undo = await keep(`user_id = ${userId} AND sequence = 2`);
    const findings = await foundOf([`UPDATE ledgerd.transactions SET ${column} = ${value} WHERE user_id = ${userId} AND sequence = 2`], undo);
    expect(findings[0]).toMatchObject({ kind: "row_altered", userId, sequence: 2n });
  });

  test("the last row taken out: the balance row still tells of it, and so does its key", async () => {
    const userId = await userWith(4);
    const undo = (await keep(`user_id = ${userId} AND sequence = 4`)).slice(1);
    const findings = await foundOf([`DELETE FROM ledgerd.transactions WHERE user_id = ${userId} AND sequence = 4`], undo);
    expect(findings).toMatchObject([{ kind: "log_truncated", userId, sequence: 4n }, { kind: "key_wrong", userId, what: "transaction_id" }]);
  });

  test("a row in the middle taken out", async () => {
    const userId = await userWith(4);
    const undo = (await keep(`user_id = ${userId} AND sequence = 2`)).slice(1);
    const findings = await foundOf([`DELETE FROM ledgerd.transactions WHERE user_id = ${userId} AND sequence = 2`], undo);
    expect(findings).toMatchObject([{ kind: "row_missing", userId, sequence: 2n }, { kind: "key_wrong", userId }]);
  });

  test("all rows of an account taken out", async () => {
    const userId = await userWith(2);
    const undo = (await keep(`user_id = ${userId}`)).slice(1);
    const findings = await foundOf([`DELETE FROM ledgerd.transactions WHERE user_id = ${userId}`], undo);
    expect(findings[0]).toMatchObject({ kind: "log_truncated", userId, sequence: 1n });
  });

  test("a row put in twice, in another partition", async () => {
    const userId = await userWith(3);
    const [{ id } = { id: 0n }] = await database.query<{ id: bigint }>(`SELECT id + 10000000 AS id FROM ledgerd.transactions WHERE user_id = ${userId} AND sequence = 2`);
    await keep(`user_id = ${userId} AND sequence = 2`);
    const findings = await foundOf([`UPDATE public.kept SET id = ${id}`, "INSERT INTO ledgerd.transactions SELECT * FROM public.kept"], [`DELETE FROM ledgerd.transactions WHERE id = ${id}`]);
    expect(findings).toContainEqual(expect.objectContaining({ kind: "row_out_of_order", userId, what: "sequence" }));
    expect(findings).toContainEqual(expect.objectContaining({ kind: "id_sequence_behind", expected: `at least ${id}` }));
  });

  test.each([
    ["balance", "balance + 1"],
    ["held", "held + 1"],
    ["credit_limit", "5"],
    ["sequence", "sequence - 1"],
    ["chain_head", "sha256('\\x00')"],
    ["updated_at", "updated_at + interval '1 second'"],
  ])("a balance row's %s that was changed", async (column, value) => {
    const userId = await userWith(3);
    await database.query("DROP TABLE IF EXISTS public.kept");
    await database.query(`CREATE TABLE public.kept AS SELECT * FROM ledgerd.user_balances WHERE user_id = ${userId}`);
    const undo = [`DELETE FROM ledgerd.user_balances WHERE user_id = ${userId}`, "INSERT INTO ledgerd.user_balances SELECT * FROM public.kept"];
    const findings = await foundOf([`UPDATE ledgerd.user_balances SET ${column} = ${value} WHERE user_id = ${userId}`], undo);
    expect(findings).toMatchObject([{ kind: "balance_wrong", userId, currency: "RUB", what: column }]);
    expect(await foundOf([`DELETE FROM ledgerd.user_balances WHERE user_id = ${userId}`], undo)).toMatchObject([{ kind: "balance_missing", userId }]);
  });

  test("a balance row out of nothing", async () => {
    const userId = (lastUser += 1n);
    const gone = [`DELETE FROM ledgerd.user_balances WHERE user_id = ${userId}`];
    const findings = await foundOf([`INSERT INTO ledgerd.user_balances (user_id, balance) VALUES (${userId}, 1000)`], gone);
    expect(findings).toMatchObject([{ kind: "balance_wrong", userId, what: "balance", expected: "0", actual: "100000" }]);
  });

  test.each([
    ["state = 'released'", "hold_wrong", "state"],
    ["captured = 1", "hold_wrong", "captured"],
    ["amount = 4", "hold_wrong", "amount"],
    ["expires_at = expires_at + interval '1 day'", "hold_wrong", "expires_at"],
  ])("a hold with %s", async (change, kind, what) => {
    const userId = await userWith(5);
    const { hold } = await service.ledger.placeHold({ userId, amount: rub("3"), idempotencyKey: newKey() });
    const id = hold?.id ?? 0n;
    await database.query("DROP TABLE IF EXISTS public.kept");
    await database.query(`CREATE TABLE public.kept AS SELECT * FROM ledgerd.holds WHERE id = ${id}`);
    const undo = [`DELETE FROM ledgerd.holds WHERE id = ${id}`, "INSERT INTO ledgerd.holds SELECT * FROM public.kept"];
    expect(await foundOf([`UPDATE ledgerd.holds SET ${change} WHERE id = ${id}`], undo)).toMatchObject([{ kind, userId, holdId: id, what }]);
    const missing = await foundOf([`DELETE FROM ledgerd.holds WHERE id = ${id}`], undo);
    expect(missing).toContainEqual(expect.objectContaining({ kind: "hold_missing", userId, holdId: id }));
  });

  test("holds that the log didn't place, on an account and on none", async () => {
    const userId = await userWith(1);
    const insert = (user: bigint) => `INSERT INTO ledgerd.holds (id, user_id, currency, amount, expires_at, created_at) VALUES (${900_000_000n + user}, ${user}, 'RUB', 1, now() + interval '1 day', now())`;
    const gone = [`DELETE FROM ledgerd.holds WHERE id >= 900000000`];
    const ofNobody = (lastUser += 1n);
    const findings = await foundOf([insert(userId), insert(ofNobody)], gone);
    expect(findings).toContainEqual(expect.objectContaining({ kind: "hold_unfounded", userId, what: "count of holds" }));
    expect(findings).toContainEqual(expect.objectContaining({ kind: "hold_unfounded", userId: ofNobody }));
  });

  test("a job that says it cost something else, and one that was lost", async () => {
    const userId = (lastUser += 10n);
    await writeSome(service, userId);
    const [job] = await database.query<{ id: bigint }>(`SELECT id FROM ledgerd.jobs WHERE user_id = ${userId} AND status = 'completed'`);
    const id = job?.id ?? 0n;
    await database.query("DROP TABLE IF EXISTS public.kept");
    await database.query(`CREATE TABLE public.kept AS SELECT * FROM ledgerd.jobs WHERE id = ${id}`);
    const undo = [`DELETE FROM ledgerd.jobs WHERE id = ${id}`, "INSERT INTO ledgerd.jobs SELECT * FROM public.kept"];
    const findings = await foundOf([`UPDATE ledgerd.jobs SET final_cost = 1 WHERE id = ${id}`], undo);
    expect(findings).toMatchObject([{ kind: "job_wrong", userId, jobId: id, what: "the hold's captured", expected: "100", actual: "450" }]);
    const lost = await foundOf([`DELETE FROM ledgerd.jobs WHERE id = ${id}`], undo);
    expect(lost.map(({ kind, jobId }) => [kind, jobId])).toEqual(expect.arrayContaining([["job_missing", id]]));
  });

  test("a key that was lost, and one that names another's transaction", async () => {
    const [one, two] = [await userWith(1), await userWith(1)];
    await database.query("DROP TABLE IF EXISTS public.kept");
    await database.query(`CREATE TABLE public.kept AS SELECT * FROM ledgerd.idempotency_keys WHERE user_id = ${one}`);
    const undo = [`DELETE FROM ledgerd.idempotency_keys WHERE user_id = ${one}`, "INSERT INTO ledgerd.idempotency_keys SELECT * FROM public.kept"];
    expect(await foundOf([`DELETE FROM ledgerd.idempotency_keys WHERE user_id = ${one}`], undo)).toMatchObject([{ kind: "key_missing", userId: one, sequence: 1n }]);
    const other = `(SELECT id FROM ledgerd.transactions WHERE user_id = ${two})`;
    const findings = await foundOf([`UPDATE ledgerd.idempotency_keys SET transaction_id = ${other} WHERE user_id = ${one}`], undo);
    expect(findings).toMatchObject([{ kind: "key_missing", userId: one }, { kind: "key_wrong", userId: one }]);
  });

  test("one side of a transfer, and a refund of more than there was", async () => {
    const userId = (lastUser += 10n);
    await writeSome(service, userId);
    const side = `user_id = ${userId + 1n} AND type = 'transfer_in' AND idempotency_key IS NULL`;
    const undoSide = (await keep(side)).slice(1);
    const findings = await foundOf([`DELETE FROM ledgerd.transactions WHERE ${side}`], undoSide);
    expect(findings.filter(({ kind }) => kind === "transfer_unbalanced")).toHaveLength(2);
    const refund = `user_id = ${userId} AND type = 'refund'`;
    const undo = await keep(refund);
    const more = await foundOf([`UPDATE ledgerd.transactions SET amount = 20 WHERE ${refund}`], undo);
    expect(more).toContainEqual(expect.objectContaining({ kind: "refund_wrong", userId, expected: "at most 1234 minor units", actual: "2000" }));
  });

  test("amounts and units that no row of a ledger can hold", async () => {
    const userId = await userWith(3);
    const undo = await keep(`user_id = ${userId} AND sequence = 2`);
    const digits = await foundOf([`UPDATE ledgerd.transactions SET amount = 1.234 WHERE user_id = ${userId} AND sequence = 2`], undo);
    expect(digits).toMatchObject([{ kind: "row_unreadable", userId, sequence: 2n, actual: "the database holds 1.234, which has more than 2 fraction digits" }]);
    const undoAll = await keep(`user_id = ${userId}`);
    const unit = await foundOf([`UPDATE ledgerd.transactions SET currency = 'QQQ' WHERE user_id = ${userId}`], undoAll);
    expect(unit.map(({ kind }) => kind)).toEqual(expect.arrayContaining(["row_unreadable", "balance_missing", "log_truncated"]));
  });

  test("a chain that was rewritten, hashes and all: by the digest alone, while a ledger that has grown since still agrees with it", async () => {
    const userId = await userWith(3);
    const file = path.join(folder, "digest.gz");
    const written = await runLedgerd(["verify", "--write-digest", file], relaxed());
    expect(written.code).toBe(0);
    const last = lastLine(written.stdout);
    const text = gunzipSync(readFileSync(file)).toString();
    expect(last).toMatchObject({ event: "summary", differences: 0, digest: { file, accounts: text.split("\n").length - 3 } });
    expect(text).toMatch(new RegExp(`^ledgerd.digest.1\\n(\\d+ [A-Z]{3} \\d+ [0-9a-f]{64}\\n)+sha256 ${(last["digest"] as { sha256: string }).sha256} \\d+\\n$`));
    await service.ledger.topUp({ userId, amount: rub("1"), idempotencyKey: newKey() });
    expect((await verify(database.url, { digest: file })).findings).toEqual([]);

    const undo = [...(await keep(`user_id = ${userId}`)), `UPDATE ledgerd.user_balances b SET balance = 4, chain_head = (SELECT hash FROM public.kept ORDER BY sequence DESC LIMIT 1) WHERE user_id = ${userId}`];
    await rewrite(userId, 1_000_000n);
    expect((await verify(database.url)).findings, "everything follows from everything").toEqual([]);
    const { findings, summary } = await verify(database.url, { digest: file });
    await past(database, ...undo);
    expect(findings).toMatchObject([{ kind: "digest_differs", userId, currency: "RUB", sequence: 3n, what: "hash" }]);
    expect(summary.heads).toBe(text.split("\n").length - 3);
  });

  test("triggers that are off, and a unique index that is gone", async () => {
    await database.query("ALTER TABLE ledgerd.transactions_000000 DISABLE TRIGGER transactions_append_only");
    await database.query("ALTER INDEX ledgerd.transactions_000001_account RENAME TO kept_account");
    await database.query("DROP INDEX ledgerd.kept_account");
    const { findings } = await verify(database.url);
    expect(findings).toMatchObject([
      { kind: "unguarded", what: "table ledgerd.transactions_000000", expected: "its trigger transactions_append_only, enabled always" },
      { kind: "unguarded", what: "table ledgerd.transactions_000001", expected: "its unique index on (user_id, currency, sequence)" },
    ]);
    await database.query("CREATE UNIQUE INDEX transactions_000001_account ON ledgerd.transactions_000001 (user_id, currency, sequence)");
    await past(database);
  });
});

/** Makes an account's second row one of another amount, and all rows behind it, and the balance row, follow from that. */
async function rewrite(userId: bigint, more: bigint): Promise<void> {
  const stored = await database.query(`SELECT ${transactionColumns.sql} FROM ledgerd.transactions t WHERE t.user_id = ${userId} ORDER BY t.sequence`);
  const statements: string[] = [];
  let head: string | undefined;
  for (const row of stored.map((one) => rowsFor(currenciesWith([])).transaction.parse(one))) {
    const amount = row.amount + (row.sequence === 2n ? more : 0n);
    const forged = { ...row, amount, balanceAfter: row.balanceAfter + (row.sequence >= 2n ? more : 0n) };
    const figures = figuresOf(forged, 2);
    head = chainHash(head, forged, figures);
    const values = `amount = ${figures.amount}, balance_after = ${figures.balanceAfter}, hash = '\\x${head}'`;
    statements.push(`UPDATE ledgerd.transactions SET ${values} WHERE id = ${row.id}`);
    if (row.sequence === BigInt(stored.length)) {
      statements.push(`UPDATE ledgerd.user_balances SET balance = ${figures.balanceAfter}, chain_head = '\\x${head}' WHERE user_id = ${userId}`);
    }
  }
  await past(database, ...statements);
}

function relaxed(): Record<string, string> {
  return { DATABASE_URL: database.url };
}

function lastLine(text: string): Readonly<Record<string, unknown>> {
  return JSON.parse(text.trimEnd().split("\n").at(-1) ?? "") as Record<string, unknown>;
}

describe("ledgerd verify", () => {
  test("ends with 0 where everything holds, and prints JSON lines, the last one with the counts", async () => {
    const { code, stdout, stderr } = await runLedgerd(["verify"], relaxed());
    expect([code, stderr]).toEqual([0, ""]);
    const lines = stdout.trimEnd().split("\n").map((line) => JSON.parse(line) as Record<string, unknown>);
    expect(lines.slice(0, -1).every(({ event }) => event === "progress")).toBe(true);
    expect(lines.at(-1)).toMatchObject({ event: "summary", command: "verify", differences: 0, rows: expect.any(Number) as number, rowsPerSecond: expect.any(Number) as number });
  });

  test("ends with 1 where something differs, each difference a line; and writes no digest of that", async () => {
    const userId = await userWith(1);
    const file = path.join(folder, "of-damage.gz");
    await database.query(`UPDATE ledgerd.user_balances SET balance = 7 WHERE user_id = ${userId}`);
    const { code, stdout } = await runLedgerd(["verify", "--write-digest", file], relaxed());
    await database.query(`UPDATE ledgerd.user_balances SET balance = 1 WHERE user_id = ${userId}`);
    expect(code).toBe(1);
    const lines = stdout.trimEnd().split("\n").map((line) => JSON.parse(line) as Record<string, unknown>);
    expect(lines.filter(({ event }) => event === "difference")).toMatchObject([{ kind: "balance_wrong", userId: String(userId), currency: "RUB", what: "balance", expected: "100", actual: "700" }]);
    expect(lines.at(-1)).toMatchObject({ event: "summary", differences: 1 });
    expect(readdirSync(folder).filter((name) => name.startsWith("of-damage"))).toEqual([]);
  });

  test("overwrites no digest, neither one that was there nor one that came meanwhile, and takes away no other's partial file", async () => {
    const file = path.join(folder, "kept.gz");
    const write = () => runLedgerd(["verify", "--write-digest", file], relaxed());
    writeFileSync(file, "kept");
    const refused = await write();
    expect([refused.code, refused.stdout, refused.stderr]).toEqual([2, "", `ledgerd: ${file} is there already; name another file\n`]);
    expect(readFileSync(file, "utf8")).toBe("kept");
    rmSync(file);

    writeFileSync(`${file}.partial`, "another's");
    const second = await write();
    expect([second.code, second.stdout]).toEqual([2, ""]);
    expect(second.stderr).toContain(`${file}.partial is there already`);
    expect(readFileSync(`${file}.partial`, "utf8")).toBe("another's");
    rmSync(`${file}.partial`);

    const blocker = await block(database, "LOCK ledgerd.user_balances IN ACCESS EXCLUSIVE MODE");
    const third = write();
    await until(() => existsSync(`${file}.partial`));
    writeFileSync(file, "newer");
    await blocker.release();
    expect((await third).stderr).toContain(`${file} was made by somebody else meanwhile`);
    expect([(await third).code, readFileSync(file, "utf8"), existsSync(`${file}.partial`)]).toEqual([2, "newer", false]);
  });

  test("needs no more than the right to read; with more, it leaves what it found for the service to tell", async () => {
    await database.query("DELETE FROM ledgerd.verifications");
    const reader = `reader_${newKey().slice(0, 8)}`;
    await database.query(`CREATE ROLE ${reader} LOGIN; GRANT USAGE ON SCHEMA ledgerd TO ${reader}; GRANT SELECT ON ALL TABLES IN SCHEMA ledgerd TO ${reader}; GRANT SELECT ON ALL SEQUENCES IN SCHEMA ledgerd TO ${reader}`);
    const { code, stderr } = await runLedgerd(["verify"], { DATABASE_URL: database.url.replace("postgres@", `${reader}@`) });
    expect([code, stderr]).toEqual([0, ""]);
    expect((await service.admin.getServiceStatus({})).verifications).toEqual([]);
    await database.query(`DROP OWNED BY ${reader}; DROP ROLE ${reader}`);
    expect((await runLedgerd(["verify"], relaxed())).code).toBe(0);
    expect((await service.admin.getServiceStatus({})).verifications).toMatchObject([{ kind: VerificationKind.REQUESTED, differences: 0n }]);
  });

  test("ends with 2 where it can't be done, and says why", async () => {
    const empty = await createDatabase("empty");
    const unmigrated = await runLedgerd(["verify"], { DATABASE_URL: empty.url });
    expect([unmigrated.code, unmigrated.stdout]).toEqual([2, ""]);
    expect(unmigrated.stderr).toMatch(/^ledgerd: the database lacks the migrations 0001_schema, .*: run `ledgerd migrate` first\n$/);
    await empty[Symbol.asyncDispose]();

    const file = path.join(folder, "bad.gz");
    const first = "ledgerd.digest.1\n1 RUB 1 " + "0".repeat(64) + "\n";
    for (const [content, problem] of [
      [Buffer.from("no digest"), "can't be read: incorrect header check"],
      [gzipSync("something\n"), "is no digest of ledgerd"],
      [gzipSync(first), "was cut off, or altered"],
      [gzipSync(first).subarray(0, -12), "can't be read: unexpected end of file"],
      [gzipSync(`${first}sha256 ${"0".repeat(64)} 1\n`), "was cut off, or altered"],
    ] as const) {
      writeFileSync(file, content);
      await expect(verify(database.url, { digest: file })).rejects.toThrow(problem);
    }
    const { code, stderr } = await runLedgerd(["verify", "--digest", path.join(folder, "none.gz")], relaxed());
    expect(code).toBe(2);
    expect(stderr).toMatch(/^ledgerd: .*none.gz can't be read: ENOENT.*\n$/);
  });
});
