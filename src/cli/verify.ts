// `ledgerd verify`: runs a verification, shows how far it is, names each difference, and writes a digest if that is wanted.

import { link, lstat, open, rm } from "node:fs/promises";
import type { DatabasePool } from "slonik";
import { verificationsOf } from "../verification/sql/verifications.ts";
import { DigestProblem, DigestWriter } from "../verification/digest.ts";
import { describe } from "../verification/finding.ts";
import type { Progress } from "./progress.ts";
import type { Summary } from "../verification/events.ts";
import { verifyLedger, type VerifyOptions } from "../verification/verify.ts";

/** What to verify, and the files of digests. */
export interface VerifyCommand extends Omit<VerifyOptions, "onHead"> {
  /** Where to write a digest; there must be no such file. */
  readonly writeDigest: string | undefined;
}

/** Verifies; answers what was found. A digest is written only of a ledger in which everything holds. */
export async function runVerification({ writeDigest, ...options }: VerifyCommand, progress: Progress): Promise<Summary> {
  const file = writeDigest === undefined ? undefined : await DigestFile.begin(writeDigest);
  try {
    let summary: Summary | undefined;
    for await (const event of verifyLedger({ ...options, ...(file === undefined ? {} : { onHead: (head) => file.digest.add(head) }) })) {
      if (event.kind === "progress") progress.report(event);
      else if (event.kind === "finding") progress.tell("difference", event.finding, describe(event.finding));
      else summary = event.summary;
    }
    if (summary === undefined) throw new Error("the verification ended without a summary");
    await recorded(options.pool, summary);
    const sum = await file?.digest.end();
    const isKept = sum !== undefined && summary.differences === 0;
    if (isKept) await file?.publish();
    if (sum !== undefined && !isKept) progress.tell("no_digest", { file: writeDigest }, `no digest was written to ${writeDigest}: there are differences`);
    const written = isKept ? { digest: { file: writeDigest, ...sum } } : {};
    progress.tell("summary", { ...summary, ...written }, textOf(summary) + (isKept ? `\nthe digest ${sum.sha256} of ${sum.accounts} accounts is in ${writeDigest}` : ""));
    return summary;
  } finally {
    progress.clear();
    await file?.discard();
  }
}

/** The file of a digest under way: under a name of its own beside it until it is whole, so that nothing that was there before is lost. */
class DigestFile {
  readonly #file: string;
  readonly #partial: string;
  readonly digest: DigestWriter;

  private constructor(file: string, partial: string, digest: DigestWriter) {
    this.#file = file;
    this.#partial = partial;
    this.digest = digest;
  }

  /** Throws `DigestProblem` where there is such a file, or somebody writes it. */
  static async begin(file: string): Promise<DigestFile> {
    const partial = `${file}.partial`;
    const isThere = await lstat(file).then(() => true, insteadOf("ENOENT", false));
    if (isThere) throw new DigestProblem(`${file} is there already; name another file`);
    const opened = await open(partial, "wx").catch(insteadOf("EEXIST", undefined));
    if (opened === undefined) throw new DigestProblem(`${partial} is there already: unless another verification writes it, take it away; or name another file`);
    return new DigestFile(file, partial, new DigestWriter(opened.createWriteStream()));
  }

  /** Gives it its name; unlike a renaming, this replaces nothing. */
  async publish(): Promise<void> {
    const isNew = await link(this.#partial, this.#file).then(() => true, insteadOf("EEXIST", false));
    if (!isNew) throw new DigestProblem(`${this.#file} was made by somebody else meanwhile; name another file`);
  }

  async discard(): Promise<void> {
    await rm(this.#partial, { force: true });
  }
}

/** Answers instead of a failure with this code; all others go on. */
function insteadOf<T>(code: string, answer: T): (error: unknown) => T {
  return (error) => {
    if (error instanceof Error && "code" in error && error.code === code) return answer;
    throw error;
  };
}

/** Keeps what was found, for the service to tell; a login that may only read verifies nevertheless. */
async function recorded(pool: DatabasePool, summary: Summary): Promise<void> {
  try {
    await verificationsOf(pool).finished("requested", summary);
  } catch (error) {
    if (!(error instanceof Error && isRefusal(error.cause ?? error))) throw error;
  }
}

/** Whether PostgreSQL refused to write, for lack of a privilege or because it is a replica. */
function isRefusal(error: unknown): boolean {
  return typeof error === "object" && error !== null && "code" in error && (error.code === "42501" || error.code === "25006");
}

function textOf({ differences, rows, accounts, holds, jobs, keys, heads, seconds, rowsPerSecond }: Summary): string {
  const count = (number: number): string => number.toLocaleString("en");
  const result = differences === 0 ? "everything holds" : `${count(differences)} differences`;
  const heard = heads === 0 ? "" : `, ${count(heads)} heads of the digest`;
  return `${result}: ${count(rows)} transactions of ${count(accounts)} accounts, ${count(holds)} holds, ${count(jobs)} jobs, ${count(keys)} keys${heard} in ${seconds} s, ${count(rowsPerSecond)} transactions/s`;
}
