// Takes over a database of the old application: docs/adoption.md says what becomes of what.
//
//   survey    every old row is looked at: what the ledger can't hold is refused before anything is written, and the tables get a fingerprint
//   proof     the ledger holds as it is, and has none of the old users: else nobody could serve from it until it is mended
//   users     balances and transactions, user by user, in batches of one transaction each
//   jobs      in the order of their ids
//   checks    the fingerprint is still the same, every old row was seen, the ledger proves itself
//
// It can be cut off anywhere and run again. While one is under way nobody starts to serve from the ledger: nothing half adopted is ever served.

import { setTimeout as delay } from "node:timers/promises";
import { isDeepStrictEqual } from "node:util";
import { adoptJob, JOB_BYTES, type OldJob } from "../domain/adopted-job.ts";
import { adoptUser, AdoptionProblem, BEFORE_ALL, unitOf, type AdoptionRules, type KnownAccount, type MovedAccount, type OldUser } from "../domain/adoption.ts";
import type { Currencies } from "../domain/currency.ts";
import { accountId } from "../domain/group.ts";
import { Source, type Contents, type SourceOptions } from "../postgres/adoption/source.ts";
import { Target, type Adoption, type Progress } from "../postgres/adoption/target.ts";
import { rowsFor } from "../postgres/rows.ts";
import { Finds, type Found, type Seen } from "./adopt-finds.ts";
import { chunksOf } from "./adopt-reading.ts";

/** What to adopt, and how. */
export interface AdoptOptions {
  readonly source: SourceOptions;
  readonly currencies: Currencies;
  /** What a missing currency stands for. */
  readonly fallback: string;
  readonly renamed: ReadonlyMap<string, string>;
  /** Whether others may be connected to the old database. */
  readonly ignoreSessions: boolean;
  /** Rows in a batch, and users. */
  readonly batch: number;
  /** Is told how far it is. */
  readonly tell: (phase: string, done: number, total: number) => void;
}

/** How an adoption ended. */
export interface AdoptReport extends Found {
  readonly outcome: "adopted" | "already_adopted" | "rehearsed";
  /** How often the old tables were gone through. */
  readonly passes: number;
  /** Old transactions less adopted ones: 0 unless rows came late or went away between two passes. */
  readonly unmatched: number;
  readonly source: string;
}

/** Proves the ledger; throws if it doesn't hold. */
export type Proof = () => Promise<void>;

/** Jobs that are read at once: each may have a megabyte of texts. */
const JOBS = 100;
/** Bytes of jobs' texts in one transaction. */
const PART_BYTES = 8_000_000;
const SERVED_PAUSES_MS = [100, 400, 1500];
/** Batches after which the log gets further partitions. */
const PARTITIONS_EACH = 500;

/** Looks at the old database as an adoption would, and writes nothing. */
export async function rehearse(options: AdoptOptions): Promise<AdoptReport> {
  const source = await Source.open(options.source);
  try {
    const contents = await survey(source, options);
    const rules = rulesOf(options, BigInt(Date.now()) * 1000n);
    const finds = new Finds();
    let known: ReadonlyMap<string, KnownAccount> = new Map();
    for await (const { users } of chunksOf(source, rules, { userId: BEFORE_ALL, transactionId: BEFORE_ALL }, options.batch)) {
      known = carried(users, known, adoptChunk(rules, users, known, finds).accounts);
      options.tell("users", Number(finds.seen.transactions), totalOf(contents.transactions));
    }
    for (let after = BEFORE_ALL; ; ) {
      const jobs = await source.jobs(after, JOBS);
      const last = jobs.at(-1);
      if (last === undefined) break;
      for (const job of jobs) adoptJob(rules, job, finds.jobs);
      after = last.id;
    }
    return { outcome: "rehearsed", passes: 1, unmatched: finds.unmatched(), source: await source.identity(), ...finds.found() };
  } finally {
    await source.close();
  }
}

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

/** Looks at everything before anything is written. Throws what must be mended first, all of it at once. */
async function survey(source: Source, options: AdoptOptions): Promise<Contents> {
  const strangers = options.ignoreSessions ? [] : await source.strangers();
  const contents = await source.contents();
  const rules = rulesOf(options, 0n);
  const problems = [...problemsWith(contents, rules)];
  if (strangers.length > 0) {
    const names = strangers.map(({ pid, user, application, address }) => `pid ${pid} (${[user, application, address].filter((part) => part !== "").join(", ")})`);
    problems.push(`others are connected to the old database, ${names.join("; ")}: stop the old application and disconnect them, or say --ignore-sessions if they only read`);
  }
  if (problems.length > 0) throw new AdoptionProblem(problems.join("; "));
  return contents;
}

