// Archives that nobody's backup wrote: small ones that would fill the memory, and ones that lie. Each is refused with a
// sentence that names what is wrong, before anything is changed, and without being held in memory.

import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { gzipSync, zstdCompressSync } from "node:zlib";
import { afterAll, describe, expect, test } from "vitest";
import { Archive } from "../../src/backup/archive.ts";
import { tarEnd, tarHeader, tarPadding } from "../../src/backup/tar.ts";
import { knownMigrations } from "../../src/postgres/schema/migrate.ts";
import { restoreInto } from "../harness/archives.ts";
import { createDatabase } from "../harness/database.ts";

const MIB = 1024 * 1024;
const folder = mkdtempSync(path.join(tmpdir(), "ledgerd-crafted-"));
let files = 0;

afterAll(() => rmSync(folder, { recursive: true }));

interface CraftedPart {
  readonly name: string;
  readonly rows: number;
  readonly bytes: number;
  /** As it is in the file. */
  readonly compressed: Buffer;
}

interface CraftedTable {
  readonly name: string;
  readonly rows: number;
  readonly bytes: number;
  readonly parts: readonly CraftedPart[];
}

const sha256 = (bytes: Buffer): string => createHash("sha256").update(bytes).digest("hex");

/** A part of `holds` that holds this text, and says so, unless it is told to say something else. */
function part(text: Buffer, said: Partial<CraftedPart> = {}): CraftedPart {
  const rows = text.toString().split("\n").length - 1;
  return { name: "holds.000001.copy.zst", rows, bytes: text.length, compressed: zstdCompressSync(text), ...said };
}

/** The table `holds` of these parts, counted. */
function holdsOf(...parts: readonly CraftedPart[]): CraftedTable {
  const count = (key: "rows" | "bytes"): number => parts.reduce((sum, one) => sum + one[key], 0);
  return { name: "holds", rows: count("rows"), bytes: count("bytes"), parts };
}

function manifestOf(tables: readonly CraftedTable[], more: object = {}): Buffer {
  const described = tables.map(({ parts, ...table }) => ({
    columns: ["id"],
    ...table,
    parts: parts.map(({ compressed, ...one }) => ({
      ...one,
      compressedBytes: compressed.length,
      sha256: sha256(compressed),
    })),
  }));
  const migrations = knownMigrations().map(({ number, name, checksum }) => ({ number, name, checksum }));
  const facts = { format: 1, ledgerd: "0", postgres: "18", database: "d", ledger: "0a1b2c3d", migrations };
  const rest = { time: "2026-11-23T03:00:00.000Z", digest: "0".repeat(64), sequences: [], tables: described };
  return Buffer.from(JSON.stringify({ ...facts, ...rest, ...more }));
}

function entry(name: string, bytes: Buffer, header = tarHeader(name, bytes.length, 0)): Buffer {
  return Buffer.concat([header, bytes, tarPadding(bytes.length)]);
}

/** The entries of a whole archive: parts, the manifest, the checksums. */
function entriesOf(tables: readonly CraftedTable[], manifest = manifestOf(tables)): Buffer[] {
  const parts = tables.flatMap((table) => table.parts);
  const sums = [
    ...parts.map(({ name, compressed }) => `${sha256(compressed)}  ${name}\n`),
    `${sha256(manifest)}  manifest.json\n`,
  ].join("");
  const all = [...parts.map(({ name, compressed }) => entry(name, compressed)), entry("manifest.json", manifest)];
  return [...all, entry("SHA256SUMS", Buffer.from(sums))];
}

function fileOf(entries: readonly Buffer[]): string {
  const file = path.join(folder, `${(files += 1)}.tar`);
  writeFileSync(file, Buffer.concat([...entries, tarEnd()]));
  return file;
}

/** An archive of these tables, as a file. */
function archiveOf(...tables: readonly CraftedTable[]): string {
  return fileOf(entriesOf(tables));
}

/** What is said of an archive that is opened; undefined: it is whole. */
async function refusalOf(file: string): Promise<string | undefined> {
  try {
    const archive = await Archive.open(file);
    await archive.close();
    return undefined;
  } catch (error) {
    return error instanceof Error && error.constructor.name === "ArchiveProblem" ? error.message : `not refused: ${String(error)}`;
  }
}

