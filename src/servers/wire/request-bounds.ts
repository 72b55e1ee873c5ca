// What a request may hold, from what its fields may hold: so that one that would cost much is refused by its size, or by
// what is counted in it, before anything is built of it.
//
// 4 KB of gzip that held 4.2 million ids took 14 s of CPU and 2 GB: to decode them, and to find each of them wrong.

import { ScalarType, type DescField, type DescMessage, type DescOneof } from "@bufbuild/protobuf";
import { ListValueSchema, StructSchema } from "@bufbuild/protobuf/wkt";
import { ClaimJobsRequestSchema, BatchGetJobsRequestSchema, CreateJobRequestSchema, FailJobRequestSchema, UpdateJobStatusRequestSchema } from "../../gen/ledger/v1/job_service_pb.ts";
import {
  BatchGetBalancesRequestSchema,
  BatchWriteRequestSchema,
  ListTransactionsRequestSchema,
  StreamWritesRequestSchema,
  WatchTransactionsRequestSchema,
} from "../../gen/ledger/v1/ledger_service_pb.ts";

/** Entries of a map of the caller's. */
const MAP_ENTRIES = 32;
/** Values within a Struct: of 100,000 characters of JSON at most half stand for one. */
const STRUCT_VALUES = 50_000;
/** A Struct of so many characters in protobuf: two characters, `0,` in a list, may take eleven bytes. */
const STRUCT_BYTES = 1024 * 1024;

/** How many items a list may have. Proto comments say the same; the schemas refuse one item more by its field's name. */
const items: ReadonlyMap<DescField, number> = new Map([
  [BatchGetBalancesRequestSchema.field.userIds, 1000],
  [BatchWriteRequestSchema.field.writes, 1000],
  [StreamWritesRequestSchema.field.writes, 1000],
  [ListTransactionsRequestSchema.field.types, 100],
  [WatchTransactionsRequestSchema.field.types, 100],
  [BatchGetJobsRequestSchema.field.jobIds, 1000],
  [ClaimJobsRequestSchema.field.modelIds, 100],
]);

/** Characters of a text, where it may have more than 2,000. */
const characters: ReadonlyMap<DescField, number> = new Map([
  [CreateJobRequestSchema.field.prompt, 100_000],
  // Reports of failures are cut rather than refused, whatever their length.
  [FailJobRequestSchema.field.errorMessage, Number.POSITIVE_INFINITY],
  [UpdateJobStatusRequestSchema.field.errorMessage, Number.POSITIVE_INFINITY],
]);
const MOST_CHARACTERS = 2000;
const MOST_KEY_CHARACTERS = 64;
const MOST_VALUE_CHARACTERS = 512;
/** Of UTF-8, for a character. */
const CHARACTER_BYTES = 4;
/** Of protobuf, around a value: its tag and its length, or its number. */
const AROUND = 11;

/** Up to here what is wrong in a request is told by its fields, whatever method it is for. */
const LEAST_LIMIT = 256 * 1024;
/** JSON may write a character as `\uXXXX`, twice for the rare ones: three times its bytes. */
const JSON_TO_PROTOBUF = 4;

/** How many items a list or a map may have. */
export function mostItems(field: DescField): number {
  if (field.fieldKind === "map") return field.parent === StructSchema ? STRUCT_VALUES : MAP_ENTRIES;
  if (field.parent === ListValueSchema) return STRUCT_VALUES;
  const most = items.get(field);
  if (most === undefined) throw new Error(`${String(field)} has no bound`);
  return most;
}

/** How many bytes a lawful request of a type has at most in protobuf, and at least `LEAST_LIMIT`. */
export function mostBytes(desc: DescMessage): number {
  return Math.max(LEAST_LIMIT, bytesOf(desc));
}

/** The same in JSON. */
export function mostJsonBytes(desc: DescMessage): number {
  return JSON_TO_PROTOBUF * mostBytes(desc);
}

function bytesOf(desc: DescMessage): number {
  if (desc === StructSchema) return STRUCT_BYTES;
  return desc.fields.reduce((sum, field) => sum + fieldBytes(field), 0);
}

function fieldBytes(field: DescField): number {
  if (field.fieldKind === "map") {
    return mostItems(field) * (CHARACTER_BYTES * (MOST_KEY_CHARACTERS + MOST_VALUE_CHARACTERS) + 3 * AROUND);
  }
  const one = AROUND + valueBytes(field);
  return field.fieldKind === "list" ? mostItems(field) * one : one;
}

function valueBytes(field: DescField): number {
  if (field.message !== undefined) return bytesOf(field.message);
  return field.scalar === ScalarType.STRING ? CHARACTER_BYTES * (characters.get(field) ?? MOST_CHARACTERS) : 0;
}

/** How many values JSON may have that stands for a request: objects, lists, and what is in them. */
export function mostValues(desc: DescMessage): number {
  if (desc === StructSchema) return STRUCT_VALUES;
  return desc.members.reduce((sum, member) => sum + (member.kind === "oneof" ? choiceValues(member) : fieldValues(member)), 1);
}

/** Of its choices one is given; the others may stand there as null. */
function choiceValues({ fields }: DescOneof): number {
  return fields.length + Math.max(...fields.map(fieldValues));
}

function fieldValues(field: DescField): number {
  if (field.fieldKind === "map") return 1 + mostItems(field);
  const one = field.message === undefined ? 1 : mostValues(field.message);
  return field.fieldKind === "list" ? 1 + mostItems(field) * one : one;
}
