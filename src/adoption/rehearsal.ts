// The rehearsal of an adoption: all old rows are read, and become what they would become, but nothing is written.
//
// `--dry-run` is this alone, and the run begins with it: what one refuses the other does, all of it at once, before
// anything is written.

import {
  AdoptionProblem,
  BEFORE_ALL,
  type AdoptionRules,
  type KnownAccount,
  type MovedAccount,
  type Obstacle,
  type OldUser,
} from "./rules/adoption.ts";
import { adoptJob } from "./rules/adopted-job.ts";
import { Tally } from "./rules/tally.ts";
import { Source } from "./sql/source.ts";
import type { Contents } from "./sql/contents.ts";
import { Finds, missingRows } from "./finds.ts";
import { chunksOf } from "./reading.ts";
import { adoptChunk, JOBS, rulesOf, type AdoptOptions, type AdoptReport } from "./terms.ts";
import { accountId } from "../domain/money/account.ts";

/** Looks at the old database as an adoption would, and writes nothing. */
export async function rehearse(options: AdoptOptions): Promise<AdoptReport> {
  const source = await Source.open(options.source);
  try {
    const contents = await survey(source, options);
    const finds = await rehearseOn(source, options, contents, options.tell);
    return {
      outcome: "rehearsed",
      passes: 1,
      unmatched: finds.unmatched(),
      source: await source.identity(),
      ...finds.found(),
    };
  } finally {
    await source.close();
  }
}

/** Counts the old rows, and refuses what would keep them from being read one after another. */
export async function survey(source: Source, { ignoreSessions }: AdoptOptions): Promise<Contents> {
  const strangers = ignoreSessions ? [] : await source.strangers();
  const contents = await source.contents();
  const problems = [...contents.problems];
  if (strangers.length > 0) {
    const names = strangers.map(
      ({ pid, user, application, address }) =>
        `pid ${pid} (${[user, application, address].filter((part) => part !== "").join(", ")})`,
    );
    problems.push(
      `others are connected to the old database, ${names.join("; ")}: stop the old application and disconnect them, or say --ignore-sessions if they only read`,
    );
  }
  if (problems.length > 0) throw new AdoptionProblem(problems.join("; "));
  return contents;
}

/** Goes through all old rows. Throws what the ledger can't hold, all of it at once. */
export async function rehearseOn(
  source: Source,
  options: AdoptOptions,
  contents: Contents,
  tell: AdoptOptions["tell"],
): Promise<Finds> {
  const obstacles = new Obstacles();
  const rules = rulesOf(options, BigInt(Date.now()) * 1000n, (obstacle, row) => obstacles.add(obstacle, row));
  const finds = new Finds();
  let known: ReadonlyMap<string, KnownAccount> = new Map();
  for await (const { users } of chunksOf(
    source,
    rules,
    { userId: BEFORE_ALL, transactionId: BEFORE_ALL },
    options.batch,
  )) {
    known = carried(users, known, adoptChunk(rules, users, known, finds).accounts);
    tell("users", Number(finds.seen.transactions), Number(contents.transactions));
  }
  await rehearseJobs(source, rules, finds, () => tell("jobs", Number(finds.seen.jobs), Number(contents.jobs)));
  const missing = missingRows(finds.seen, contents);
  // Rows that came or went meanwhile are no matter of a rehearsal.
  const isAsBefore = missing === undefined || (await source.contents()).fingerprint === contents.fingerprint;
  const problems = [...obstacles.sentences(), ...(missing === undefined || !isAsBefore ? [] : [missing])];
  if (problems.length > 0) throw new AdoptionProblem(problems.join("; "));
  return finds;
}

async function rehearseJobs(source: Source, rules: AdoptionRules, finds: Finds, tell: () => void): Promise<void> {
  for (let after = BEFORE_ALL; ;) {
    const jobs = await source.jobs(after, JOBS);
    const last = jobs.at(-1);
    if (last === undefined) return;
    for (const job of jobs) adoptJob(rules, job, finds.jobs);
    finds.seen = { ...finds.seen, jobs: finds.seen.jobs + BigInt(jobs.length) };
    after = last.id;
    tell();
  }
}

/** Different things in one message. */
const MOST_OBSTACLES = 20;

/** What the ledger can't hold, by kind. */
class Obstacles {
  readonly #tally = new Tally<string>();
  /** Of each kind the remedy, and the row that had it last: one is told once, however often it is come by. */
  readonly #known = new Map<string, { readonly remedy: string; readonly row: string }>();
  #further = 0;

  add({ what, remedy }: Obstacle, row: string): void {
    const known = this.#known.get(what);
    if (known?.row === row) return;
    if (known === undefined && this.#known.size === MOST_OBSTACLES) {
      this.#further += 1;
      return;
    }
    this.#known.set(what, { remedy, row });
    this.#tally.add(what, row);
  }

  sentences(): readonly string[] {
    const counts = this.#tally.counts();
    const sentences = [...this.#known].map(([what, { remedy }]) => {
      const { count = 0, examples = [] } = counts[what] ?? {};
      const rows = examples.join(", ");
      return `${what} (${count === examples.length ? rows : `${count}, such as ${rows}`}): ${remedy}`;
    });
    return this.#further === 0 ? sentences : [...sentences, `and ${this.#further} further rows of other kinds`];
  }
}

/**
 * The accounts of the last of these users, if the next chunk goes on with that one: in a dry run no ledger has them.
 */
function carried(
  users: readonly OldUser[],
  before: ReadonlyMap<string, KnownAccount>,
  moved: readonly MovedAccount[],
): ReadonlyMap<string, KnownAccount> {
  const last = users.at(-1);
  const lastOldId = last?.rows.at(-1)?.id;
  if (last === undefined || last.isLast || lastOldId === undefined) return new Map();
  const accounts = [...[...before.values()].map(({ account }) => account), ...moved.map(({ after }) => after)].filter(
    ({ userId }) => userId === last.userId,
  );
  return new Map(accounts.map((account) => [accountId(account.userId, account.currency), { account, lastOldId }]));
}
