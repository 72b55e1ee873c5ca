// Each call that changes money, as its callers see it.

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Code } from "@connectrpc/connect";
import { HoldState, TransactionType } from "../../src/gen/ledger/v1/account_pb.ts";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { checkDatabase } from "../harness/inspect.ts";
import { failureOf, newKey, serve, type TestService } from "../harness/service.ts";

let database: TestDatabase;
let service: TestService;
let lastUser = 0n;

beforeAll(async () => {
  database = await createDatabase();
  service = await serve(database.url, { LEDGERD_UNITS: "CRD:6" });
});

afterAll(async () => {
  await service.close();
  await checkDatabase(database);
  await database[Symbol.asyncDispose]();
});

/** A user that nobody knows yet. */
function newUser(): bigint {
  return (lastUser += 1n);
}

/** A user with this much money. */
async function userWith(amount: string, currency = "RUB"): Promise<bigint> {
  const userId = newUser();
  await service.ledger.topUp({ userId, amount: { amount, currency }, idempotencyKey: newKey() });
  return userId;
}

const rub = (amount: string) => ({ currency: "RUB", amount });

describe("TopUp", () => {
  test("answers the transaction, and the balance after it", async () => {
    const userId = newUser();
    const idempotencyKey = newKey();
    const answer = await service.ledger.topUp({
      userId,
      amount: { amount: "12.5" },
      idempotencyKey,
      description: "первый ✓",
      metadata: { order: "17", "a/b": "" },
      reference: "invoice 5",
    });
    expect(answer).toMatchObject({
      replayed: false,
      transaction: {
        userId,
        sequence: 1n,
        type: TransactionType.TOPUP,
        amount: rub("12.50"),
        heldChange: rub("0.00"),
        balanceAfter: rub("12.50"),
        heldAfter: rub("0.00"),
        creditLimitAfter: rub("0.00"),
        description: "первый ✓",
        metadata: { order: "17", "a/b": "" },
        idempotencyKey,
        reference: "invoice 5",
        groupId: "",
        actor: "",
      },
      balance: { userId, balance: rub("12.50"), held: rub("0.00"), available: rub("12.50"), creditLimit: rub("0.00"), sequence: 1n },
    });
    const read = await service.ledger.getTransaction({ name: { case: "transactionId", value: answer.transaction?.id ?? 0n } });
    expect(read.transaction).toEqual(answer.transaction);
  });

  test("keeps each currency's digits, ISO's and configured ones", async () => {
    const userId = newUser();
    for (const [currency, amount, written] of [["JPY", "7", "7"], ["BHD", "1.5", "1.500"], ["CRD", "0.000001", "0.000001"]] as const) {
      const { balance } = await service.ledger.topUp({ userId, amount: { currency, amount }, idempotencyKey: newKey() });
      expect(balance?.balance).toMatchObject({ currency, amount: written });
    }
  });
});

describe("Deduct", () => {
  test("takes money, signed negative in the log", async () => {
    const userId = await userWith("100");
    const { transaction, balance } = await service.ledger.deduct({ userId, amount: rub("30"), idempotencyKey: newKey() });
    expect(transaction).toMatchObject({ type: TransactionType.DEDUCTION, amount: rub("-30.00"), sequence: 2n });
    expect(balance).toMatchObject({ balance: rub("70.00"), available: rub("70.00") });
  });

  test("is refused where money lacks, with the figures", async () => {
    const userId = await userWith("100");
    expect(await failureOf(service.ledger.deduct({ userId, amount: rub("100.01"), idempotencyKey: newKey() }))).toMatchObject({
      code: Code.FailedPrecondition,
      reason: "INSUFFICIENT_FUNDS",
      metadata: { available: "100.00", requested: "100.01", currency: "RUB", stored: "true" },
    });
  });
});

