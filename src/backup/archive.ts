// The format of an archive: a tar file with the rows of each table in parts, compressed by zstd, then `manifest.json`, which says what there
// is, and `SHA256SUMS` over all of them. Standard tools look into it: tar, sha256sum, zstd; the rows are text, as COPY writes and reads it.
//
// Compression by zstd at level 1, on rows of the log: 28 % of their size at 389 MB/s; at level 3, 30 % at 194 MB/s; gzip -6, 32 % at 78 MB/s. (What
// is left is mostly the hashes.) Parts are so small that one of them is loaded in a transaction of about a second.

import { createHash } from "node:crypto";
import { open, type FileHandle } from "node:fs/promises";
import { promisify } from "node:util";
import { constants, zstdCompress, zstdDecompress } from "node:zlib";
import { z } from "zod";
import type { CopiedRows } from "../postgres/protocol/copy.ts";
import type { Part } from "./sql/restore-target.ts";
import type { Table } from "./sql/snapshot.ts";
import { readAt, readEntries, tarEnd, tarHeader, tarPadding, TarProblem, type Entry } from "./tar.ts";
import { Problem } from "../domain/problem.ts";

/** The file isn't a whole archive, as it was written, that this version can read. */
export class ArchiveProblem extends Problem {}

/** The format's version. */
const FORMAT = 1;

/** How many bytes of rows make a part: some 20,000 rows of the log. */
export const PART_BYTES = 8 * 1024 * 1024;

// Bounds of what is read: an archive may come from anywhere, and a small one may say or hold anything. What is in memory
// at the same time is one part, compressed and as text.

/** What a part may hold at most. Only one that is a single row is larger than `PART_BYTES`, and no row is that large. */
export const LARGEST_PART = 64 * 1024 * 1024;
/** Entries: parts for 2 TB of rows. */
const MOST_ENTRIES = 250_000;
/** What the manifest may take for itself, and for each entry: three times what it takes. */
const MANIFEST_BYTES = 1024 * 1024;
const MANIFEST_BYTES_PER_ENTRY = 1024;
/** The power of two that zstd may look back by, for which it takes as many bytes: at level 1 it is 19. */
const WINDOW_LOG = 23;

const MANIFEST = "manifest.json";
const CHECKSUMS = "SHA256SUMS";

const checksum = z.string().regex(/^[0-9a-f]{64}$/);
const count = z.int().nonnegative();

const partSchema = z.object({ name: z.string(), rows: count, bytes: count, compressedBytes: count, sha256: checksum });

const manifestSchema = z.object({
  format: z.literal(FORMAT),
  /** The version of ledgerd that wrote it, and of the PostgreSQL that it came from. */
  ledgerd: z.string(),
  postgres: z.string(),
  database: z.string(),
  ledger: z.string(),
  /** When the snapshot was taken. */
  time: z.iso.datetime(),
  migrations: z.array(z.object({ number: z.int(), name: z.string(), checksum })),
  /** Of all accounts' chain heads, as `ledgerd verify --digest` makes it. */
  digest: z.string(),
  sequences: z.array(z.object({ name: z.string(), lastValue: z.string().regex(/^-?\d+$/), isCalled: z.boolean() })),
  tables: z.array(z.object({ name: z.string(), columns: z.array(z.string()).readonly(), rows: count, bytes: count, parts: z.array(partSchema) })),
});

/** What an archive says that it holds. */
export type Manifest = z.output<typeof manifestSchema>;

/** What is known beside the rows. */
export type Facts = Omit<Manifest, "format" | "tables">;

type ManifestTable = Manifest["tables"][number];
type ManifestPart = ManifestTable["parts"][number];

const compress = promisify(zstdCompress);
const decompress = promisify(zstdDecompress);

/** Writes an archive, in one pass. */
export class ArchiveWriter {
  readonly #file: FileHandle;
  /** In seconds since 1970. */
  readonly #time: number;
  readonly #tables: { readonly table: Table; readonly parts: ManifestPart[] }[] = [];
  /** The part at hand: it is compressed, on another core, while the next one comes from PostgreSQL. */
  #writing: Promise<void> = Promise.resolve();

  private constructor(file: FileHandle, time: number) {
    this.#file = file;
    this.#time = Math.floor(time / 1000);
  }

  /** Begins a file, which must not be there yet. */
  static async create(path: string, time: number): Promise<ArchiveWriter> {
    return new ArchiveWriter(await open(path, "wx", 0o600), time);
  }

  /** From now on, rows are this table's. */
  begin(table: Table): void {
    this.#tables.push({ table, parts: [] });
  }

  /** Adds rows; returns when the ones before these are written. */
  async add(rows: CopiedRows): Promise<void> {
    await this.#writing;
    this.#writing = this.#addPart(rows);
    // If it fails, the next one to wait for it is told.
    this.#writing.catch(() => undefined);
  }

