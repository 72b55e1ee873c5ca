// The accounts of a group: which they are, and their rows, locked.

import { sql } from "slonik";
import { z } from "zod";
import { inLockOrder, type AccountName, type TransactionType } from "../../domain/money/account.ts";
import { ByAccount, type ReadonlyByAccount } from "../../domain/journal/by-account.ts";
import type { Command } from "../../domain/journal/command.ts";
import { accountColumns, noColumns, type Rows } from "../rows/rows.ts";
import { int8s, texts } from "../protocol/binary.ts";
import type { Send } from "../protocol/connection.ts";
import { type Submission, usersOf } from "../../domain/journal/submission.ts";
import { holdNamedBy, jobNamedBy, transactionNamedBy } from "../../domain/journal/kinds.ts";

/** What never changes of the holds and transactions that commands name; it says which accounts to lock. */
export interface Named {
  readonly holdAccounts: ReadonlyMap<bigint, AccountName>;
  readonly originals: ReadonlyMap<bigint, AccountName>;
}

/** How to lock: wait for other sessions, leave out what they have locked, or only look. */
export type LockMode = "wait" | "skip" | "look";

/** Ids, each with the user that it must belong to. */
export type Names = readonly (readonly [id: bigint, userId: bigint])[];

/** The holds that a group's commands name. */
export function holdsNamedBy(submissions: readonly Submission[]): Names {
  return namedBy(submissions, holdNamedBy);
}

/** The transactions that a group's commands name. */
export function transactionsNamedBy(submissions: readonly Submission[]): Names {
  return namedBy(submissions, transactionNamedBy);
}

/** The jobs that a group's commands name. */
export function jobsNamedBy(submissions: readonly Submission[]): Names {
  return namedBy(submissions, jobNamedBy);
}

/** What commands name, with their users. By loops: most commands name nothing, and lists of lists of that were a tenth of a group's garbage. */
function namedBy(submissions: readonly Submission[], nameIn: (command: Command) => bigint | undefined): Names {
  const names: (readonly [bigint, bigint])[] = [];
  for (const { commands } of submissions) {
    for (const command of commands) {
      const id = nameIn(command);
      if (id !== undefined) names.push([id, command.userId]);
    }
  }
  return names;
}

/** Reads what never changes of the named holds and transactions: no lock is needed. Sends nothing if none are named. */
export async function readNamed(send: Send, submissions: readonly Submission[]): Promise<Named> {
  const [holds, transactions] = [holdsNamedBy(submissions), transactionsNamedBy(submissions)];
  const [foundHolds, foundOriginals] = await Promise.all([
    holds.length === 0 ? [] : send(selectHoldAccounts(holds)),
    transactions.length === 0 ? [] : send(selectOriginals(transactions)),
  ]);
  return {
    holdAccounts: new Map(foundHolds.map(({ id, user_id: userId, currency }) => [id, { userId, currency }])),
    originals: new Map(foundOriginals.map(({ id, user_id: userId, currency }) => [id, { userId, currency }])),
  };
}

/**
 * Why a submission can't be decided yet: another session keeps one of its accounts locked, or it is behind such a one
 * that shares a user with it.
 */
export type Wait = "locked" | "behind";

/**
 * Which submissions must wait, where some accounts are not among the locked ones. Whatever waits holds back all behind
 * it that share a user with it: decided first, they might be refused for money that it brings, or take a key or a
 * unique reference that is its own. Those are the user's, in whichever currency.
 */
export function waitsOf(
  submissions: readonly Submission[],
  named: Named,
  locked: ReadonlyByAccount<unknown>,
): readonly (Wait | undefined)[] {
  const waiting = new Set<bigint>();
  return submissions.map((submission) => {
    const users = usersOf(submission);
    const accounts = accountsOfAll([submission], named);
    const isLocked = accounts.some(({ userId, currency }) => locked.get(userId, currency) === undefined);
    const isBehind = users.some((user) => waiting.has(user));
    if (isLocked || isBehind) for (const user of users) waiting.add(user);
    return isLocked ? "locked" : isBehind ? "behind" : undefined;
  });
}

