// JSON is read exactly: whatever a message can hold, however it is written; and what it can't hold is refused under
// its field's name.

import { create, fromJsonString, ScalarType, type DescField, type DescMessage } from "@bufbuild/protobuf";
import { DurationSchema, FileDescriptorProtoSchema, StructSchema, TimestampSchema } from "@bufbuild/protobuf/wkt";
import { ConnectError } from "@connectrpc/connect";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { AdminService } from "../../src/gen/ledger/v1/admin_service_pb.ts";
import { BadRequestSchema } from "../../src/gen/google/rpc/error_details_pb.ts";
import { CreateJobRequestSchema, JobService } from "../../src/gen/ledger/v1/job_service_pb.ts";
import {
  BatchWriteRequestSchema,
  GetBalanceRequestSchema,
  LedgerService,
  ListTransactionsRequestSchema,
  TopUpRequestSchema,
} from "../../src/gen/ledger/v1/ledger_service_pb.ts";
import { AcquireLockRequestSchema, LockService } from "../../src/gen/ledger/v1/lock_service_pb.ts";
import { jsonReaderOf } from "../../src/servers/web/json-requests.ts";
import { jsonTextOf, styles } from "../harness/json.ts";
import { messagesOf } from "./messages.ts";
import { numbers } from "./numbers.ts";

/** More values than any of these texts has. */
const MANY = 2000;

const bytesOf = (text: string): Uint8Array => new TextEncoder().encode(text);

/** The message that a text stands for. */
function read(desc: DescMessage, text: string) {
  return fromJsonString(desc, jsonReaderOf(desc, MANY)(bytesOf(text)));
}

/** What is said to be wrong with a text, by the names of its fields. */
function problemsOf(desc: DescMessage, body: string | Uint8Array): Readonly<Record<string, string>> {
  try {
    jsonReaderOf(desc, MANY)(typeof body === "string" ? bytesOf(body) : body);
  } catch (error) {
    if (!(error instanceof ConnectError)) throw error;
    const details = error.details.flatMap((detail) =>
      "desc" in detail && detail.desc === BadRequestSchema ? [create(BadRequestSchema, detail.value)] : [],
    );
    return Object.fromEntries(
      details.flatMap(({ fieldViolations }) => fieldViolations.map(({ field, description }) => [field, description])),
    );
  }
  return {};
}

const requests = [LedgerService, JobService, LockService, AdminService].flatMap(({ methods }) =>
  methods.map(({ input }) => input),
);

/** What JSON.stringify writes of a value: of -0, zero. */
const written = (value: unknown): unknown => JSON.parse(JSON.stringify(value));

/** Values that JSON has: no halves of surrogate pairs, and times and durations within their ranges. */
function representable(field: DescField): fc.Arbitrary<unknown> | undefined {
  if (field.scalar === ScalarType.STRING) return fc.string({ unit: "binary", maxLength: 20 });
  const seconds = (min: bigint, max: bigint) =>
    fc.record({ seconds: fc.bigInt({ min, max }), nanos: fc.nat(999_999_999) });
  if (field.message === TimestampSchema) return seconds(-62_135_596_800n, 253_402_300_799n);
  if (field.message === DurationSchema) return seconds(0n, 315_575_999_999n);
  return field.message === StructSchema
    ? fc.dictionary(fc.string(), fc.jsonValue({ maxDepth: 3 }).map(written), { maxKeys: 5 })
    : undefined;
}

describe("an arbitrary request is the same however it is written", () => {
  test.each(requests.map((desc) => [desc.typeName, desc] as const))("%s", (_name, desc) => {
    fc.assert(
      fc.property(messagesOf(desc, representable), fc.constantFrom(...styles), (init, style) => {
        const message = create(desc, init);
        expect(read(desc, jsonTextOf(desc, message, style))).toEqual(message);
      }),
      { numRuns: 50 },
    );
  });
});