describe("Refund", () => {
  test("gives back parts, then the rest, and no more", async () => {
    const userId = await userWith("100");
    const { transaction } = await service.ledger.deduct({ userId, amount: rub("60"), idempotencyKey: newKey() });
    const transactionId = transaction?.id ?? 0n;
    const part = await service.ledger.refund({ userId, transactionId, amount: rub("20"), idempotencyKey: newKey() });
    expect(part.transaction).toMatchObject({ type: TransactionType.REFUND, amount: rub("20.00"), refundedTransactionId: transactionId });
    const rest = await service.ledger.refund({ userId, transactionId, idempotencyKey: newKey() });
    expect(rest).toMatchObject({ transaction: { amount: rub("40.00") }, balance: { balance: rub("100.00") } });
    expect(await failureOf(service.ledger.refund({ userId, transactionId, idempotencyKey: newKey() }))).toMatchObject({
      code: Code.FailedPrecondition,
      reason: "REFUND_EXCEEDS_ORIGINAL",
      metadata: { refundable: "0.00" },
    });
  });

  test("needs a transaction of the same user", async () => {
    const userId = await userWith("100");
    const { transaction } = await service.ledger.deduct({ userId, amount: rub("60"), idempotencyKey: newKey() });
    const stranger = { userId: await userWith("1"), transactionId: transaction?.id ?? 0n, idempotencyKey: newKey() };
    expect(await failureOf(service.ledger.refund(stranger))).toMatchObject({ code: Code.NotFound, reason: "TRANSACTION_NOT_FOUND" });
    expect(await failureOf(service.ledger.refund({ userId, transactionId: 2n ** 60n, idempotencyKey: newKey() }))).toMatchObject({ reason: "TRANSACTION_NOT_FOUND" });
  });

  test("of a foreign currency needs no amount, and refuses one in another", async () => {
    const userId = await userWith("100", "USD");
    const { transaction } = await service.ledger.deduct({ userId, amount: { currency: "USD", amount: "60" }, idempotencyKey: newKey() });
    const original = { userId, transactionId: transaction?.id ?? 0n };
    expect(await failureOf(service.ledger.refund({ ...original, amount: rub("1"), idempotencyKey: newKey() }))).toMatchObject({ reason: "CURRENCY_MISMATCH" });
    const { balance } = await service.ledger.refund({ ...original, idempotencyKey: newKey() });
    expect(balance?.balance).toMatchObject({ currency: "USD", amount: "100.00" });
  });
});

describe("Transfer", () => {
  test("moves money between two users, with one group id and the sender's balance", async () => {
    const [userId, toUserId] = [await userWith("100"), newUser()];
    const idempotencyKey = newKey();
    const answer = await service.ledger.transfer({ userId, toUserId, amount: rub("40"), idempotencyKey, description: "rent" });
    expect(answer).toMatchObject({
      transaction: { userId, type: TransactionType.TRANSFER_OUT, amount: rub("-40.00"), idempotencyKey, description: "rent" },
      recipientTransaction: { userId: toUserId, type: TransactionType.TRANSFER_IN, amount: rub("40.00"), sequence: 1n, idempotencyKey: "", description: "rent" },
      balance: { userId, balance: rub("60.00") },
    });
    expect(answer.transaction?.groupId).toMatch(/^[\da-f-]{36}$/);
    expect(answer.recipientTransaction?.groupId).toBe(answer.transaction?.groupId);
  });

  test("to oneself is refused", async () => {
    const userId = await userWith("100");
    expect(await failureOf(service.ledger.transfer({ userId, toUserId: userId, amount: rub("1"), idempotencyKey: newKey() }))).toMatchObject({
      code: Code.FailedPrecondition,
      reason: "SAME_ACCOUNT",
    });
  });
});

