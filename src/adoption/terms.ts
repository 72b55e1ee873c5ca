// What an adoption is asked for and answers, and the step that a rehearsal and the run itself have in common.

import { adoptUser, type AdoptionRules, type KnownAccount, type OldUser } from "./rules/adoption.ts";
import type { Currencies } from "../domain/money/currency.ts";
import type { SourceOptions } from "./sql/source.ts";
import type { Finds, Found } from "./finds.ts";

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

/** Jobs that are read at once: each may have a megabyte of texts. */
export const JOBS = 100;

/** The rules of an adoption that began at this time, and what is done where the ledger can't hold something. */
export function rulesOf(
  { currencies, fallback, renamed }: AdoptOptions,
  now: bigint,
  refuse: AdoptionRules["refuse"],
): AdoptionRules {
  return { currencies, fallback, renamed, now, refuse };
}

/** What the users of a chunk become. */
export function adoptChunk(
  rules: AdoptionRules,
  users: readonly OldUser[],
  stored: ReadonlyMap<string, KnownAccount>,
  finds: Finds,
) {
  const codes = Map.groupBy(stored.values(), ({ account }) => account.userId);
  const adopted = users.map((user) => {
    const known = new Map(
      (codes.get(user.userId) ?? []).map((one): [string, KnownAccount] => [one.account.currency, one]),
    );
    return adoptUser(rules, user, known, finds.transactions, finds.users);
  });
  const rows = users.reduce((sum, user) => sum + user.rows.length, 0);
  const balances = users.filter(({ balance, isLast }) => balance !== undefined && isLast).length;
  finds.seen = {
    ...finds.seen,
    balances: finds.seen.balances + BigInt(balances),
    transactions: finds.seen.transactions + BigInt(rows),
  };
  return {
    postings: adopted.flatMap(({ postings }) => postings),
    accounts: adopted.flatMap(({ accounts }) => accounts),
  };
}
