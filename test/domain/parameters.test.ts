// Parameters of jobs: what every client can read, measured on the messages that they travel as.

import { fromJson, toBinary, type DescMessage, type JsonValue } from "@bufbuild/protobuf";
import { BinaryReader } from "@bufbuild/protobuf/wire";
import { StructSchema } from "@bufbuild/protobuf/wkt";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { decimalOf } from "../../src/domain/money/decimal.ts";
import {
  MAX_DEPTH,
  MAX_STORED_BYTES,
  MAX_STRUCT_BYTES,
  problemIn,
  readParameters,
  storedBytes,
  structBytes,
  type JsonObject,
} from "../../src/domain/jobs/parameters.ts";
import { file_ledger_v1_admin_service } from "../../src/gen/ledger/v1/admin_service_pb.ts";
import { file_ledger_v1_job_service } from "../../src/gen/ledger/v1/job_service_pb.ts";
import { file_ledger_v1_ledger_service } from "../../src/gen/ledger/v1/ledger_service_pb.ts";
import { file_ledger_v1_lock_service } from "../../src/gen/ledger/v1/lock_service_pb.ts";

/** Messages within each other that most libraries read: those of C++, Java, Python, C#. */
const NESTED_MESSAGES = 100;

/** How many messages lie around a Struct in a message, at most; -1 if there is none. */
function aroundStructs(desc: DescMessage, within: readonly DescMessage[] = []): number {
  if (desc === StructSchema || desc.typeName === StructSchema.typeName) return 0;
  if (within.includes(desc)) return -1;
  const inner = desc.fields.map(({ message }) =>
    message === undefined ? -1 : aroundStructs(message, [...within, desc]),
  );
  const deepest = Math.max(-1, ...inner);
  return deepest < 0 ? -1 : deepest + 1;
}

/** How many messages lie within each other in a Struct, itself not counted. */
function depthOf(bytes: Uint8Array, kind: "Struct" | "Entry" | "Value" | "List" = "Struct"): number {
  const reader = new BinaryReader(bytes);
  let depth = 0;
  while (reader.pos < reader.len) {
    const [field, wireType] = reader.tag();
    const inner = {
      Struct: { 1: "Entry" },
      Entry: { 2: "Value" },
      Value: { 5: "Struct", 6: "List" },
      List: { 1: "Value" },
    }[kind] as Readonly<Record<number, "Struct" | "Entry" | "Value" | "List">>;
    const next = inner[field];
    if (next === undefined) reader.skip(wireType, field);
    else depth = Math.max(depth, 1 + depthOf(reader.bytes(), next));
  }
  return depth;
}

function nested(levels: number, inner: JsonObject[string]): JsonObject {
  return levels === 0 ? (inner as JsonObject) : { a: nested(levels - 1, inner) };
}

function encoded(object: object): Uint8Array {
  return toBinary(StructSchema, fromJson(StructSchema, object as JsonValue));
}

const json = fc.dictionary(
  fc.string({ unit: "binary", maxLength: 5 }),
  fc.jsonValue({ maxDepth: 4, stringUnit: "binary" }),
  { maxKeys: 6 },
);

describe("parameters", () => {
  test("as deep as may be are within what most libraries read, in any answer", () => {
    const files = [
      file_ledger_v1_admin_service,
      file_ledger_v1_job_service,
      file_ledger_v1_ledger_service,
      file_ledger_v1_lock_service,
    ];
    const answers = files
      .flatMap(({ services }) => services)
      .flatMap(({ methods }) => methods.map(({ output }) => aroundStructs(output)));
    const around = Math.max(...answers);
    expect(around).toBeGreaterThan(1);
    const deepest = nested(MAX_DEPTH, {});
    expect([problemIn(deepest), problemIn(nested(MAX_DEPTH, { a: 1 }))]).toEqual([
      undefined,
      `must be nested at most ${MAX_DEPTH} deep`,
    ]);
    expect(around + depthOf(encoded(deepest))).toBeLessThanOrEqual(NESTED_MESSAGES);
  });

  test("have the size that they are encoded to", () => {
    fc.assert(fc.property(json, (object) => structBytes(object as JsonObject) === encoded(object).length));
    for (const length of [127, 128, 16_383, 16_384]) {
      const object = { a: "x".repeat(length), b: Array(length).fill(0) as number[] };
      expect(structBytes(object)).toBe(encoded(object).length);
    }
  });

  test("have no more bytes as a Struct than are counted on their text", () => {
    fc.assert(fc.property(json, (object) => storedBytes(JSON.stringify(object)) >= encoded(object).length));
    const deep = `${"[".repeat(100_000)}${"]".repeat(100_000)}`;
    expect(storedBytes(deep), "however deep").toBeGreaterThan(deep.length);
    expect(storedBytes('{"a":"1e9,e+300"}'), "texts aren't numbers").toBeLessThan(60);
  });

  test("that a call can send may be read, however long their numbers are written", () => {
    for (const number of [1e308, 1e-300, 5e-324, -1e308]) {
      const length = Math.floor(99_990 / (JSON.stringify(number).length + 1));
      const text = JSON.stringify({ a: Array.from({ length }, () => number) });
      expect(storedBytes(text)).toBeLessThan(MAX_STORED_BYTES);
    }
    const problem = `must have at most ${MAX_STORED_BYTES} bytes with all digits of their numbers`;
    expect(readParameters(`{"a": [1${"0".repeat(MAX_STORED_BYTES)}]}`)).toEqual({ problem });
  });

  test("that are stored are read, or it is said why not", () => {
    expect(readParameters("")).toEqual({ object: undefined });
    expect(readParameters('{"a": [1]}')).toEqual({ object: { a: [1] } });
    expect(readParameters('{"a": 1e400}')).toEqual({ problem: "must not contain NaN or infinity" });
    expect(readParameters(`{"a": [${"0,".repeat(200_000)}0]}`)).toEqual({
      problem: `must have at most ${MAX_STRUCT_BYTES} bytes as a google.protobuf.Struct`,
    });
    expect(readParameters(`{"a": [${"0,".repeat(100_000)}0]}`)).toHaveProperty("object");
  });
});

test("a decimal number is read digit by digit, with any exponent", () => {
  const digits = fc.array(fc.nat(9), { minLength: 1, maxLength: 20 }).map((list) => list.join(""));
  fc.assert(
    fc.property(
      fc.boolean(),
      digits,
      fc.option(digits, { nil: "" }),
      fc.integer({ min: -30, max: 30 }),
      (negative, before, behind, exponent) => {
        const text = `${negative ? "-" : ""}${before}${behind === "" ? "" : `.${behind}`}e${exponent < 0 ? "" : "+"}${exponent}`;
        const { whole, fraction } = decimalOf(text) ?? expect.unreachable();
        // Both sides times 10^60, as whole numbers.
        const written = BigInt(whole + fraction.padEnd(60, "0"));
        const meant = BigInt(`${negative ? "-" : ""}${before}${behind}`) * 10n ** BigInt(60 + exponent - behind.length);
        return written === meant;
      },
    ),
  );
  for (const text of ["", "NaN", "Infinity", "-Infinity", "1,5", "$1", "+1", "1.", ".5", " 1", "0x10", "1e", "١٢"])
    expect(decimalOf(text)).toBeUndefined();
});
