// What a user of the old application becomes in the ledger: the rules of docs/adoption.md, as pure functions.
//
// The old balance is what the user keeps. An account's rows follow in the order of their old ids; what they don't explain of the balance is its
// first row, the opening. What doesn't fit a law of the ledger is an adjustment; what had to be changed is kept in the row's metadata.

import { evolve, newAccount, type Account, type Entry, type TransactionType } from "../../domain/money/account.ts";
import { currencyOf, type Currencies, type Currency } from "../../domain/money/currency.ts";
import { decimalOf } from "../../domain/money/decimal.ts";
import { formatAmount, MAX_MINOR, withinBounds } from "../../domain/money/money.ts";
import type { Tally } from "./tally.ts";
import { firstOf } from "../../domain/text.ts";
import { ADOPTER, type Posting } from "../../domain/journal/transaction.ts";
import { Problem } from "../../domain/problem.ts";

/** What kinds of old transactions and users a report counts. */
export type TransactionKind =
  | "adopted" | "currency_missing" | "currency_spelled" | "currency_renamed" | "currency_not_of_balance" | "type_spelled" | "type_unknown"
  | "sign_against_type" | "below_floor" | "amount_zero" | "amount_cut" | "amount_not_a_number" | "time_missing" | "time_before_1970"
  | "time_in_future" | "time_out_of_order" | "description_cut" | "old_value_cut";
export type UserKind =
  | "adopted" | "without_transactions" | "with_nothing" | "without_balance_row" | "balance_missing" | "balance_negative" | "balance_currency_missing"
  | "balance_currency_spelled" | "balance_currency_renamed" | "with_opening" | "corrected" | "vanished" | "id_below_1";

/** The old application's data can't be taken over as it is. */
export class AdoptionProblem extends Problem {}

/** Something that the ledger can't hold, wherever it is. */
export interface Obstacle {
  /** Names rows, such as `balances in USD that are NaN`. */
  readonly what: string;
  readonly remedy: string;
}

/** What was decided for the whole adoption. */
export interface AdoptionRules {
  readonly currencies: Currencies;
  /** What a missing currency stands for. */
  readonly fallback: string;
  /** Codes of the old application that are others here. */
  readonly renamed: ReadonlyMap<string, string>;
  /** When it began, in microseconds: nothing adopted is later. */
  readonly now: bigint;
  /**
   * Is told of each row that the ledger can't hold. Either it throws, or what follows is of no account: a rehearsal
   * goes on to find the others.
   */
  readonly refuse: (obstacle: Obstacle, row: string) => void;
}

/** A row of the old table `transactions`; times in microseconds, null where there is none that can be one. */
export interface OldTransaction {
  readonly userId: bigint;
  readonly id: bigint;
  readonly amount: string | null;
  readonly currency: string | null;
  readonly type: string | null;
  /** At least one character more than are kept, if it has more. */
  readonly description: string | null;
  readonly time: bigint | null;
  /** As the old application would have shown it. */
  readonly timeText: string | null;
}

/** A row of the old table `user_balances`. */
export interface OldBalance {
  readonly userId: bigint;
  readonly balance: string | null;
  readonly currency: string | null;
  readonly time: bigint | null;
}

/** A user's old rows, or the next ones of them. */
export interface OldUser {
  readonly userId: bigint;
  readonly balance: OldBalance | undefined;
  /** In the order of their ids. */
  readonly rows: readonly OldTransaction[];
  /** Whether no more of them follow. */
  readonly isLast: boolean;
  /** What all rows of the accounts that these rows begin come to, by currency. */
  readonly totals: ReadonlyMap<string, Total>;
}

/** What all of a user's rows in one currency come to. */
export interface Total {
  readonly sum: bigint;
  /** The time of the first of them that has one which can be kept. */
  readonly time: bigint | undefined;
}

/** An account as it is in the ledger, and up to which old transaction it was adopted. */
export interface KnownAccount {
  readonly account: Account;
  readonly lastOldId: bigint;
}

/** An account that moved on, with the sequence that it had. */
export interface MovedAccount {
  readonly after: Account;
  readonly sequenceBefore: bigint;
  /** The time of its first row, if that is among those adopted now. */
  readonly createdAt: bigint;
}

/** A currency as the old application meant it, and what had to be done to know it. */
export interface Unit {
  readonly currency: Currency;
  readonly kind: "currency_missing" | "currency_spelled" | "currency_renamed" | undefined;
}

/** Before all old ids, of users, transactions and jobs. */
export const BEFORE_ALL = -(2n ** 63n);