  /** Completes the file and has it on the disk; answers what it holds. */
  async finish(facts: Facts): Promise<Manifest> {
    await this.#writing;
    const tables = this.#tables.map(({ table, parts }) => ({ ...table, rows: sum(parts.map(({ rows }) => rows)), bytes: sum(parts.map(({ bytes }) => bytes)), parts }));
    const manifest: Manifest = { format: FORMAT, ...facts, tables };
    const text = Buffer.from(`${JSON.stringify(manifest, undefined, 1)}\n`);
    await this.#addEntry(MANIFEST, text);
    await this.#addEntry(CHECKSUMS, checksumsOf(manifest, sha256(text)));
    await this.#file.appendFile(tarEnd());
    await this.#file.sync();
    return manifest;
  }

  async close(): Promise<void> {
    // What it was writing has nobody to be told to any more, where a failure has ended it.
    await this.#writing.catch(() => undefined);
    await this.#file.close();
  }

  async #addPart({ text, rows }: CopiedRows): Promise<void> {
    const current = this.#tables.at(-1);
    if (current === undefined) throw new Error("rows of no table");
    const name = partName(current.table.name, current.parts.length);
    const compressed = await compress(text, { params: { [constants.ZSTD_c_compressionLevel]: 1, [constants.ZSTD_c_checksumFlag]: 1 } });
    await this.#addEntry(name, compressed);
    current.parts.push({ name, rows, bytes: text.length, compressedBytes: compressed.length, sha256: sha256(compressed) });
  }

  async #addEntry(name: string, bytes: Buffer): Promise<void> {
    await this.#file.appendFile(Buffer.concat([tarHeader(name, bytes.length, this.#time), bytes, tarPadding(bytes.length)]));
  }
}

/** An archive that was found to be whole. */
export class Archive {
  readonly manifest: Manifest;
  /** Of the manifest, and so of everything. */
  readonly checksum: string;
  readonly #file: FileHandle;
  readonly #entries: readonly Entry[];

  private constructor(file: FileHandle, entries: readonly Entry[], manifest: Manifest, manifestChecksum: string) {
    this.#file = file;
    this.#entries = entries;
    this.manifest = manifest;
    this.checksum = manifestChecksum;
  }

  /** Opens an archive and checks every byte of it, telling how many rows of how many. Throws `ArchiveProblem` if it isn't what was written. */
  static async open(path: string, progress: (rows: number, total: number) => void = () => undefined): Promise<Archive> {
    const file = await openFile(path);
    try {
      const archive = await Archive.#read(file);
      let rows = 0;
      for await (const part of archive.parts()) progress((rows += part.rows), archive.rows);
      return archive;
    } catch (error) {
      await file.close();
      if (error instanceof TarProblem) throw new ArchiveProblem(`${path} is no archive of ledgerd, or was cut off or altered: ${error.message}`, { cause: error });
      throw error instanceof ArchiveProblem ? new ArchiveProblem(`${path}: ${error.message}`, { cause: error }) : error;
    }
  }

  static async #read(file: FileHandle): Promise<Archive> {
    const { size } = await file.stat();
    const entries = await readEntries(file, size, MOST_ENTRIES);
    const [manifestEntry, checksumsEntry] = entries.slice(-2);
    if (manifestEntry?.name !== MANIFEST || checksumsEntry?.name !== CHECKSUMS) throw new TarProblem(`it doesn't end in ${MANIFEST} and ${CHECKSUMS}`);
    const most = MANIFEST_BYTES + entries.length * MANIFEST_BYTES_PER_ENTRY;
    if (manifestEntry.size > most) {
      throw new ArchiveProblem(`${MANIFEST} has ${manifestEntry.size} bytes, for so many parts it may have ${most}`);
    }
    const text = await readAt(file, manifestEntry.offset, manifestEntry.size);
    const manifest = parseManifest(text);
    const found = sha256(text);
    const sums = checksumsOf(manifest, found);
    const isAsLong = checksumsEntry.size === sums.length;
    if (!isAsLong || !sums.equals(await readAt(file, checksumsEntry.offset, sums.length))) {
      throw new ArchiveProblem(`${MANIFEST} and ${CHECKSUMS} don't go together: one of them was altered`);
    }
    const listed = manifest.tables.flatMap(({ parts }) => parts.map(({ name, compressedBytes }) => `${name} ${compressedBytes}`));
    const present = entries.slice(0, -2).map(({ name, size: bytes }) => `${name} ${bytes}`);
    if (listed.join() !== present.join()) throw new ArchiveProblem(`it doesn't hold the parts that ${MANIFEST} lists`);
    checkSizes(manifest);
    return new Archive(file, entries, manifest, found);
  }

  /** How many rows it holds. */
  get rows(): number {
    return sum(this.manifest.tables.map(({ rows }) => rows));
  }

  /** All parts in their order, each checked again; but for the first so many. */
  async *parts(skip = 0): AsyncGenerator<Part> {
    const listed = this.manifest.tables.flatMap((table) => table.parts.map((part) => ({ table, part })));
    for (const [index, { table, part }] of listed.entries()) {
      const entry = this.#entries[index];
      if (index < skip || entry === undefined) continue;
      yield { name: part.name, checksum: part.sha256, table, text: await this.#rowsOf(entry, part), rows: part.rows };
    }
  }

  async close(): Promise<void> {
    await this.#file.close();
  }

  async #rowsOf({ name, size, offset }: Entry, part: ManifestPart): Promise<Buffer> {
    const compressed = await readAt(this.#file, offset, size);
    if (sha256(compressed) !== part.sha256) throw new ArchiveProblem(`${name} was altered: its checksum is not that of ${MANIFEST}`);
    const text = await expand(compressed, part);
    if (text.length !== part.bytes || countRows(text) !== part.rows) throw new ArchiveProblem(`${name} doesn't hold as much as ${MANIFEST} says`);
    return text;
  }
}

