// What a job's parameters may be: a JSON object that every client of the contract can read.
//
// They travel as google.protobuf.Struct. Its numbers are doubles, its texts are Unicode, and most protobuf libraries
// give up at 100 messages within each other, of which a level of JSON takes three. It is larger than the JSON that it
// stands for: `0,` takes 11 bytes.

import { isStorable } from "../text.ts";

/** A value of JSON. */
export type Json = null | boolean | number | string | readonly Json[] | JsonObject;

/** An object of JSON. */
export interface JsonObject {
  readonly [name: string]: Json;
}

/** How deep values may lie: 32 levels are 96 messages, and up to 3 are around them. */
export const MAX_DEPTH = 32;

/**
 * The most bytes that parameters may have as a Struct: what is stored may be larger than what a call may send, and an
 * answer has room for these.
 */
export const MAX_STRUCT_BYTES = 2 * 1024 * 1024;

/**
 * The most bytes that parameters may have as PostgreSQL writes them, which is how they are read. It writes numbers out,
 * `1e308` with 309 digits: what a call may send has less than 5 MB.
 */
export const MAX_STORED_BYTES = 8 * 1024 * 1024;

/** Why a Struct can't carry a value, or no client could read it; undefined: one can. */
export function problemIn(value: Json, depth = 0): string | undefined {
  if (depth > MAX_DEPTH) return `must be nested at most ${MAX_DEPTH} deep`;
  if (typeof value === "number" && !Number.isFinite(value)) return "must not contain NaN or infinity";
  if (typeof value === "string" && !isStorable(value)) return "must not contain U+0000 or half a surrogate pair";
  if (typeof value !== "object" || value === null) return undefined;
  const inner = isList(value) ? value : Object.entries(value).flat();
  for (const one of inner) {
    const problem = problemIn(one, depth + 1);
    if (problem !== undefined) return problem;
  }
  return undefined;
}

/** Stored parameters, or why they can't be answered. */
export type ReadParameters = { readonly object: JsonObject | undefined } | { readonly problem: string };

/** Reads stored parameters: a JSON object as text, or an empty text for none. */
export function readParameters(text: string): ReadParameters {
  if (text === "") return { object: undefined };
  const unread = storedProblem(text.length);
  if (unread !== undefined) return { problem: unread };
  const object = JSON.parse(text) as JsonObject;
  const problem = problemIn(object) ?? sizeProblem(object);
  return problem === undefined ? { object } : { problem };
}

/** What is wrong with the size of parameters, if anything is. */
export function sizeProblem(object: JsonObject): string | undefined {
  return structBytes(object) <= MAX_STRUCT_BYTES
    ? undefined
    : `must have at most ${MAX_STRUCT_BYTES} bytes as a google.protobuf.Struct`;
}

/** What is wrong with parameters of so many bytes as PostgreSQL writes them, if anything is. */
export function storedProblem(bytes: number): string | undefined {
  return bytes <= MAX_STORED_BYTES
    ? undefined
    : `must have at most ${MAX_STORED_BYTES} bytes with all digits of their numbers`;
}

/**
 * No fewer bytes than parameters have as a Struct, and as PostgreSQL writes them; given as JSON.stringify writes them.
 * A Struct's elements take up to 10 bytes beside what their JSON has, its entries 16, and each follows on `[`, `{` or
 * `,`. Counted without parsing: a writer asks it of each job, however deep an earlier version let its values lie.
 */
export function storedBytes(text: string): number {
  let bytes = Buffer.byteLength(text);
  for (let place = 0; place < text.length; place++) {
    const character = text[place];
    if (character === "," || character === "[" || character === "{") bytes += 10;
    else if (character === ":") bytes += 6;
  }
  for (const [, exponent] of text.matchAll(/\de[+-](\d{1,3})(?!\d)/g)) bytes += Number(exponent);
  return bytes;
}

/** How many bytes an object has as a Struct. */
export function structBytes(object: JsonObject): number {
  return Object.entries(object).reduce(
    (sum, [name, value]) => sum + delimited(delimited(Buffer.byteLength(name)) + delimited(valueBytes(value))),
    0,
  );
}

/** How many bytes a value has as a google.protobuf.Value. */
function valueBytes(value: Json): number {
  if (typeof value === "number") return 9;
  if (typeof value === "string") return delimited(Buffer.byteLength(value));
  if (typeof value !== "object" || value === null) return 2;
  if (!isList(value)) return delimited(structBytes(value));
  return delimited(value.reduce((sum: number, one) => sum + delimited(valueBytes(one)), 0));
}

/** With the tag and the length before it. */
function delimited(length: number): number {
  let bytes = 2 + length;
  for (let rest = length; rest > 0x7f; rest = Math.floor(rest / 0x80)) bytes += 1;
  return bytes;
}

function isList(value: Json): value is readonly Json[] {
  return Array.isArray(value);
}
