// `ledgerd adopt`: its options, its progress, its report, and the proof at its end.

import { readFileSync, writeFileSync } from "node:fs";
import type { DatabasePool } from "slonik";
import { AdoptionProblem } from "../adoption/rules/adoption.ts";
import type { Currencies } from "../domain/money/currency.ts";
import { problemOfUrl, readUrl } from "../postgres/connection/url.ts";
import { adopt } from "../adoption/adopt.ts";
import { rehearse } from "../adoption/rehearsal.ts";
import { describeAdoption } from "../adoption/report.ts";
import type { AdoptOptions, AdoptReport } from "../adoption/terms.ts";
import { describe } from "../verification/finding.ts";
import { toJson, type Progress } from "./progress.ts";
import { verifyLedger } from "../verification/verify.ts";

/** Rows in a batch: a few megabytes, some tenths of a second. */
const BATCH = 5000;

/** An old code, whatever is in it, and ours. */
const rename = /^(.+)=([A-Z]{3})$/s;

/** The options of the command line, as they were given. */
export interface AdoptFlags {
  readonly from?: string | undefined;
  readonly "from-file"?: string | undefined;
  readonly schema?: string | undefined;
  readonly "time-zone"?: string | undefined;
  readonly currency?: string | undefined;
  readonly "rename-currency"?: readonly string[] | undefined;
  readonly report?: string | undefined;
  readonly "ignore-sessions"?: boolean | undefined;
  readonly "dry-run"?: boolean | undefined;
}

/** What the environment says. */
export interface AdoptSettings {
  /** The URL of the old database. */
  readonly from: string;
  readonly currencies: Currencies;
  readonly defaultCurrency: string;
  readonly connectTimeoutMs: number;
  readonly queryTimeoutMs: number;
  /** Ends it between two batches. */
  readonly signal: AbortSignal;
}

/** Where to adopt to. */
export interface AdoptTarget {
  readonly url: string;
  readonly pool: DatabasePool;
}

/** What is wrong with the options; undefined: nothing, as far as they tell by themselves. */
export function problemOfFlags(flags: AdoptFlags): string | undefined {
  const { from, "from-file": file, "rename-currency": renames = [] } = flags;
  if (from !== undefined && file !== undefined) return "--from-file must not be given beside --from: one or the other says it";
  const problem = from === undefined ? undefined : problemOfUrl(from);
  if (problem !== undefined) return `--from ${problem}`;
  const wrong = renames.find((pair) => !rename.test(pair));
  return wrong === undefined ? undefined : `--rename-currency must be an old code and ours, such as RUR=RUB; it is ${JSON.stringify(wrong)}`;
}

/** The URL of the old database, from the command line or else from the environment; or what is wrong with that. */
export function sourceOf(flags: AdoptFlags, configured: string | undefined): Source | { readonly problem: string } {
  const { from, "from-file": file } = flags;
  const flag = from === undefined ? (file === undefined ? undefined : "--from-file") : "--from";
  if (flag !== undefined && configured !== undefined) {
    return { problem: `${flag} must not be given beside LEDGERD_ADOPT_FROM or LEDGERD_ADOPT_FROM_FILE: one or the other says it` };
  }
  if (from !== undefined) return { url: from, isExposed: holdsSecret(from) };
  const url = file === undefined ? configured : tryRead(file);
  if (url instanceof Error) return { problem: `--from-file must be a file with the database's URL: ${url.message}` };
  if (url === undefined) return { problem: NO_SOURCE };
  const wrong = problemOfUrl(url);
  return wrong === undefined ? { url, isExposed: false } : { problem: `--from-file must hold the database's URL, which ${wrong}` };
}

/** Where to adopt from, and whether everybody on the machine sees its password among the processes. */
interface Source {
  readonly url: string;
  readonly isExposed: boolean;
}

const NO_SOURCE =
  "adopt needs --from-file, a file that holds the URL of the old application's database, such as " +
  "postgres://user:password@host:5432/database; or LEDGERD_ADOPT_FROM; or --from, the URL itself, where it has no password";

function holdsSecret(url: string): boolean {
  const { password, tls } = readUrl(url);
  return password !== undefined || tls.keyPassword !== undefined;
}

/** A file's text, or that of standard input for `-`, without the end of its line; or why it can't be read. */
function tryRead(file: string): string | Error {
  try {
    return readFileSync(file === "-" ? 0 : file, "utf8").trim();
  } catch (error) {
    return error instanceof Error ? error : new Error(String(error));
  }
}

/** Runs an adoption, or what it would find; tells how far it is, and the report. */
export async function runAdoption(flags: AdoptFlags, settings: AdoptSettings, openTarget: () => Promise<AdoptTarget & AsyncDisposable>, progress: Progress): Promise<AdoptReport> {
  const options = optionsOf(flags, settings, (phase, done, total) => {
    settings.signal.throwIfAborted();
    progress.report({ phase, done, total });
  });
  try {
    const report = flags["dry-run"] === true ? await rehearse(options) : await adoptInto(await openTarget(), options, settings, progress);
    if (flags.report !== undefined) {
      writeFileSync(flags.report, `${JSON.stringify(JSON.parse(toJson(report)), null, 2)}\n`, { mode: 0o600 });
    }
    progress.tell("summary", report, describeAdoption(report));
    return report;
  } finally {
    progress.clear();
  }
}

function optionsOf(flags: AdoptFlags, { from, currencies, defaultCurrency, connectTimeoutMs, queryTimeoutMs }: AdoptSettings, tell: AdoptOptions["tell"]): AdoptOptions {
  const pairs = (flags["rename-currency"] ?? []).map((pair): [string, string] => {
    const [, old = "", ours = ""] = rename.exec(pair) ?? [];
    return [old.trim().toUpperCase(), ours];
  });
  const renamed = new Map(pairs);
  const fallback = flags.currency ?? defaultCurrency;
  const unknown = [fallback, ...renamed.values()].find((code) => !currencies.has(code));
  if (unknown !== undefined) throw new AdoptionProblem(`${unknown} is no currency of ISO 4217, nor in LEDGERD_UNITS`);
  const source = { url: from, schema: flags.schema ?? "public", timeZone: flags["time-zone"] ?? "UTC", connectTimeoutMs, queryTimeoutMs };
  return { source, currencies, fallback, renamed, ignoreSessions: flags["ignore-sessions"] === true, batch: BATCH, tell };
}

async function adoptInto(opened: AdoptTarget & AsyncDisposable, options: AdoptOptions, settings: AdoptSettings, progress: Progress): Promise<AdoptReport> {
  await using target = opened;
  // Awaited here, or else the target would be closed at once.
  const report = await adopt(target.url, options, () => prove(target, settings, progress));
  return report;
}

/** The whole ledger is verified, what others have in it as well: after this it is served. */
async function prove({ url, pool }: AdoptTarget, { currencies, connectTimeoutMs, signal }: AdoptSettings, progress: Progress): Promise<void> {
  let differences = 0;
  for await (const event of verifyLedger({ url, pool, currencies, connectTimeoutMs, signal })) {
    if (event.kind === "progress") progress.report({ phase: `verify ${event.phase}`, done: event.done, ...(event.total === undefined ? {} : { total: event.total }) });
    if (event.kind !== "finding") continue;
    differences += 1;
    progress.tell("difference", event.finding, describe(event.finding));
  }
  if (differences > 0) throw new AdoptionProblem(`the ledger doesn't hold: verification found ${differences} differences`);
}
