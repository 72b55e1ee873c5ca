// What becomes of a valid message by chance: as a message, as protobuf's bytes, and as JSON.
//
// Most of it can still be decoded, so that it gets as deep as valid messages do; the rest can't.

import { toBinary, type DescMessage, type JsonValue, type Message } from "@bufbuild/protobuf";
import { sharedValues } from "../harness/boundary-values.ts";
import { jsonTextOf, styles } from "../harness/json.ts";
import { messageOf } from "../harness/two-doors.ts";
import { placesOf, usualRequest, type Init, type Usual } from "../harness/usual-requests.ts";
import type { Random } from "./random.ts";

/** How many messages keep to what can be decoded. */
const DECODABLE = 0.7;

/** A usual message, in which up to two fields have values at a bound. */
export function mutatedMessage(desc: DescMessage, usual: Usual, random: Random): Message {
  let init: Init = usualRequest(desc, usual);
  for (let times = random.below(3); times > 0; times -= 1) {
    const places = placesOf(desc, usual, init);
    if (places.length === 0) break;
    const { field, put } = random.one(places);
    init = put(random.one(sharedValues(field)));
  }
  return messageOf(desc, init);
}

/** Its bytes, mutated. */
export function mutatedBytes(desc: DescMessage, usual: Usual, random: Random): Buffer {
  const bytes = Buffer.from(toBinary(desc, mutatedMessage(desc, usual, random)));
  if (random.chance(0.4)) return bytes;
  const other = (): Buffer => Buffer.from(toBinary(desc, mutatedMessage(desc, usual, random)));
  return random.chance(DECODABLE) ? rearranged(bytes, other, random) : broken(bytes, random);
}

/** Of the same fields, but left out, repeated, in another order, or twice with other values: so are choices. */
function rearranged(bytes: Buffer, other: () => Buffer, random: Random): Buffer {
  const fields = fieldsOf(bytes);
  const at = random.below(Math.max(fields.length, 1));
  const chosen = fields.slice(at, at + 1);
  switch (random.below(6)) {
    case 0:
      return Buffer.concat(fields.toSpliced(at, 1));
    case 1:
      return Buffer.concat([...fields, ...Array.from({ length: 1 + random.below(20) }, () => chosen).flat()]);
    case 2:
      return Buffer.concat(fields.toReversed());
    case 3:
      return Buffer.concat([bytes, other()]);
    case 4:
      return Buffer.concat([bytes, unknownField(random)]);
    default:
      return Buffer.concat([unknownField(random), ...fields, ...chosen]);
  }
}

/** Bytes that mostly aren't a message any more. */
function broken(bytes: Buffer, random: Random): Buffer {
  const at = random.below(Math.max(bytes.length, 1));
  switch (random.below(8)) {
    case 0:
      return bytes.subarray(0, at);
    case 1:
      return flipped(bytes, random);
    case 2:
      // Another wire type for the first field.
      return bytes.length === 0 ? Buffer.of(7) : Buffer.concat([Buffer.of((bytes[0] ?? 0) ^ (1 + random.below(7))), bytes.subarray(1)]);
    case 3:
      return Buffer.concat([bytes, nestedField(1 + random.below(15), random.one([10, 101, 3000]))]);
    case 4:
      return Buffer.concat([bytes, lengthDelimited(1 + random.below(15), Buffer.from("ff80c0afeda080", "hex"))]);
    case 5:
      return Buffer.concat([bytes.subarray(0, at), randomBytes(1 + random.below(8), random), bytes.subarray(at)]);
    case 6:
      // The largest number there is in each field, and one that is longer than any.
      return Buffer.concat([bytes, Buffer.of((1 + random.below(15)) << 3), Buffer.alloc(9, 0xff), Buffer.of(random.one([1, 0x7f, 0xff]))]);
    default:
      // Groups that begin and don't end, or end what never began.
      return Buffer.concat([bytes, Buffer.alloc(1 + random.below(200), ((1 + random.below(15)) << 3) | random.one([3, 4]))]);
  }
}

function flipped(bytes: Buffer, random: Random): Buffer {
  const changed = Buffer.from(bytes);
  for (let times = 1 + random.below(4); times > 0 && changed.length > 0; times -= 1) {
    const at = random.below(changed.length);
    changed[at] = (changed[at] ?? 0) ^ (1 << random.below(8));
  }
  return changed;
}