/** As `refusalOf`, in a process of its own with a small heap; and how many megabytes that took at its peak. */
function openedElsewhere(file: string): { readonly refusal: string; readonly megabytes: number } {
  const module = pathToFileURL(path.resolve(import.meta.dirname, "../../src/backup/archive.ts")).href;
  const code = `
    import { Archive, ArchiveProblem } from ${JSON.stringify(module)};
    const refusal = await Archive.open(${JSON.stringify(file)}).then(
      () => "whole", (error) => (error instanceof ArchiveProblem ? error.message : String(error)));
    console.log(JSON.stringify({ refusal, megabytes: process.resourceUsage().maxRSS / 1024 }));`;
  const args = ["--max-old-space-size=64", "--input-type=module", "-e", code];
  return JSON.parse(execFileSync(process.execPath, args, { encoding: "utf8" })) as ReturnType<typeof openedElsewhere>;
}

/** So many times 8 MiB of one byte, in a few kilobytes. */
function bomb(times: number, byte = 0): Buffer {
  const frame = zstdCompressSync(Buffer.alloc(8 * MIB, byte));
  return Buffer.concat(Array.from({ length: times }, () => frame));
}

test("one that is as it should be is whole", async () => {
  const second = part(Buffer.from("3\n"), { name: "holds.000002.copy.zst" });
  expect(await refusalOf(archiveOf(holdsOf(part(Buffer.from("1\n2\n")), second)))).toBe(undefined);
});

describe("a bomb is refused with little memory taken:", () => {
  const blast = { compressed: bomb(150), rows: 0 };
  const nested = Buffer.from("[".repeat(40 * MIB));

  test.each([
    ["40 kB that say they hold 40 kB, and hold 1.2 GB", () => archiveOf(holdsOf(part(Buffer.from(""), { ...blast, bytes: 40_000 }))), /holds.000001.copy.zst expands to more than the 40000 bytes/],
    ["40 kB that say they hold 1.2 GB", () => archiveOf(holdsOf(part(Buffer.from(""), { ...blast, bytes: 150 * 8 * MIB }))), /holds.000001.copy.zst is of 1258291200 bytes, a part may have 67108864/],
    ["a line of 1.2 GB without an end", () => archiveOf(holdsOf(part(Buffer.from(""), { compressed: bomb(150, 97), rows: 1, bytes: 64 * MIB }))), /holds.000001.copy.zst expands to more than/],
    ["a manifest of 40 MB", () => fileOf(entriesOf([], nested)), /manifest.json has 41943040 bytes, for so many parts it may have/],
    ["300,000 empty entries", () => fileOf(Array.from({ length: 300_000 }, () => tarHeader("x", 0, 0))), /it has more than 250000 entries/],
  ])("%s", (_name, make, refusal) => {
    const { refusal: said, megabytes } = openedElsewhere(make());
    expect(said).toMatch(refusal);
    // Node itself takes 60 to 120.
    expect(megabytes).toBeLessThan(400);
  });
});

describe("a part is refused that", () => {
  const text = Buffer.from("1\n2\n");
  // A frame's mark, no options, a window of 2^27 bytes, and the text as the one block.
  const wide = Buffer.concat([Buffer.from("28b52ffd0088210000", "hex"), text]);

  test.each([
    ["holds less than the manifest says", part(text, { bytes: 5 }), "holds.000001.copy.zst doesn't hold as much as manifest.json says"],
    ["holds more than it says", part(text, { bytes: 3 }), "holds.000001.copy.zst expands to more than the 3 bytes that manifest.json says"],
    ["holds other rows than it says", part(text, { rows: 3 }), "holds.000001.copy.zst doesn't hold as much as manifest.json says"],
    ["is compressed by gzip", part(text, { compressed: gzipSync(text) }), "holds.000001.copy.zst isn't compressed as it is written"],
    ["is cut off", part(text, { compressed: zstdCompressSync(text).subarray(0, -3) }), "holds.000001.copy.zst isn't compressed as it is written"],
    ["has zstd take 128 MB to look back by", part(text, { compressed: wide }), "holds.000001.copy.zst isn't compressed as it is written"],
    ["is named for a place elsewhere", part(text, { name: "../../etc/passwd" }), "manifest.json has ../../etc/passwd for holds.000001.copy.zst"],
    ["has another table's name", part(text, { name: "jobs.000001.copy.zst" }), "manifest.json has jobs.000001.copy.zst for holds.000001.copy.zst"],
  ])("%s", async (_name, one, refusal) => {
    expect(await refusalOf(archiveOf(holdsOf(one)))).toContain(`: ${refusal}`);
  });

  test("is there twice", async () => {
    const one = part(text);
    expect(await refusalOf(archiveOf(holdsOf(one, one)))).toContain("manifest.json has holds.000001.copy.zst for holds.000002.copy.zst");
    expect(await refusalOf(archiveOf(holdsOf(one), holdsOf(one)))).toContain("manifest.json has the table holds twice");
  });
});

