// How large the answer to a write can become: a bound that follows from its request, so that what is answered to many
// of them at once is known to fit before any is executed.
//
// A write's answer says its texts again, with each of its transactions, and otherwise numbers: those count as their
// longest.

import { ScalarType, type DescField, type DescMessage } from "@bufbuild/protobuf";
import type { Command, CommandKind } from "../domain/journal/command.ts";
import { WriteResultSchema } from "../gen/ledger/v1/ledger_service_pb.ts";
import { encoderOf } from "../protobuf/encoder.ts";
import { textBytes } from "./answer-size.ts";
import { kinds } from "../domain/journal/kinds.ts";

/** The kinds of writes that a batch or a stream takes, as their results are called. */
export const resultCases = {
  top_up: "topUp",
  deduct: "deduct",
  refund: "refund",
  transfer: "transfer",
  place_hold: "placeHold",
  capture_hold: "captureHold",
  release_hold: "releaseHold",
  adjust: "adjust",
} as const satisfies Partial<Record<CommandKind, string>>;

type ResultCase = (typeof resultCases)[keyof typeof resultCases];

/**
 * The longest of what isn't the caller's text. An amount has up to 19 digits, a sign and a point, and zeros before its
 * point where a unit has 12 digits.
 */
const texts: Readonly<Record<string, string>> = { currency: "XXX", amount: "9".repeat(24), group_id: "x".repeat(36) };
/** A refusal's text and details, but for a reference, which it says twice. */
const REFUSAL_BYTES = 600;
/** Of the lengths of all that is nested, which long texts make longer by two bytes each. */
const LENGTHS = 12;

/** The bytes of a result without texts, by its kind. */
const bare = bareBytes();

/** The most bytes that the result of a write takes in an answer, under its key. */
export function resultBytes({ kind, note }: Command, key: string): number {
  const bareOfKind = bare.get(kind);
  if (bareOfKind === undefined) throw new Error(`a write of kind ${kind} is in no batch`);
  const { description, reference, metadata, actor } = note;
  let said = fieldBytes(description) + fieldBytes(reference) + fieldBytes(key) + fieldBytes(actor);
  // An entry has a tag and a length of its own, beside those of its texts.
  for (const [name, value] of metadata) said += 4 + fieldBytes(name) + fieldBytes(value);
  return Math.max(bareOfKind + kinds[kind].rows * said, REFUSAL_BYTES + 2 * fieldBytes(reference));
}

/** The most bytes that a result takes which says why a write could not be taken. */
export function refusalBytes(message: string): number {
  return REFUSAL_BYTES + fieldBytes(message);
}

/** With a tag of up to two bytes. */
function fieldBytes(text: string): number {
  return text === "" ? 0 : 2 + textBytes(text);
}

function bareBytes(): ReadonlyMap<string, number> {
  const encode = encoderOf(WriteResultSchema);
  const sizeOf = (resultCase: ResultCase): number => {
    const { message } = WriteResultSchema.field[resultCase];
    if (message === undefined) throw new Error(`${resultCase} is no message`);
    const value = longest(message);
    return LENGTHS + encode({ result: { case: resultCase, value } as never }).length;
  };
  return new Map(Object.entries(resultCases).map(([kind, resultCase]) => [kind, sizeOf(resultCase)]));
}

/** A message with all of its fields, each as long as it can be. */
function longest(desc: DescMessage): Record<string, unknown> {
  const fields = desc.fields.filter(({ fieldKind }) => fieldKind !== "map");
  return Object.fromEntries(fields.map((field) => [field.localName, longestValue(field)]));
}

function longestValue(field: DescField): unknown {
  if (field.message !== undefined) return longest(field.message);
  if (field.scalar === ScalarType.INT64) return -1n;
  if (field.scalar === ScalarType.BOOL) return true;
  return field.scalar === ScalarType.STRING ? (texts[field.name] ?? "") : -1;
}