describe("an integer", () => {
  const limits = {
    int: { 32: [-(2n ** 31n), 2n ** 31n - 1n], 64: [-(2n ** 63n), 2n ** 63n - 1n] },
    uint: { 32: [0n, 2n ** 32n - 1n], 64: [0n, 2n ** 64n - 1n] },
  } as const;
  const kinds = numbers.fields
    .filter(({ fieldKind }) => fieldKind === "scalar")
    .filter(({ name }) => name !== "chosen");

  test.each(kinds.map(({ name }) => name))(
    "of type %s is exact up to its bounds, as a number and as a string",
    (name) => {
      const [min, max] = limits[/^u|^fixed/.test(name) ? "uint" : "int"][name.endsWith("32") ? 32 : 64];
      for (const value of new Set(
        [min, min + 1n, max - 1n, max, 0n, 2n ** 31n - 1n, 2n ** 53n + 1n].filter((one) => one <= max),
      )) {
        for (const text of [
          `${value}`,
          `"${value}"`,
          `${value}.000`,
          `${value}e0`,
          `"${value}.0E+0"`,
          ...(value % 10n === 0n ? [] : [`${value}0e-1`]),
        ]) {
          expect(read(numbers, `{"${name}":${text}}`), text).toMatchObject({
            [name]: name.endsWith("32") ? Number(value) : value,
          });
        }
      }
      for (const value of [min - 1n, max + 1n]) {
        for (const text of [`${value}`, `"${value}"`, `${value}.0`])
          expect(Object.keys(problemsOf(numbers, `{"${name}":${text}}`)), text).toEqual([name]);
      }
    },
  );

  test("may have an exponent, as long as it is an integer", () => {
    for (const [text, value] of [
      ["1e3", 1000n],
      ["5.0", 5n],
      ["-12.50e2", -1250n],
      ["0.5e1", 5n],
      ["9.223372036854775807e18", 2n ** 63n - 1n],
      ["-0", 0n],
      ["0e999999999999999999999", 0n],
      [`5.${"0".repeat(900)}`, 5n],
    ] as const) {
      expect(read(numbers, `{"int64":${text},"inner":{"int64":"${text}"}}`), text).toMatchObject({
        int64: value,
        inner: { int64: value },
      });
    }
  });

  test.each([
    "1.5",
    "1e-1",
    "1e20",
    "1e999999999999999999999",
    '"0x10"',
    '"+5"',
    '" 5"',
    '"5 "',
    '""',
    '"007"',
    '"5."',
    '".5"',
    '"1_000"',
    '"٥"',
    '"Infinity"',
    "true",
    "{}",
    "[]",
    `1${"0".repeat(900)}`,
  ])("is refused under its name where it can't be one: %s", (text) => {
    for (const name of ["int64", "uint64", "int32", "wrapped"])
      expect(Object.keys(problemsOf(numbers, `{"${name}":${text}}`))).toEqual([name]);
  });

  test("is exact wherever it stands, and named by its place where it is none", () => {
    const max = 2n ** 63n - 1n;
    expect(
      read(
        numbers,
        `{"many":[${max},"${max}"],"by_name":{"a":${max}},"chosen":${max},"inner":{"inner":{"int64":${max}}},` +
          `"wrapped":${max},"unsigned_wrapped":${2n ** 64n - 1n}}`,
      ),
    ).toMatchObject({
      many: [max, max],
      byName: { a: max },
      choice: { case: "chosen", value: max },
      inner: { inner: { int64: max } },
      wrapped: max,
      unsignedWrapped: 2n ** 64n - 1n,
    });
    expect(
      Object.keys(
        problemsOf(
          numbers,
          '{"many":[1,1.5],"byName":{"a b":1e99},"chosen":"x","inner":{"inner":{"int64":true}},' +
            '"wrapped":{},"unsignedWrapped":-1}',
        ),
      ),
    ).toEqual(["many[1]", 'by_name["a b"]', "chosen", "inner.inner.int64", "wrapped", "unsigned_wrapped"]);
    expect(Object.keys(problemsOf(BatchWriteRequestSchema, '{"writes":[{},{},{},{"topUp":{"userId":1.5}}]}'))).toEqual([
      "writes[3].top_up.user_id",
    ]);
  });
});

