// Takes over a database of the old application: docs/adoption.md says what becomes of what.
//
//   survey    the old rows are counted, and the tables get a fingerprint
//   rehearsal every old row is read: what the ledger can't hold is refused before anything is written
//   proof     the ledger holds as it is, and has none of the old users: else nobody could serve from it until it is mended
//   users     balances and transactions, user by user, in batches of one transaction each
//   jobs      in the order of their ids
//   checks    the fingerprint is still the same, every old row was seen, the ledger proves itself
//
// It can be cut off anywhere and run again. While one is under way nobody starts to serve from the ledger: nothing half adopted is ever served.

import { setTimeout as delay } from "node:timers/promises";
import { isDeepStrictEqual } from "node:util";
import { adoptJob, JOB_BYTES, type OldJob } from "./rules/adopted-job.ts";
import { AdoptionProblem, BEFORE_ALL, type AdoptionRules } from "./rules/adoption.ts";
import { Source } from "./sql/source.ts";
import type { Contents } from "./sql/contents.ts";
import { Target } from "./sql/target.ts";
import type { Adoption, Progress } from "./sql/target-statements.ts";
import { rowsFor } from "../postgres/rows/rows.ts";
import { Finds, missingRows } from "./finds.ts";
import { chunksOf } from "./reading.ts";
import { rehearseOn, survey } from "./rehearsal.ts";
import { adoptChunk, JOBS, rulesOf, type AdoptOptions, type AdoptReport } from "./terms.ts";

/** Proves the ledger; throws if it doesn't hold. */
export type Proof = () => Promise<void>;

/** Bytes of jobs' texts in one transaction. */
const PART_BYTES = 8_000_000;
const SERVED_PAUSES_MS = [100, 400, 1500];
/** Batches after which the log gets further partitions. */
const PARTITIONS_EACH = 500;

/** Adopts the old database into the ledger at `url`, whose schema is up to date; goes on where an earlier run was cut off. */
export async function adopt(url: string, options: AdoptOptions, proof: Proof): Promise<AdoptReport> {
  const source = await Source.open(options.source);
  try {
    const contents = await survey(source, options);
    const target = await Target.open(url, options.source.connectTimeoutMs, rowsFor(options.currencies));
    try {
      return await new Run(source, target, options, proof).run(contents);
    } finally {
      target.close();
    }
  } finally {
    await source.close();
  }
}

/** Jobs in parts that one transaction writes: of so many bytes, or of one job. */
function partsOf(jobs: readonly OldJob[]): readonly (readonly OldJob[])[] {
  const parts: OldJob[][] = [];
  let part: OldJob[] = [];
  let bytes = 0;
  for (const job of jobs) {
    const own = Math.min(job.bytes, JOB_BYTES);
    if (part.length === 0 || bytes + own > PART_BYTES) {
      part = [];
      parts.push(part);
      bytes = 0;
    }
    part.push(job);
    bytes += own;
  }
  return parts;
}

/** One run of an adoption. */
class Run {
  readonly #source: Source;
  readonly #target: Target;
  readonly #options: AdoptOptions;
  readonly #proof: Proof;

  constructor(source: Source, target: Target, options: AdoptOptions, proof: Proof) {
    this.#source = source;
    this.#target = target;
    this.#options = options;
    this.#proof = proof;
  }

  async run(contents: Contents): Promise<AdoptReport> {
    const source = await this.#source.identity();
    const found = await this.#target.adoption(source);
    if (found?.phase === "done") return this.#again(found, contents);
    await this.#refuseServed();
    await this.#rehearse(found, contents);
    const adoption = await this.#current(found, source, contents);
    if (adoption.step === 0n) await this.#checkTarget(adoption, contents);
    else await this.#target.reserveJobs(adoption, contents.lastJobId);
    return this.#checked(await this.#jobs(await this.#users(adoption, contents), contents), contents);
  }

  /** Finds what the run would stumble over before it writes: at its beginning, and where the old database has changed. */
  async #rehearse(found: Adoption | undefined, contents: Contents): Promise<void> {
    if (found !== undefined && found.step > 0n && found.fingerprint === contents.fingerprint) return;
    const tell: AdoptOptions["tell"] = (phase, done, total) => this.#options.tell(`rehearse ${phase}`, done, total);
    await rehearseOn(this.#source, this.#options, contents, tell);
  }

