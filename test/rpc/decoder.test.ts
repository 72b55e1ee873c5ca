// What a request may hold, by its descriptor: one item more is refused before anything is built of it.

import { create, fromBinary, ScalarType, toBinary, type DescField, type DescMessage } from "@bufbuild/protobuf";
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { AdminService } from "../../src/gen/ledger/v1/admin_service_pb.ts";
import { CreateJobRequestSchema, JobService } from "../../src/gen/ledger/v1/job_service_pb.ts";
import { LedgerService, TopUpRequestSchema } from "../../src/gen/ledger/v1/ledger_service_pb.ts";
import { LockService } from "../../src/gen/ledger/v1/lock_service_pb.ts";
import { decoderOf } from "../../src/servers/wire/decoder.ts";
import { mostItems } from "../../src/servers/wire/request-bounds.ts";
import { messagesOf } from "./messages.ts";

const requests = [LedgerService, JobService, LockService, AdminService].flatMap(({ methods }) =>
  methods.map(({ input }) => input),
);

/** A field within a request: the fields that lead to it, and itself. */
type Path = readonly DescField[];

/** All lists and maps of a type, and of what is nested in it, the first time that each type comes. */
function manyIn(desc: DescMessage, before: Path = [], seen = new Set<DescMessage>()): readonly Path[] {
  if (seen.has(desc)) return [];
  seen.add(desc);
  return desc.fields.flatMap((field) => {
    const path = [...before, field];
    const here = field.fieldKind === "list" || field.fieldKind === "map" ? [path] : [];
    return field.message === undefined ? here : [...here, ...manyIn(field.message, path, seen)];
  });
}

const places = requests.flatMap((desc) =>
  manyIn(desc).map((path) => ({ request: desc.name, place: path.map(({ name }) => name).join("."), desc, path })),
);

/** Bytes of a request in which a field, at the end of a path, has so many items, each of them as short as can be. */
function withItems(path: Path, count: number): Uint8Array {
  const last = path.at(-1);
  const writer = new BinaryWriter();
  for (let item = 0; item < count; item++) writeShortest(writer, last);
  return path.slice(0, -1).reduceRight<Uint8Array>((inner, field) => within(field, inner), writer.finish());
}

function writeShortest(writer: BinaryWriter, field: DescField | undefined): void {
  const isNumber = field?.scalar !== ScalarType.STRING && field?.message === undefined && field?.fieldKind === "list";
  if (isNumber) writer.tag(field.number, WireType.Varint).uint32(1);
  else writer.tag(field?.number ?? 0, WireType.LengthDelimited).bytes(new Uint8Array());
}

/** Bytes as the value of a field; of a map, as that of one of its entries. */
function within(field: DescField, inner: Uint8Array): Uint8Array {
  const bytes = field.fieldKind === "map" ? new BinaryWriter().tag(2, WireType.LengthDelimited).bytes(inner).finish() : inner;
  return new BinaryWriter().tag(field.number, WireType.LengthDelimited).bytes(bytes).finish();
}

/** More bytes than are ever taken without a look, of a text that any request may have among them. */
const padding = new BinaryWriter().tag(99, WireType.LengthDelimited).bytes(new Uint8Array(2000)).finish();

const problemOf = (desc: DescMessage, ...parts: readonly Uint8Array[]): string => {
  try {
    decoderOf(desc)(Buffer.concat([...parts, padding]));
    return "";
  } catch (error) {
    return String(error);
  }
};

describe("a request", () => {
  test.each(places)("$request may have so many $place, and not one more", ({ desc, path }) => {
    const most = mostItems(path.at(-1) as DescField);
    // In parameters all that is nested counts together: here an entry above.
    const left = most - path.slice(0, -1).filter(({ fieldKind }) => fieldKind === "map").length;
    expect(problemOf(desc, withItems(path, left))).toBe("");
    const problem = problemOf(desc, withItems(path, left + 1));
    expect(problem).toContain(`malformed: ${path[0]?.name}`);
    expect(problem).toContain(`must have at most ${most} items`);
  });

  test("may have numbers side by side in one record, which are counted too", () => {
    const [path] = manyIn(LedgerService.method.batchGetBalances.input);
    const field = path?.[0] as DescField;
    const packed = (count: number) => within(field, new Uint8Array(count).fill(1));
    expect(problemOf(LedgerService.method.batchGetBalances.input, packed(1000))).toBe("");
    expect(problemOf(LedgerService.method.batchGetBalances.input, packed(1001))).toContain("user_ids must have at most");
    expect(problemOf(LedgerService.method.batchGetBalances.input, packed(600), packed(401))).toContain("user_ids");
  });

  test("may have a field of one value four times, whatever it is, and not a fifth time", () => {
    for (const field of TopUpRequestSchema.fields.filter(({ fieldKind }) => fieldKind === "message" || fieldKind === "scalar")) {
      const writer = new BinaryWriter();
      const isLong = field.message !== undefined || field.scalar === ScalarType.STRING;
      if (isLong) writer.tag(field.number, WireType.LengthDelimited).bytes(new Uint8Array());
      else writer.tag(field.number, WireType.Varint).uint32(1);
      const once = writer.finish();
      expect(problemOf(TopUpRequestSchema, once, once, once, once), field.name).toBe("");
      expect(problemOf(TopUpRequestSchema, once, once, once, once, once), field.name).toContain(field.name);
    }
  });

  test("may have a hundred fields that only later versions know, and not one more", () => {
    const unknown = new BinaryWriter().tag(77, WireType.Varint).uint32(1).finish();
    const parts = (count: number) => Array.from({ length: count }, () => unknown);
    expect(problemOf(TopUpRequestSchema, ...parts(99))).toBe("");
    expect(problemOf(TopUpRequestSchema, ...parts(100))).toContain("more than 100 fields");
  });

  test("may not be nested without end", () => {
    const [fields, value, list] = [1, 2, 6];
    const field = (number: number, bytes: Uint8Array): Uint8Array => new BinaryWriter().tag(number, WireType.LengthDelimited).bytes(bytes).finish();
    let inner: Uint8Array = new Uint8Array();
    for (let depth = 0; depth < 60; depth++) inner = field(list, field(1, inner));
    const parameters = field(CreateJobRequestSchema.field.parameters.number, field(fields, field(value, inner)));
    expect(problemOf(CreateJobRequestSchema, parameters)).toContain("more than 100 deep");
  });

  test("that is within its bounds is what protobuf makes of it", () => {
    for (const desc of new Set(requests)) {
      const read = decoderOf(desc);
      fc.assert(
        fc.property(messagesOf(desc), (init) => {
          const bytes = toBinary(desc, create(desc, init));
          expect(read(bytes)).toEqual(fromBinary(desc, bytes));
        }),
        { numRuns: 10 },
      );
    }
  });

  test("of arbitrary bytes is read, or refused as malformed: nothing else happens", () => {
    fc.assert(
      fc.property(fc.constantFrom(...requests), fc.uint8Array({ minLength: 1025, maxLength: 3000 }), (desc, bytes) => {
        try {
          decoderOf(desc)(bytes);
        } catch (error) {
          expect(String(error)).toContain("the request is malformed");
        }
      }),
      { numRuns: 300 },
    );
  });
});
