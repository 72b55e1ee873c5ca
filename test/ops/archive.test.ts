// An archive's file: what standard tools make of it, that nothing of it can be changed unnoticed, and how long it stays.

import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Archive, ArchiveProblem } from "../../src/backup/archive.ts";
import { archiveName, newestArchive, removeOld } from "../../src/backup/archive-folder.ts";
import { backUp, type Backup } from "../../src/backup/backup.ts";
import { copyIn, copyOut } from "../../src/postgres/protocol/copy.ts";
import { archiveOf } from "../harness/archives.ts";
import { runLedgerd } from "../harness/command.ts";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { isInstalled } from "../harness/programs.ts";
import { serve } from "../harness/service.ts";
import { writeVariedLedger } from "../harness/varied-ledger.ts";

const folder = mkdtempSync(path.join(tmpdir(), "ledgerd-archive-"));
let source: TestDatabase;
let backup: Backup;
let bytes: Buffer;

beforeAll(async () => {
  source = await createDatabase();
  await using service = await serve(source.url);
  await writeVariedLedger(service);
  backup = await archiveOf(source.url, folder);
  bytes = readFileSync(backup.file);
});

afterAll(async () => {
  await source[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true });
});

describe("an archive", () => {
  test("is looked into by tar, sha256sum and zstd", (context) => {
    const missing = ["tar", "sha256sum", "zstd"].filter((program) => !isInstalled(program));
    if (missing.length > 0) return context.skip(`${missing.join(", ")}: not on this machine`);
    const unpacked = mkdtempSync(path.join(folder, "unpacked-"));
    execFileSync("tar", ["-xf", backup.file, "-C", unpacked]);
    const parts = backup.manifest.tables.flatMap((table) => table.parts.map(({ name }) => name));
    expect(readdirSync(unpacked).toSorted()).toEqual([...parts, "SHA256SUMS", "manifest.json"].toSorted());
    expect(execFileSync("sha256sum", ["-c", "SHA256SUMS"], { cwd: unpacked, encoding: "utf8" }).trim().split("\n")).toHaveLength(parts.length + 1);
    expect(JSON.parse(readFileSync(path.join(unpacked, "manifest.json"), "utf8"))).toEqual(backup.manifest);
    const balances = execFileSync("zstd", ["-dc", "user_balances.000001.copy.zst"], { cwd: unpacked, encoding: "utf8" });
    expect(balances.split("\n").find((line) => line.startsWith("2\t"))).toMatch(/^2\t6.00\tRUB\t/);
  });

  test("has the digest that `ledgerd verify --write-digest` writes of the same ledger", async () => {
    const { code, stdout } = await runLedgerd(["verify", "--write-digest", path.join(folder, "digest.gz")], { DATABASE_URL: source.url });
    expect(code).toBe(0);
    const summary = JSON.parse(stdout.trim().split("\n").at(-1) ?? "") as { digest: { sha256: string } };
    expect(summary.digest.sha256).toBe(backup.manifest.digest);
  });

  const opens = async (changed: Buffer): Promise<"whole" | "refused"> => {
    const file = path.join(folder, "changed.tar");
    writeFileSync(file, changed);
    try {
      const archive = await Archive.open(file);
      await archive.close();
      return "whole";
    } catch (error) {
      if (!(error instanceof ArchiveProblem)) throw error;
      return "refused";
    }
  };

  test("is whole as it was written", async () => {
    expect(await opens(bytes)).toBe("whole");
  });

  test("is refused with any byte of it changed", async () => {
    const change = fc.tuple(fc.nat(bytes.length - 1), fc.integer({ min: 1, max: 255 }));
    await fc.assert(
      fc.asyncProperty(change, async ([at, by]) => {
        const changed = Buffer.from(bytes);
        changed[at] = (changed[at] ?? 0) ^ by;
        expect(await opens(changed)).toBe("refused");
      }),
      { numRuns: 300 },
    );
  });

  test("is refused where it was cut off at any place, or goes on", async () => {
    await fc.assert(
      fc.asyncProperty(fc.nat(bytes.length - 1), async (length) => {
        expect(await opens(bytes.subarray(0, length))).toBe("refused");
      }),
      { numRuns: 100 },
    );
    for (const more of [1, 512, 1024, 10_240]) expect(await opens(Buffer.concat([bytes, Buffer.alloc(more)]))).toBe("refused");
  });

  test("is refused where a whole part is missing, or two are exchanged", async () => {
    const size = (name: string): number => 512 + Math.ceil((backup.manifest.tables.flatMap(({ parts }) => parts).find((part) => part.name === name)?.compressedBytes ?? 0) / 512) * 512;
    const [first = "", second = ""] = backup.manifest.tables.flatMap(({ parts }) => parts.map(({ name }) => name));
    const [one, other] = [size(first), size(second)];
    expect(await opens(bytes.subarray(one))).toBe("refused");
    expect(await opens(Buffer.concat([bytes.subarray(one, one + other), bytes.subarray(0, one), bytes.subarray(one + other)]))).toBe("refused");
  });

  test("that was cut off or altered leaves the database that it was to be restored into as it was", async () => {
    await using target = await createDatabase("empty");
    const file = path.join(folder, "bad.tar");
    const altered = Buffer.from(bytes);
    // A character of the digest in the manifest.
    const at = bytes.lastIndexOf(backup.manifest.digest);
    altered[at] = (altered[at] ?? 0) ^ 1;
    for (const [content, complaint] of [[bytes.subarray(0, 3000), "was cut off or altered"], [altered, "manifest.json and SHA256SUMS don't go together"]] as const) {
      writeFileSync(file, content);
      const { code, stderr } = await runLedgerd(["restore", "--from", file], { DATABASE_URL: target.url });
      expect([code, stderr]).toEqual([1, expect.stringContaining(complaint)]);
      expect(await target.query("SELECT nspname FROM pg_namespace WHERE nspname = 'ledgerd'")).toEqual([]);
    }
  });
});