describe("a value that its field can't hold is refused under the field's name", () => {
  test.each([
    [TopUpRequestSchema, '{"idempotencyKey":5}', "idempotency_key"],
    [TopUpRequestSchema, '{"amount":{"amount":10}}', "amount.amount"],
    [TopUpRequestSchema, '{"amount":"10"}', "amount"],
    [TopUpRequestSchema, '{"metadata":{"a":5}}', 'metadata["a"]'],
    [TopUpRequestSchema, '{"metadata":{"a":null}}', 'metadata["a"]'],
    [TopUpRequestSchema, '{"metadata":[]}', "metadata"],
    [TopUpRequestSchema, '{"validateOnly":"true"}', "validate_only"],
    [TopUpRequestSchema, '{"uniqueReference":1}', "unique_reference"],
    [TopUpRequestSchema, '{"user":5}', "user"],
    [TopUpRequestSchema, '{"__proto__":{}}', "__proto__"],
    [TopUpRequestSchema, '{"constructor":{}}', "constructor"],
    [TopUpRequestSchema, String.raw`{"\ud800":5}`, "\uFFFD"],
    [TopUpRequestSchema, String.raw`{"description":"\ud800"}`, "description"],
    [TopUpRequestSchema, String.raw`{"description":"\udc00\ud800"}`, "description"],
    [TopUpRequestSchema, String.raw`{"metadata":{"a\ud800":"x"}}`, 'metadata["a\uFFFD"]'],
    [BatchWriteRequestSchema, '{"writes":{}}', "writes"],
    [BatchWriteRequestSchema, '{"writes":[null]}', "writes[0]"],
    [BatchWriteRequestSchema, '{"writes":[{"topUp":{},"deduct":{}}]}', "writes[0].deduct"],
    [GetBalanceRequestSchema, '{"asOfTime":"2026-01-01T00:00:00Z","as_of_sequence":1}', "as_of_sequence"],
    [ListTransactionsRequestSchema, '{"order":"NEWEST"}', "order"],
    [ListTransactionsRequestSchema, '{"types":[1,"TRANSACTION_TYPE_TOPUP",1.5]}', "types[2]"],
    [ListTransactionsRequestSchema, '{"order":2147483648}', "order"],
    [ListTransactionsRequestSchema, '{"order":"1"}', "order"],
    [CreateJobRequestSchema, '{"parameters":[]}', "parameters"],
    [CreateJobRequestSchema, '{"parameters":{"a":[{"b":1e400}]}}', 'parameters["a"][0]["b"]'],
    [CreateJobRequestSchema, String.raw`{"parameters":{"a":["\udfff"]}}`, 'parameters["a"][0]'],
    ...[
      "1700000000",
      '"2026-02-30T00:00:00Z"',
      '"2026-01-01T24:00:00Z"',
      '"2026-01-01T00:00:60Z"',
      '"2026-01-01"',
      '"2026-01-01T00:00:00"',
      '"0000-12-31T23:59:59Z"',
      '"0001-01-01T00:00:00+00:01"',
      '"9999-12-31T23:59:59-00:01"',
      '"2026-01-01T00:00:00.1234567890Z"',
      '"2026-01-01T00:00:00+25:00"',
      '{"seconds":5}',
    ].map((text) => [CreateJobRequestSchema, `{"runTime":${text}}`, "run_time"] as const),
    ...[
      "5",
      '"5"',
      '"5 s"',
      '"5s "',
      '"5sec"',
      '"+5s"',
      '"1e3s"',
      '".5s"',
      '"5.s"',
      '"1.1234567890s"',
      '"315576000001s"',
      '"-315576000001s"',
      '"9999999999999999999s"',
      '{"seconds":5}',
    ].map((text) => [AcquireLockRequestSchema, `{"ttl":${text}}`, "ttl"] as const),
  ] as const)("%s: %s", (desc, text, field) => {
    expect(Object.keys(problemsOf(desc, text))).toEqual([field]);
  });

  test("all of them at once, the first ones of many", () => {
    expect(
      Object.keys(problemsOf(TopUpRequestSchema, '{"userId":"x","amount":{"currency":1,"amount":2},"nothing":0}')),
    ).toEqual(["user_id", "amount.currency", "amount.amount", "nothing"]);
    expect(Object.keys(problemsOf(BatchWriteRequestSchema, `{"writes":[${Array(1000).fill("5").join(",")}]}`))).toEqual(
      Array.from({ length: 16 }, (_, index) => `writes[${index}]`),
    );
  });
});

describe("a name that is given twice is refused", () => {
  test.each([
    [TopUpRequestSchema, '{"userId":1,"userId":1}', "user_id"],
    [TopUpRequestSchema, '{"userId":1,"user_id":2}', "user_id"],
    [TopUpRequestSchema, '{"userId":null,"user_id":2}', "user_id"],
    [TopUpRequestSchema, String.raw`{"userId":1,"\u0075serId":1}`, "user_id"],
    [TopUpRequestSchema, '{"amount":{"amount":"1","amount":"2"}}', "amount.amount"],
    [TopUpRequestSchema, '{"metadata":{"a":"1","b":"2","a":"1"}}', 'metadata["a"]'],
    [TopUpRequestSchema, '{"metadata":{"__proto__":"1","__proto__":"1"}}', 'metadata["__proto__"]'],
    [CreateJobRequestSchema, '{"parameters":{"a":{"b":1,"b":1}}}', 'parameters["a"]["b"]'],
    [CreateJobRequestSchema, '{"parameters":{"a":[{"b":null,"b":null}]}}', 'parameters["a"][0]["b"]'],
  ] as const)("%s: %s", (desc, text, field) => {
    expect(problemsOf(desc, text)).toEqual({ [field]: "must not be given twice" });
  });
});

