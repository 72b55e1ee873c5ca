// One key, one outcome.

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Code } from "@connectrpc/connect";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { checkDatabase } from "../harness/inspect.ts";
import { failureOf, newKey, serve, type TestService } from "../harness/service.ts";

let database: TestDatabase;
let service: TestService;
let lastUser = 0n;

beforeAll(async () => {
  database = await createDatabase();
  service = await serve(database.url);
});

afterAll(async () => {
  await service.close();
  await checkDatabase(database);
  await database[Symbol.asyncDispose]();
});

const rub = (amount: string) => ({ currency: "RUB", amount });

async function userWith(amount: string): Promise<bigint> {
  const userId = (lastUser += 1n);
  await service.ledger.topUp({ userId, amount: rub(amount), idempotencyKey: newKey() });
  return userId;
}

describe("the same request under its key", () => {
  test("answers the first outcome, with the figures of then", async () => {
    const userId = await userWith("100");
    const request = { userId, amount: rub("10"), idempotencyKey: newKey(), description: "x", metadata: { b: "2", a: "1" } };
    const first = await service.ledger.deduct(request);
    await service.ledger.deduct({ userId, amount: rub("50"), idempotencyKey: newKey() });
    const again = await service.ledger.deduct(request);
    expect(again).toEqual({ ...first, replayed: true });
    expect(again.balance?.balance, "not today's balance").toMatchObject(rub("90.00"));
  });

  test("is the same however it is written: digits, default currency, order of metadata", async () => {
    const userId = await userWith("100");
    const idempotencyKey = newKey();
    await service.ledger.deduct({ userId, amount: { amount: "10" }, idempotencyKey, metadata: { a: "1", b: "2" } });
    const again = await service.ledger.deduct({ userId, amount: rub("10.00"), idempotencyKey, metadata: { b: "2", a: "1" } });
    expect(again.replayed).toBe(true);
  });

  test("answers each kind of write as it was", async () => {
    const userId = await userWith("100");
    const other = await userWith("1");
    const deducted = await service.ledger.deduct({ userId, amount: rub("10"), idempotencyKey: newKey() });
    const held = await service.ledger.placeHold({ userId, amount: rub("50"), idempotencyKey: "hold" });
    const holdId = held.hold?.id ?? 0n;
    const capture = { userId, holdId, amount: rub("20"), idempotencyKey: "capture" };
    const final = { userId, holdId, amount: rub("5"), final: true, idempotencyKey: "final" };
    const transfer = { userId, toUserId: other, amount: rub("1"), idempotencyKey: "transfer" };
    const refund = { userId, transactionId: deducted.transaction?.id ?? 0n, idempotencyKey: "refund" };
    const limit = { userId, creditLimit: rub("5"), idempotencyKey: "limit" };
    const adjust = { userId, amount: rub("-1"), reason: "r", idempotencyKey: "adjust" };
    const { ledger, admin } = service;
    const first = [
      held,
      await ledger.captureHold(capture),
      await ledger.captureHold(final),
      await ledger.transfer(transfer),
      await ledger.refund(refund),
      await admin.setCreditLimit(limit),
      await ledger.adjust(adjust),
    ];
    const again = [
      await ledger.placeHold({ userId, amount: rub("50"), idempotencyKey: "hold" }),
      await ledger.captureHold(capture),
      await ledger.captureHold(final),
      await ledger.transfer(transfer),
      await ledger.refund(refund),
      await admin.setCreditLimit(limit),
      await ledger.adjust(adjust),
    ];
    expect(again).toEqual(first.map((answer) => ({ ...answer, replayed: true })));
  });

  test("gets a refusal again even after a top-up; a new attempt takes a new key", async () => {
    const userId = await userWith("10");
    const request = { userId, amount: rub("11"), idempotencyKey: newKey() };
    const first = await failureOf(service.ledger.deduct(request));
    await service.ledger.topUp({ userId, amount: rub("100"), idempotencyKey: newKey() });
    expect(await failureOf(service.ledger.deduct(request))).toEqual(first);
    expect(first).toMatchObject({ reason: "INSUFFICIENT_FUNDS", metadata: { stored: "true", available: "10.00" } });
    await service.ledger.deduct({ ...request, idempotencyKey: newKey() });
  });

  test("is consulted before every check whose answer may change", async () => {
    const userId = await userWith("10");
    const request = { userId, amount: rub("4"), idempotencyKey: newKey(), expectedSequence: 1n, reference: "once", uniqueReference: true };
    const first = await service.ledger.deduct(request);
    expect(await service.ledger.deduct(request)).toEqual({ ...first, replayed: true });
  });
});

