// Requests in JSON: checked along their descriptors, and written anew as the JSON that protobuf-es reads without
// loss.
//
// By itself it takes any JSON that `JSON.parse` gives: integers beyond 2^53 are rounded by then, `0x10` in a string
// is 16, and what follows the `s` of a duration is overlooked. Here every value is what the protobuf JSON mapping
// says, or it is refused under its field's name. For each type of requests there is a reader, put together once. What
// the contract doesn't use (bytes, floats, groups, Any, masks, values outside of a Struct) is refused then.

import {
  ScalarType,
  type DescEnum,
  type DescField,
  type DescMessage,
  type DescOneof,
  type JsonValue,
} from "@bufbuild/protobuf";
import { DurationSchema, isWrapperDesc, StructSchema, TimestampSchema } from "@bufbuild/protobuf/wkt";
import { FIRST_MOMENT, LAST_MOMENT } from "../../domain/moment.ts";
import { shownName } from "../../domain/text.ts";
import { FailJobRequestSchema, UpdateJobStatusRequestSchema } from "../../gen/ledger/v1/job_service_pb.ts";
import { JsonNumber, JsonObject, JsonProblem, readJson, TooManyValues, type Json } from "./json-text.ts";
import { mostValues } from "../wire/request-bounds.ts";
import { errorOfViolations, MOST_VIOLATIONS, type Violation } from "../../rpc/errors.ts";

/**
 * Turns a value into what protobuf-es takes for it, or says what is wrong with it: what it answers then is of no
 * interest.
 */
type Take = (value: Json, request: Checked) => JsonValue;

/**
 * What reads requests of a type, of at most so many values. It answers JSON again; it throws an error that names the
 * fields that are wrong, the first ones of many.
 */
export function jsonReaderOf(desc: DescMessage, most = mostValues(desc)): (bytes: Uint8Array) => string {
  const take = messageTaker(desc, new Map());
  return (bytes) => {
    const request = new Checked();
    const taken = take(parsed(bytes, desc, most), request);
    request.throwIfWrong();
    return JSON.stringify(taken);
  };
}

function parsed(bytes: Uint8Array, desc: DescMessage, most: number): Json {
  try {
    return readJson(bytes, most);
  } catch (error) {
    if (!(error instanceof JsonProblem)) throw error;
    const field = error instanceof TooManyValues ? fieldCalled(error.member, desc) : undefined;
    const description = `the body can't be read as JSON: ${error.message}`;
    throw errorOfViolations([{ field: field?.name ?? "", description }]);
  }
}

function fieldCalled(name: string, desc: DescMessage): DescField | undefined {
  return desc.fields.find((field) => field.name === name || field.jsonName === name);
}

/**
 * A step into a request: to a field, by its descriptor or, if there is none of that name, by its name; to an item of
 * a list; to a name in a map.
 */
type Step = DescField | string | number | { readonly name: string };

/** A request while it is checked: where we are in it, and what is wrong so far. */
class Checked {
  readonly #violations: Violation[] = [];
  readonly #path: Step[] = [];

  enter(step: Step): void {
    this.#path.push(step);
  }

  leave(): void {
    this.#path.pop();
  }