describe("a body that isn't JSON in UTF-8 is refused as a whole", () => {
  const latin1 = (text: string): Uint8Array => Buffer.from(text, "latin1");
  test.each([
    ["nothing", ""],
    ["an unknown word", "nothing"],
    ["a list", "[]"],
    ["null", "null"],
    ["two values", "{}{}"],
    ["an object that doesn't end", '{"userId":1'],
    ["a string that doesn't end", '{"idempotencyKey":"a'],
    ["a string that ends in a backslash", '{"idempotencyKey":"a\\'],
    ["a comma too many", '{"userId":1,}'],
    ["a comma too many in a list", '{"writes":[{},]}'],
    ["a comma alone", "{,}"],
    ["no colon", '{"userId" 1}'],
    ["a name without quotes", "{userId:1}"],
    ["other quotes", "{'userId':1}"],
    ["a comment", '{"userId":1/**/}'],
    ["a number that begins with zero", '{"userId":01}'],
    ["a number with a plus", '{"userId":+1}'],
    ["a number without digits", '{"userId":-}'],
    ["a number that ends in its point", '{"userId":1.}'],
    ["a hexadecimal number", '{"userId":0x10}'],
    ["NaN", '{"userId":NaN}'],
    ["a line break in a string", '{"description":"a\nb"}'],
    ["U+0000 in a string", '{"description":"a\0b"}'],
    ["U+0000 behind it", "{}\0"],
    ["an escape that doesn't exist", String.raw`{"description":"\x"}`],
    ["an escape that is too short", String.raw`{"description":"\u12"}`],
    ["space that JSON doesn't know", "{\u00A0}"],
    ["a byte order mark", "\uFEFF{}"],
    ["bytes that aren't UTF-8", latin1('{"idempotencyKey":"caf\xe9-1"}')],
    ["bytes that aren't UTF-8 in a name", latin1('{"metadata":{"caf\xe9":""}}')],
    ["half a surrogate pair in UTF-8", latin1('{"description":"\xed\xa0\x80"}')],
    ["a character in more bytes than it needs", latin1('{"description":"\xc0\xaf"}')],
    ["UTF-16", Buffer.from("{}", "utf16le")],
    ["a hundred thousand lists in each other", "[".repeat(100_000)],
    ["a hundred thousand objects in each other", '{"a":'.repeat(100_000)],
    ["parameters of a hundred thousand lists", `{"parameters":{"a":${"[".repeat(100_000)}${"]".repeat(100_000)}}}`],
  ])("%s", (_name, body) => {
    for (const desc of [TopUpRequestSchema, CreateJobRequestSchema])
      expect(Object.keys(problemsOf(desc, body))).toEqual([""]);
  });

  test("and it is told that there was a byte order mark, which can't be seen", () => {
    expect(problemsOf(TopUpRequestSchema, "\uFEFF{}")).toEqual({
      "": expect.stringContaining("byte order mark") as string,
    });
  });

  test("and one that is may have space around, and the mark within a text", () => {
    expect(read(TopUpRequestSchema, ' \t\r\n{ "userId" : 5 , "description" : "\uFEFFa\\uFEFF" } \n')).toMatchObject({
      userId: 5n,
      description: "\uFEFFa\uFEFF",
    });
  });

  test("and absent fields may be null", () => {
    const fields = TopUpRequestSchema.fields.map(({ jsonName }) => `"${jsonName}":null`).join(",");
    expect(read(TopUpRequestSchema, `{${fields}}`)).toEqual(create(TopUpRequestSchema));
    expect(read(GetBalanceRequestSchema, '{"asOfTime":null,"asOfSequence":"5"}')).toMatchObject({
      asOf: { case: "asOfSequence", value: 5n },
    });
  });
});

test("what the contract doesn't use has no reader", () => {
  expect(() => jsonReaderOf(FileDescriptorProtoSchema, MANY)).toThrow("there is no reader of JSON for");
});

test("all names of a Struct and of a map are names", () => {
  const names = '{"__proto__":"p","constructor":"c","hasOwnProperty":"h","toString":"t"}';
  expect(jsonReaderOf(TopUpRequestSchema)(bytesOf(`{"metadata":${names}}`))).toBe(`{"metadata":${names}}`);
  expect(jsonReaderOf(CreateJobRequestSchema)(bytesOf(`{"parameters":{"__proto__":${names}}}`))).toBe(
    `{"parameters":{"__proto__":${names}}}`,
  );
});

test("of many wrong fields, the first ones are named, and that there are others", () => {
  const writes = Array.from({ length: 60 }, () => `{"topUp":{"userId":"x"}}`).join(",");
  expect(() => jsonReaderOf(BatchWriteRequestSchema)(bytesOf(`{"writes":[${writes}]}`))).toThrow(
    /^\[invalid_argument\] the request is malformed: writes\[0\]\.top_up\.user_id .*; and more$/,
  );
});
