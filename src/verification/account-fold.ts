// One account's rows, folded: each row is held against the one before, and what they come to against the balance row.
//
// Behind a row that is wrong the fold goes on from what that row itself says, so that one wrong row is one difference, and not all behind it.

import { captureHold, endHold, newAccount, remaining, type Account, type Hold } from "../domain/money/account.ts";
import { accountAfter } from "../domain/journal/transaction.ts";
import { chainHash } from "../domain/journal/chain.ts";
import { minor, type LogRow, type ReadableRow } from "./sql/log-rows.ts";
import type { Projection, StoredHold } from "./sql/log-pages.ts";
import type { Finding, FindingKind } from "./finding.ts";
import { brokenLaws } from "./row-laws.ts";

/** Takes differences. */
export type Report = (finding: Finding) => void;

/** What an account's rows come to. */
export class AccountFold {
  readonly userId: bigint;
  readonly currency: string;
  readonly #report: Report;
  #account: Account;
  #last: { readonly id: bigint; readonly hash: string } | undefined;
  /** Whether the row before is missing or can't be read: what follows from it can't be checked. */
  #gap = false;
  /** Whether any row is: the holds that it moved aren't known. */
  #incomplete = false;
  #broken = false;
  #placed = 0n;
  readonly #open = new Map<bigint, Hold>();
  #ended: Hold[] = [];

  constructor(userId: bigint, currency: string, report: Report) {
    this.userId = userId;
    this.currency = currency;
    this.#account = newAccount(userId, currency);
    this.#report = report;
  }

  /** The account as its last row left it. */
  get account(): Account {
    return this.#account;
  }

  /** The hash of its last row. */
  get head(): string | undefined {
    return this.#last?.hash;
  }

  /** Whether a row was wrong, or missing. */
  get broken(): boolean {
    return this.#broken;
  }

  /** The holds that are open at its last row. */
  get open(): ReadonlyMap<bigint, Hold> {
    return this.#open;
  }

  /** The holds that ended since this was asked last. */
  takeEnded(): readonly Hold[] {
    const ended = this.#ended;
    this.#ended = [];
    return ended;
  }

  /** Adds the next row. */
  add(row: LogRow): void {
    const { sequence } = this.#account;
    if (this.#last !== undefined && row.id <= this.#last.id) this.#wrong("row_out_of_order", row, "id", `above ${this.#last.id}`, `${row.id}`);
    if (row.sequence <= sequence) this.#wrong("row_out_of_order", row, "sequence", `${sequence + 1n}, once`, `${row.sequence}`);
    else if (row.sequence > sequence + 1n) {
      this.#wrong("row_missing", { ...row, id: undefined, sequence: sequence + 1n }, "sequence", `${sequence + 1n}`, `${row.sequence} next`);
      this.#gap = true;
      this.#incomplete = true;
    }
    if (row.problem === undefined) this.#fold(row);
    else {
      this.#wrong("row_unreadable", row, "row", "figures of a known currency", row.problem);
      this.#account = { ...this.#account, sequence: row.sequence };
      this.#incomplete = true;
    }
    this.#gap = row.problem !== undefined;
    this.#last = row;
  }

  #fold(row: ReadableRow): void {
    const before = this.#account;
    if (!this.#gap) {
      // The first row of an account has none before it.
      if (chainHash(this.#last?.hash, row, row.figures) !== row.hash) {
        this.#wrong("row_altered", row, "hash", "the hash of its fields and of the row before", row.hash);
      }
      this.#figure(row, "balance_after", before.balance + row.amount, row.balanceAfter);
      this.#figure(row, "held_after", before.held + row.heldChange, row.heldAfter);
      if (row.type !== "credit_limit") this.#figure(row, "credit_limit_after", before.creditLimit, row.creditLimitAfter);
    }
    if (row.createdAt < before.time) this.#wrong("row_out_of_order", row, "created_at", `not before ${before.time}`, `${row.createdAt}`);
    for (const law of brokenLaws(row)) this.#wrong("law_broken", row, law.what, law.expected, law.actual);
    this.#account = accountAfter(row);
    if (row.holdId !== undefined) this.#moveHold(row, row.holdId);
  }

  #figure(row: ReadableRow, what: string, expected: bigint, actual: bigint): void {
    if (expected !== actual) this.#wrong("figures_wrong", row, what, `${expected} minor units`, `${actual}`);
  }