  /** Throws once there are more than are told. */
  wrong(description: string): null {
    this.#violations.push({ field: this.#path.map(stepText).join("").replace(/^\./, ""), description });
    if (this.#violations.length > MOST_VIOLATIONS) this.throwIfWrong();
    return null;
  }

  throwIfWrong(): void {
    if (this.#violations.length > 0) throw errorOfViolations(this.#violations);
  }
}

function stepText(step: Step): string {
  if (typeof step === "number") return `[${step}]`;
  if (typeof step === "string") return `.${shownName(step)}`;
  return "kind" in step ? `.${step.name}` : `["${shownName(step.name)}"]`;
}

/** The readers of the types that were met so far: a type may hold messages of its own. */
type Known = Map<DescMessage, Take>;

function messageTaker(desc: DescMessage, known: Known): Take {
  const before = known.get(desc);
  if (before !== undefined) return before;
  const special = wellKnown(desc);
  if (special !== undefined) return special;
  const fields = new Map<string, Found>();
  const take: Take = (value, request) => {
    if (!(value instanceof JsonObject)) return request.wrong(`must be an object, as ${desc.typeName} is one`);
    const taken: Record<string, JsonValue> = {};
    const seen = new Set<DescField | DescOneof>();
    for (const [name, given] of value.members) {
      const found = fields.get(name);
      request.enter(found?.field ?? name);
      if (found === undefined) request.wrong(`is no field of ${desc.typeName}`);
      else takeField(found, given, seen, taken, request);
      request.leave();
    }
    return taken;
  };
  known.set(desc, take);
  for (const field of desc.fields) {
    const found = { field, take: fieldTaker(field, known) };
    fields.set(field.name, found).set(field.jsonName, found);
  }
  return take;
}

interface Found {
  readonly field: DescField;
  readonly take: Take;
}

function takeField(
  { field, take }: Found,
  given: Json,
  seen: Set<DescField | DescOneof>,
  taken: Record<string, JsonValue>,
  request: Checked,
): void {
  if (seen.has(field)) request.wrong("must not be given twice");
  seen.add(field);
  // It stands for an absent field.
  if (given === null) return;
  const { oneof } = field;
  if (oneof !== undefined && seen.has(oneof)) request.wrong(`must not be given beside another choice of ${oneof.name}`);
  if (oneof !== undefined) seen.add(oneof);
  taken[field.jsonName] = take(given, request);
}

function fieldTaker(field: DescField, known: Known): Take {
  const take = valueTaker(field, known);
  if (field.fieldKind === "list") return listTaker(notNull(take));
  if (field.fieldKind !== "map") return take;
  if (field.mapKey !== ScalarType.STRING) throw unsupported(field);
  return mapTaker(notNull(take));
}

function notNull(take: Take): Take {
  return (value, request) => (value === null ? request.wrong("must not be null") : take(value, request));
}

function listTaker(take: Take): Take {
  return (value, request) => {
    if (!Array.isArray(value)) return request.wrong("must be a list");
    return (value as readonly Json[]).map((item, index) => {
      request.enter(index);
      const taken = take(item, request);
      request.leave();
      return taken;
    });
  };
}

/** Names that callers chose, each with its value. */
function mapTaker(take: Take): Take {
  return (value, request) => {
    if (!(value instanceof JsonObject)) return request.wrong("must be an object");
    const seen = new Set<string>();
    const entries = value.members.map(([name, given]) => {
      request.enter({ name });
      if (seen.has(name)) request.wrong("must not be given twice");
      seen.add(name);
      takeText(name, request);
      const taken = take(given, request);
      request.leave();
      return [name, taken] as const;
    });
    return Object.fromEntries(entries);
  };
}

function valueTaker(field: DescField, known: Known): Take {
  if (field.message !== undefined) {
    if ("delimitedEncoding" in field && field.delimitedEncoding) throw unsupported(field);
    return messageTaker(field.message, known);
  }
  if (field.enum !== undefined) return enumTaker(field.enum);
  if (reports.has(String(field))) return takeReport;
  const take = scalars.get(field.scalar);
  if (take === undefined) throw unsupported(field);
  return take;
}

const takeText: Take = (value, request) => {
  if (typeof value !== "string") return request.wrong("must be a string");
  return value.isWellFormed() ? value : request.wrong("must not contain half a surrogate pair");
};

/** Fields that report a failure: whatever is wrong with such a text, it is mended rather than refused. */
const reports: ReadonlySet<string> = new Set(
  [FailJobRequestSchema, UpdateJobStatusRequestSchema].map(({ field }) => String(field.errorMessage)),
);

const takeReport: Take = (value, request) =>
  typeof value === "string" ? value.toWellFormed() : takeText(value, request);

const takeBoolean: Take = (value, request) =>
  typeof value === "boolean" ? value : request.wrong("must be true or false");

/**
 * An integer of so many bits, in quotes or without; in quotes is how protobuf-es takes those that a double may not
 * hold.
 */
function integerTaker(bits: 32 | 64, isSigned: boolean): Take {
  const max = 2n ** BigInt(isSigned ? bits - 1 : bits) - 1n;
  const min = isSigned ? -max - 1n : 0n;
  return (value, request) => {
    const integer = integerOf(value);
    return integer !== undefined && integer >= min && integer <= max
      ? integer.toString()
      : request.wrong(`must be an integer from ${min} to ${max}`);
  };
}

const takeInt32 = integerTaker(32, true);
const takeUint32 = integerTaker(32, false);
const takeInt64 = integerTaker(64, true);
const takeUint64 = integerTaker(64, false);

const scalars: ReadonlyMap<ScalarType, Take> = new Map([
  [ScalarType.STRING, takeText],
  [ScalarType.BOOL, takeBoolean],
  ...[ScalarType.INT32, ScalarType.SINT32, ScalarType.SFIXED32].map((scalar) => [scalar, takeInt32] as const),
  ...[ScalarType.UINT32, ScalarType.FIXED32].map((scalar) => [scalar, takeUint32] as const),
  ...[ScalarType.INT64, ScalarType.SINT64, ScalarType.SFIXED64].map((scalar) => [scalar, takeInt64] as const),
  ...[ScalarType.UINT64, ScalarType.FIXED64].map((scalar) => [scalar, takeUint64] as const),
]);

const decimal = /^(-?)(0|[1-9]\d*)(?:\.(\d+))?(?:[eE]([+-]?\d+))?$/;
/** Of the integers that are taken; others are only that: larger. */
const MOST_DIGITS = 20;

/**
 * The integer that a number is, written in whatever way JSON has, in quotes or without; undefined: it is none, or far
 * too large.
 */
function integerOf(value: Json): bigint | undefined {
  const text = value instanceof JsonNumber ? value.text : value;
  const [match, sign = "", whole = "", fraction = "", exponent = "0"] =
    (typeof text === "string" ? decimal.exec(text) : null) ?? [];
  if (match === undefined) return undefined;
  const digits = whole + fraction;
  let [start, end] = [0, digits.length];
  while (digits[start] === "0") start += 1;
  while (end > start && digits[end - 1] === "0") end -= 1;
  if (start === end) return 0n;
  const zeros = Number(exponent) - fraction.length + digits.length - end;
  if (zeros < 0 || end - start + zeros > MOST_DIGITS) return undefined;
  return BigInt(sign + digits.slice(start, end) + "0".repeat(zeros));
}

function enumTaker(desc: DescEnum): Take {
  const names = new Set(desc.values.map(({ name }) => name));
  return (value, request) => {
    if (typeof value === "string")
      return names.has(value) ? value : request.wrong(`must be a name or a number of ${desc.typeName}`);
    const taken = takeInt32(value, request);
    return taken === null ? null : Number(taken);
  };
}

/** Types that are something else in JSON than an object of their fields. */
function wellKnown(desc: DescMessage): Take | undefined {
  if (isWrapperDesc(desc)) return valueTaker(desc.fields[0], new Map());
  switch (desc.typeName) {
    case TimestampSchema.typeName:
      return takeTime;
    case DurationSchema.typeName:
      return takeDuration;
    case StructSchema.typeName:
      return takeMembers;
    case "google.protobuf.Any":
    case "google.protobuf.FieldMask":
    case "google.protobuf.Value":
    case "google.protobuf.ListValue":
      throw unsupported(desc);
    default:
      return undefined;
  }
}

const rfc3339 = /^(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(?:\.\d{1,9})?(Z|[+-]\d\d:\d\d)$/;
const [FIRST_MS, LAST_MS] = [Number(FIRST_MOMENT / 1000n), Number(LAST_MOMENT / 1000n)];

const takeTime: Take = (value, request) => {
  const [match, day = "", time = "", offset = ""] = (typeof value === "string" ? rfc3339.exec(value) : null) ?? [];
  const utc = Date.parse(`${day}T${time}Z`);
  const ms = Date.parse(`${day}T${time}${offset}`);
  // A day that isn't in the calendar becomes one of the next month.
  const isInCalendar = !Number.isNaN(utc) && new Date(utc).toISOString().startsWith(`${day}T${time}`);
  if (match !== undefined && isInCalendar && ms >= FIRST_MS && ms <= LAST_MS) return match;
  return request.wrong('must be a time from year 1 to 9999 as RFC 3339 writes it, such as "2026-01-31T12:00:00Z"');
};

const duration = /^-?(\d{1,12})(?:\.\d{1,9})?s$/;
/** 10,000 years, as the mapping says. */
const MAX_DURATION_SECONDS = 315_576_000_000;

const takeDuration: Take = (value, request) => {
  const [match, seconds] = (typeof value === "string" ? duration.exec(value) : null) ?? [];
  if (match !== undefined && Number(seconds) <= MAX_DURATION_SECONDS) return match;
  return request.wrong(
    'must be a number of seconds up to 10,000 years, with up to 9 fraction digits and an "s", such as "1.5s"',
  );
};

/** What is in a Struct: JSON as it is, its numbers doubles. */
const takeAny: Take = (value, request) => {
  if (value instanceof JsonNumber) return finite(value, request);
  if (value instanceof JsonObject) return takeMembers(value, request);
  if (typeof value === "object" && value !== null) return takeItems(value, request);
  return typeof value === "string" ? takeText(value, request) : value;
};

const takeMembers = mapTaker(takeAny);
const takeItems = listTaker(takeAny);

function finite({ text }: JsonNumber, request: Checked): JsonValue {
  const double = Number(text);
  return Number.isFinite(double) ? double : request.wrong("must be a number that a double can hold");
}

function unsupported(desc: DescField | DescMessage): Error {
  return new Error(`there is no reader of JSON for ${String(desc)}`);
}
