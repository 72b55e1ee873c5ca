// The calls that read accounts, holds and the log.

import { timestampFromMs, type Timestamp } from "@bufbuild/protobuf/wkt";
import { Code } from "@connectrpc/connect";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { HoldState, TransactionType, type Transaction } from "../../src/gen/ledger/v1/account_pb.ts";
import { ListOrder } from "../../src/gen/ledger/v1/ledger_service_pb.ts";
import { time } from "../../src/rpc/answers.ts";
import { pageToken as tokenOf } from "../../src/rpc/pages.ts";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { failureOf, newKey, serve, type TestService } from "../harness/service.ts";

let database: TestDatabase;
let service: TestService;

beforeAll(async () => {
  database = await createDatabase();
  service = await serve(database.url);
});

afterAll(async () => {
  await service.close();
  await database[Symbol.asyncDispose]();
});

const money = (amount: string, currency = "RUB") => ({ currency, amount });

async function topUp(userId: bigint, amount: string, extra: { currency?: string; reference?: string } = {}): Promise<Transaction> {
  const { transaction } = await service.ledger.topUp({ userId, amount: money(amount, extra.currency), idempotencyKey: newKey(), reference: extra.reference ?? "" });
  if (transaction === undefined) throw new Error("no transaction");
  return transaction;
}

/** The database's time, to the microsecond: after all that was written, before all that will be. */
async function moment(): Promise<Timestamp> {
  const [row] = await database.query<{ micros: bigint }>("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8 AS micros");
  return time(row?.micros ?? 0n);
}

describe("GetBalance", () => {
  test("of an account without transactions reads as zero", async () => {
    expect(await service.ledger.getBalance({ userId: 1n })).toMatchObject({
      balance: { userId: 1n, balance: money("0.00"), held: money("0.00"), available: money("0.00"), creditLimit: money("0.00"), sequence: 0n },
      provisional: false,
    });
    expect((await service.ledger.getBalance({ userId: 1n, currency: "JPY" })).balance?.balance).toMatchObject(money("0", "JPY"));
  });

  test("reads each currency by itself", async () => {
    await topUp(2n, "5");
    await topUp(2n, "7", { currency: "USD" });
    expect((await service.ledger.getBalance({ userId: 2n })).balance?.balance).toMatchObject(money("5.00"));
    expect((await service.ledger.getBalance({ userId: 2n, currency: "USD" })).balance?.balance).toMatchObject(money("7.00", "USD"));
  });

  test("as of a sequence reads the log", async () => {
    for (const amount of ["1", "10", "100"]) await topUp(3n, amount);
    const at = async (sequence: bigint) => (await service.ledger.getBalance({ userId: 3n, asOf: { case: "asOfSequence", value: sequence } })).balance;
    expect(await at(0n)).toMatchObject({ balance: money("0.00"), sequence: 0n });
    expect(await at(2n)).toMatchObject({ balance: money("11.00"), sequence: 2n });
    expect(await at(3n)).toMatchObject({ balance: money("111.00"), sequence: 3n });
    expect(await failureOf(at(4n))).toMatchObject({ code: Code.NotFound, reason: "TRANSACTION_NOT_FOUND", metadata: { sequence: "3" } });
  });

  test("as of a time reads what was there then; of one less than 10 s ago provisionally; of the future not at all", async () => {
    await topUp(4n, "1");
    const between = await moment();
    await topUp(4n, "10");
    const at = (value: Timestamp) => service.ledger.getBalance({ userId: 4n, asOf: { case: "asOfTime", value } });
    expect(await at(between)).toMatchObject({ balance: { balance: money("1.00"), sequence: 1n }, provisional: true });
    expect(await at(timestampFromMs(Date.now() - 3_600_000))).toMatchObject({ balance: { balance: money("0.00"), sequence: 0n }, provisional: false });
    expect(await failureOf(at(timestampFromMs(Date.now() + 3_600_000)))).toMatchObject({ reason: "INVALID_REQUEST", fields: ["as_of_time"] });
  });
});

