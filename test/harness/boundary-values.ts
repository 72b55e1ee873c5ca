// What may break a field, by its type: the values at the bounds of what it can hold, and those that formats,
// databases and languages stumble over.

import { ScalarType, type DescEnum, type DescField } from "@bufbuild/protobuf";
import { DurationSchema, StructSchema, TimestampSchema } from "@bufbuild/protobuf/wkt";
import { boundaryTimes } from "./boundary-times.ts";
import { oddNames } from "./varied-ledger.ts";

/** So long may the texts of the contract be, each somewhere. */
const lengths = [64, 100, 128, 512, 1000, 2000, 100_000];
const texts: readonly string[] = [
  "",
  " ",
  "a",
  "a\0b",
  "\u0001",
  "a\nb\tc\r",
  "\uFEFFmarked",
  "__proto__",
  "constructor",
  "null",
  "\\N",
  "'; --",
  '{"a":1}',
  "%00%FF",
  "😀",
  "👩‍👩‍👧‍👦",
  "\u{10FFFF}",
  "e\u0301",
  "é",
  "שלום",
  "\u202Eright to left\u202C",
  "日本語",
  "\uFFFD",
  "\uFFFF",
  "ﬀ",
  ...lengths.flatMap((length) => ["x".repeat(length), "x".repeat(length + 1)]),
  "é".repeat(128),
  "😀".repeat(64),
  "😀".repeat(128),
  `${"x".repeat(63)}😀`,
  `${"x".repeat(127)}😀`,
];
const int64s: readonly bigint[] = [
  0n,
  1n,
  -1n,
  ...[31n, 32n, 53n, 62n, 63n].flatMap((power) => [
    2n ** power - 1n,
    2n ** power,
    2n ** power + 1n,
    -(2n ** power),
    -(2n ** power) - 1n,
    1n - 2n ** power,
  ]),
].filter((value) => BigInt.asIntN(64, value) === value);
const int32s: readonly number[] = [0, 1, -1, 3, 50, 99, 100, 101, 999, 1000, 1001, 2 ** 31 - 1, -(2 ** 31)];
const amounts: readonly string[] = [
  "0",
  "-0",
  "1",
  "-1",
  "0.01",
  "0.001",
  "00.10",
  "+1",
  "1.",
  ".5",
  "1e3",
  "0x1",
  "١",
  "１",
  "NaN",
  "1 ",
  "99999999999999999.99",
  "999999999999999999.99",
  "9".repeat(40),
];

const nested = (depth: number): object => (depth <= 1 ? {} : { a: nested(depth - 1) });
const listed = (depth: number): unknown => (depth === 0 ? 0 : [listed(depth - 1)]);
const structs = [
  {},
  { "": "" },
  { ...oddNames, ["__proto__"]: { ["__proto__"]: oddNames } },
  { a: null, b: [null, [], {}] },
  { a: true, b: [1, "x", false] },
  { numbers: [0, 1e308, 5e-324, -1e-300, 2 ** 53 + 2, 0.1, 1e21, -1] },
  { "a b\n😀שלום": "😀שלום\u202E\uFEFF" },
  { a: "\0" },
  { "\0": 1 },
  nested(32),
  nested(33),
  nested(34),
  { a: listed(31) },
  { a: listed(32) },
  { a: listed(33) },
  { a: "x".repeat(99_992) },
  { a: "x".repeat(99_993) },
];
const maps = [
  {},
  { a: "" },
  { "": "x" },
  oddNames,
  { "a b": "x" },
  { "a/b:c_d.e-f": "x" },
  { a: "\0" },
  { "\0": "x" },
  { a: "😀שלום\u202E\uFEFF" },
  { "😀": "x" },
  { שלום: "x" },
  { 2: "b", 10: "a", 1: "c" },
  { ["x".repeat(64)]: "" },
  { ["x".repeat(65)]: "" },
  { [`${"x".repeat(63)}😀`]: "" },
  { a: "x".repeat(512) },
  { a: "x".repeat(513) },
  { a: "😀".repeat(256) },
  ...[32, 33].map((count) =>
    Object.fromEntries(Array.from({ length: count }, (_, index) => [`k${index}`, `${index}`])),
  ),
];

