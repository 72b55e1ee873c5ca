// How many bytes a message has in protobuf's encoding, at most: for each type a function, put together once from its
// descriptor.
//
// It is a bound and no count, so that it costs a tenth of encoding: numbers count as their longest, short texts as
// three bytes for each of their characters. Longer texts, which are what makes an answer large, are counted as they
// are. A usual transaction counts for about twice its bytes, one with long texts for half a kilobyte more than it has.

import type { DescField, DescMessage, MessageInitShape } from "@bufbuild/protobuf";
import { ScalarType } from "@bufbuild/protobuf";
import { StructSchema } from "@bufbuild/protobuf/wkt";
import { ANSWER_BYTES } from "../domain/answer-size.ts";
import { structBytes, type JsonObject } from "../domain/jobs/parameters.ts";
import { errorOf } from "./errors.ts";

/** A message, or what `create` makes one of. */
type Init = Readonly<Record<string, unknown>>;
/** The most bytes that one of a message's fields takes, or all of them. */
type Size = (message: Init) => number;

const LONGEST_VARINT = 10;
/** Up to so many characters, a text isn't looked at: its length takes one byte, whatever it says. */
const SHORT_TEXT = 42;

/** What bounds the bytes of messages of a type. */
export function sizeOf<Desc extends DescMessage>(desc: Desc): (message: MessageInitShape<Desc>) => number {
  return messageSize(desc, new Map());
}

/** The bytes of a text, with those that say how many they are. */
export function textBytes(text: string): number {
  return delimited(Buffer.byteLength(text));
}

/** No fewer than those. */
function mostTextBytes(text: string): number {
  return text.length <= SHORT_TEXT ? 1 + 3 * text.length : textBytes(text);
}

/** As many of the messages of a list as one answer holds beside so many other bytes: the first one in any case. */
export function fitting<T, M>(
  items: readonly T[],
  message: (item: T) => M,
  size: (message: M) => number,
  beside: number,
): M[] {
  const fit: M[] = [];
  let bytes = beside;
  for (const item of items) {
    const next = message(item);
    bytes += delimitedItem(size(next));
    if (bytes > ANSWER_BYTES && fit.length > 0) break;
    fit.push(next);
  }
  return fit;
}

/** Refuses to answer so many bytes, in reads that can't be cut into pages. */
export function refuseTooLarge(bytes: number, what: string): void {
  if (bytes <= ANSWER_BYTES) return;
  const message = `the answer could have ${bytes} bytes, at most ${ANSWER_BYTES} are answered: ${what}`;
  throw errorOf("MESSAGE_TOO_LARGE", message, { limit_bytes: `${ANSWER_BYTES}` });
}

/** The most bytes of messages that are answered as a list. */
export function listBytes<M>(messages: readonly M[], size: (message: M) => number): number {
  return messages.reduce((sum, message) => sum + delimitedItem(size(message)), 0);
}

/** With its length and its tag: no list of an answer has a number over 15. */
function delimitedItem(bytes: number): number {
  return 1 + delimited(bytes);
}

function delimited(bytes: number): number {
  return bytes + varintBytes(bytes);
}

function varintBytes(value: number): number {
  return value < 0x80 ? 1 : value < 0x4000 ? 2 : value < 0x20_0000 ? 3 : 5;
}

function messageSize(desc: DescMessage, known: Map<DescMessage, Size>): Size {
  const before = known.get(desc);
  if (before !== undefined) return before;
  let fixed = 0;
  const sizes: Size[] = [];
  const size: Size = (message) => {
    let bytes = fixed;
    for (const sizeOfField of sizes) bytes += sizeOfField(message);
    return bytes;
  };
  known.set(desc, size);
  for (const field of desc.fields) {
    const isNumber = field.fieldKind === "enum" || (field.fieldKind === "scalar" && field.scalar !== ScalarType.STRING);
    if (isNumber) fixed += tagBytes(field) + LONGEST_VARINT;
    else sizes.push(fieldSize(field, known));
  }
  return size;
}

function fieldSize(field: DescField, known: Map<DescMessage, Size>): Size {
  const { localName: name, oneof } = field;
  const tag = tagBytes(field);
  if (field.fieldKind === "map") {
    return (message) => {
      const map = (message[name] ?? {}) as Readonly<Record<string, string>>;
      let bytes = 0;
      for (const key of Object.keys(map)) bytes += tag + delimited(2 + mostTextBytes(key) + mostTextBytes(map[key] ?? ""));
      return bytes;
    };
  }
  const valueSize = sizeOfValue(field, known);
  if (field.fieldKind === "list") {
    return (message) => {
      let bytes = 0;
      for (const value of (message[name] ?? []) as readonly unknown[]) bytes += tag + valueSize(value);
      return bytes;
    };
  }
  if (oneof !== undefined) {
    const { localName: oneofName } = oneof;
    return (message) => {
      const choice = message[oneofName] as { readonly case?: string; readonly value?: unknown } | undefined;
      return choice?.case === name ? tag + valueSize(choice.value) : 0;
    };
  }
  return (message) => {
    const value = message[name];
    return value === undefined || value === "" ? 0 : tag + valueSize(value);
  };
}

/** Of a single value of a field, or of an item of its list. */
function sizeOfValue(field: DescField, known: Map<DescMessage, Size>): (value: unknown) => number {
  const { message } = field;
  // As a field, it is given as the JSON object that it stands for. It may be many short texts: it is counted to the byte.
  if (message === StructSchema) return (value) => delimited(structBytes(value as JsonObject));
  if (message !== undefined) {
    const size = messageSize(message, known);
    return (value) => delimited(size(value as Init));
  }
  // Where numbers are packed, the tag that is counted with each has room for the length of all, but for that of the
  // first.
  const isText = field.enum === undefined && field.scalar === ScalarType.STRING;
  return isText ? (value) => mostTextBytes(value as string) : () => LONGEST_VARINT + 1;
}

function tagBytes({ number }: DescField): number {
  return varintBytes(number << 3);
}