describe("old archives", () => {
  const day = 24 * 3600 * 1000;
  const now = Date.parse("2026-11-23T03:00:00.000Z");
  const [ours, others] = ["0a1b2c3d", "ffffffff"];

  test("are removed once they are older than the newest by so many days: ours alone, and never the newest", async () => {
    const place = path.join(folder, "old");
    mkdirSync(place);
    const ages = [0, 1, 6.9, 7.1, 30];
    const strangers = [archiveName(others, now - 30 * day), "ledgerd-0a1b2c3d-yesterday.tar", "ledgerd-0a1b2c3d-2026-02-31T030000.000Z.tar", `${archiveName(ours, now - 30 * day)}.copy`, "notes.txt"];
    for (const name of [...ages.map((age) => archiveName(ours, now - age * day)), ...strangers]) writeFileSync(path.join(place, name), "");
    expect(await newestArchive(place, ours)).toBe(now);
    const removed = await removeOld(place, ours, now, 7);
    expect(removed.toSorted()).toEqual([archiveName(ours, now - 30 * day), archiveName(ours, now - 7.1 * day)].toSorted());
    expect(readdirSync(place).toSorted()).toEqual([...[0, 1, 6.9].map((age) => archiveName(ours, now - age * day)), ...strangers].toSorted());
    expect(await removeOld(place, ours, now + 100 * day, 7)).toHaveLength(3);
  });

  test("stay where the new one isn't whole", async () => {
    const place = path.join(folder, "kept");
    mkdirSync(place);
    const old = archiveName(backup.manifest.ledger, now - 30 * day);
    writeFileSync(path.join(place, old), "");
    // What it is to be read back from is cut short meanwhile.
    const spoil = (phase: string): void => {
      const unfinished = readdirSync(place).find((name) => name.endsWith(".unfinished"));
      if (phase === "verifying" && unfinished !== undefined) truncateSync(path.join(place, unfinished), 5000);
    };
    await expect(backUp({ url: source.url, folder: place, keepDays: 7, version: "0.0.1", progress: spoil })).rejects.toThrow(ArchiveProblem);
    expect(readdirSync(place)).toEqual([old]);
    const { removed } = await archiveOf(source.url, place);
    expect(removed).toEqual([old]);
  });
});

describe("rows by COPY", () => {
  test("come in parts of whole rows, of which only a row that is larger passes the bound, and go back the same", async () => {
    const client = await source.connect();
    await client.query("CREATE TEMP TABLE texts (id INT, text TEXT)");
    await client.query("INSERT INTO texts SELECT n, repeat(chr(64 + n % 64), n) FROM generate_series(1, 300) AS n");
    const parts = [];
    for await (const part of copyOut(client, "COPY (SELECT id, text FROM texts ORDER BY id) TO STDOUT", 200)) parts.push(part);
    expect(parts.filter(({ text, rows }) => text.length > 200 && rows > 1)).toEqual([]);
    expect(parts.every(({ text, rows }) => text.at(-1) === 10 && text.toString().split("\n").length === rows + 1)).toBe(true);
    expect(parts.reduce((sum, { rows }) => sum + rows, 0)).toBe(300);
    await client.query("CREATE TEMP TABLE copies (LIKE texts)");
    for (const { text, rows } of parts) expect(await copyIn(client, "COPY copies FROM STDIN", text)).toBe(rows);
    expect((await client.query("SELECT id FROM copies EXCEPT SELECT id FROM texts WHERE text = repeat(chr(64 + id % 64), id)")).rows).toEqual([]);
    await client.end();
  });

  test("that fail leave a session that can be used, and those that nobody takes end theirs", async () => {
    const client = await source.connect();
    await expect(copyIn(client, "COPY ledgerd.holds FROM STDIN", Buffer.from("no row\n"))).rejects.toThrow(/invalid input syntax/);
    const failing = copyOut(client, "COPY (SELECT 1 / (5 - n) FROM generate_series(1, 9) AS n) TO STDOUT", 10);
    await expect(failing.next().then(() => failing.next())).rejects.toThrow(/division by zero/);
    expect((await client.query("SELECT 1 AS one")).rows).toEqual([{ one: 1 }]);
    for await (const part of copyOut(client, "COPY (SELECT repeat('x', 1000) FROM generate_series(1, 1000000)) TO STDOUT", 1000)) {
      expect(part.rows).toBe(1);
      break;
    }
    await expect(client.query("SELECT 1")).rejects.toThrow();
    await client.end();
  });
});