  /** It was adopted before: nothing is to be done, unless the old database has changed since. */
  #again({ fingerprint, pass, source, report }: Adoption, contents: Contents): AdoptReport {
    if (fingerprint !== contents.fingerprint) {
      throw new AdoptionProblem("the old database has changed since it was adopted, and the ledger may have been served from since: nothing was taken over; see that the old application is stopped");
    }
    const finds = new Finds(report);
    return { outcome: "already_adopted", passes: pass, unmatched: finds.unmatched(), source, ...finds.found() };
  }

  async #current(found: Adoption | undefined, source: string, { fingerprint }: Contents): Promise<Adoption> {
    const { source: old, fallback, renamed } = this.#options;
    const options = JSON.stringify({ timeZone: old.timeZone, currency: fallback, renamed: Object.fromEntries(renamed) });
    if (found === undefined) return this.#target.begin(source, options, fingerprint, this.#start(new Finds()));
    if (found.source !== source) throw new AdoptionProblem(`the adoption of another database (${found.source}) isn't finished: run that one to its end first`);
    if (found.step === 0n) {
      // Nothing was written: it begins anew, so that the ledger is looked at, whatever has changed since.
      await this.#target.abandon(found);
      return this.#target.begin(source, options, fingerprint, this.#start(new Finds()));
    }
    if (!isDeepStrictEqual(JSON.parse(found.options), JSON.parse(options))) throw new AdoptionProblem(`this adoption was begun with other options, ${found.options}: go on with those`);
    if (found.fingerprint === fingerprint) return found;
    // Of the passes before, what was found of transactions stays: each is adopted once. Users and jobs are all looked at again.
    const finds = new Finds(JSON.stringify({ transactions: new Finds(found.report).found().transactions }));
    return this.#target.restart(found, fingerprint, this.#start(finds));
  }

  /** Looks at the ledger, now that nobody starts to serve any more. What is found wrong takes the adoption back, so that they may again. */
  async #checkTarget(adoption: Adoption, { lastJobId }: Contents): Promise<void> {
    try {
      await this.#refuseServed();
      for await (const users of this.#target.users(adoption)) {
        const ids = users.map(({ userId }) => userId);
        const lacking = await this.#source.lackingUsers(ids);
        const both = ids.find((id) => !lacking.has(id));
        if (both === undefined) continue;
        throw new AdoptionProblem(`user ${both} of the old application has an account in this ledger already: adopt into a ledger where they have none`);
      }
      // At the end it must prove itself as a whole: what doesn't hold now wouldn't then either, and nobody could serve until it does.
      await this.#proof();
      await this.#target.reserveJobs(adoption, lastJobId);
    } catch (error) {
      await this.#target.abandon(adoption);
      throw error;
    }
  }

  /** Nothing half adopted is served. Sessions of one that was just stopped, or killed, are given a moment to go. */
  async #refuseServed(): Promise<void> {
    for (const pause of SERVED_PAUSES_MS) {
      if (!(await this.#target.isServed())) return;
      await delay(pause);
    }
    throw new AdoptionProblem("a ledgerd works on this ledger: stop it first, so that nothing half adopted is served");
  }

  #rulesOf({ startedAt }: Adoption): AdoptionRules {
    return rulesOf(this.#options, startedAt, ({ what, remedy }, row) => {
      const found = `the old database has changed since it was looked at, and now has ${what} (${row})`;
      throw new AdoptionProblem(`${found}: ${remedy}, and run this again`);
    });
  }

  #start(finds: Finds): Progress {
    return { phase: "users", userId: BEFORE_ALL, transactionId: BEFORE_ALL, jobId: BEFORE_ALL, report: finds.stored() };
  }

  async #users(begun: Adoption, contents: Contents): Promise<Adoption> {
    if (begun.phase !== "users") return begun;
    const rules = this.#rulesOf(begun);
    const total = Number(contents.transactions);
    const finds = new Finds(begun.report);
    let adoption = begun;
    let batches = 0;
    for await (const chunk of chunksOf(this.#source, rules, begun, this.#options.batch)) {
      if (batches++ % PARTITIONS_EACH === 0) await this.#target.addPartitions();
      this.#options.tell("users", Number(finds.seen.transactions), total);
      const stored = await this.#target.accountsOf(chunk.users.map(({ userId }) => userId), adoption);
      const { postings, accounts } = adoptChunk(rules, chunk.users, stored, finds);
      adoption = await this.#target.write(adoption, { postings, accounts, stored }, { ...adoption, ...chunk.end, report: finds.stored() });
    }
    this.#options.tell("users", Number(finds.seen.transactions), total);
    if (adoption.pass > 1) adoption = await this.#vanishedUsers(adoption, rules, finds);
    return this.#target.move(adoption, { ...adoption, phase: "jobs" });
  }

  async #jobs(begun: Adoption, { jobs: total }: Contents): Promise<Adoption> {
    if (begun.phase !== "jobs") return begun;
    const rules = this.#rulesOf(begun);
    const finds = new Finds(begun.report);
    let adoption = begun;
    for (;;) {
      const jobs = await this.#source.jobs(adoption.jobId, JOBS);
      const last = jobs.at(-1);
      if (last === undefined) break;
      for (const some of partsOf(jobs)) {
        const adopted = some.map((job) => adoptJob(rules, job, finds.jobs));
        finds.seen = { ...finds.seen, jobs: finds.seen.jobs + BigInt(some.length) };
        adoption = await this.#target.writeJobs(adoption, adopted, { ...adoption, jobId: some.at(-1)?.id ?? last.id, report: finds.stored() });
        this.#options.tell("jobs", Number(finds.seen.jobs), Number(total));
      }
    }
    if (adoption.pass > 1) adoption = await this.#vanishedJobs(adoption, finds);
    return this.#target.move(adoption, { ...adoption, phase: "checks" });
  }

  /** Users of an earlier pass whom the old database has no more: it would read 0 for them, so that is what they come to. */
  async #vanishedUsers(begun: Adoption, rules: AdoptionRules, finds: Finds): Promise<Adoption> {
    let adoption = begun;
    for await (const page of this.#target.users(begun)) {
      const lacking = await this.#source.lackingUsers(page.filter(({ isAdopted }) => isAdopted).map(({ userId }) => userId));
      if (lacking.size === 0) continue;
      const stored = await this.#target.accountsOf([...lacking], begun);
      // Those that come to 0 need nothing, and so this can be cut off and run again.
      const ids = new Set([...stored.values()].filter(({ account }) => account.balance !== 0n).map(({ account }) => account.userId));
      if (ids.size === 0) continue;
      const users = [...ids].map((userId) => ({ userId, balance: undefined, rows: [], isLast: true, totals: new Map() }));
      const { postings, accounts } = adoptChunk(rules, users, stored, new Finds());
      for (const id of ids) finds.users.add("vanished", id);
      adoption = await this.#target.write(adoption, { postings, accounts, stored }, { ...adoption, report: finds.stored() });
    }
    return adoption;
  }

  /** Jobs of an earlier pass that the old database has no more, and that would be worked on: they are cancelled. */
  async #vanishedJobs(begun: Adoption, finds: Finds): Promise<Adoption> {
    let adoption = begun;
    for await (const page of this.#target.jobs()) {
      const pending = page.filter((job) => job.adoption === begun.id && job.isPending).map(({ id }) => id);
      const lacking = await this.#source.lackingJobs(pending);
      if (lacking.length === 0) continue;
      for (const id of lacking) finds.jobs.add("vanished", id);
      adoption = await this.#target.cancelJobs(adoption, lacking, { ...adoption, report: finds.stored() });
    }
    return adoption;
  }

  /** The old database must be as it was when this pass began, all of it must have been seen, and the ledger must prove itself. */
  async #checked(adoption: Adoption, before: Contents): Promise<AdoptReport> {
    const after = await this.#source.contents();
    if (after.fingerprint !== adoption.fingerprint) {
      throw new AdoptionProblem("the old database changed while it was being adopted: stop the old application, and run this again; it takes over what has changed");
    }
    const missing = missingRows(new Finds(adoption.report).seen, before);
    if (missing !== undefined) throw new AdoptionProblem(missing);
    await this.#proof();
    const { pass, source, report } = await this.#target.move(adoption, { ...adoption, phase: "done" });
    const finds = new Finds(report);
    return { outcome: "adopted", passes: pass, unmatched: finds.unmatched(), source, ...finds.found() };
  }
}
