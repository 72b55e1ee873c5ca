// Looks at all that a database holds, past the service, and checks it.

import { expect } from "vitest";
import { currenciesWith, currencyOf } from "../../src/domain/money/currency.ts";
import { ADOPTER, type Transaction } from "../../src/domain/journal/transaction.ts";
import { chainHash, figuresOf } from "../../src/domain/journal/chain.ts";
import { accountColumns, holdColumns, rowsFor, transactionColumns } from "../../src/postgres/rows/rows.ts";
import type { TestDatabase } from "./database.ts";
import { checkLaws, type Ledger } from "./laws.ts";
import { accountId } from "../../src/domain/money/account.ts";

const currencies = currenciesWith([{ code: "CRD", digits: 6 }]);
const rows = rowsFor(currencies);

/** A ledger as it lies in its database. */
export interface StoredLedger extends Ledger {
  readonly log: readonly Transaction[];
}

/** Reads everything, in one snapshot. */
export async function readLedger({ query }: Pick<TestDatabase, "query">): Promise<StoredLedger> {
  await query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
  const log = await query(`SELECT ${transactionColumns.sql} FROM ledgerd.transactions t ORDER BY t.id`);
  const accounts = await query(`SELECT ${accountColumns.sql} FROM ledgerd.user_balances b`);
  const holds = await query(`SELECT ${holdColumns.sql} FROM ledgerd.holds h ORDER BY h.id`);
  await query("COMMIT");
  return {
    log: log.map((row) => rows.transaction.parse(row)),
    accounts: accounts.map((row) => rows.account.parse(row)),
    holds: holds.map((row) => rows.hold.parse(row)),
  };
}

/** Checks the laws, the chains, and that each key names what was written under it. Answers what was read. */
export async function checkDatabase(database: Pick<TestDatabase, "query">): Promise<StoredLedger> {
  const ledger = await readLedger(database);
  checkLaws(ledger);
  await checkChains(ledger, database);
  await checkKeys(ledger, database);
  return ledger;
}

async function checkChains({ log }: StoredLedger, { query }: Pick<TestDatabase, "query">): Promise<void> {
  const heads = new Map<string, string>();
  for (const row of log) {
    const account = accountId(row.userId, row.currency);
    const hash = chainHash(heads.get(account), row, figuresOf(row, currencyOf(currencies, row.currency).digits));
    expect(hash, `row ${row.id}: its hash follows from it and the one before`).toBe(row.hash);
    heads.set(account, hash);
  }
  const stored = await query<{ user_id: bigint; currency: string; chain_head: string }>("SELECT user_id, currency, chain_head FROM ledgerd.user_balances WHERE sequence > 0");
  const ends = stored.map(({ user_id: userId, currency, chain_head: head }) => [accountId(userId, currency), head] as const);
  expect(new Map(ends), "each account knows its chain's head").toEqual(heads);
}

async function checkKeys({ log }: StoredLedger, { query }: Pick<TestDatabase, "query">): Promise<void> {
  const keys = await query<{ user_id: bigint; key: string; transaction_id: bigint | null; further_transaction_ids: string[] | null }>(
    "SELECT user_id, key, transaction_id, further_transaction_ids FROM ledgerd.idempotency_keys",
  );
  // 0: no money moved.
  const named = keys.flatMap(({ transaction_id: first, further_transaction_ids: others }) => [first ?? 0n, ...(others ?? []).map(BigInt)]).filter((id) => id > 0n);
  expect(new Set(named).size, "no row has two keys").toBe(named.length);
  // Expiries have none, and what ends a job needs none: the job's state is the key. What was adopted was written under no call.
  const needsKey = ({ type, jobId, actor }: Transaction): boolean => type !== "expiry" && actor !== ADOPTER && (jobId === undefined || type === "hold");
  const missing = log.filter((row) => needsKey(row) && !named.includes(row.id));
  expect(missing, "each row was written under a key").toEqual([]);
  const byId = new Map(log.map((row) => [row.id, row]));
  for (const { user_id: userId, key, transaction_id: id } of keys) {
    const row = id === null ? undefined : byId.get(id);
    if (row?.idempotencyKey !== undefined) expect([row.userId, row.idempotencyKey], `the first row of key ${key}`).toEqual([userId, key]);
  }
}
