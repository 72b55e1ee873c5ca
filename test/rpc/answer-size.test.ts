// Bounds of what answers have hold, and are not far above it.

import { create, toBinary } from "@bufbuild/protobuf";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { Hold } from "../../src/domain/money/account.ts";
import { ANSWER_BYTES } from "../../src/domain/answer-size.ts";
import type { Command, CommandKind } from "../../src/domain/journal/command.ts";
import { currenciesWith } from "../../src/domain/money/currency.ts";
import type { Refusal } from "../../src/domain/journal/refusal.ts";
import { type Result, type Transaction } from "../../src/domain/journal/transaction.ts";
import { ErrorReason } from "../../src/gen/ledger/v1/errors_pb.ts";
import { BatchWriteResponseSchema } from "../../src/gen/ledger/v1/ledger_service_pb.ts";
import { answersFor } from "../../src/rpc/answers.ts";
import { sizeOf } from "../../src/rpc/answer-size.ts";
import { refusalBytes, resultBytes, resultCases } from "../../src/rpc/result-size.ts";
import { codes, errorOfFailure, refusalMessage, refusalOfError } from "../../src/rpc/errors.ts";
import { itemOf, type WriteParts } from "../../src/rpc/ledger/writes.ts";
import { note, USER } from "../domain/given.ts";
import { contractTypes, messagesOf, texts } from "./messages.ts";
import { kinds } from "../../src/domain/journal/kinds.ts";

describe("a message of any type has no more bytes than its bound", () => {
  test.each(contractTypes.map((desc) => [desc.typeName, desc] as const))("%s", (_name, desc) => {
    const bound = sizeOf(desc);
    fc.assert(
      fc.property(messagesOf(desc), (init) => {
        const bytes = toBinary(desc, create(desc, init)).length;
        expect(bound(init)).toBeGreaterThanOrEqual(bytes);
      }),
      { numRuns: 200 },
    );
  });
});

const MOST = 10n ** 18n - 1n;
const LATE = 253_402_300_799_999_999n;
// The unit of the finest amounts.
const currencies = currenciesWith([{ code: "CRD", digits: 12 }]);
const parts = { currencies, answers: answersFor(currencies) } as WriteParts;

/** A row as large as it can be, with a caller's texts. */
function largestRow(said: Command["note"], key: string): Transaction {
  const money = { amount: -MOST, heldChange: -MOST, balanceAfter: -MOST, heldAfter: MOST, creditLimitAfter: MOST };
  const id = 2n ** 63n - 1n;
  const ids = { id, userId: id, sequence: id, holdId: id, refundedTransactionId: id, jobId: id };
  return {
    ...ids, ...money, currency: "CRD", type: "opening", holdCaptured: MOST, holdExpiresAt: LATE, groupId: "0".repeat(36),
    idempotencyKey: key, createdAt: LATE, hash: "", ...said,
  };
}

/** What a batch answers to this write alone, where all else is as large as it can be. */
function answered({ kind, note: said }: Command, key: string): number {
  const row = largestRow(said, key);
  const { userId, currency, jobId } = row;
  const hold: Hold = { id: userId, userId, currency, amount: MOST, captured: MOST, state: "expired", jobId, expiresAt: LATE, createdAt: LATE };
  const transactions = kinds[kind].rows === 2 ? [row, row] : [row];
  const result: Result = { transactions, hold: kind.endsWith("hold") ? hold : undefined, job: undefined };
  const item = itemOf(parts, kind, { kind: "applied", results: [result], replayed: true });
  return toBinary(BatchWriteResponseSchema, create(BatchWriteResponseSchema, { results: [item] })).length;
}

const writes = fc.record({
  kind: fc.constantFrom(...(Object.keys(resultCases) as CommandKind[])),
  key: texts,
  note: fc.record({
    description: fc.oneof(texts, fc.string({ unit: "grapheme", size: "max", maxLength: 2000 })),
    reference: texts,
    metadata: fc.array(fc.tuple(texts, texts), { maxLength: 32 }),
  }),
});

function commandOf(kind: CommandKind, said: Partial<Command["note"]>): Command {
  return { kind, userId: USER, currency: "CRD", expectedSequence: undefined, note: { ...note, ...said } } as Command;
}