/** Throws `ArchiveProblem` where a part is called otherwise than it is written, is too large, or isn't counted. */
function checkSizes({ tables }: Manifest): void {
  for (const { name: table, rows, bytes, parts } of tables) {
    for (const [index, { name, bytes: expanded, compressedBytes }] of parts.entries()) {
      if (name !== partName(table, index)) throw new ArchiveProblem(`${MANIFEST} has ${name} for ${partName(table, index)}`);
      const larger = Math.max(expanded, compressedBytes);
      if (larger > LARGEST_PART) throw new ArchiveProblem(`${name} is of ${larger} bytes, a part may have ${LARGEST_PART}`);
    }
    if (rows !== sum(parts.map((part) => part.rows)) || bytes !== sum(parts.map((part) => part.bytes))) {
      throw new ArchiveProblem(`${MANIFEST} counts ${rows} rows of ${bytes} bytes in ${table}, and others in its parts`);
    }
  }
  const twice = tables.map(({ name }) => name).find((name, index, names) => names.indexOf(name) !== index);
  if (twice !== undefined) throw new ArchiveProblem(`${MANIFEST} has the table ${twice} twice`);
}

function partName(table: string, index: number): string {
  return `${table}.${String(index + 1).padStart(6, "0")}.copy.zst`;
}

/** The text of a part. It is given up as soon as there is more than the manifest says. */
async function expand(compressed: Buffer, { name, bytes }: ManifestPart): Promise<Buffer> {
  const params = { [constants.ZSTD_d_windowLogMax]: WINDOW_LOG };
  try {
    return await decompress(compressed, { params, maxOutputLength: Math.max(bytes, 1) });
  } catch (cause) {
    const isMore = cause instanceof Error && "code" in cause && cause.code === "ERR_BUFFER_TOO_LARGE";
    const why = isMore ? `expands to more than the ${bytes} bytes that ${MANIFEST} says` : "isn't compressed as it is written";
    throw new ArchiveProblem(`${name} ${why}`, { cause });
  }
}

async function openFile(path: string): Promise<FileHandle> {
  try {
    return await open(path, "r");
  } catch (cause) {
    throw new ArchiveProblem(`can't read ${path}: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
  }
}

function parseManifest(text: Buffer): Manifest {
  const found: unknown = parseJson(text);
  const { format } = z.object({ format: z.int().optional() }).catch({}).parse(found);
  if (format !== undefined && format > FORMAT) throw new ArchiveProblem(`it is of format ${format}, this ledgerd reads ${FORMAT}: use the version that wrote it, or a later one`);
  const parsed = manifestSchema.safeParse(found);
  if (parsed.success) return parsed.data;
  throw new ArchiveProblem(`${MANIFEST} was altered: ${parsed.error.issues[0]?.message ?? "it is no manifest"}`);
}

function parseJson(text: Buffer): unknown {
  try {
    return JSON.parse(text.toString());
  } catch (cause) {
    throw new ArchiveProblem(`${MANIFEST} was altered: it is no JSON`, { cause });
  }
}

/** As `sha256sum -c` reads it. */
function checksumsOf({ tables }: Manifest, ofManifest: string): Buffer {
  const parts = tables.flatMap((table) => table.parts.map(({ name, sha256: ofPart }) => `${ofPart}  ${name}\n`));
  return Buffer.from([...parts, `${ofManifest}  ${MANIFEST}\n`].join(""));
}

function sha256(bytes: Buffer): string {
  return createHash("sha256").update(bytes).digest("hex");
}

/** In the text of COPY each row ends in a newline, and has no other. */
function countRows(text: Buffer): number {
  let rows = 0;
  for (let at = text.indexOf(10); at >= 0; at = text.indexOf(10, at + 1)) rows += 1;
  return rows;
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
