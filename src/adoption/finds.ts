// What an adoption has found so far: counts by kind, and how many old rows it saw. It is stored with each batch, so that a run that is cut off
// counts on from there.

import type { JobKind } from "./rules/adopted-job.ts";
import type { TransactionKind, UserKind } from "./rules/adoption.ts";
import { Tally, type Count } from "./rules/tally.ts";

/** What was found: of each kind how much, with examples of ids. */
export interface Found {
  readonly users: Readonly<Record<string, Count>>;
  readonly transactions: Readonly<Record<string, Count>>;
  readonly jobs: Readonly<Record<string, Count>>;
}

/** How many old rows were seen. */
export interface Seen {
  readonly balances: bigint;
  readonly transactions: bigint;
  readonly jobs: bigint;
}

/** What of the rows that there are wasn't seen; undefined: nothing. */
export function missingRows(seen: Seen, there: Seen): string | undefined {
  const table = (["balances", "transactions", "jobs"] as const).find((one) => seen[one] !== there[one]);
  if (table === undefined) return undefined;
  const found = `of which ${seen[table]} were found in the order of their ids`;
  return `the old database has ${there[table]} ${table}, ${found}: REINDEX its tables, and run this again`;
}

const nothingSeen: Seen = { balances: 0n, transactions: 0n, jobs: 0n };

/** What was found so far, as it is stored with the adoption. */
export class Finds {
  seen: Seen;
  readonly users: Tally<UserKind>;
  readonly transactions: Tally<TransactionKind>;
  readonly jobs: Tally<JobKind>;

  constructor(stored = "{}") {
    const { seen, users, transactions, jobs } = JSON.parse(stored) as Partial<Found> & { readonly seen?: Readonly<Record<keyof Seen, string>> };
    this.seen = seen === undefined ? nothingSeen : { balances: BigInt(seen.balances), transactions: BigInt(seen.transactions), jobs: BigInt(seen.jobs) };
    this.users = new Tally(users);
    this.transactions = new Tally(transactions);
    this.jobs = new Tally(jobs);
  }

  found(): Found {
    return { users: this.users.counts(), transactions: this.transactions.counts(), jobs: this.jobs.counts() };
  }

  /** Old transactions that were seen, less those in the log: not 0 where rows came behind what an earlier pass had taken, or went away since. */
  unmatched(): number {
    return Number(this.seen.transactions) - this.transactions.of("adopted");
  }

  stored(): string {
    const { balances, transactions, jobs } = this.seen;
    return JSON.stringify({ seen: { balances: `${balances}`, transactions: `${transactions}`, jobs: `${jobs}` }, ...this.found() });
  }
}