describe("a manifest is refused that", () => {
  const table = holdsOf(part(Buffer.from("1\n")));

  test.each([
    ["counts other rows than its parts", [{ ...table, rows: 2 }], {}, "manifest.json counts 2 rows of 2 bytes in holds, and others in its parts"],
    ["counts other bytes than its parts", [{ ...table, bytes: 1 }], {}, "manifest.json counts 1 rows of 1 bytes in holds, and others in its parts"],
    ["has a negative count", [{ ...table, rows: -1 }], {}, "manifest.json was altered"],
    ["has counts that are no whole numbers", [{ ...table, bytes: 1e300 }], {}, "manifest.json was altered"],
    ["is of a later format", [table], { format: 2 }, "it is of format 2, this ledgerd reads 1"],
  ])("%s", async (_name, tables, more, refusal) => {
    expect(await refusalOf(fileOf(entriesOf(tables, manifestOf(tables, more))))).toContain(refusal);
  });

  test("lists what isn't there", async () => {
    const second = part(Buffer.from("2\n"), { name: "holds.000002.copy.zst" });
    const entries = entriesOf([holdsOf(...table.parts, second)]);
    expect(await refusalOf(fileOf(entries.toSpliced(1, 1)))).toContain("it doesn't hold the parts that manifest.json lists");
  });

  test("names a table that is no ledger's, such as the record of migrations", async () => {
    await using target = await createDatabase("empty");
    const name = "schema_migrations";
    const one = part(Buffer.from("2000000000\n"), { name: `${name}.000001.copy.zst` });
    const file = archiveOf({ ...holdsOf(one), name });
    await expect(restoreInto(target.url, file)).rejects.toThrow("the archive has a table schema_migrations, which a ledger doesn't have");
  });
});

describe("a tar header is refused that", () => {
  const bytes = Buffer.from("1\n");
  const rest = entriesOf([]);

  /** A header with other bytes at a place, and a checksum that is right for them. */
  function headerWith(at: number, put: string | Buffer): Buffer {
    const header = tarHeader("holds.000001.copy.zst", bytes.length, 0);
    Buffer.from(put).copy(header, at);
    header.write("        ", 148);
    const sum = header.reduce((total, byte) => total + byte, 0);
    header.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148);
    return header;
  }

  const base256 = Buffer.concat([Buffer.of(0x80), Buffer.alloc(10), Buffer.of(2)]);
  const negative = Buffer.concat([Buffer.alloc(11, 0xff), Buffer.of(0xfe)]);

  test.each([
    ["has a negative size", headerWith(124, "-0000000002\0"), /there is no entry at byte 0/],
    ["has a negative size in base 256", headerWith(124, negative), /there is no entry at byte 0/],
    ["has a size in base 256", headerWith(124, base256), /there is no entry at byte 0/],
    ["has a size in decimal digits", headerWith(124, "00000000009\0"), /there is no entry at byte 0/],
    ["has the largest size", headerWith(124, "77777777777\0"), /it ends within holds.000001.copy.zst/],
    ["has a size behind which something lies", headerWith(124, "00000000001\0"), /there is something behind holds.000001.copy.zst/],
    ["is a symbolic link", headerWith(156, "2"), /there is no entry at byte 0/],
    ["is a hard link", headerWith(156, "1"), /there is no entry at byte 0/],
    ["is a folder", headerWith(156, "5"), /there is no entry at byte 0/],
    ["has a long name of GNU's", headerWith(156, "L"), /there is no entry at byte 0/],
    ["has no name", headerWith(0, Buffer.alloc(100)), /there is no entry at byte 0/],
  ])("%s", async (_name, header, refusal) => {
    expect(await refusalOf(fileOf([entry("", bytes, header), ...rest]))).toMatch(refusal);
  });
});