describe("holds", () => {
  test("reserve money, are captured in parts, and set the rest free", async () => {
    const userId = await userWith("100");
    const placed = await service.ledger.placeHold({ userId, amount: rub("80"), idempotencyKey: newKey() });
    const holdId = placed.hold?.id ?? 0n;
    expect(placed).toMatchObject({
      transaction: { type: TransactionType.HOLD, amount: rub("0.00"), heldChange: rub("80.00"), holdId },
      hold: { userId, amount: rub("80.00"), captured: rub("0.00"), state: HoldState.OPEN },
      balance: { balance: rub("100.00"), held: rub("80.00"), available: rub("20.00") },
    });
    const week = (placed.hold?.expireTime?.seconds ?? 0n) - (placed.hold?.createTime?.seconds ?? 0n);
    expect(week).toBe(7n * 86_400n);

    expect(await failureOf(service.ledger.deduct({ userId, amount: rub("21"), idempotencyKey: newKey() }))).toMatchObject({ reason: "INSUFFICIENT_FUNDS" });
    const part = await service.ledger.captureHold({ userId, holdId, amount: rub("30"), idempotencyKey: newKey() });
    expect(part).toMatchObject({
      transaction: { type: TransactionType.CAPTURE, amount: rub("-30.00"), heldChange: rub("-30.00") },
      hold: { captured: rub("30.00"), state: HoldState.OPEN },
      balance: { balance: rub("70.00"), held: rub("50.00"), available: rub("20.00") },
    });
    const last = await service.ledger.captureHold({ userId, holdId, amount: rub("10"), final: true, idempotencyKey: newKey() });
    expect(last).toMatchObject({
      transaction: { amount: rub("-10.00"), heldChange: rub("-50.00") },
      hold: { captured: rub("40.00"), state: HoldState.CAPTURED },
      balance: { balance: rub("60.00"), held: rub("0.00"), available: rub("60.00") },
    });
    expect(await failureOf(service.ledger.captureHold({ userId, holdId, idempotencyKey: newKey() }))).toMatchObject({ reason: "HOLD_ALREADY_CAPTURED" });
    expect(await failureOf(service.ledger.releaseHold({ userId, holdId, idempotencyKey: newKey() }))).toMatchObject({ reason: "HOLD_ALREADY_CAPTURED" });
  });

  test("can be released", async () => {
    const userId = await userWith("100");
    const { hold } = await service.ledger.placeHold({ userId, amount: rub("80"), idempotencyKey: newKey() });
    const released = await service.ledger.releaseHold({ userId, holdId: hold?.id ?? 0n, idempotencyKey: newKey() });
    expect(released).toMatchObject({
      transaction: { type: TransactionType.RELEASE, heldChange: rub("-80.00") },
      hold: { state: HoldState.RELEASED },
      balance: { held: rub("0.00"), available: rub("100.00") },
    });
    expect(await failureOf(service.ledger.captureHold({ userId, holdId: hold?.id ?? 0n, idempotencyKey: newKey() }))).toMatchObject({ reason: "HOLD_ALREADY_RELEASED" });
  });

  test("that expired count as available to the very next write, and can't be captured", async () => {
    const userId = await userWith("100");
    const { hold } = await service.ledger.placeHold({ userId, amount: rub("100"), expiresIn: { nanos: 1000 }, idempotencyKey: newKey() });
    const { transaction, balance } = await service.ledger.deduct({ userId, amount: rub("100"), idempotencyKey: newKey() });
    expect(transaction?.sequence, "the expiry has a row of its own").toBe(4n);
    expect(balance).toMatchObject({ balance: rub("0.00"), held: rub("0.00") });
    expect(await failureOf(service.ledger.captureHold({ userId, holdId: hold?.id ?? 0n, idempotencyKey: newKey() }))).toMatchObject({
      code: Code.FailedPrecondition,
      reason: "HOLD_EXPIRED",
    });
    const { transaction: expiry } = await service.ledger.getTransaction({ name: { case: "accountSequence", value: { userId, sequence: 3n } } });
    expect(expiry).toMatchObject({ type: TransactionType.EXPIRY, actor: "ledgerd", idempotencyKey: "", heldChange: rub("-100.00") });
  });

  test("that expired are swept though nobody writes", async () => {
    const userId = await userWith("100");
    const { hold } = await service.ledger.placeHold({ userId, amount: rub("100"), expiresIn: { nanos: 1000 }, idempotencyKey: newKey() });
    await expect.poll(async () => (await service.ledger.getHold({ holdId: hold?.id ?? 0n })).hold?.state).toBe(HoldState.EXPIRED);
    expect((await service.ledger.getBalance({ userId })).balance).toMatchObject({ available: rub("100.00"), sequence: 3n });
  });

  test("of others, and unknown ones, don't exist", async () => {
    const [userId, stranger] = [await userWith("100"), await userWith("100")];
    const { hold } = await service.ledger.placeHold({ userId, amount: rub("80"), idempotencyKey: newKey() });
    expect(await failureOf(service.ledger.captureHold({ userId: stranger, holdId: hold?.id ?? 0n, idempotencyKey: newKey() }))).toMatchObject({ code: Code.NotFound, reason: "HOLD_NOT_FOUND" });
    expect(await failureOf(service.ledger.releaseHold({ userId, holdId: 2n ** 60n, idempotencyKey: newKey() }))).toMatchObject({ reason: "HOLD_NOT_FOUND" });
  });

  test("of a job are moved by nobody else", async () => {
    const userId = await userWith("100");
    const { hold } = await service.ledger.placeHold({ userId, amount: rub("80"), idempotencyKey: newKey() });
    await database.query("UPDATE ledgerd.holds SET job_id = 4 WHERE id = $1", [hold?.id]);
    expect(await failureOf(service.ledger.captureHold({ userId, holdId: hold?.id ?? 0n, idempotencyKey: newKey() }))).toMatchObject({
      code: Code.FailedPrecondition,
      reason: "HOLD_OWNED_BY_JOB",
      metadata: { job_id: "4" },
    });
    await database.query("UPDATE ledgerd.holds SET job_id = NULL WHERE id = $1", [hold?.id]);
  });
});

