// Verification by the service: by calls of AdminService, and in the background; what it found is told by every process.

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Code, ConnectError } from "@connectrpc/connect";
import { currenciesWith } from "../../src/domain/money/currency.ts";
import { VerificationKind } from "../../src/gen/ledger/v1/admin_service_pb.ts";
import { BackgroundProof } from "../../src/verification/requested.ts";
import { openPool } from "../../src/postgres/connection/pool.ts";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { describeFailure, serve, type TestService } from "../harness/service.ts";
import { until } from "../harness/until.ts";
import { writeSome } from "../harness/verification.ts";

let database: TestDatabase;
let service: TestService;

beforeAll(async () => {
  database = await createDatabase();
  service = await serve(database.url, { LEDGERD_VERIFY_RATE: "0" });
  await writeSome(service, 1n);
});

afterAll(async () => {
  await service.close();
  await database[Symbol.asyncDispose]();
});

const damage = () => database.query("UPDATE ledgerd.user_balances SET balance = balance + 1 WHERE user_id = 1 AND currency = 'RUB'");
const repair = () => database.query("UPDATE ledgerd.user_balances SET balance = balance - 1 WHERE user_id = 1 AND currency = 'RUB'");

/** All events of a stream. */
async function all<T>(stream: AsyncIterable<T>): Promise<readonly T[]> {
  const events: T[] = [];
  for await (const event of stream) events.push(event);
  return events;
}

/** The value of a metric, by its name and labels. */
async function metric({ httpAddress }: Pick<TestService, "httpAddress">, name: string): Promise<number | undefined> {
  const response = await fetch(`http://${httpAddress}/metrics`);
  expect([response.status, response.headers.get("content-type")]).toEqual([200, "text/plain; version=0.0.4; charset=utf-8"]);
  const line = (await response.text()).split("\n").find((one) => one.startsWith(`${name} `));
  return line === undefined ? undefined : Number(line.slice(name.length + 1));
}

describe("AdminService", () => {
  test("verifies as a stream: how far it is, each difference, and a summary at the end", async () => {
    const clean = await all(service.admin.verifyLedger({}));
    expect(clean.some(({ event }) => event.case === "difference")).toBe(false);
    const [{ rows } = { rows: 0n }] = await database.query<{ rows: bigint }>("SELECT count(*) AS rows FROM ledgerd.transactions");
    expect(clean.at(-1)?.event).toMatchObject({ case: "summary", value: { transactions: rows, differences: 0n } });
    expect(clean[0]?.event).toMatchObject({ case: "progress", value: { phase: "accounts" } });
    await damage();
    const found = await all(service.admin.verifyLedger({}));
    expect(found.filter(({ event }) => event.case === "difference")).toMatchObject([{ event: { value: { kind: "balance_wrong", userId: 1n, currency: "RUB", what: "balance" } } }]);
    expect(found.at(-1)?.event).toMatchObject({ case: "summary", value: { differences: 1n } });
    const { verifications } = await service.admin.getServiceStatus({});
    expect(verifications).toMatchObject([{ kind: VerificationKind.REQUESTED, transactions: rows, differences: 1n, lastTransactionId: rows }]);
    expect(Number(verifications[0]?.finishTime?.seconds)).toBeGreaterThan(1_700_000_000);
  });

  test("rebuilds as a stream, with the rights that the service has", async () => {
    const events = await all(service.admin.rebuildBalances({}));
    expect(events.filter(({ event }) => event.case === "repaired")).toMatchObject([{ event: { value: { userId: 1n, currency: "RUB", holdId: 0n, columns: [{ name: "balance" }] } } }]);
    expect(events.at(-1)?.event).toMatchObject({ case: "summary", value: { repairedBalances: 1n, repairedHolds: 0n, left: 0n } });
    await database.query("DELETE FROM ledgerd.holds WHERE user_id = 1 AND job_id IS NULL");
    await damage();
    expect((await all(service.admin.rebuildBalances({ trustLog: true }))).at(-1)?.event).toMatchObject({ value: { repairedBalances: 1n, repairedHolds: 0n } });
    expect((await all(service.admin.rebuildBalances({}))).at(-1)?.event).toMatchObject({ value: { repairedBalances: 0n, repairedHolds: 3n, left: 0n } });
    expect((await all(service.admin.verifyLedger({}))).at(-1)?.event).toMatchObject({ value: { differences: 0n } });
  });

  test("does one of these at a time in each process, and is free again when the caller is gone", async () => {
    const session = await database.connect();
    await session.query("BEGIN; LOCK ledgerd.user_balances IN ACCESS EXCLUSIVE MODE");
    const leaving = new AbortController();
    const first = all(service.admin.verifyLedger({}, { signal: leaving.signal }));
    await until(async () => (await database.query("SELECT FROM pg_stat_activity WHERE application_name = 'ledgerd verify' AND datname = current_database() AND wait_event_type = 'Lock'")).length > 0);
    for (const call of [service.admin.verifyLedger({}), service.admin.rebuildBalances({})]) {
      const failure = describeFailure(await all<unknown>(call).then(() => undefined, (error: unknown) => error));
      expect(failure).toMatchObject({ code: Code.ResourceExhausted, reason: "OVERLOADED" });
    }
    leaving.abort();
    await expect(first).rejects.toThrow(ConnectError);
    await session.query("ROLLBACK");
    await session.end();
    await until(() => all(service.admin.verifyLedger({})).then(() => true, () => false));
  });
});