describe("BatchGetBalances", () => {
  test("answers in the order asked for, the unknown ones as zero", async () => {
    await topUp(10n, "1");
    await topUp(11n, "2");
    const { balances } = await service.ledger.batchGetBalances({ userIds: [11n, 12n, 10n, 11n] });
    expect(balances.map(({ userId, balance }) => [userId, balance?.amount])).toEqual([[11n, "2.00"], [12n, "0.00"], [10n, "1.00"], [11n, "2.00"]]);
  });

  test("takes a moment as GetBalance does", async () => {
    await topUp(13n, "1");
    const between = await moment();
    await topUp(13n, "5");
    const { balances, provisional } = await service.ledger.batchGetBalances({ userIds: [13n, 14n], asOf: { case: "asOfTime", value: between } });
    expect(balances.map(({ balance }) => balance?.amount)).toEqual(["1.00", "0.00"]);
    expect(provisional).toBe(true);
  });
});

describe("GetTransaction", () => {
  test("finds by id, and by account and sequence", async () => {
    const transaction = await topUp(20n, "5");
    expect((await service.ledger.getTransaction({ name: { case: "transactionId", value: transaction.id } })).transaction).toEqual(transaction);
    expect((await service.ledger.getTransaction({ name: { case: "accountSequence", value: { userId: 20n, sequence: 1n } } })).transaction).toEqual(transaction);
  });

  test("says that there is none", async () => {
    const byId = service.ledger.getTransaction({ name: { case: "transactionId", value: 2n ** 62n } });
    expect(await failureOf(byId)).toMatchObject({ code: Code.NotFound, reason: "TRANSACTION_NOT_FOUND", metadata: { transaction_id: (2n ** 62n).toString() } });
    const bySequence = service.ledger.getTransaction({ name: { case: "accountSequence", value: { userId: 20n, sequence: 99n } } });
    expect(await failureOf(bySequence)).toMatchObject({ reason: "TRANSACTION_NOT_FOUND", metadata: { user_id: "20", sequence: "99" } });
  });
});

describe("ListTransactions", () => {
  /** All pages of a list, and how many items each had. */
  async function pages(request: Parameters<typeof service.ledger.listTransactions>[0]): Promise<{ ids: bigint[]; sizes: number[] }> {
    const ids: bigint[] = [];
    const sizes: number[] = [];
    let pageToken = "";
    do {
      const page = await service.ledger.listTransactions({ ...request, pageToken });
      ids.push(...page.transactions.map(({ id }) => id));
      sizes.push(page.transactions.length);
      pageToken = page.nextPageToken;
    } while (pageToken !== "");
    return { ids, sizes };
  }

  test("pages through all of a user's accounts in the order of ids, either way", async () => {
    const ids: bigint[] = [];
    for (const currency of ["RUB", "USD", "RUB", "RUB", "EUR", "USD", "RUB"]) ids.push((await topUp(30n, "1", { currency })).id);
    expect(await pages({ userId: 30n, pageSize: 3 })).toEqual({ ids: ids.toReversed(), sizes: [3, 3, 1] });
    expect(await pages({ userId: 30n, pageSize: 3, order: ListOrder.OLDEST_FIRST })).toEqual({ ids, sizes: [3, 3, 1] });
    expect((await pages({ userId: 30n })).ids).toEqual(ids.toReversed());
    expect((await pages({ userId: 30n, pageSize: 7 })).sizes, "an empty token is the only end, and comes with the last item").toEqual([7]);
  });

  test("filters by currency, type, reference and time", async () => {
    const userId = 31n;
    const first = await topUp(userId, "10", { reference: "a" });
    await topUp(userId, "10", { currency: "USD", reference: "a" });
    const between = await moment();
    const { transaction: deduction } = await service.ledger.deduct({ userId, amount: money("1"), idempotencyKey: newKey(), reference: "a" });
    const last = await topUp(userId, "10", { reference: "b" });
    const list = async (filter: object) => (await service.ledger.listTransactions({ userId, order: ListOrder.OLDEST_FIRST, ...filter })).transactions.map(({ id }) => id);
    expect(await list({ currency: "RUB" })).toEqual([first.id, deduction?.id, last.id]);
    expect(await list({ currency: "RUB", reference: "a" })).toEqual([first.id, deduction?.id]);
    expect(await list({ types: [TransactionType.DEDUCTION] })).toEqual([deduction?.id]);
    expect(await list({ types: [TransactionType.DEDUCTION, TransactionType.TOPUP], startTime: between })).toEqual([deduction?.id, last.id]);
    expect(await list({ endTime: between, currency: "RUB" })).toEqual([first.id]);
    expect(await list({ startTime: between, endTime: between })).toEqual([]);
    const exactly = last.createTime;
    expect(await list({ startTime: exactly }), "the start is included").toEqual([last.id]);
    expect(await list({ endTime: exactly, startTime: between }), "the end is not").toEqual([deduction?.id]);
  });

  test("keeps its place while new transactions come", async () => {
    const userId = 32n;
    const ids: bigint[] = [];
    for (let n = 0; n < 4; n++) ids.push((await topUp(userId, "1")).id);
    const first = await service.ledger.listTransactions({ userId, pageSize: 2 });
    await topUp(userId, "1");
    const second = await service.ledger.listTransactions({ userId, pageSize: 2, pageToken: first.nextPageToken });
    expect([...first.transactions, ...second.transactions].map(({ id }) => id)).toEqual(ids.toReversed());
    expect(second.nextPageToken).toBe("");
  });

  test("refuses the token of another list", async () => {
    for (let n = 0; n < 2; n++) await topUp(33n, "1");
    const { nextPageToken: pageToken } = await service.ledger.listTransactions({ userId: 33n, pageSize: 1 });
    for (const request of [{ userId: 34n, pageToken }, { userId: 33n, currency: "RUB", pageToken }, { userId: 33n, pageToken: `${pageToken}x` }, { userId: 33n, pageToken: "nonsense" }]) {
      expect(await failureOf(service.ledger.listTransactions(request))).toMatchObject({ code: Code.InvalidArgument, reason: "INVALID_REQUEST", fields: ["page_token"] });
    }
    expect((await service.ledger.listTransactions({ userId: 33n, pageSize: 500, pageToken })).transactions, "another size of page is fine").toHaveLength(1);
  });

  test("holds to the limits of pages", async () => {
    const writes = Array.from({ length: 1000 }, (_, n) => ({ write: { case: "topUp" as const, value: { userId: 35n, amount: money("1"), idempotencyKey: `${n}` } } }));
    await service.ledger.batchWrite({ writes });
    await topUp(35n, "1");
    expect((await service.ledger.listTransactions({ userId: 35n })).transactions).toHaveLength(50);
    expect((await service.ledger.listTransactions({ userId: 35n, pageSize: 2_000_000 })).transactions).toHaveLength(1000);
    expect(await failureOf(service.ledger.listTransactions({ userId: 35n, pageSize: -1 }))).toMatchObject({ reason: "INVALID_REQUEST", fields: ["page_size"] });
  });
});

