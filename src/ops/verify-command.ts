// `ledgerd verify`: runs a verification, shows how far it is, names each difference, and writes a digest if that is wanted.

import { renameSync, rmSync } from "node:fs";
import type { DatabasePool } from "slonik";
import { verificationsOf } from "../postgres/verifications.ts";
import { DigestProblem, DigestWriter } from "./digest.ts";
import { describe } from "./finding.ts";
import type { Progress } from "./progress.ts";
import type { Summary } from "./verification.ts";
import { verifyLedger, type VerifyOptions } from "./verify.ts";

/** What to verify, and the files of digests. */
export interface VerifyCommand extends Omit<VerifyOptions, "onHead"> {
  /** Where to write a digest; there must be no such file. */
  readonly writeDigest: string | undefined;
}

/** Verifies; answers what was found. A digest is written only of a ledger in which everything holds. */
export async function runVerification({ writeDigest, ...options }: VerifyCommand, progress: Progress): Promise<Summary> {
  const partial = writeDigest === undefined ? undefined : `${writeDigest}.partial`;
  const digest = partial === undefined ? undefined : new DigestWriter(partial);
  let summary: Summary | undefined;
  try {
    for await (const event of verifyLedger({ ...options, ...(digest === undefined ? {} : { onHead: (head) => digest.add(head) }) })) {
      if (event.kind === "progress") progress.report(event);
      else if (event.kind === "finding") progress.tell("difference", event.finding, describe(event.finding));
      else summary = event.summary;
    }
    if (summary === undefined) throw new Error("the verification ended without a summary");
    await recorded(options.pool, summary);
    const sum = await digest?.end();
    const isKept = sum !== undefined && summary.differences === 0;
    if (partial !== undefined && writeDigest !== undefined && isKept) renameSync(partial, writeDigest);
    if (sum !== undefined && !isKept) progress.tell("no_digest", { file: writeDigest }, `no digest was written to ${writeDigest}: there are differences`);
    const written = isKept ? { digest: { file: writeDigest, ...sum } } : {};
    progress.tell("summary", { ...summary, ...written }, textOf(summary) + (isKept ? `\nthe digest ${sum.sha256} of ${sum.accounts} accounts is in ${writeDigest}` : ""));
    return summary;
  } catch (error) {
    progress.clear();
    if (error instanceof Error && "code" in error && error.code === "EEXIST") throw new DigestProblem(`${partial} is there already; take it away, or name another file`, { cause: error });
    throw error;
  } finally {
    if (partial !== undefined) rmSync(partial, { force: true });
  }
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