/** Characters of a description that are kept: as many as a request may have. */
export const DESCRIPTION_LIMIT = 2000;
/** Characters of an old value that are kept beside what it became: as many as a value of metadata may have. */
const OLD_VALUE_LIMIT = 512;
/** Characters of a currency that can be named in a message, and on a command line. */
const LONGEST_NAME = 40;

/** Which currency an old column means; undefined if none that the ledger has. */
export function unitOf({ currencies, fallback, renamed }: AdoptionRules, text: string | null): Unit | undefined {
  const spelled = (text ?? "").trim().toUpperCase();
  const other = renamed.get(spelled);
  const code = other ?? (spelled === "" ? fallback : spelled);
  const currency = currencies.get(code);
  if (currency === undefined) return undefined;
  const kind = other !== undefined ? "currency_renamed" : spelled === "" ? "currency_missing" : text === code ? undefined : "currency_spelled";
  return { currency, kind };
}

function mustUnit(rules: AdoptionRules, text: string | null, row: string): Unit {
  const unit = unitOf(rules, text);
  if (unit !== undefined) return unit;
  rules.refuse(unknownCurrency(text ?? ""), row);
  return { currency: currencyOf(rules.currencies, rules.fallback), kind: undefined };
}

function unknownCurrency(text: string): Obstacle {
  const code = text.trim().toUpperCase();
  const name = JSON.stringify(text.length > LONGEST_NAME ? `${text.slice(0, LONGEST_NAME)}…` : text);
  const what = `money in ${name}, which is no currency of the ledger`;
  if (text.length > LONGEST_NAME || !/^[\p{L}\p{N}\p{P}\p{S} ]+$/u.test(code)) return { what, remedy: "correct it" };
  const rename = /^[A-Z0-9]+$/.test(code) ? `${code}=RUB` : `'${code.replaceAll("'", "'\\''")}=RUB'`;
  const unit = /^[A-Z]{3}$/.test(code) ? `, or make it a unit with LEDGERD_UNITS=${code}:2` : "";
  return { what, remedy: `say which one it is with --rename-currency ${rename}${unit}` };
}

/** An old amount in minor units, and what had to be done to it. */
export interface Amount {
  readonly minor: bigint;
  readonly kind: "amount_cut" | "amount_not_a_number" | undefined;
}

/** Reads an old amount; toward zero where the currency has fewer digits. */
export function amountOf(text: string | null, digits: number): Amount {
  const decimal = decimalOf(text ?? "");
  if (decimal === undefined) return { minor: 0n, kind: "amount_not_a_number" };
  const { whole, fraction } = decimal;
  const minor = BigInt(whole + fraction.slice(0, digits).padEnd(digits, "0"));
  return { minor, kind: /[1-9]/.test(fraction.slice(digits)) ? "amount_cut" : undefined };
}

/** What rows come to by currency, added to those at hand. */
export function addTotals(rules: AdoptionRules, rows: readonly OldTransaction[], totals = new Map<string, Total>()): Map<string, Total> {
  for (const { amount, currency, time } of rows) {
    const unit = unitOf(rules, currency);
    // It is refused with the row.
    if (unit === undefined) continue;
    const { code, digits } = unit.currency;
    const before = totals.get(code);
    totals.set(code, { sum: (before?.sum ?? 0n) + amountOf(amount, digits).minor, time: before?.time ?? usableTime(rules, time) });
  }
  return totals;
}

/** A time as far as it can be kept: not before 1970, and none that is still to come. */
function usableTime({ now }: AdoptionRules, time: bigint | null): bigint | undefined {
  if (time === null || time < 0n) return undefined;
  return time > now ? now : time;
}

/** Adopts the next rows of a user: the rows for the log, and the accounts as they are afterwards. */
export function adoptUser(rules: AdoptionRules, user: OldUser, known: ReadonlyMap<string, KnownAccount>, transactions: Tally<TransactionKind>, users: Tally<UserKind>) {
  return new UserAdoption(rules, user, known, transactions, users).adopt();
}

/** One user's accounts while rows are added to them. */
class UserAdoption {
  readonly #rules: AdoptionRules;
  readonly #user: OldUser;
  readonly #known: ReadonlyMap<string, KnownAccount>;
  readonly #transactions: Tally<TransactionKind>;
  readonly #users: Tally<UserKind>;
  readonly #accounts: Map<string, Account>;
  readonly #created = new Map<string, bigint>();
  readonly #postings: Posting[] = [];
  /** In which currency the old application kept the user's balance, and what it was; in all others it was nothing. */
  readonly #owed: { readonly code: string; readonly minor: bigint } | undefined;