describe("Adjust and SetCreditLimit", () => {
  test("an adjustment may pass the floor where it says so, with its reason in the log", async () => {
    const userId = await userWith("10");
    const asked = { userId, amount: rub("-25"), reason: "chargeback 7" };
    expect(await failureOf(service.ledger.adjust({ ...asked, idempotencyKey: newKey() }))).toMatchObject({ reason: "INSUFFICIENT_FUNDS" });
    const { transaction, balance } = await service.ledger.adjust({ ...asked, allowNegative: true, idempotencyKey: newKey() });
    expect(transaction).toMatchObject({ type: TransactionType.ADJUSTMENT, amount: rub("-25.00"), description: "chargeback 7" });
    expect(balance).toMatchObject({ balance: rub("-15.00"), available: rub("-15.00") });
  });

  test("a credit limit lets spending go below zero, and is a row of the log", async () => {
    const userId = await userWith("10");
    const { transaction, balance } = await service.admin.setCreditLimit({ userId, creditLimit: rub("50"), idempotencyKey: newKey() });
    expect(transaction).toMatchObject({ type: TransactionType.CREDIT_LIMIT, amount: rub("0.00"), creditLimitAfter: rub("50.00") });
    expect(balance).toMatchObject({ balance: rub("10.00"), available: rub("60.00"), creditLimit: rub("50.00") });
    const spent = await service.ledger.deduct({ userId, amount: rub("60"), idempotencyKey: newKey() });
    expect(spent.balance).toMatchObject({ balance: rub("-50.00"), available: rub("0.00") });
    const lowered = await service.admin.setCreditLimit({ userId, creditLimit: rub("0"), idempotencyKey: newKey() });
    expect(lowered.balance).toMatchObject({ available: rub("-50.00") });
  });

  test("an account that doesn't exist gets no limit", async () => {
    expect(await failureOf(service.admin.setCreditLimit({ userId: newUser(), creditLimit: rub("50"), idempotencyKey: newKey() }))).toMatchObject({
      code: Code.NotFound,
      reason: "ACCOUNT_NOT_FOUND",
    });
  });
});

