// What is wrong with a request for a write is said all at once: its fields in order, then the rules over two of them.

import { create, type DescMessage } from "@bufbuild/protobuf";
import { ConnectError } from "@connectrpc/connect";
import { describe, expect, test } from "vitest";
import { currenciesWith } from "../../src/domain/money/currency.ts";
import { BadRequestSchema } from "../../src/gen/google/rpc/error_details_pb.ts";
import { SetCreditLimitRequestSchema } from "../../src/gen/ledger/v1/admin_service_pb.ts";
import {
  AdjustRequestSchema,
  BatchWriteRequestSchema,
  CaptureHoldRequestSchema,
  DeductRequestSchema,
  PlaceHoldRequestSchema,
  RefundRequestSchema,
  ReleaseHoldRequestSchema,
  TopUpRequestSchema,
  TransferRequestSchema,
} from "../../src/gen/ledger/v1/ledger_service_pb.ts";
import { validate } from "../../src/rpc/validation.ts";
import { writeSchemas } from "../../src/rpc/ledger/write-requests.ts";
import type { Init } from "./messages.ts";

const schemas = writeSchemas(currenciesWith([]), "RUB");

function fieldsOf(schema: keyof typeof schemas, desc: DescMessage, init: Init): readonly string[] {
  try {
    validate<unknown>(schemas[schema], desc, create(desc, init));
    return [];
  } catch (error) {
    const details = error instanceof ConnectError ? error.details : [];
    return details.flatMap((detail) => ("desc" in detail && detail.desc === BadRequestSchema ? create(BadRequestSchema, detail.value).fieldViolations : [])).map(({ field }) => field);
  }
}

/** Nothing of it is right, whatever it is. */
const wrong = {
  metadata: { "a b": "\0", good: "x" },
  expectedSequence: -1n,
  uniqueReference: true,
  description: "\0",
  amount: { currency: "rub", amount: "1" },
  creditLimit: { amount: "-1" },
  expiresIn: { seconds: 0n },
};
const before = ["user_id", 'metadata["a b"]', 'metadata["a b"]', "expected_sequence"];
const after = ["idempotency_key", "reference"];

describe("all that is wrong is said at once, in order, of", () => {
  test.each([
    ["topUp", TopUpRequestSchema, ["description", "amount.currency"]],
    ["deduct", DeductRequestSchema, ["description", "amount.currency"]],
    ["refund", RefundRequestSchema, ["description", "amount.currency", "transaction_id"]],
    ["transfer", TransferRequestSchema, ["description", "amount.currency", "to_user_id"]],
    ["placeHold", PlaceHoldRequestSchema, ["description", "amount.currency", "expires_in"]],
    ["captureHold", CaptureHoldRequestSchema, ["description", "amount.currency", "hold_id"]],
    ["releaseHold", ReleaseHoldRequestSchema, ["description", "hold_id"]],
    ["adjust", AdjustRequestSchema, ["reason", "amount.currency"]],
    ["setCreditLimit", SetCreditLimitRequestSchema, ["description", "credit_limit.amount"]],
  ] as const)("%s", (name, desc, own) => {
    expect(fieldsOf(name, desc, wrong)).toEqual([...before, ...own, ...after]);
  });
});

describe("the amount of", () => {
  const ids = { transactionId: 1n, toUserId: 2n, holdId: 3n, reason: "r", userId: 1n, idempotencyKey: "k" };
  const isTaken = (name: keyof typeof schemas, desc: DescMessage, amount: string): boolean => fieldsOf(name, desc, { ...ids, amount: { amount }, creditLimit: { amount } }).length === 0;
  test.each([
    ["topUp", TopUpRequestSchema, ["1"]],
    ["deduct", DeductRequestSchema, ["1"]],
    ["refund", RefundRequestSchema, ["1"]],
    ["transfer", TransferRequestSchema, ["1"]],
    ["placeHold", PlaceHoldRequestSchema, ["1"]],
    ["captureHold", CaptureHoldRequestSchema, ["1"]],
    ["adjust", AdjustRequestSchema, ["-1", "1"]],
    ["setCreditLimit", SetCreditLimitRequestSchema, ["0", "1"]],
  ] as const)("%s has the right sign", (name, desc, taken) => {
    expect(["-1", "0", "1"].filter((amount) => isTaken(name, desc, amount))).toEqual(taken);
  });
});

describe("a batch", () => {
  const deduct = { userId: 1n, amount: { amount: "1" }, idempotencyKey: "k" };
  const batch = (init: Init, ...writes: Init[]) => fieldsOf("batch", BatchWriteRequestSchema, { ...init, writes: writes.map((value) => ({ write: { case: "deduct", value } })) });

  test("has a key for each of its writes, and none of its own", () => {
    expect(batch({}, deduct, deduct)).toEqual([]);
    expect(batch({ idempotencyKey: "b" }, deduct, { ...deduct, idempotencyKey: "" })).toEqual(["writes[1].deduct.idempotency_key", "idempotency_key"]);
  });

  test("that is atomic has a key of its own, and none for its writes", () => {
    expect(batch({ atomic: true, idempotencyKey: "b" }, { ...deduct, idempotencyKey: "" })).toEqual([]);
    expect(batch({ atomic: true }, deduct)).toEqual(["writes[0].deduct.idempotency_key", "idempotency_key"]);
  });

  test("holds writes that are no previews, each of a kind", () => {
    expect(batch({}, { ...deduct, validateOnly: true }, wrong)).toEqual([
      "writes[0].deduct.validate_only",
      ...["user_id", "idempotency_key", ...before.slice(1), "description", "amount.currency", "reference"].map((field) => `writes[1].deduct.${field}`),
    ]);
    expect(fieldsOf("batch", BatchWriteRequestSchema, { writes: [{}] })).toEqual(["writes[0]"]);
  });

  test.each([0, 1001])("of %i writes is refused as a whole", (count) => {
    expect(batch({}, ...Array.from({ length: count }, () => ({})))).toEqual(["writes"]);
  });
});