  constructor(rules: AdoptionRules, user: OldUser, known: ReadonlyMap<string, KnownAccount>, transactions: Tally<TransactionKind>, users: Tally<UserKind>) {
    this.#rules = rules;
    this.#user = user;
    this.#known = known;
    this.#transactions = transactions;
    this.#users = users;
    this.#accounts = new Map([...known].map(([code, { account }]) => [code, account]));
    this.#owed = this.#readBalance();
  }

  adopt(): { readonly postings: readonly Posting[]; readonly accounts: readonly MovedAccount[] } {
    const { rows, isLast, userId } = this.#user;
    if (this.#owed !== undefined) this.#open(this.#owed.code);
    for (const row of rows) this.#add(row);
    if (isLast) this.#finish();
    const accounts = [...this.#accounts].flatMap(([code, after]): MovedAccount[] => {
      const sequenceBefore = this.#known.get(code)?.account.sequence ?? 0n;
      const createdAt = this.#created.get(code) ?? after.time;
      return after.sequence === sequenceBefore ? [] : [{ after, sequenceBefore, createdAt }];
    });
    if (isLast && userId < 1n) this.#users.add("id_below_1", userId);
    return { postings: this.#postings, accounts };
  }

  #readBalance(): { code: string; minor: bigint } | undefined {
    const { balance } = this.#user;
    if (balance === undefined) return undefined;
    const row = `user ${balance.userId}`;
    const { code, digits } = mustUnit(this.#rules, balance.currency, row).currency;
    const { minor, kind } = amountOf(balance.balance ?? "0", digits);
    if (kind === "amount_not_a_number") {
      this.#rules.refuse({ what: `balances in ${code} that are NaN or Infinity`, remedy: "correct them" }, row);
    }
    if (kind === "amount_cut") {
      const what = `balances in ${code} with more fraction digits than the ${digits} that it has`;
      this.#rules.refuse({ what, remedy: "round them, or say with --rename-currency which currency they are in" }, row);
    }
    return { code, minor };
  }

  #owedIn(code: string): bigint {
    return this.#owed?.code === code ? this.#owed.minor : 0n;
  }