describe("what every write may carry", () => {
  test("an expected sequence refuses a write to an account that has moved on", async () => {
    const userId = await userWith("10");
    const write = { userId, amount: rub("1"), expectedSequence: 1n };
    await service.ledger.deduct({ ...write, idempotencyKey: newKey() });
    expect(await failureOf(service.ledger.deduct({ ...write, idempotencyKey: newKey() }))).toMatchObject({
      code: Code.FailedPrecondition,
      reason: "SEQUENCE_MISMATCH",
      metadata: { sequence: "2", expected_sequence: "1" },
    });
    expect(await failureOf(service.ledger.topUp({ ...write, userId: newUser(), idempotencyKey: newKey() }))).toMatchObject({ reason: "ACCOUNT_NOT_FOUND" });
  });

  test("a unique reference lets one write of its user and type through, in whatever currencies and at once", async () => {
    const userId = await userWith("10");
    const attempts = ["RUB", "USD", "EUR", "RUB", "GBP", "JPY"].map((currency) =>
      service.ledger.topUp({ userId, amount: { currency, amount: "1" }, reference: "order 1", uniqueReference: true, idempotencyKey: newKey() }).then(
        () => "applied",
        async (error: unknown) => (await failureOf(Promise.reject(error as Error))).reason,
      ),
    );
    const outcomes = await Promise.all(attempts);
    expect(outcomes.filter((outcome) => outcome === "applied")).toHaveLength(1);
    expect(outcomes.filter((outcome) => outcome === "REFERENCE_ALREADY_USED")).toHaveLength(5);
    await service.ledger.deduct({ userId, amount: rub("1"), reference: "order 1", uniqueReference: true, idempotencyKey: newKey() });
  });

  test("validate_only answers as the real call would, and changes nothing", async () => {
    const userId = await userWith("10");
    const key = newKey();
    const dry = await service.ledger.deduct({ userId, amount: rub("4"), idempotencyKey: key, validateOnly: true });
    expect(dry).toMatchObject({ transaction: { id: 0n, sequence: 2n, amount: rub("-4.00") }, balance: { balance: rub("6.00") }, replayed: false });
    const refused = await failureOf(service.ledger.deduct({ userId, amount: rub("11"), validateOnly: true }));
    expect(refused).toMatchObject({ reason: "INSUFFICIENT_FUNDS" });
    expect(refused.metadata["stored"], "nothing was stored").toBeUndefined();
    expect((await service.ledger.getBalance({ userId })).balance).toMatchObject({ balance: rub("10.00"), sequence: 1n });
    expect(await failureOf(service.ledger.getOutcome({ userId, idempotencyKey: key }))).toMatchObject({ reason: "OUTCOME_NOT_FOUND" });

    const real = await service.ledger.deduct({ userId, amount: rub("4"), idempotencyKey: key });
    const again = await service.ledger.deduct({ userId, amount: rub("4"), idempotencyKey: key, validateOnly: true });
    expect(again, "a used key answers its outcome").toEqual({ ...real, replayed: true });
  });

  test("validate_only works for an account that doesn't exist, and doesn't make it", async () => {
    const userId = newUser();
    expect(await service.ledger.topUp({ userId, amount: rub("4"), validateOnly: true })).toMatchObject({ balance: { balance: rub("4.00"), sequence: 1n } });
    expect(await database.query("SELECT FROM ledgerd.user_balances WHERE user_id = $1", [userId])).toEqual([]);
  });

  test("validate_only takes no lock", async () => {
    const userId = await userWith("10");
    const session = await database.connect();
    await session.query("BEGIN");
    await session.query("SELECT FROM ledgerd.user_balances WHERE user_id = $1 FOR UPDATE", [userId]);
    const dry = await service.ledger.placeHold({ userId, amount: rub("4"), validateOnly: true });
    expect(dry).toMatchObject({ hold: { id: 0n, amount: rub("4.00") }, balance: { available: rub("6.00") } });
    await session.end();
  });
});