describe("in the background", () => {
  test("one instance verifies again and again; what it finds is told by all, as a metric and by GetServiceStatus, and is over when it is mended", async () => {
    const settings = { LEDGERD_VERIFY_RATE: "100000", LEDGERD_VERIFY_PAUSE: "100ms" };
    await using one = await serve(database.url, settings);
    await using two = await serve(database.url, settings);
    const differences = 'ledgerd_verify_differences{kind="background"}';
    await until(async () => (await metric(one, differences)) === 0);
    await damage();
    for (const any of [one, two, service]) await until(async () => (await metric(any, differences)) === 1);
    expect((await service.admin.getServiceStatus({})).verifications).toContainEqual(expect.objectContaining({ kind: VerificationKind.BACKGROUND, differences: 1n }));
    await repair();
    await until(async () => (await metric(service, differences)) === 0);
    expect(await metric(service, 'ledgerd_verify_last_completed_timestamp_seconds{kind="background"}')).toBeGreaterThan(1_700_000_000);
    expect(await metric(service, "ledgerd_verify_rows_total"), "it is told not to").toBe(0);
    const rows = await Promise.all([one, two].map((instance) => metric(instance, "ledgerd_verify_rows_total")));
    expect(rows.filter((count) => count === 0), "the other one leaves it to the first").toHaveLength(1);
  });

  /** Verifications as instances have them, whose rounds end after a step unless they are told to be longer. */
  async function stepping(work: (begin: (roundMs?: number) => BackgroundProof) => Promise<void>): Promise<void> {
    const limits = { connectTimeoutMs: 5000, queryTimeoutMs: 10_000, idleTimeoutMs: 10_000 };
    const pool = await openPool({ url: database.url, min: 0, max: 2, ...limits, onError: () => undefined });
    const begun: BackgroundProof[] = [];
    const options = { url: database.url, pool, currencies: currenciesWith([]), connectTimeoutMs: 5000, rowsPerSecond: 100_000, pauseMs: 0, log: () => undefined };
    try {
      await work((roundMs = 1) => {
        const proof = new BackgroundProof({ ...options, roundMs });
        begun.push(proof);
        return proof;
      });
    } finally {
      for (const proof of begun) await proof.stop(() => Promise.resolve());
      await pool.end();
    }
  }

  const recorded = async () => (await database.query<{ differences: bigint; finished: boolean }>("SELECT differences, finished_at IS NOT NULL AS finished FROM ledgerd.verifications WHERE kind = 'background'"))[0];

  test("a verification that lost its turn half way is begun anew: it doesn't end with what it saw before others found damage", async () => {
    await stepping(async (begin) => {
      const [one, two] = [begin(), begin()];
      await database.query("DELETE FROM ledgerd.verifications");
      while (one.rows === 0) await one.round(1n);
      expect((await recorded())?.finished, "it is under way").not.toBe(true);
      await damage();
      while ((await recorded())?.finished !== true) await two.round(2n);
      expect((await recorded())?.differences).toBe(1n);
      await database.query("DELETE FROM ledgerd.verifications");
      while ((await recorded())?.finished !== true) await one.round(3n);
      expect((await recorded())?.differences).toBe(1n);
      await repair();
    });
  });

  test("what a round found is told though it fails before its end", async () => {
    await stepping(async (begin) => {
      await database.query("DELETE FROM ledgerd.verifications");
      await damage();
      await database.query("ALTER TABLE ledgerd.idempotency_keys RENAME TO keys_away");
      await expect(begin(60_000).round(1n)).rejects.toThrow("idempotency_keys");
      await database.query("ALTER TABLE ledgerd.keys_away RENAME TO idempotency_keys");
      await repair();
      expect(await recorded()).toEqual({ differences: 1n, finished: false });
    });
  });
});
