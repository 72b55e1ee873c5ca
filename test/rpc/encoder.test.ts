// What our encoder writes is what protobuf-es writes, byte for byte.

import { create, toBinary, type DescMessage } from "@bufbuild/protobuf";
import { AnySchema, DoubleValueSchema } from "@bufbuild/protobuf/wkt";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { ListTransactionsRequestSchema, ListTransactionsResponseSchema, WriteSchema } from "../../src/gen/ledger/v1/ledger_service_pb.ts";
import { MoneySchema } from "../../src/gen/ledger/v1/money_pb.ts";
import { encoderOf } from "../../src/protobuf/encoder.ts";
import { contractTypes, messagesOf, type Init } from "./messages.ts";

function theirs(desc: DescMessage, message: Init): Buffer {
  return Buffer.from(toBinary(desc, create(desc, message)));
}

describe("an arbitrary message is written as protobuf-es writes it", () => {
  test.each(contractTypes.map((desc) => [desc.typeName, desc] as const))("%s", (_name, desc) => {
    const encode = encoderOf(desc);
    fc.assert(
      fc.property(messagesOf(desc), (init) => {
        const expected = theirs(desc, init);
        expect(encode(init)).toEqual(expected);
        expect(encode(create(desc, init)), "as a message that was created").toEqual(expected);
      }),
      { numRuns: 200 },
    );
  });
});

describe("an encoder", () => {
  const money = encoderOf(MoneySchema);

  test("writes texts of every length up to those whose length takes three bytes", () => {
    for (const letter of ["a", "ж", "€", "😀"]) {
      for (const length of [0, 1, 31, 32, 47, 48, 49, 127, 128, 129, 16_383, 16_384, 16_385]) {
        const init = { currency: letter.repeat(length), amount: `${"a".repeat(length)}${letter}` };
        expect(money(init)).toEqual(theirs(MoneySchema, init));
      }
    }
  });

  test("writes messages of any size, and small ones after them", () => {
    const transaction = { id: 1n, description: "д".repeat(2000), amount: { currency: "RUB", amount: "-12.50" } };
    const large = { transactions: Array.from({ length: 1000 }, (_, index) => ({ ...transaction, sequence: BigInt(index) })) };
    const list = encoderOf(ListTransactionsResponseSchema);
    for (const init of [{}, large, { transactions: [transaction] }, large, {}]) {
      expect(list(init).equals(theirs(ListTransactionsResponseSchema, init))).toBe(true);
    }
  });

  test("writes a message after one that it couldn't write", () => {
    const write = encoderOf(WriteSchema);
    const of = (userId: bigint) => ({ write: { case: "deduct" as const, value: { userId, amount: { amount: "1" } } } });
    expect(() => write(of(2n ** 63n))).toThrow("9223372036854775808 is no int64");
    expect(write(of(1n))).toEqual(theirs(WriteSchema, of(1n)));
  });

  test("refuses an int32 that is none", () => {
    const list = encoderOf(ListTransactionsRequestSchema);
    for (const pageSize of [2 ** 31, -(2 ** 31) - 1, 0.5]) expect(() => list({ pageSize })).toThrow("is no int32");
  });

  test("doesn't share the bytes of one message with the next", () => {
    const first = money({ amount: "1" });
    const copy = Buffer.from(first);
    money({ amount: "2" });
    expect(first).toEqual(copy);
  });

  test.each([AnySchema, DoubleValueSchema])("isn't made for a type with a field that it couldn't write: $typeName", (desc) => {
    expect(() => encoderOf(desc)).toThrow("there is no encoder for");
  });
});