describe("the answer to a write has no more bytes than follow from its request", () => {
  test("whatever its texts are, if it is applied; and not many less", () => {
    fc.assert(
      fc.property(writes, ({ kind, key, note: said }) => {
        // Of two entries with one key the last one counts.
        const command = commandOf(kind, { ...said, metadata: [...new Map(said.metadata)] });
        const [bytes, bound] = [answered(command, key), resultBytes(command, key)];
        expect(bound).toBeGreaterThanOrEqual(bytes);
        const lengths = kinds[kind].rows * (8 + 4 * command.note.metadata.length);
        const refused = 620 + 2 * Buffer.byteLength(command.note.reference);
        expect(bound).toBeLessThanOrEqual(Math.max(bytes + 160 + lengths, refused));
      }),
    );
  });

  test("if it is refused, for any reason", () => {
    const reference = "😀".repeat(128);
    const money = { currency: "CRD", minor: -3n * MOST };
    const id = 2n ** 63n - 1n;
    const refusals: { readonly [R in Refusal["reason"]]: Omit<Extract<Refusal, { reason: R }>, "reason"> } = {
      IDEMPOTENCY_KEY_REUSED: { transactionId: id, createdAt: LATE },
      ACCOUNT_NOT_FOUND: { userId: id, currency: "CRD" },
      SEQUENCE_MISMATCH: { expectedSequence: id, sequence: id },
      REFERENCE_ALREADY_USED: { reference },
      CURRENCY_MISMATCH: { currency: "CRD", requested: "CRD" },
      SAME_ACCOUNT: { userId: id },
      TRANSACTION_NOT_FOUND: { transactionId: id },
      TRANSACTION_NOT_REFUNDABLE: { transactionId: id, type: "credit_limit" },
      REFUND_EXCEEDS_ORIGINAL: { transactionId: id, refundable: money },
      JOB_NOT_FOUND: { jobId: id },
      JOB_STATE_CONFLICT: { jobId: id, status: "processing", leaseExpiresAt: LATE },
      LEASE_LOST: { jobId: id, fencingToken: id },
      LOCK_HELD: { lockKey: id, instanceId: "x".repeat(100), expiresAt: LATE },
      LOCK_LOST: { lockKey: id, fencingToken: id },
      HOLD_NOT_FOUND: { holdId: id },
      HOLD_OWNED_BY_JOB: { holdId: id, jobId: id },
      HOLD_ALREADY_CAPTURED: { holdId: id },
      HOLD_ALREADY_RELEASED: { holdId: id },
      HOLD_EXPIRED: { holdId: id, expiresAt: LATE },
      CAPTURE_EXCEEDS_HOLD: { holdId: id, remaining: money },
      INSUFFICIENT_FUNDS: { available: money, requested: money },
      AMOUNT_OUT_OF_RANGE: { userId: id, currency: "CRD" },
      NOT_TRIED: { culprit: 999 },
    };
    const failures = [
      "OVERLOADED", "COMMIT_OUTCOME_UNKNOWN", "DATABASE_UNAVAILABLE", "DEADLINE_PASSED", "TRANSACTION_CONFLICT",
      "SHUTTING_DOWN", "CALL_CANCELLED",
    ] as const;
    const messages = [
      ...Object.entries(refusals)
        .map(([reason, about]) => refusalMessage({ reason, ...about } as Refusal, true, currencies)),
      ...failures.map((reason) => refusalOfError(errorOfFailure(reason, undefined))),
    ];
    const bound = resultBytes(commandOf("top_up", { reference }), "");
    for (const value of messages) {
      const response = create(BatchWriteResponseSchema, { results: [{ result: { case: "refusal", value } }] });
      const bytes = toBinary(BatchWriteResponseSchema, response).length;
      const said = value.reason === ErrorReason.REFERENCE_ALREADY_USED ? bound : refusalBytes("");
      expect(bytes, value.message).toBeLessThanOrEqual(said);
    }
    expect(Object.keys(codes)).toEqual(expect.arrayContaining(Object.keys(refusals)));
  });

  test("so that 1,000 writes with modest texts are taken at once", () => {
    const metadata = Array.from({ length: 5 }, (_, place) => [`key ${place}`, "v".repeat(60)] as const);
    const said = { reference: "r".repeat(36), metadata };
    const of = (kind: CommandKind, letters: number) =>
      1000 * resultBytes(commandOf(kind, { ...said, description: "д".repeat(letters) }), "k".repeat(36));
    expect(of("deduct", 1200)).toBeLessThan(ANSWER_BYTES);
    expect(of("place_hold", 1100)).toBeLessThan(ANSWER_BYTES);
    expect(of("transfer", 450)).toBeLessThan(ANSWER_BYTES);
    expect(of("transfer", 2000)).toBeGreaterThan(ANSWER_BYTES);
  });
});