  /** The account; with its opening, where it has no rows yet and those to come don't come to what is owed. */
  #open(code: string): Account {
    const there = this.#accounts.get(code);
    if (there !== undefined && (there.sequence > 0n || this.#created.has(code))) return there;
    const { userId, totals } = this.#user;
    const start = this.#startOf(code);
    this.#created.set(code, start);
    this.#accounts.set(code, { ...newAccount(userId, code), time: start });
    const amount = this.#owedIn(code) - (totals.get(code)?.sum ?? 0n);
    if (amount !== 0n) {
      this.#users.add("with_opening", userId);
      this.#write({ type: "opening", userId, currency: code, amount, heldChange: 0n }, start, "", "what the old balance had beyond its transactions", []);
    }
    return this.#accounts.get(code) ?? newAccount(userId, code);
  }

  /** The earliest that is known of an account's beginning. */
  #startOf(code: string): bigint {
    const { balance, totals } = this.#user;
    const times = [usableTime(this.#rules, balance?.time ?? null), totals.get(code)?.time].flatMap((time) => time ?? []);
    return times.reduce((earliest, time) => (time < earliest ? time : earliest), this.#rules.now);
  }

  #add(row: OldTransaction): void {
    const { currency, kind } = mustUnit(this.#rules, row.currency, `transaction ${row.id}`);
    const { code, digits } = currency;
    if (row.id <= (this.#known.get(code)?.lastOldId ?? BEFORE_ALL)) return;
    const account = this.#open(code);
    const amount = amountOf(row.amount, digits);
    const { type, kinds } = typeOf(row.type, amount.minor, account.balance + amount.minor);
    const found: TransactionKind[] = ["adopted", ...kinds];
    if (kind !== undefined) found.push(kind);
    if (amount.kind !== undefined) found.push(amount.kind);
    if (this.#owed !== undefined && this.#owed.code !== code) found.push("currency_not_of_balance");
    const { time, kind: timeKind } = this.#timeOf(row, account);
    if (timeKind !== undefined) found.push(timeKind);
    const description = row.description ?? "";
    const beginning = firstOf(description, DESCRIPTION_LIMIT);
    const isCut = beginning !== description;
    if (isCut) found.push("description_cut");
    const metadata: [string, string][] = [];
    const keep = (name: string, value: string | null): void => {
      const kept = firstOf(value ?? "null", OLD_VALUE_LIMIT);
      if (kept !== (value ?? "null") && !found.includes("old_value_cut")) found.push("old_value_cut");
      metadata.push([`adopted.${name}`, kept]);
    };
    if (amount.kind !== undefined) keep("amount", row.amount);
    if (row.currency !== code) keep("currency", row.currency);
    if (isCut) keep("description", "cut");
    if (timeKind !== undefined) keep("time", row.timeText);
    if (row.type !== type) keep("type", row.type);
    for (const one of found) this.#transactions.add(one, row.id);
    const entry: Entry = { type, userId: row.userId, currency: code, amount: amount.minor, heldChange: 0n };
    this.#write(entry, time, `transactions/${row.id}`, beginning, metadata);
  }

  /** Within an account times never go back, and nothing is later than now. */
  #timeOf({ time }: OldTransaction, account: Account): { time: bigint; kind: TransactionKind | undefined } {
    const usable = usableTime(this.#rules, time);
    if (time === null || usable === undefined) return { time: account.time, kind: time === null ? "time_missing" : "time_before_1970" };
    if (usable < account.time) return { time: account.time, kind: "time_out_of_order" };
    return { time: usable, kind: usable === time ? undefined : "time_in_future" };
  }

  /** All of the user's rows are there: each account must come to what is owed. It doesn't where the old balance has changed since it was begun. */
  #finish(): void {
    const { userId, balance } = this.#user;
    for (const [code, account] of this.#accounts) {
      const amount = this.#owedIn(code) - account.balance;
      if (amount === 0n) continue;
      this.#users.add("corrected", userId);
      const time = account.time > this.#rules.now ? account.time : this.#rules.now;
      this.#write({ type: "adjustment", userId, currency: code, amount, heldChange: 0n }, time, "", "the old balance changed while it was being adopted", []);
    }
    this.#users.add([...this.#accounts.values()].some(({ sequence }) => sequence > 0n) ? "adopted" : "with_nothing", userId);
    if (this.#user.totals.size === 0) this.#users.add("without_transactions", userId);
    if (balance === undefined) return this.#users.add("without_balance_row", userId);
    if (balance.balance === null) this.#users.add("balance_missing", userId);
    if ((this.#owed?.minor ?? 0n) < 0n) this.#users.add("balance_negative", userId);
    const kind = unitOf(this.#rules, balance.currency)?.kind;
    if (kind !== undefined) this.#users.add(`balance_${kind}`, userId);
  }

  #write(entry: Entry, time: bigint, reference: string, description: string, metadata: Posting["metadata"]): void {
    const { currency, userId } = entry;
    const after = evolve(this.#accounts.get(currency) ?? newAccount(userId, currency), entry, time);
    if (!withinBounds(after.balance) || !withinBounds(entry.amount)) {
      const most = formatAmount(MAX_MINOR, currencyOf(this.#rules.currencies, currency).digits);
      const what = `accounts in ${currency} that would at some point be beyond what the ledger holds, ${most}`;
      this.#rules.refuse({ what, remedy: "correct their balances or transactions" }, `user ${userId}`);
    }
    this.#accounts.set(currency, after);
    this.#postings.push({
      userId, currency, sequence: after.sequence, type: entry.type, amount: entry.amount, heldChange: 0n, balanceAfter: after.balance, heldAfter: after.held,
      creditLimitAfter: after.creditLimit, holdId: undefined, holdCaptured: undefined, holdExpiresAt: undefined, refundedTransactionId: undefined,
      jobId: undefined, groupId: undefined, idempotencyKey: undefined, reference, description, metadata, actor: ADOPTER, traceId: "", createdAt: time,
    });
  }
}

/** The type of a row that changed its account by `amount` to `after`: the old one where it obeys that type's law, else an adjustment. */
function typeOf(
  old: string | null,
  amount: bigint,
  after: bigint,
): { readonly type: TransactionType; readonly kinds: readonly TransactionKind[] } {
  const word = (old ?? "").trim().toLowerCase();
  if (word !== "topup" && word !== "deduction" && word !== "refund") return { type: "adjustment", kinds: ["type_unknown"] };
  const kinds: TransactionKind[] = word === old ? [] : ["type_spelled"];
  if (amount === 0n) return { type: "adjustment", kinds: [...kinds, "amount_zero"] };
  if (amount > 0n === (word === "deduction")) return { type: "adjustment", kinds: [...kinds, "sign_against_type"] };
  if (word === "deduction" && after < 0n) return { type: "adjustment", kinds: [...kinds, "below_floor"] };
  return { type: word, kinds };
}