function randomBytes(length: number, random: Random): Buffer {
  return Buffer.from(Array.from({ length }, () => random.below(256)));
}

/** A field that no message has, of any wire type. */
function unknownField(random: Random): Buffer {
  const number = 200 + random.below(100_000);
  switch (random.below(4)) {
    case 0:
      return Buffer.concat([varint(number * 8), varint(random.below(2 ** 31))]);
    case 1:
      return Buffer.concat([varint(number * 8 + 1), randomBytes(8, random)]);
    case 2:
      return Buffer.concat([varint(number * 8 + 5), randomBytes(4, random)]);
    default:
      return lengthDelimited(number, randomBytes(random.below(300), random));
  }
}

/** A field in a field in a field. */
function nestedField(number: number, depth: number): Buffer {
  let nested: Buffer = Buffer.alloc(0);
  for (let level = 0; level < depth; level += 1) nested = lengthDelimited(number, nested);
  return nested;
}

function lengthDelimited(number: number, content: Buffer): Buffer {
  return Buffer.concat([varint(number * 8 + 2), varint(content.length), content]);
}

function varint(value: number): Buffer {
  const bytes: number[] = [];
  for (let rest = value; ; rest = Math.floor(rest / 128)) {
    if (rest < 128) return Buffer.from([...bytes, rest]);
    bytes.push((rest % 128) | 128);
  }
}

/** The fields of a message, each with its tag. */
function fieldsOf(bytes: Buffer): Buffer[] {
  const fields: Buffer[] = [];
  let at = 0;
  const skipVarint = (): number => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = bytes[(at += 1) - 1] ?? 0;
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const start = at;
    const type = skipVarint() & 7;
    if (type === 0) skipVarint();
    else at += type === 1 ? 8 : type === 5 ? 4 : skipVarint();
    fields.push(bytes.subarray(start, at));
  }
  return fields;
}

/** What may stand where a value stands. */
const jsonTexts = [
  "null", "true", "[]", "{}", '""', '"0"', "0", "-1", "1.5", "1e400", "-1e-400", "9223372036854775808", "-0", "00", "NaN",
  '"\\ud800"', '"\\u0000"', '"\\x"', '"\t"', "[[]]", '{"a":1,"a":2}', '{"__proto__":1}', `"${"9".repeat(5000)}"`, "9".repeat(5000),
  `${"[".repeat(3000)}${"]".repeat(3000)}`, `${'{"a":'.repeat(500)}1${"}".repeat(500)}`, "'a'", "undefined", "", "1,",
];
const MARK = "here it comes";

/** It as JSON, mutated. */
export function mutatedJson(desc: DescMessage, usual: Usual, random: Random): string {
  const text = jsonTextOf(desc, mutatedMessage(desc, usual, random), random.one(styles));
  if (random.chance(DECODABLE)) return random.chance(0.3) ? respelt(text) : text;
  const at = random.below(Math.max(text.length, 1));
  switch (random.below(6)) {
    case 0:
      return text.slice(0, at);
    case 1:
      return text.slice(0, at) + random.one(["{", "}", "[", "]", '"', ",", ":", "\\", "0", "e", "-", "\u0000", "\uFEFF", "😀"]) + text.slice(at);
    case 2:
      return text.replace("{", `{"nothing":${random.one(jsonTexts)},`);
    case 3:
      return `${text.slice(0, -1)}${text.length > 2 ? "," : ""}${text.slice(1)}`;
    case 4:
      return random.one(jsonTexts);
    default:
      return withValue(text, random);
  }
}

/** The same, with white space and its letters as escapes. */
function respelt(text: string): string {
  return text.replaceAll(/"([a-z])/g, (_all, letter: string) => ` "\\u${letter.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

/** With another text in the place of one of its values. */
function withValue(text: string, random: Random): string {
  const json = JSON.parse(text) as JsonValue;
  const parents: (Record<string, JsonValue> | JsonValue[])[] = [];
  const collect = (value: JsonValue): void => {
    if (typeof value !== "object" || value === null) return;
    if (Object.keys(value).length > 0) parents.push(value);
    Object.values(value).forEach(collect);
  };
  collect(json);
  if (parents.length === 0) return random.one(jsonTexts);
  const parent = random.one(parents) as Record<string, JsonValue>;
  parent[random.one(Object.keys(parent))] = MARK;
  return JSON.stringify(json).replace(JSON.stringify(MARK), () => random.one(jsonTexts));
}