describe("holds", () => {
  test("are listed by user and state, the newest first, in pages", async () => {
    const userId = 40n;
    await topUp(userId, "100");
    const ids: bigint[] = [];
    for (let n = 0; n < 5; n++) ids.push((await service.ledger.placeHold({ userId, amount: money("1"), idempotencyKey: newKey() })).hold?.id ?? 0n);
    await service.ledger.releaseHold({ userId, holdId: ids[1] ?? 0n, idempotencyKey: newKey() });
    const first = await service.ledger.listHolds({ userId, state: HoldState.OPEN, pageSize: 3 });
    expect(first.holds.map(({ id }) => id)).toEqual([ids[4], ids[3], ids[2]]);
    const second = await service.ledger.listHolds({ userId, state: HoldState.OPEN, pageSize: 3, pageToken: first.nextPageToken });
    expect(second).toMatchObject({ holds: [{ id: ids[0] }], nextPageToken: "" });
    expect((await service.ledger.listHolds({ userId, state: HoldState.RELEASED })).holds.map(({ id }) => id)).toEqual([ids[1]]);
    expect((await service.ledger.listHolds({ userId })).holds).toHaveLength(5);
    expect((await service.ledger.getHold({ holdId: ids[0] ?? 0n })).hold).toMatchObject({ userId, amount: money("1.00"), state: HoldState.OPEN });
    expect(await failureOf(service.ledger.getHold({ holdId: 2n ** 60n }))).toMatchObject({ code: Code.NotFound, reason: "HOLD_NOT_FOUND" });
  });
});