function* problemsWith({ balances, transactions }: Contents, rules: AdoptionRules): Generator<string> {
  const unknown = new Map<string, string>();
  for (const { currency, example } of transactions) if (unitOf(rules, currency) === undefined) unknown.set(currency ?? "", `transaction ${example}`);
  for (const { currency, example } of balances) if (unitOf(rules, currency) === undefined) unknown.set(currency ?? "", `user ${example}`);
  for (const [currency, example] of unknown) {
    yield `the old database has money in ${JSON.stringify(currency)} (${example}), which is no currency of the ledger: say which one it is with --rename-currency ${currency}=RUB, or make it a unit with LEDGERD_UNITS=${currency}:2`;
  }
  for (const { currency, example, digits, notNumbers } of balances) {
    const unit = unitOf(rules, currency)?.currency;
    if (notNumbers > 0n) yield `${notNumbers} balances in ${JSON.stringify(currency)} are NaN or Infinity: correct them`;
    if (unit !== undefined && digits > unit.digits) {
      yield `balances in ${unit.code} (user ${example} has one) have ${digits} fraction digits, but ${unit.code} has ${unit.digits}: correct them, or say with --rename-currency which currency they are in`;
    }
  }
}

function rulesOf({ currencies, fallback, renamed }: AdoptOptions, now: bigint): AdoptionRules {
  return { currencies, fallback, renamed, now };
}

function totalOf(surveys: Contents["transactions"]): number {
  return Number(surveys.reduce((sum, { count }) => sum + count, 0n));
}

/** What the users of a chunk become. */
function adoptChunk(rules: AdoptionRules, users: readonly OldUser[], stored: ReadonlyMap<string, KnownAccount>, finds: Finds) {
  const codes = Map.groupBy(stored.values(), ({ account }) => account.userId);
  const adopted = users.map((user) => {
    const known = new Map((codes.get(user.userId) ?? []).map((one): [string, KnownAccount] => [one.account.currency, one]));
    return adoptUser(rules, user, known, finds.transactions, finds.users);
  });
  const rows = users.reduce((sum, user) => sum + user.rows.length, 0);
  const balances = users.filter(({ balance, isLast }) => balance !== undefined && isLast).length;
  finds.seen = { ...finds.seen, balances: finds.seen.balances + BigInt(balances), transactions: finds.seen.transactions + BigInt(rows) };
  return { postings: adopted.flatMap(({ postings }) => postings), accounts: adopted.flatMap(({ accounts }) => accounts) };
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

/** The accounts of the last of these users, if the next chunk goes on with that one: in a dry run no ledger has them. */
function carried(users: readonly OldUser[], before: ReadonlyMap<string, KnownAccount>, moved: readonly MovedAccount[]): ReadonlyMap<string, KnownAccount> {
  const last = users.at(-1);
  const lastOldId = last?.rows.at(-1)?.id;
  if (last === undefined || last.isLast || lastOldId === undefined) return new Map();
  const accounts = [...[...before.values()].map(({ account }) => account), ...moved.map(({ after }) => after)].filter(({ userId }) => userId === last.userId);
  return new Map(accounts.map((account) => [accountId(account.userId, account.currency), { account, lastOldId }]));
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
    const adoption = await this.#current(found, source, contents);
    if (adoption.step === 0n) await this.#checkTarget(adoption, contents);
    else await this.#target.reserveJobs(adoption, contents.lastJobId);
    return this.#checked(await this.#jobs(await this.#users(adoption, contents), contents), contents);
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

  #start(finds: Finds): Progress {
    return { phase: "users", userId: BEFORE_ALL, transactionId: BEFORE_ALL, jobId: BEFORE_ALL, report: finds.stored() };
  }

  async #users(begun: Adoption, contents: Contents): Promise<Adoption> {
    if (begun.phase !== "users") return begun;
    const rules = rulesOf(this.#options, begun.startedAt);
    const total = totalOf(contents.transactions);
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
    const rules = rulesOf(this.#options, begun.startedAt);
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
    const { seen } = new Finds(adoption.report);
    const expected: Seen = { balances: BigInt(totalOf(before.balances)), transactions: BigInt(totalOf(before.transactions)), jobs: before.jobs };
    for (const table of ["balances", "transactions", "jobs"] as const) {
      if (seen[table] === expected[table]) continue;
      throw new AdoptionProblem(`the old database has ${expected[table]} ${table}, of which ${seen[table]} were found in the order of their ids: are there some with the same id?`);
    }
    await this.#proof();
    const { pass, source, report } = await this.#target.move(adoption, { ...adoption, phase: "done" });
    const finds = new Finds(report);
    return { outcome: "adopted", passes: pass, unmatched: finds.unmatched(), source, ...finds.found() };
  }
}
