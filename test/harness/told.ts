// What callers were told, held against what lies in the database.

import { expect } from "vitest";
import { currenciesWith } from "../../src/domain/money/currency.ts";
import type { Balance, Transaction } from "../../src/gen/ledger/v1/account_pb.ts";
import { accountAfter } from "../../src/domain/journal/transaction.ts";
import type { BatchWriteResponse, WriteResult } from "../../src/gen/ledger/v1/ledger_service_pb.ts";
import { answersFor } from "../../src/rpc/answers.ts";
import type { StoredLedger } from "./inspect.ts";

const answers = answersFor(currenciesWith([{ code: "CRD", digits: 6 }]));

/** What the answers of all writes have. */
export interface Answer {
  readonly transaction?: Transaction | undefined;
  /** A transfer's. */
  readonly recipientTransaction?: Transaction | undefined;
  readonly balance?: Balance | undefined;
  readonly replayed: boolean;
}

/** Fails unless the log has the transactions of these answers, exactly as they were answered, and the balances are those after them. */
export function checkTold({ log }: StoredLedger, told: readonly Answer[]): void {
  const byId = new Map(log.map((row) => [row.id, row]));
  for (const { transaction, recipientTransaction, balance } of told) {
    const row = byId.get(transaction?.id ?? 0n);
    expect(row && answers.transaction(row), `transaction ${transaction?.id} is in the log as it was answered`).toEqual(transaction);
    expect(row && answers.balance(accountAfter(row)), `the balance after transaction ${transaction?.id}`).toEqual(balance);
    if (recipientTransaction === undefined) continue;
    const other = byId.get(recipientTransaction.id);
    expect(other && answers.transaction(other), `its other side, ${recipientTransaction.id}`).toEqual(recipientTransaction);
  }
}

/** The balances of these users, one for each account, as the log tells them. */
export function balancesIn({ accounts }: StoredLedger, users: readonly bigint[]): readonly Balance[] {
  return accounts.filter(({ userId }) => users.includes(userId)).map((account) => answers.balance(account));
}

/** An answer as it is given again under its key: all that was applied is marked as replayed. */
export function replayOf<A extends Answer | BatchWriteResponse>(answer: A): A {
  if (!("results" in answer)) return { ...answer, replayed: true };
  const replayed = (item: WriteResult): object =>
    item.result.case === "refusal" ? item : { ...item, result: { ...item.result, value: { ...item.result.value, replayed: true } } };
  return { ...answer, results: answer.results.map(replayed) };
}
