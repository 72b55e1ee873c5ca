// The laws of the ledger, over everything that it holds. They are checked against the pure core and against the real thing.

import { expect } from "vitest";
import { type Account, accountId, type Hold, newAccount, remaining } from "../../src/domain/money/account.ts";
import { ADOPTER, holdAfter, type Posting } from "../../src/domain/journal/transaction.ts";

/** A row of the log, without its hash. */
export type LogRow = Posting & { readonly id: bigint };

/** All that a ledger holds. */
export interface Ledger {
  /** In the order of ids. */
  readonly log: readonly LogRow[];
  readonly accounts: readonly Account[];
  readonly holds: readonly Hold[];
}

/** Fails if any law is broken. */
export function checkLaws({ log, accounts, holds }: Ledger): void {
  const folded = fold(log);
  const existing = accounts.filter(({ sequence }) => sequence > 0n);
  expect(byAccount(existing), "each balance is the sum of its account's rows").toEqual(byAccount([...folded.values()]));
  checkFloor(log);
  checkHolds(log, holds, existing);
  checkRefunds(log);
  checkTransfers(log);
}

/** The accounts as the log alone tells them. Fails where a row doesn't follow from the one before it. */
function fold(log: readonly LogRow[]): Map<string, Account> {
  const accounts = new Map<string, Account>();
  for (const row of log) {
    const name = accountId(row.userId, row.currency);
    const before = accounts.get(name) ?? newAccount(row.userId, row.currency);
    const after: Account = {
      ...before,
      balance: before.balance + row.amount,
      held: before.held + row.heldChange,
      creditLimit: row.creditLimitAfter,
      sequence: before.sequence + 1n,
      time: row.createdAt,
    };
    const context = `row ${row.id}, ${row.type} of user ${row.userId}`;
    expect(row.sequence, `${context}: sequences have no gap, in the order of ids`).toBe(after.sequence);
    expect([row.balanceAfter, row.heldAfter], `${context}: the figures after it`).toEqual([after.balance, after.held]);
    expect(row.createdAt >= before.time, `${context}: times don't go back`).toBe(true);
    if (row.type !== "credit_limit") expect(row.creditLimitAfter, `${context}: only its own rows change the limit`).toBe(before.creditLimit);
    accounts.set(name, after);
  }
  return accounts;
}

function checkFloor(log: readonly LogRow[]): void {
  for (const { id, type, balanceAfter, heldAfter, creditLimitAfter } of log) {
    if (!["deduction", "transfer_out", "hold"].includes(type)) continue;
    expect(balanceAfter - heldAfter + creditLimitAfter >= 0n, `row ${id}: spending stays above the floor`).toBe(true);
  }
}

function checkHolds(log: readonly LogRow[], holds: readonly Hold[], accounts: readonly Account[]): void {
  const rowsOfHold = Map.groupBy(log.filter((row) => row.holdId !== undefined), (row) => row.holdId);
  expect(rowsOfHold.size, "each hold is in the log, and no other").toBe(holds.length);
  for (const hold of holds) {
    const rows = rowsOfHold.get(hold.id) ?? [];
    const [placed, ...moves] = rows;
    expect(placed?.type, `hold ${hold.id} was placed first`).toBe("hold");
    expect([placed?.heldChange, placed?.holdExpiresAt], `hold ${hold.id} is what was placed`).toEqual([hold.amount, hold.expiresAt]);
    const captured = -sum(moves.map(({ amount }) => amount));
    const setFree = -sum(moves.map(({ heldChange }) => heldChange)) - captured;
    expect(captured, `hold ${hold.id}: what was captured`).toBe(hold.captured);
    expect(captured + setFree + remaining(hold), `hold ${hold.id}: captured and released are what was placed`).toBe(hold.amount);
    const ends = moves.filter((row) => holdAfter(row, hold).state !== "open");
    expect(ends.length, `hold ${hold.id} ends once, and nothing moves it after that`).toBe(hold.state === "open" ? 0 : 1);
    if (ends[0] !== undefined) {
      expect(moves.at(-1)?.id).toBe(ends[0].id);
      expect(holdAfter(ends[0], hold), `hold ${hold.id}: its last row tells how it ended`).toEqual(hold);
    }
  }
  for (const account of accounts) {
    const open = holds.filter(({ userId, currency }) => userId === account.userId && currency === account.currency);
    expect(account.held, `user ${account.userId}: held is what open holds reserve`).toBe(sum(open.map(remaining)));
  }
}

function checkRefunds(log: readonly LogRow[]): void {
  const byId = new Map(log.map((row) => [row.id, row]));
  // The old application didn't say what it gave back.
  const isOurs = (row: LogRow): boolean => row.actor !== ADOPTER || row.refundedTransactionId !== undefined;
  const refunds = Map.groupBy(log.filter((row) => row.type === "refund" && isOurs(row)), (row) => row.refundedTransactionId);
  for (const [id, rows] of refunds) {
    const original = byId.get(id ?? 0n);
    expect(original, `refunds of ${id} have an original`).toBeDefined();
    expect(rows.every(({ userId, currency }) => userId === original?.userId && currency === original.currency), "of the same account").toBe(true);
    expect(sum(rows.map(({ amount }) => amount)) <= -(original?.amount ?? 0n), `refunds of ${id} stay within the original`).toBe(true);
  }
}

function checkTransfers(log: readonly LogRow[]): void {
  const sides = log.filter((row) => row.type === "transfer_out" || row.type === "transfer_in");
  for (const [group, rows] of Map.groupBy(sides, (row) => row.groupId)) {
    expect(sum(rows.map(({ amount }) => amount)), `transfers of group ${group} conserve money`).toBe(0n);
    expect(rows.filter(({ type }) => type === "transfer_out").length * 2, `transfers of group ${group} have both sides`).toBe(rows.length);
  }
}

function sum(values: readonly bigint[]): bigint {
  return values.reduce((total, value) => total + value, 0n);
}

function byAccount(accounts: readonly Account[]): readonly Account[] {
  return accounts.toSorted((a, b) => (accountId(a.userId, a.currency) < accountId(b.userId, b.currency) ? -1 : 1));
}