/** All accounts that a group's commands change, each once, in the order in which every group locks them. */
export function accountsOfAll(submissions: readonly Submission[], named: Named): readonly AccountName[] {
  const seen = new ByAccount<true>();
  const distinct: AccountName[] = [];
  const add = (userId: bigint, currency: string): void => {
    if (seen.get(userId, currency) === true) return;
    seen.set(userId, currency, true);
    distinct.push({ userId, currency });
  };
  for (const { commands } of submissions) {
    for (const command of commands) {
      const currency = currencyOfCommand(command, named);
      add(command.userId, currency);
      if (command.kind === "transfer") add(command.toUserId, currency);
    }
  }
  return distinct.toSorted(inLockOrder);
}

function currencyOfCommand(command: Command, { holdAccounts, originals }: Named): string {
  const [holdId, transactionId] = [holdNamedBy(command), transactionNamedBy(command)];
  const ofOriginal = transactionId === undefined ? undefined : originals.get(transactionId);
  const named = holdId === undefined ? ofOriginal : holdAccounts.get(holdId);
  // What another user's command named is as good as not there.
  return named?.userId === command.userId ? named.currency : command.currency;
}

/** Makes the rows of accounts that don't exist yet, so that they can be locked. */
export function insertMissingAccounts(accounts: readonly AccountName[]) {
  return sql.prepared("insert_missing_accounts", noColumns)`
    INSERT INTO ledgerd.user_balances (user_id, currency)
    SELECT a.user_id, a.currency
    FROM ${accountTable(accounts)}
    ORDER BY a.user_id, a.currency
    ON CONFLICT DO NOTHING`;
}

/**
 * The account rows, locked in the order in which they are named. The last one tells the time: it is taken when all are locked. (Where locked
 * ones are left out, each tells it, since any may turn out to be the last.)
 */
export function selectAccounts(rows: Rows, accounts: readonly AccountName[], mode: LockMode) {
  const lock = { wait: sql.fragment`FOR UPDATE`, skip: sql.fragment`FOR UPDATE SKIP LOCKED`, look: sql.fragment`OFFSET 0` }[mode];
  const last = mode === "wait" ? accounts.length : 0;
  return sql.prepared(`select_accounts_${mode}`, rows.lockedAccount)`
    SELECT l.user_id, l.currency, l.balance, l.held, l.credit_limit, l.sequence, l.time, l.chain_head, l.row,
           CASE WHEN a.place >= ${last}::int8 THEN (extract(epoch FROM clock_timestamp()) * 1000000)::int8 END AS now
    FROM ${accountTable(accounts)}
    CROSS JOIN LATERAL (
      SELECT ${accountColumns}, b.chain_head, b.ctid::text AS row
      FROM ledgerd.user_balances b
      WHERE b.user_id = a.user_id AND b.currency = a.currency
      ${lock}
    ) AS l`;
}

/** Accounts as a table: `a (user_id, currency, place)`, their places from 1 on. */
export function accountTable(accounts: readonly AccountName[]) {
  const userIds = int8s(accounts.map(({ userId }) => userId));
  const currencies = texts(accounts.map(({ currency }) => currency));
  return sql.fragment`unnest(${userIds}::int8[], ${currencies}::text[]) WITH ORDINALITY AS a (user_id, currency, place)`;
}

/** Names as a table: `n (id, user_id)`. */
export function nameTable(names: Names) {
  const ids = int8s(names.map(([id]) => id));
  const users = int8s(names.map(([, userId]) => userId));
  return sql.fragment`unnest(${ids}::int8[], ${users}::int8[]) AS n (id, user_id)`;
}

const holdAccountRow = z.object({ id: z.bigint(), user_id: z.bigint(), currency: z.string() });

function selectHoldAccounts(names: Names) {
  return sql.prepared("select_hold_accounts", holdAccountRow)`
    SELECT n.id, n.user_id, f.currency
    FROM ${nameTable(names)}
    CROSS JOIN LATERAL (SELECT h.currency FROM ledgerd.holds h WHERE h.id = n.id AND h.user_id = n.user_id LIMIT 1) AS f`;
}

const originalRow = z.object({
  id: z.bigint(),
  user_id: z.bigint(),
  currency: z.string(),
  type: z.custom<TransactionType>((type) => typeof type === "string"),
  amount: z.string(),
});

/** The named transactions, as far as they are their users'. */
export function selectOriginals(names: Names) {
  return sql.prepared("select_originals", originalRow)`
    SELECT n.id, n.user_id, f.currency, f.type, f.amount
    FROM ${nameTable(names)}
    CROSS JOIN LATERAL (
      SELECT t.currency, t.type, t.amount FROM ledgerd.transactions t WHERE t.id = n.id AND t.user_id = n.user_id LIMIT 1
    ) AS f`;
}
