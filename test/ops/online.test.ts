// Verification of a ledger that is written to: what holds is found to hold.

import { afterAll, beforeAll, expect, test } from "vitest";
import { currenciesWith } from "../../src/domain/money/currency.ts";
import type { Finding } from "../../src/verification/finding.ts";
import { verifyAccounts } from "../../src/verification/verify-accounts.ts";
import { ProofSession } from "../../src/verification/sql/session.ts";
import { block } from "../harness/blocker.ts";
import { past } from "../harness/damage.ts";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { Load } from "../harness/load.ts";
import { newKey, serve, type TestService } from "../harness/service.ts";
import { until } from "../harness/until.ts";
import { verify, writeSome } from "../harness/verification.ts";

let database: TestDatabase;
let service: TestService;
let lastUser = 1_000_000n;

beforeAll(async () => {
  database = await createDatabase();
  service = await serve(database.url, { LEDGERD_VERIFY_RATE: "0" });
});

afterAll(async () => {
  await service.close();
  await database[Symbol.asyncDispose]();
});

const rub = (amount: string) => ({ currency: "RUB", amount });

/** A user with so many top-ups of 1. */
async function userWith(rows: number): Promise<bigint> {
  const userId = (lastUser += 10n);
  for (let from = 0; from < rows; from += 500) {
    const writes = Array.from({ length: Math.min(500, rows - from) }, () => ({ write: { case: "topUp" as const, value: { userId, amount: rub("1"), idempotencyKey: newKey() } } }));
    await service.ledger.batchWrite({ writes });
  }
  return userId;
}

/** Places holds on a user's account, and ends each one a while later, until it is told to end. */
async function keepHolding(userId: bigint, signal: AbortSignal): Promise<void> {
  const open: bigint[] = [];
  while (!signal.aborted) {
    const { hold } = await service.ledger.placeHold({ userId, amount: rub("2"), idempotencyKey: newKey() });
    open.push(hold?.id ?? 0n);
    const holdId = open.length > 20 ? open.shift() : undefined;
    if (holdId === undefined) continue;
    await service.ledger.captureHold({ userId, holdId, amount: rub("1"), idempotencyKey: newKey() });
    await service.ledger.releaseHold({ userId, holdId, idempotencyKey: newKey() });
  }
}

test("holds while it is written to, with accounts larger than what is read at a time, whose holds come and go", async () => {
  const hot = await userWith(6000);
  await using load = new Load({ grpcAddress: service.grpcAddress, firstUser: 500n });
  const over = new AbortController();
  const holding = [1, 2, 3, 4].map(() => keepHolding(hot, over.signal));
  const everything = (async () => {
    while (!over.signal.aborted) await writeSome(service, (lastUser += 10n));
  })();
  for (let round = 0; round < 4; round += 1) {
    await load.goesOn();
    expect((await verify(database.url)).findings).toEqual([]);
  }
  over.abort();
  await Promise.all([...holding, everything, load.finish()]);
});

/** Goes through all accounts in pages of so many rows, and does something before each page. */
async function accountsInPages(url: string, limit: number, beforePage: () => Promise<void>) {
  const session = await ProofSession.open(url, 5000);
  const measure = async <T>(read: (limit: number) => Promise<T>): Promise<T> => {
    await beforePage();
    return read(limit);
  };
  const counts = { rows: 0, accounts: 0, holds: 0, jobs: 0, keys: 0, heads: 0 };
  const context = { session, currencies: currenciesWith([{ code: "CRD", digits: 6 }]), counts, size: { measure }, lastId: 0n, settledBy: 0n, rest: () => Promise.resolve() };
  const findings: Finding[] = [];
  try {
    for await (const event of verifyAccounts(context, { rows: 0 }, () => undefined)) if (event.kind === "finding") findings.push(event.finding);
    return { findings, counts };
  } finally {
    await session.close();
  }
}

test.each([[2, 3], [3, 1], [4, 1], [4, 5]])("pages of %i rows: holds where each account gains %i rows before each page, at its edge or within it", async (limit, gained) => {
  await using own = await createDatabase();
  await using writer = await serve(own.url, { LEDGERD_VERIFY_RATE: "0" });
  const write = async (count: number): Promise<void> => {
    const value = (userId: bigint) => ({ userId, amount: rub("1"), idempotencyKey: newKey() });
    const writes = [1n, 2n, 3n].flatMap((userId) => Array.from({ length: count }, () => ({ write: { case: "topUp" as const, value: value(userId) } })));
    await writer.ledger.batchWrite({ writes });
  };
  await write(3);
  const { findings, counts } = await accountsInPages(own.url, limit, () => write(gained));
  expect(findings).toEqual([]);
  expect(counts.accounts, "none is left out, and none counted twice").toBe(3);
});

test("a row that was put in twice is named where a page ends between the two, though its account has gained more", async () => {
  await using own = await createDatabase();
  await using writer = await serve(own.url, { LEDGERD_VERIFY_RATE: "0" });
  const topUp = async (): Promise<void> => void (await writer.ledger.topUp({ userId: 1n, amount: rub("1"), idempotencyKey: newKey() }));
  for (let row = 1; row <= 3; row += 1) await topUp();
  let pages = 0;
  const { findings, counts } = await accountsInPages(own.url, 3, async () => {
    pages += 1;
    if (pages !== 2) return;
    await past(own, "CREATE TABLE public.twice AS SELECT * FROM ledgerd.transactions WHERE sequence = 3", "UPDATE public.twice SET id = id + 10000000", "INSERT INTO ledgerd.transactions SELECT * FROM public.twice");
    await topUp();
  });
  expect(new Set(findings.map(({ kind }) => kind))).toEqual(new Set(["row_out_of_order", "row_altered", "figures_wrong"]));
  expect([counts.accounts, counts.rows]).toEqual([1, 4]);
});

test("is gone through once all have ended who may yet commit below its last id", async () => {
  await userWith(1);
  const writer = await block(database, `
    INSERT INTO ledgerd.transactions (user_id, amount, type, sequence, balance_after, held_after, credit_limit_after, hash)
    VALUES (900, 1, 'topup', 1, 1, 0, 0, '')`);
  const verification = verify(database.url);
  const asked = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE '%FROM pg_locks%'";
  await until(async () => (await database.query(asked)).length > 0);
  await writer.release();
  expect((await verification).findings).toEqual([]);
});

test("is gone through at the pace that was asked for", async () => {
  const { summary } = await verify(database.url, { rowsPerSecond: 20_000 });
  expect(summary.seconds).toBeGreaterThan((summary.rows - 4000) / 20_000);
});
