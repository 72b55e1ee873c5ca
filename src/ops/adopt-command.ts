// `ledgerd adopt`: its options, its progress, its report, and the proof at its end.

import { writeFileSync } from "node:fs";
import type { DatabasePool } from "slonik";
import { AdoptionProblem } from "../domain/adoption.ts";
import type { Currencies } from "../domain/currency.ts";
import { problemOfUrl } from "../postgres/url.ts";
import { adopt } from "./adopt.ts";
import { rehearse } from "./adopt-rehearsal.ts";
import { describeAdoption } from "./adopt-report.ts";
import type { AdoptOptions, AdoptReport } from "./adopt-terms.ts";
import { describe } from "./finding.ts";
import { toJson, type Progress } from "./progress.ts";
import { verifyLedger } from "./verify.ts";

/** Rows in a batch: a few megabytes, some tenths of a second. */
const BATCH = 5000;

/** An old code, whatever is in it, and ours. */
const rename = /^(.+)=([A-Z]{3})$/s;

/** The options of the command line, as they were given. */
export interface AdoptFlags {
  readonly from?: string | undefined;
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
export function problemOfFlags({ from, "rename-currency": renames = [] }: AdoptFlags): string | undefined {
  if (from === undefined) return "adopt needs --from, the old application's database, such as --from postgres://user:password@host:5432/database";
  const problem = problemOfUrl(from);
  if (problem !== undefined) return `--from ${problem}`;
  const wrong = renames.find((pair) => !rename.test(pair));
  return wrong === undefined ? undefined : `--rename-currency must be an old code and ours, such as RUR=RUB; it is ${JSON.stringify(wrong)}`;
}

/** Runs an adoption, or what it would find; tells how far it is, and the report. */
export async function runAdoption(flags: AdoptFlags, settings: AdoptSettings, openTarget: () => Promise<AdoptTarget & AsyncDisposable>, progress: Progress): Promise<AdoptReport> {
  const options = optionsOf(flags, settings, (phase, done, total) => {
    settings.signal.throwIfAborted();
    progress.report({ phase, done, total });
  });
  try {
    const report = flags["dry-run"] === true ? await rehearse(options) : await adoptInto(await openTarget(), options, settings, progress);
    if (flags.report !== undefined) writeFileSync(flags.report, `${JSON.stringify(JSON.parse(toJson(report)), null, 2)}\n`);
    progress.tell("summary", report, describeAdoption(report));
    return report;
  } finally {
    progress.clear();
  }
}

function optionsOf(flags: AdoptFlags, { currencies, defaultCurrency, connectTimeoutMs, queryTimeoutMs }: AdoptSettings, tell: AdoptOptions["tell"]): AdoptOptions {
  const pairs = (flags["rename-currency"] ?? []).map((pair): [string, string] => {
    const [, old = "", ours = ""] = rename.exec(pair) ?? [];
    return [old.trim().toUpperCase(), ours];
  });
  const renamed = new Map(pairs);
  const fallback = flags.currency ?? defaultCurrency;
  const unknown = [fallback, ...renamed.values()].find((code) => !currencies.has(code));
  if (unknown !== undefined) throw new AdoptionProblem(`${unknown} is no currency of ISO 4217, nor in LEDGERD_UNITS`);
  const source = { url: flags.from ?? "", schema: flags.schema ?? "public", timeZone: flags["time-zone"] ?? "UTC", connectTimeoutMs, queryTimeoutMs };
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