describe("another request under a used key", () => {
  test("is refused, naming the first one's transaction and time", async () => {
    const userId = await userWith("100");
    const idempotencyKey = newKey();
    const first = await service.ledger.deduct({ userId, amount: rub("10"), idempotencyKey });
    const changes = [{ amount: rub("11") }, { description: "other" }, { reference: "other" }, { metadata: { a: "1" } }, { expectedSequence: 2n }];
    for (const change of changes) {
      expect(await failureOf(service.ledger.deduct({ userId, amount: rub("10"), idempotencyKey, ...change }))).toMatchObject({
        code: Code.AlreadyExists,
        reason: "IDEMPOTENCY_KEY_REUSED",
        metadata: { transaction_id: first.transaction?.id.toString(), create_time: expect.stringContaining("T") as string },
      });
    }
    const topUp = await failureOf(service.ledger.topUp({ userId, amount: rub("10"), idempotencyKey }));
    expect(topUp, "the method is part of the request").toMatchObject({ reason: "IDEMPOTENCY_KEY_REUSED" });
    expect(topUp.metadata["stored"], "the key holds another outcome").toBeUndefined();
  });

  test("is refused in another currency of the same user too, even at the same moment", async () => {
    const userId = await userWith("100");
    const attempts = await Promise.allSettled(
      ["RUB", "USD", "EUR", "GBP", "JPY"].map((currency) => service.ledger.topUp({ userId, amount: { currency, amount: "1" }, idempotencyKey: "same" })),
    );
    expect(attempts.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
    for (const attempt of attempts) {
      if (attempt.status === "rejected") expect(await failureOf(Promise.reject(attempt.reason as Error))).toMatchObject({ reason: "IDEMPOTENCY_KEY_REUSED" });
    }
  });

  test("is another matter under another user's key of the same text", async () => {
    const [one, two] = [await userWith("100"), await userWith("100")];
    await service.ledger.deduct({ userId: one, amount: rub("1"), idempotencyKey: "shared text" });
    expect((await service.ledger.deduct({ userId: two, amount: rub("2"), idempotencyKey: "shared text" })).replayed).toBe(false);
  });
});

describe("a malformed request", () => {
  test("uses no key", async () => {
    const userId = await userWith("100");
    const idempotencyKey = newKey();
    expect(await failureOf(service.ledger.deduct({ userId, amount: rub("0.001"), idempotencyKey }))).toMatchObject({ reason: "INVALID_REQUEST" });
    expect((await service.ledger.deduct({ userId, amount: rub("1"), idempotencyKey })).replayed).toBe(false);
  });
});

describe("concurrent calls with one key", () => {
  test("execute once, and all get its answer", async () => {
    const userId = await userWith("100");
    const request = { userId, amount: rub("1"), idempotencyKey: newKey() };
    const answers = await Promise.all(Array.from({ length: 32 }, () => service.ledger.deduct(request)));
    expect(answers.filter(({ replayed }) => !replayed)).toHaveLength(1);
    expect(new Set(answers.map(({ transaction }) => transaction?.id)).size).toBe(1);
    expect((await service.ledger.getBalance({ userId })).balance?.balance).toMatchObject(rub("99.00"));
  });
});

describe("GetOutcome", () => {
  test("tells what became of a write, without executing anything", async () => {
    const userId = await userWith("10");
    const applied = await service.ledger.deduct({ userId, amount: rub("1"), idempotencyKey: "applied" });
    await failureOf(service.ledger.deduct({ userId, amount: rub("100"), idempotencyKey: "refused" }));
    expect(await service.ledger.getOutcome({ userId, idempotencyKey: "applied" })).toMatchObject({ transactions: [applied.transaction] });
    const refused = await service.ledger.getOutcome({ userId, idempotencyKey: "refused" });
    expect(refused).toMatchObject({ transactions: [], refusal: { stored: true, metadata: { available: "9.00" } } });
    expect(refused.createTime).toBeDefined();
    expect(await failureOf(service.ledger.getOutcome({ userId, idempotencyKey: "unknown" }))).toMatchObject({ code: Code.NotFound, reason: "OUTCOME_NOT_FOUND" });
  });
});

describe("odd but printable", () => {
  test.each(["a", "x".repeat(128), "ключ №5", 'quotes " and \\ and {}, ()', "🔑", "a b", "null", "NULL", "'; --"])("the key %.20s works", async (idempotencyKey) => {
    const userId = await userWith("10");
    const first = await service.ledger.deduct({ userId, amount: rub("1"), idempotencyKey, description: `d ${idempotencyKey}`, metadata: { k: idempotencyKey } });
    expect(first.transaction).toMatchObject({ idempotencyKey, description: `d ${idempotencyKey}`, metadata: { k: idempotencyKey } });
    expect(await service.ledger.deduct({ userId, amount: rub("1"), idempotencyKey, description: `d ${idempotencyKey}`, metadata: { k: idempotencyKey } })).toEqual({
      ...first,
      replayed: true,
    });
  });
});
