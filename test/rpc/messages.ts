// Arbitrary messages of all types of the contract, as `create` takes them.

import { ScalarType, type DescField, type DescMessage, type DescOneof } from "@bufbuild/protobuf";
import { StructSchema } from "@bufbuild/protobuf/wkt";
import fc from "fast-check";
import { file_ledger_v1_account } from "../../src/gen/ledger/v1/account_pb.ts";
import { file_ledger_v1_admin_service } from "../../src/gen/ledger/v1/admin_service_pb.ts";
import { file_ledger_v1_errors } from "../../src/gen/ledger/v1/errors_pb.ts";
import { file_ledger_v1_job_service } from "../../src/gen/ledger/v1/job_service_pb.ts";
import { file_ledger_v1_ledger_service } from "../../src/gen/ledger/v1/ledger_service_pb.ts";
import { file_ledger_v1_lock_service } from "../../src/gen/ledger/v1/lock_service_pb.ts";
import { file_ledger_v1_money } from "../../src/gen/ledger/v1/money_pb.ts";

const files = [
  file_ledger_v1_account,
  file_ledger_v1_admin_service,
  file_ledger_v1_errors,
  file_ledger_v1_job_service,
  file_ledger_v1_ledger_service,
  file_ledger_v1_lock_service,
  file_ledger_v1_money,
];

/** All types of messages of the contract. */
export const contractTypes = files.flatMap(({ messages }) => messages);

/** What a message may be made of: each of its fields is there, or not, or zero. */
export type Init = Readonly<Record<string, unknown>>;

/** Short and long, of all planes, with halves of surrogate pairs. */
export const texts = fc.oneof(
  fc.string(),
  fc.string({ unit: "binary", maxLength: 100 }),
  fc.string({ size: "large", maxLength: 300 }),
  fc.array(fc.nat(0xffff), { maxLength: 60 }).map((units) => String.fromCharCode(...units)),
);

const int64s = fc.oneof(fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }), fc.bigInt({ min: -(2n ** 33n), max: 2n ** 33n }), fc.constantFrom(0n, 127n, 128n, -1n));
const int32s = fc.oneof(fc.integer(), fc.constantFrom(0, 127, 128, -1));

/** The values of those fields for which there are others than for all fields of their type. */
type Special = (field: DescField) => fc.Arbitrary<unknown> | undefined;

/** An arbitrary message of a type. */
export function messagesOf(desc: DescMessage, special: Special = () => undefined): fc.Arbitrary<Init> {
  const members = desc.members.map((member) => {
    const values = member.kind === "oneof" ? choicesOf(member, special) : fieldsOf(member, special);
    return [member.localName, values] as const;
  });
  return fc.record(Object.fromEntries(members), { requiredKeys: [] });
}

function choicesOf({ fields }: DescOneof, special: Special): fc.Arbitrary<unknown> {
  const choices = fields.map((field) =>
    fc.record({ case: fc.constant(field.localName), value: valuesOf(field, special) }),
  );
  return fc.oneof(fc.constant({ case: undefined }), fc.constant(undefined), ...choices);
}

function fieldsOf(field: DescField, special: Special): fc.Arbitrary<unknown> {
  const values = valuesOf(field, special);
  if (field.fieldKind === "list") return fc.option(fc.array(values, { maxLength: 5 }), { nil: undefined });
  // Names are texts as values are.
  const names = (special(field) ?? texts) as typeof texts;
  if (field.fieldKind === "map") return fc.option(fc.dictionary(names, values, { maxKeys: 5 }), { nil: undefined });
  return fc.option(values, { nil: undefined });
}

function valuesOf(field: DescField, special: Special): fc.Arbitrary<unknown> {
  const own = special(field);
  if (own !== undefined) return own;
  if (field.message === StructSchema) return fc.dictionary(fc.string(), fc.jsonValue({ maxDepth: 2 }), { maxKeys: 3 });
  if (field.message !== undefined) return messagesOf(field.message, special);
  if (field.enum !== undefined) return fc.oneof(fc.constantFrom(...field.enum.values.map(({ number }) => number)), int32s);
  switch (field.scalar) {
    case ScalarType.STRING:
      return texts;
    case ScalarType.BOOL:
      return fc.boolean();
    case ScalarType.INT32:
      return int32s;
    case ScalarType.INT64:
      return int64s;
    default:
      throw new Error(`no arbitrary values for ${String(field)}`);
  }
}
