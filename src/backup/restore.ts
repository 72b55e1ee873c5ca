// `ledgerd restore`: an archive into an empty database. Every byte of the archive is checked before anything is changed. It is loaded in many
// short transactions; one that was cut off goes on where it was, and until it is complete and verified no ledgerd serves from it.

import type { Currencies } from "../domain/money/currency.ts";
import { knownMigrations, migrate, type Migration } from "../postgres/schema/migrate.ts";
import { openPool } from "../postgres/connection/pool.ts";
import { RestoreTarget, TargetProblem } from "./sql/restore-target.ts";
import { Archive, ArchiveProblem, type Manifest } from "./archive.ts";
import type { Finding } from "../verification/finding.ts";
import type { Summary } from "../verification/events.ts";
import { verifyLedger } from "../verification/verify.ts";
import { Problem } from "../domain/problem.ts";

/** What was restored isn't what the archive holds. */
export class RestoreProblem extends Problem {}

/** What to restore, and where to. */
export interface RestoreOptions {
  readonly url: string;
  /** The archive's file. */
  readonly file: string;
  readonly currencies: Currencies;
  readonly connectTimeoutMs: number;
  readonly queryTimeoutMs: number;
  /** All migrations that there are; absent: those of this version. */
  readonly known?: readonly Migration[];
  /** Ends it in the middle; it can be gone on with. */
  readonly signal: AbortSignal;
  /** Is told how far it is. */
  readonly progress: (phase: string, done: number, total: number | undefined) => void;
  /** Whether it is verified before it may be served; one in which something differs isn't served then. */
  readonly verifies: boolean;
  /** Is told what doesn't hold in the ledger that the archive holds. */
  readonly onFinding: (finding: Finding) => void;
}

/** A ledger that was restored: it is what the archive holds. */
export interface Restored {
  readonly manifest: Manifest;
  /** What a verification of it came to; undefined: it wasn't wanted. */
  readonly verification: Summary | undefined;
}

/** Restores an archive. Run again after it was cut off, it goes on. */
export async function restore(options: RestoreOptions): Promise<Restored> {
  const { url, file, known = knownMigrations(), progress } = options;
  const archive = await Archive.open(file, (rows, total) => progress("checking the archive", rows, total));
  try {
    const version = versionOf(archive.manifest, known);
    const target = await RestoreTarget.open(url, options.signal);
    try {
      await prepare(target, archive, known.slice(0, version), url);
      await load(target, archive, options);
      await compare(target, archive.manifest);
      await migrate(url, { known, restoring: true });
      await target.analyze();
      const verification = options.verifies ? await verify(options) : undefined;
      // Differences are the archived ledger's own. Whoever wants to serve them, or to mend them, has to say so.
      if ((verification?.differences ?? 0) === 0) await target.end();
      return { manifest: archive.manifest, verification };
    } finally {
      await target.close();
    }
  } finally {
    await archive.close();
  }
}

/** How many of the migrations the archive's tables are of. */
function versionOf({ migrations, ledgerd }: Manifest, known: readonly Migration[]): number {
  if (migrations.length > known.length) {
    throw new ArchiveProblem(`the archive has the schema ${migrations.length}, of ledgerd ${ledgerd}; this ledgerd knows ${known.length}: restore it by that version, or a later one`);
  }
  const other = migrations.find(({ number, checksum }, index) => number !== index + 1 || known[index]?.checksum !== checksum);
  if (other !== undefined) throw new ArchiveProblem(`the archive was written with another text of migration ${other.name} than this ledgerd has: migrations are never edited`);
  return migrations.length;
}

/** Makes the tables, as they were in the archive's database, and says that they are being restored. */
async function prepare(target: RestoreTarget, archive: Archive, migrations: readonly Migration[], url: string): Promise<void> {
  const { migrations: applied, marks } = await target.recorded();
  const [mark] = marks;
  if (mark !== undefined) {
    if (mark.checksum !== archive.checksum) throw new TargetProblem("the restore of another archive into this database was cut off: go on with that one, or take an empty database");
    return target.resume();
  }
  if (applied.length > migrations.length) {
    throw new TargetProblem(`the database has the schema ${applied.length} and the archive ${migrations.length}: restore it into a database without the schema \`ledgerd\``);
  }
  await migrate(url, { known: migrations, restoring: true });
  const filled = await target.filled();
  if (filled.length > 0) throw new TargetProblem(`the database holds a ledger already (rows in ${filled.join(", ")}): restore into an empty one`);
  await target.begin({ name: "restore", checksum: archive.checksum });
  // One that began to serve meanwhile has not seen the mark.
  await target.refuseServed();
}

async function load(target: RestoreTarget, archive: Archive, { progress }: RestoreOptions): Promise<void> {
  const { sequences, tables } = archive.manifest;
  const states = sequences.map(({ name, lastValue, isCalled }) => ({ name, lastValue: BigInt(lastValue), isCalled }));
  await target.refuseStrangers(tables.map(({ name }) => name));
  const { marks } = await target.recorded();
  const loaded = marks.length - 1;
  const parts = tables.flatMap((table) => table.parts);
  let rows = parts.slice(0, loaded).reduce((sum, part) => sum + part.rows, 0);
  let index = loaded;
  for await (const part of archive.parts(loaded)) {
    await target.load((index += 1), part);
    progress("loading", (rows += part.rows), archive.rows);
  }
  await target.setSequences(states);
}

/** Throws `RestoreProblem` unless the database holds what the archive says. */
async function compare(target: RestoreTarget, { tables, digest }: Manifest): Promise<void> {
  for (const { name, rows } of tables) {
    const found = await target.count(name);
    if (found !== rows) throw new RestoreProblem(`there are ${found} rows in ${name}, the archive has ${rows}`);
  }
  const found = await target.digest();
  if (found !== digest) throw new RestoreProblem(`the digest of the chain heads is ${found}, the archive's is ${digest}`);
}

async function verify({ url, currencies, connectTimeoutMs, queryTimeoutMs, signal, progress, onFinding }: RestoreOptions): Promise<Summary> {
  const limits = { min: 0, max: 1, connectTimeoutMs, queryTimeoutMs, idleTimeoutMs: queryTimeoutMs };
  // A connection that breaks makes the statement at hand fail, which says it.
  const pool = await openPool({ url, name: "ledgerd restore", ...limits, onError: () => undefined });
  try {
    for await (const event of verifyLedger({ url, pool, currencies, connectTimeoutMs, signal })) {
      if (event.kind === "summary") return event.summary;
      if (event.kind === "finding") onFinding(event.finding);
      else progress(`verifying ${event.phase}`, event.done, event.total);
    }
    throw new Error("the verification ended without a summary");
  } finally {
    await pool.end();
  }
}
