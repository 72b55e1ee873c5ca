// The hash of a row, which is stored for ever: its text is that of the first row ever written, whatever writes it.

import { createHash } from "node:crypto";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { TransactionType } from "../../src/domain/money/account.ts";
import type { Posting } from "../../src/domain/journal/transaction.ts";
import { chainHash, figuresOf } from "../../src/domain/journal/chain.ts";

const plain: Posting = {
  userId: 7n, currency: "RUB", sequence: 1n, type: "topup", amount: 10_000n, heldChange: 0n, balanceAfter: 10_000n, heldAfter: 0n, creditLimitAfter: 0n,
  holdId: undefined, holdCaptured: undefined, holdExpiresAt: undefined, refundedTransactionId: undefined, jobId: undefined, groupId: undefined,
  idempotencyKey: "key-1", reference: "", description: "", metadata: [], actor: "", traceId: "", createdAt: 1_767_225_600_000_001n,
};

const full: Posting = {
  ...plain, sequence: 2n, type: "capture", amount: -1n, heldChange: -250n, balanceAfter: 9_999n, heldAfter: 5n, creditLimitAfter: 123_456_789_012n,
  holdId: 31n, holdCaptured: 1n, holdExpiresAt: 1_767_225_700_000_000n, refundedTransactionId: 12n, jobId: -4n, groupId: "0b0e3f0a-7c51-4c4e-9d8e-3b4a0c9d2e11",
  idempotencyKey: "ключ 🔑", reference: "order/5", description: "Оплата — «как есть»", metadata: [["k", ""], ["é", "значение"]], actor: "svc:billing",
  traceId: "4bf92f3577b34da6a3ce929d0e0e4736",
};

describe("the hash of a row", () => {
  test("is what it was in the first version", () => {
    const first = chainHash(undefined, plain, figuresOf(plain, 2));
    expect(first).toBe("5439a6867a2889c22198aeca085a122bdc56fb17d3dec6241acfb49901b764dd");
    expect(chainHash(first, full, figuresOf(full, 2))).toBe("bc30578f147258c231d95f290b8fa4f4896db43fede2c4d4b77e2014532dc5d4");
  });

  test("is SHA-256 of its fields as netstrings, whatever they hold", () => {
    fc.assert(
      fc.property(posting, fc.option(hex(32), { nil: undefined }), fc.constantFrom(0, 2, 3, 12), (row, previous, digits) => {
        expect(chainHash(previous, row, figuresOf(row, digits))).toBe(expected(previous, row, digits));
      }),
      { numRuns: 2000 },
    );
  });

  test("doesn't depend on the rows that were hashed before it, long ones even", () => {
    const long = { ...plain, description: "я".repeat(100_000) };
    expect(chainHash(undefined, long, figuresOf(long, 2))).toBe(expected(undefined, long, 2));
    expect(chainHash(undefined, plain, figuresOf(plain, 2))).toBe(expected(undefined, plain, 2));
  });
});

/** The same by the words of the specification, and nothing else. */
function expected(previous: string | undefined, row: Posting, digits: number): string {
  const netstring = (text: string | bigint | undefined): Buffer => {
    const bytes = Buffer.from((text ?? "").toString());
    return Buffer.concat([Buffer.from(`${bytes.length}:`), bytes, Buffer.from(",")]);
  };
  const amount = (minor: bigint | undefined): string => {
    if (minor === undefined || digits === 0) return (minor ?? "").toString();
    const size = minor < 0n ? -minor : minor;
    const scale = 10n ** BigInt(digits);
    return `${minor < 0n ? "-" : ""}${size / scale}.${(size % scale).toString().padStart(digits, "0")}`;
  };
  const fields = [
    "ledgerd.transaction.1", previous, row.userId, row.currency, row.sequence, row.type, amount(row.amount), amount(row.heldChange),
    amount(row.balanceAfter), amount(row.heldAfter), amount(row.creditLimitAfter), row.holdId, amount(row.holdCaptured), row.holdExpiresAt,
    row.refundedTransactionId, row.jobId, row.groupId, row.idempotencyKey, row.reference, row.description,
    row.metadata.map(([key, value]) => netstring(key).toString() + netstring(value).toString()).join(""), row.actor, row.traceId, row.createdAt,
  ];
  return createHash("sha256").update(Buffer.concat(fields.map(netstring))).digest("hex");
}

function hex(bytes: number): fc.Arbitrary<string> {
  return fc.uint8Array({ minLength: bytes, maxLength: bytes }).map((drawn) => Buffer.from(drawn).toString("hex"));
}

const id = fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n });
const minor = fc.oneof(fc.constant(0n), fc.bigInt({ min: -(10n ** 18n), max: 10n ** 18n }));
const optional = <T>(arbitrary: fc.Arbitrary<T>): fc.Arbitrary<T | undefined> => fc.option(arbitrary, { nil: undefined });
// Of any script, and long or short.
const text = fc.oneof(fc.string({ maxLength: 100 }), fc.string({ unit: "grapheme", maxLength: 60 }));
const posting: fc.Arbitrary<Posting> = fc.record({
  userId: id, currency: fc.constantFrom("RUB", "JPY", "CREDITS"), sequence: fc.bigInt({ min: 1n, max: 2n ** 63n - 1n }),
  type: fc.constantFrom<TransactionType>("topup", "deduction", "transfer_out", "credit_limit"),
  amount: minor, heldChange: minor, balanceAfter: minor, heldAfter: minor, creditLimitAfter: minor,
  holdId: optional(id), holdCaptured: optional(minor), holdExpiresAt: optional(id), refundedTransactionId: optional(id), jobId: optional(id),
  groupId: optional(fc.uuid()), idempotencyKey: optional(text), reference: text, description: text,
  metadata: fc.array(fc.tuple(text, text), { maxLength: 4 }), actor: text, traceId: fc.oneof(fc.constant(""), hex(16)), createdAt: id,
});