  #moveHold(row: ReadableRow, id: bigint): void {
    if (row.type === "hold") {
      const { userId, currency, heldChange: amount, jobId, holdExpiresAt: expiresAt = 0n, createdAt } = row;
      if (this.#open.has(id)) this.#wrong("law_broken", row, "hold_id", "a new hold", `${id}, which is open already`);
      this.#placed += 1n;
      this.#open.set(id, { id, userId, currency, amount, captured: 0n, state: "open", jobId, expiresAt, createdAt });
      return;
    }
    const before = this.#open.get(id);
    if (before === undefined) {
      if (!this.#incomplete) this.#wrong("law_broken", row, "hold_id", "an open hold of the account", `${id}`);
      return;
    }
    const left = remaining(before);
    const after = row.type === "capture" ? captureHold(before, -row.amount, row.heldChange) : endHold(before, row.type === "expiry" ? "expired" : "released");
    if (row.type === "capture" ? -row.heldChange > left || after.captured > before.amount : -row.heldChange !== left) {
      this.#wrong("law_broken", row, "held_change", row.type === "capture" ? `at most the ${left} that the hold reserves` : `${-left}`, `${row.heldChange}`);
    }
    if (row.holdCaptured !== after.captured) this.#wrong("law_broken", row, "hold_captured", `${after.captured}`, `${row.holdCaptured}`);
    if (row.jobId !== before.jobId) this.#wrong("law_broken", row, "job_id", `${before.jobId}, the hold's`, `${row.jobId}`);
    if (after.state === "open") this.#open.set(id, after);
    else {
      this.#open.delete(id);
      this.#ended.push(after);
    }
  }

  /** Holds its balance row, at its last row, against it. */
  compare(projection: Projection | undefined, digits: number | undefined): void {
    const { userId, currency, sequence } = this.#account;
    if (projection === undefined) {
      this.#report({ kind: "balance_missing", userId, currency, sequence, what: "user_balances", expected: "a row", actual: "none" });
      return;
    }
    if (projection.sequence > sequence) {
      this.#broken = true;
      this.#report({ kind: "log_truncated", userId, currency, sequence: sequence + 1n, what: "sequence", expected: `rows up to ${projection.sequence}, as the balance row has it`, actual: `${sequence}` });
      return;
    }
    for (const [what, expected, actual] of this.#columns(projection, digits)) {
      if (expected !== actual) this.#report({ kind: "balance_wrong", userId, currency, what, expected, actual });
    }
    if (!this.#incomplete && projection.holds !== this.#placed) {
      const kind = projection.holds > this.#placed ? "hold_unfounded" : "hold_missing";
      this.#report({ kind, userId, currency, what: "count of holds", expected: `${this.#placed}`, actual: `${projection.holds}` });
    }
  }

  #columns(projection: Projection, digits: number | undefined): readonly (readonly [what: string, expected: string, actual: string])[] {
    const { balance, held, creditLimit, sequence, time } = this.#account;
    const amounts = [["balance", balance, projection.balance], ["held", held, projection.held], ["credit_limit", creditLimit, projection.creditLimit]] as const;
    return [
      ...amounts.map(([what, expected, actual]) => [what, `${expected}`, digits === undefined ? actual : minorText(actual, digits)] as const),
      ["sequence", `${sequence}`, `${projection.sequence}`],
      // Of an account without rows, nobody asks when it came to be.
      ["updated_at", `${time}`, sequence === 0n ? `${time}` : `${projection.time}`],
      ["chain_head", this.#last?.hash ?? "none", projection.head ?? "none"],
    ];
  }

  /** Holds a stored hold against what the rows made of it. */
  compareHold(hold: Hold, stored: StoredHold | undefined, digits: number): void {
    const { userId, currency, id: holdId } = hold;
    if (stored === undefined) {
      this.#report({ kind: "hold_missing", userId, currency, holdId, what: "holds", expected: hold.state, actual: "none" });
      return;
    }
    const columns = [
      ["user_id", `${userId}`, `${stored.userId}`],
      ["currency", currency, stored.currency],
      ["amount", `${hold.amount}`, minorText(stored.amount, digits)],
      ["captured", `${hold.captured}`, minorText(stored.captured, digits)],
      ["state", hold.state, stored.state],
      ["job_id", `${hold.jobId ?? "none"}`, `${stored.jobId ?? "none"}`],
      ["expires_at", `${hold.expiresAt}`, `${stored.expiresAt}`],
      ["created_at", `${hold.createdAt}`, `${stored.createdAt}`],
    ] as const;
    for (const [what, expected, actual] of columns) {
      if (expected !== actual) this.#report({ kind: "hold_wrong", userId, currency, holdId, what, expected, actual });
    }
  }

  #wrong(kind: FindingKind, row: Pick<LogRow, "sequence"> & { readonly id: bigint | undefined }, what: string, expected: string, actual: string): void {
    const { userId, currency } = this;
    this.#broken = true;
    this.#report({ kind, userId, currency, ...(row.id === undefined ? {} : { transactionId: row.id }), sequence: row.sequence, what, expected, actual });
  }
}

/** A stored amount in minor units; as it is, if it has digits that its currency has not. */
export function minorText(stored: string, digits: number): string {
  try {
    return `${minor(stored, digits)}`;
  } catch {
    return stored;
  }
}
