// Given, when, then over `decide`: facts with defaults that fit, so that each rule names only what it is about.

import { expect } from "vitest";
import { newAccount, type Account, type Hold } from "../../src/domain/money/account.ts";
import { ByAccount } from "../../src/domain/journal/by-account.ts";
import type { Command, CommandKind, CommandOf, Note } from "../../src/domain/journal/command.ts";
import { decide, type Original, type Situation } from "../../src/domain/journal/ledger.ts";
import type { Refusal } from "../../src/domain/journal/refusal.ts";

export const USER = 7n;
export const OTHER = 8n;
/** Any moment, in microseconds. */
export const NOW = 1_700_000_000_000_000n;

export const note: Note = { description: "", metadata: [], reference: "", uniqueReference: false, actor: "", traceId: "" };

export function account(figures: Partial<Account> = {}): Account {
  return { ...newAccount(USER, "RUB"), sequence: 3n, time: NOW, ...figures };
}

/** Accounts, as a book has them. */
export function byName(accounts: readonly Account[]): ByAccount<Account> {
  const named = new ByAccount<Account>();
  for (const known of accounts) named.set(known.userId, known.currency, known);
  return named;
}

export function openHold(figures: Partial<Hold> = {}): Hold {
  return { id: 5n, userId: USER, currency: "RUB", amount: 100n, captured: 0n, state: "open", jobId: undefined, expiresAt: NOW + 1n, createdAt: NOW, ...figures };
}

export function original(figures: Partial<Original> = {}): Original {
  return { id: 9n, userId: USER, currency: "RUB", type: "deduction", amount: -100n, refunded: 0n, ...figures };
}

/** A command of this kind on the user's RUB account. */
export function command<K extends CommandKind>(kind: K, own: Omit<CommandOf<K>, "kind" | "userId" | "currency" | "expectedSequence" | "note"> & Partial<Command>): Command {
  return { userId: USER, currency: "RUB", expectedSequence: undefined, note, kind, ...own } as Command;
}

/** Facts: an account with 100.00 and nothing else, unless said otherwise. */
export function given(facts: Partial<Situation> = {}) {
  const situation: Situation = {
    account: account({ balance: 10_000n }),
    recipient: account({ userId: OTHER }),
    hold: undefined,
    original: undefined,
    referenceUsed: false,
    job: undefined,
    newHoldId: 77n,
    newJobId: 88n,
    time: NOW,
    now: NOW,
    ...facts,
  };
  return {
    when: (asked: Command) => {
      const decision = decide(situation, asked);
      return {
        /** It writes these entries, at least as far as they are told. */
        thenWrites: (...entries: readonly object[]) => expect(decision).toMatchObject({ entries }),
        /** The job becomes this, and these entries move its money, at least as far as they are told. */
        thenMoves: (job: object, entries?: readonly object[]) => expect(decision).toMatchObject(entries === undefined ? { job } : { job, entries }),
        /** It is refused, with these parts at least. */
        thenRefuses: (reason: Refusal["reason"], parts: object = {}) => expect(decision).toMatchObject({ refusal: { reason, ...parts } }),
      };
    },
  };
}