describe("BatchWrite", () => {
  test("answers each write in order, and each sees the ones before it", async () => {
    const [userId, other] = [newUser(), newUser()];
    const { results } = await service.ledger.batchWrite({
      writes: [
        { write: { case: "deduct", value: { userId, amount: rub("1"), idempotencyKey: "a" } } },
        { write: { case: "topUp", value: { userId, amount: rub("10"), idempotencyKey: "b" } } },
        { write: { case: "transfer", value: { userId, toUserId: other, amount: rub("4"), idempotencyKey: "c" } } },
        { write: { case: "deduct", value: { userId: other, amount: rub("4"), idempotencyKey: "d" } } },
        { write: { case: "topUp", value: { userId, amount: rub("10"), idempotencyKey: "b" } } },
        { write: { case: "topUp", value: { userId, amount: rub("11"), idempotencyKey: "b" } } },
      ],
    });
    expect(results.map(({ result }) => result.case)).toEqual(["refusal", "topUp", "transfer", "deduct", "topUp", "refusal"]);
    expect(results).toMatchObject([
      { result: { value: { reason: expect.any(Number) as number, stored: true } } },
      { result: { value: { replayed: false } } },
      { result: { value: { recipientTransaction: { userId: other } } } },
      { result: { value: { balance: { balance: rub("0.00") } } } },
      { result: { value: { replayed: true } } },
      { result: { value: { stored: false } } },
    ]);
  });

  test("applies an atomic one whole, and answers the same again under its key", async () => {
    const [userId, other] = [newUser(), newUser()];
    const batch = {
      atomic: true,
      idempotencyKey: newKey(),
      writes: [
        { write: { case: "topUp" as const, value: { userId, amount: rub("10") } } },
        { write: { case: "transfer" as const, value: { userId, toUserId: other, amount: rub("4") } } },
        { write: { case: "placeHold" as const, value: { userId: other, amount: rub("3") } } },
      ],
    };
    const first = await service.ledger.batchWrite(batch);
    expect(first.results.map(({ result }) => result.case)).toEqual(["topUp", "transfer", "placeHold"]);
    const groups = first.results.map(({ result }) => (result.case === "topUp" || result.case === "transfer" || result.case === "placeHold" ? result.value.transaction?.groupId : ""));
    expect(new Set(groups).size).toBe(1);
    const second = await service.ledger.batchWrite(batch);
    const unreplayed = second.results.map(({ result }) => ({ ...result.value, replayed: false }));
    expect(unreplayed).toEqual(first.results.map(({ result }) => result.value));
    const outcome = await service.ledger.getOutcome({ userId, idempotencyKey: batch.idempotencyKey });
    expect(outcome.transactions.map(({ type }) => type)).toEqual([TransactionType.TOPUP, TransactionType.TRANSFER_OUT, TransactionType.TRANSFER_IN, TransactionType.HOLD]);
  });

  test("refuses an atomic one whole, names the culprit, and does so again under its key", async () => {
    const userId = newUser();
    const batch = {
      atomic: true,
      idempotencyKey: newKey(),
      writes: [
        { write: { case: "topUp" as const, value: { userId, amount: rub("10") } } },
        { write: { case: "deduct" as const, value: { userId, amount: rub("11") } } },
        { write: { case: "topUp" as const, value: { userId, amount: rub("10") } } },
      ],
    };
    const expected = [{ metadata: { culprit: "1" } }, { metadata: { available: "10.00", requested: "11.00" } }, { metadata: { culprit: "1" } }];
    const first = await service.ledger.batchWrite(batch);
    expect(first.results).toMatchObject(expected.map((value) => ({ result: { case: "refusal", value } })));
    await service.ledger.topUp({ userId, amount: rub("100"), idempotencyKey: newKey() });
    expect((await service.ledger.batchWrite(batch)).results).toEqual(first.results);
    expect(await failureOf(service.ledger.batchWrite({ ...batch, writes: batch.writes.slice(1) }))).toMatchObject({ code: Code.AlreadyExists, reason: "IDEMPOTENCY_KEY_REUSED" });
    expect((await service.ledger.getBalance({ userId })).balance).toMatchObject({ balance: rub("100.00") });
  });

  test("takes a thousand writes", async () => {
    const userId = await userWith("1000");
    const writes = Array.from({ length: 1000 }, (_, index) => ({ write: { case: "deduct" as const, value: { userId, amount: rub("1"), idempotencyKey: `n${index}` } } }));
    const { results } = await service.ledger.batchWrite({ writes });
    expect(results.every(({ result }) => result.case === "deduct")).toBe(true);
    expect((await service.ledger.getBalance({ userId })).balance).toMatchObject({ balance: rub("0.00"), sequence: 1001n });
  });
});