/** Values that each format has. */
export function sharedValues(field: DescField): readonly unknown[] {
  if (field.fieldKind === "map") return maps;
  const values = singleValues(field);
  if (field.fieldKind !== "list") return values;
  const [one] = values;
  return [[], ...values.map((value) => [value]), ...[1000, 1001].map((length) => Array<unknown>(length).fill(one))];
}

function singleValues(field: DescField): readonly unknown[] {
  switch (field.message) {
    case undefined:
      break;
    case TimestampSchema:
      return boundaryTimes.Timestamp.right;
    case DurationSchema:
      return boundaryTimes.Duration.right;
    case StructSchema:
      return structs;
    default:
      return [{}];
  }
  if (field.enum !== undefined) return enumNumbers(field.enum);
  switch (field.scalar) {
    case ScalarType.STRING:
      return field.name === "amount" ? [...amounts, ...texts] : texts;
    case ScalarType.BOOL:
      return [true, false];
    case ScalarType.INT32:
      return int32s;
    case ScalarType.INT64:
      return int64s;
    default:
      throw new Error(`there are no values for ${String(field)}`);
  }
}

function enumNumbers({ values }: DescEnum): readonly number[] {
  const known = values.map(({ number }) => number);
  return [...known, Math.max(...known) + 1, -1, 2 ** 31 - 1, -(2 ** 31)];
}

/** Values that only protobuf has: they are refused. */
export function protobufValues({ message }: DescField): readonly unknown[] {
  if (message === TimestampSchema) return boundaryTimes.Timestamp.wrong;
  if (message === DurationSchema) return boundaryTimes.Duration.wrong;
  if (message === StructSchema) return [{ a: NaN }, { a: [Infinity] }, { a: { b: -Infinity } }];
  return [];
}

/** JSON that no field of this kind can be: it is refused. */
export function jsonTexts(field: DescField): readonly string[] {
  if (field.fieldKind === "list")
    return ["{}", "5", '"a"', "[null]", "[[]]", ...jsonOf(field).map((text) => `[${text}]`)];
  if (field.fieldKind === "map")
    return [
      "[]",
      '"a"',
      '{"a":null}',
      '{"a":5}',
      '{"a":{}}',
      '{"a":"1","a":"1"}',
      '{"a":"\\ud800"}',
      '{"\\udc00":"a"}',
    ];
  return jsonOf(field);
}

const halfPairs = ['"\\ud800"', '"\\udc00\\ud800"', '"😀\\ude00"'];

function jsonOf(field: DescField): readonly string[] {
  if (field.message === StructSchema)
    return ["[]", "5", '{"a":1e400}', '{"a":"\\ud800"}', '{"\\ud800":1}', '{"a":1,"a":1}', '{"a":[{"b":0,"b":0}]}'];
  if (field.message === TimestampSchema)
    return [
      "0",
      "{}",
      '""',
      '"now"',
      '"2026-02-30T00:00:00Z"',
      '"0000-12-31T00:00:00Z"',
      '"10000-01-01T00:00:00Z"',
      '"2026-01-01 00:00:00Z"',
    ];
  if (field.message === DurationSchema)
    return ["1", "{}", '""', '"1"', '"1 s"', '"1s1"', '"1.0000000001s"', '"315576000001s"', '"99999999999999999999s"'];
  if (field.message !== undefined) return ["[]", "5", '"a"', '{"nothing":1}', '{"__proto__":1}'];
  if (field.enum !== undefined) return ["1.5", '"1"', '"NOTHING"', "true", "{}", "2147483648", "-2147483649"];
  switch (field.scalar) {
    case ScalarType.STRING:
      // What reports a failure is mended rather than refused.
      return ["5", "true", "[]", "{}", ...(field.name === "error_message" ? [] : halfPairs)];
    case ScalarType.BOOL:
      return ['"true"', "1", "0", "[]"];
    default:
      return [
        '"0x10"',
        '"+5"',
        '" 5"',
        '"5 "',
        '"05"',
        '""',
        "1.5",
        "1e-1",
        "true",
        "{}",
        "[]",
        '"9223372036854775808"',
        "-9223372036854775809",
        "1e19",
        "1e999",
      ];
  }
}
