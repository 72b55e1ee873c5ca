// Adoptions as tests run them, and the laws that hold after one: told from the two databases, past the code that adopted.

import { expect } from "vitest";
import { currenciesWith } from "../../src/domain/money/currency.ts";
import { AdoptionProblem } from "../../src/adoption/rules/adoption.ts";
import { ADOPTER } from "../../src/domain/journal/transaction.ts";
import { adopt } from "../../src/adoption/adopt.ts";
import { rehearse } from "../../src/adoption/rehearsal.ts";
import type { AdoptOptions, AdoptReport } from "../../src/adoption/terms.ts";
import type { TestDatabase } from "../harness/database.ts";
import { checkDatabase, type StoredLedger } from "../harness/inspect.ts";
import { verify } from "../harness/verification.ts";

type Database = Pick<TestDatabase, "query">;

const currencies = currenciesWith([]);

/** How a test adopts, where it differs from the defaults. */
export interface Variation extends Partial<Omit<AdoptOptions, "source">> {
  readonly schema?: string;
  readonly timeZone?: string;
  readonly surveyBlocks?: number;
}

function optionsOf(old: Pick<TestDatabase, "url">, { schema = "public", timeZone = "UTC", surveyBlocks = 100_000, ...rest }: Variation): AdoptOptions {
  const source = { url: old.url, schema, timeZone, connectTimeoutMs: 5000, queryTimeoutMs: 30_000, surveyBlocks };
  return { source, currencies, fallback: "RUB", renamed: new Map(), ignoreSessions: true, batch: 1000, tell: () => undefined, ...rest };
}

/** Adopts one database into another, in this process. */
export function adoptDatabase(old: Pick<TestDatabase, "url">, ledger: Pick<TestDatabase, "url">, variation: Variation = {}): Promise<AdoptReport> {
  return adopt(ledger.url, optionsOf(old, variation), async () => {
    const { findings } = await verify(ledger.url, { currencies });
    expect(findings, "verification finds nothing").toEqual([]);
  });
}

/** What adopting it would find. */
export function rehearseDatabase(old: Pick<TestDatabase, "url">, variation: Variation = {}): Promise<AdoptReport> {
  return rehearse(optionsOf(old, variation));
}

/** What became of an adoption: its report, but for the outcome, or the sentence that it was refused with. */
export type Became = { readonly report: Omit<AdoptReport, "outcome"> } | { readonly refused: string };

/** Rehearses and adopts: both must come to the same. */
export async function adoptRehearsed(old: Pick<TestDatabase, "url">, ledger: TestDatabase, variation: Variation = {}): Promise<Became> {
  const before = await ledger.query("SELECT count(*) FROM ledgerd.adoptions");
  const rehearsed = await becameOf(rehearseDatabase(old, variation));
  const adopted = await becameOf(adoptDatabase(old, ledger, variation));
  expect(adopted, "the run comes to what the rehearsal came to").toEqual(rehearsed);
  if ("refused" in adopted) expect(await ledger.query("SELECT count(*) FROM ledgerd.adoptions"), "nothing was written").toEqual(before);
  return adopted;
}

async function becameOf(adoption: Promise<AdoptReport>): Promise<Became> {
  try {
    const { outcome: _outcome, ...report } = await adoption;
    return { report };
  } catch (error) {
    // Anything else would be printed with its stack trace.
    if (!(error instanceof AdoptionProblem)) throw error;
    expect(error.message, "one sentence").not.toMatch(/\n/);
    return { refused: error.message };
  }
}

/** Checks everything that must hold after an adoption. */
export async function checkAdopted(old: Database, ledger: Database): Promise<StoredLedger> {
  const stored = await checkDatabase(ledger);
  await checkBalances(old, stored);
  const rows = await old.query<{ id: number; user_id: bigint }>("SELECT id, user_id FROM transactions");
  const expected = rows.map(({ id, user_id: userId }) => `${userId} transactions/${id}`);
  const adopted = stored.log.filter(({ reference }) => reference !== "").map(({ userId, reference }) => `${userId} ${reference}`);
  expect(adopted.toSorted(), "each old transaction is in the log once").toEqual(expected.toSorted());
  expect(stored.log.filter(({ actor }) => actor !== ADOPTER)).toEqual([]);
  const [jobs] = await ledger.query<{ held: bigint }>("SELECT count(*) AS held FROM ledgerd.jobs WHERE cost <> 0 OR hold_id IS NOT NULL");
  expect(jobs?.held, "no adopted job holds or costs anything").toBe(0n);
  const ids = async ({ query }: Database, table: "jobs" | "ledgerd.jobs") => query(`SELECT id::int8, user_id FROM ${table} ORDER BY id`);
  expect(await ids(ledger, "ledgerd.jobs"), "each job is there by its old id").toEqual(await ids(old, "jobs"));
  return stored;
}

/** What the old application would have answered for each user is what they have, and nothing beside it. */
async function checkBalances(old: Database, { accounts }: StoredLedger): Promise<void> {
  // PostgreSQL's own arithmetic, on the number as it prints it.
  const rows = await old.query<{ user_id: bigint; minor: string; currency: string | null }>(
    "SELECT user_id::int8, trim_scale(coalesce(balance::text, '0')::numeric * 10000)::text AS minor, currency::text FROM user_balances",
  );
  const expected = rows.flatMap(({ user_id: userId, minor: tenThousandths, currency }) => {
    const code = (currency ?? "").trim().toUpperCase() || "RUB";
    const minor = BigInt(tenThousandths) / 10n ** BigInt(4 - (currencies.get(code)?.digits ?? 2));
    return minor === 0n ? [] : [`${userId} ${code} ${minor}`];
  });
  const found = accounts.flatMap(({ userId, currency, balance }) => (balance === 0n ? [] : [`${userId} ${currency} ${balance}`]));
  expect(found.toSorted(), "each user has the old balance").toEqual(expected.toSorted());
}

/** The log as an adoption wrote it, but for what differs from one adoption to another: ids, hashes, and the times that it began at. */
export async function adoptedLog({ query }: Database): Promise<readonly object[]> {
  return query(
    `SELECT t.user_id, t.currency, t.sequence, t.type, t.amount, t.balance_after, t.reference, t.description, t.metadata,
            CASE WHEN t.created_at < a.started_at THEN t.created_at END AS created_at
     FROM ledgerd.transactions t, ledgerd.adoptions a ORDER BY t.user_id, t.currency, t.sequence`,
  );
}
