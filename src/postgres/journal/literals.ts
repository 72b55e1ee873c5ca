// Values as PostgreSQL writes them, for statements that take all rows of a group as one parameter: arrays, and arrays of rows.
//
// Written here rather than left to pg, which looks at each value's type and escapes each text: that was a tenth of a call's time in
// the service.

import { sql } from "slonik";
import { timestamp } from "../rows.ts";

/** One field of a row, as it stands in an array of rows; empty for NULL. */
export type Field = string;

/** BIGINT or INTEGER. */
export function integer(value: bigint | number | undefined): Field {
  return value === undefined ? "" : value.toString();
}

/** NUMERIC as a decimal number, UUID, or anything else that needs no quotes. */
export function plain(value: string | undefined): Field {
  return value ?? "";
}

/** TEXT; an empty text is NULL, as everywhere in the ledger's tables. */
export function text(value: string | undefined): Field {
  if (value === undefined || /^[\w.:/-]*$/.test(value)) return value ?? "";
  // Once for the row, and once more for the array that the row stands in; a plain replacement for each, since texts may be long and full of them.
  return `\\"${value.replaceAll("\\", "\\\\\\\\").replaceAll('"', '\\\\\\"')}\\"`;
}

/** BYTEA. */
export function bytes(value: Buffer | undefined): Field {
  return value === undefined ? "" : `\\\\\\\\x${value.toString("hex")}`;
}

let lastTime: bigint | undefined;
let lastTimeWritten = "";

/** TIMESTAMPTZ, from microseconds since 1970. The rows of a group mostly have one time, so the last one is remembered. */
export function time(micros: bigint | undefined): Field {
  if (micros === undefined) return "";
  if (micros !== lastTime) lastTimeWritten = timestamp((lastTime = micros));
  return lastTimeWritten;
}

/** An array of rows. */
export function rows(of: readonly (readonly Field[])[]): string {
  return `{${of.map((fields) => `"(${fields.join(",")})"`).join(",")}}`;
}

/** An array of BIGINT. */
export function int8s(values: readonly (bigint | undefined)[]) {
  return sql.fragment`${array(values.map((value) => value?.toString()))}::int8[]`;
}

/** An array of TEXT. */
export function texts(values: readonly string[]) {
  return sql.fragment`${array(values.map((value) => `"${escape(value)}"`))}::text[]`;
}

/** An array of NUMERIC, as decimal numbers. */
export function numerics(values: readonly string[]) {
  return sql.fragment`${array(values)}::numeric[]`;
}

/** An array of TIMESTAMPTZ. */
export function times(values: readonly bigint[]) {
  return sql.fragment`${array(values.map(time))}::timestamptz[]`;
}

function array(values: readonly (string | undefined)[]): string {
  return `{${values.map((value) => value ?? "NULL").join(",")}}`;
}

function escape(value: string): string {
  return value.replaceAll("\\", "\\\\").replaceAll('"', '\\"');
}