describe("GetStatement", () => {
  test("opens, lists, totals and closes, the same on every page", async () => {
    const userId = 50n;
    await topUp(userId, "100");
    const start = await moment();
    await topUp(userId, "7");
    await service.ledger.deduct({ userId, amount: money("3"), idempotencyKey: newKey() });
    await service.ledger.deduct({ userId, amount: money("4"), idempotencyKey: newKey() });
    await topUp(userId, "1", { currency: "USD" });
    const end = await moment();
    const request = { userId, startTime: start, endTime: end, pageSize: 2 };
    const first = await service.ledger.getStatement(request);
    await topUp(userId, "1000");
    const second = await service.ledger.getStatement({ ...request, pageToken: first.nextPageToken });
    const figures = {
      openingBalance: money("100.00"),
      closingBalance: money("100.00"),
      totals: [
        { type: TransactionType.TOPUP, count: 1n, amount: money("7.00") },
        { type: TransactionType.DEDUCTION, count: 2n, amount: money("-7.00") },
      ],
      provisional: true,
    };
    expect(first).toMatchObject(figures);
    expect(second).toMatchObject(figures);
    expect([...first.transactions, ...second.transactions].map(({ amount }) => amount?.amount)).toEqual(["7.00", "-3.00", "-4.00"]);
    expect(second.nextPageToken).toBe("");
  });

  test("of nothing is empty, and of the past final", async () => {
    const past = timestampFromMs(Date.now() - 3_600_000);
    expect(await service.ledger.getStatement({ userId: 51n, endTime: past })).toMatchObject({
      openingBalance: money("0.00"),
      closingBalance: money("0.00"),
      totals: [],
      transactions: [],
      provisional: false,
    });
    await topUp(52n, "5");
    expect(await service.ledger.getStatement({ userId: 52n }), "up to now").toMatchObject({ closingBalance: money("5.00"), provisional: true });
    expect(await failureOf(service.ledger.getStatement({ userId: 52n, endTime: timestampFromMs(Date.now() + 60_000) }))).toMatchObject({ fields: ["end_time"] });
    expect(await failureOf(service.ledger.getStatement({ userId: 52n, startTime: timestampFromMs(2000), endTime: timestampFromMs(1000) }))).toMatchObject({ fields: ["end_time"] });
  });
});

describe("AdminService", () => {
  test("lists accounts by user and currency, in pages", async () => {
    await using other = await createDatabase();
    await using instance = await serve(other.url);
    for (const [userId, currency] of [[2n, "USD"], [1n, "USD"], [2n, "RUB"], [1n, "EUR"], [3n, "RUB"]] as const) {
      await instance.ledger.topUp({ userId, amount: money("1", currency), idempotencyKey: newKey() });
    }
    await failureOf(instance.ledger.deduct({ userId: 9n, amount: money("1"), idempotencyKey: newKey() }));
    const listed: string[] = [];
    let pageToken = "";
    do {
      const page = await instance.admin.listBalances({ pageSize: 2, pageToken });
      listed.push(...page.balances.map(({ userId, balance }) => `${userId} ${balance?.currency}`));
      pageToken = page.nextPageToken;
    } while (pageToken !== "");
    expect(listed, "user 9 has no transaction, so no account").toEqual(["1 EUR", "1 USD", "2 RUB", "2 USD", "3 RUB"]);
    expect((await instance.admin.listBalances({ currency: "RUB" })).balances.map(({ userId }) => userId)).toEqual([2n, 3n]);
  });

  test("tells how the service is", async () => {
    const status = await service.admin.getServiceStatus({});
    expect(status).toMatchObject({
      version: expect.stringMatching(/^\d+\.\d+\.\d+/) as string,
      databaseVersion: expect.stringMatching(/^\d+/) as string,
      schemaVersion: expect.any(Number) as number,
      writeQueue: { lanes: 2, queued: 0, limit: 10_000 },
      partitions: { count: 3 },
      feedLag: 0n,
    });
    expect(status.partitions?.headroom).toBeGreaterThan(20_000_000n);
    expect(status.pool?.idle).toBeGreaterThan(0);
  });
});

/** A range of a statement's rows, and what is left of it behind a page, as its token has them: here the same. */
const twice = (...range: readonly string[]): readonly string[] => [...range, ...range];

test.each([
  ["the whole of 64 bits", twice("RUB", "-9223372036854775808", "9223372036854775807")],
  ["another currency", twice("EUR", "1", "1")],
  ["rows that the account doesn't have", twice("RUB", "1", "99")],
  ["no range", twice("RUB", "1")],
  ["a range and a part of one", ["RUB", "1", "1", "RUB", "1"]],
])("a statement's page token that somebody made up, of %s, is refused", async (_what, cursor) => {
  const userId = 4_711n;
  await topUp(userId, "1");
  // As GetStatement makes it: bound to the same arguments.
  const made = tokenOf(["statement", userId, "RUB", undefined, undefined], cursor);
  expect(await failureOf(service.ledger.getStatement({ userId, pageToken: made }))).toMatchObject({
    code: Code.InvalidArgument,
    fields: ["page_token"],
  });
});
