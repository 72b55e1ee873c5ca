// Columns of values as PostgreSQL writes arrays, for statements that take all rows of a group as one array for each column.
//
// Written here rather than left to pg, which looks at each value's type and escapes each text: that was a tenth of a call's time in
// the service. A column without any value is an empty array: unnest fills it up with NULL, and nothing is sent or read for it.

import { sql } from "slonik";
import { timestamp } from "../rows.ts";

/** BIGINT. */
export function int8s(values: readonly (bigint | number | undefined)[]) {
  return sql.fragment`${literal(values, String)}::int8[]`;
}

/** NUMERIC, as decimal numbers. */
export function numerics(values: readonly (string | undefined)[]) {
  return sql.fragment`${literal(values, asItIs)}::numeric[]`;
}

/** TEXT; an empty text is NULL, as everywhere in the ledger's tables. */
export function texts(values: readonly (string | undefined)[]) {
  return sql.fragment`${literal(values.map((value) => (value === "" ? undefined : value)), quote)}::text[]`;
}

/** JSONB, as JSON texts. */
export function jsons(values: readonly (string | undefined)[]) {
  return sql.fragment`${literal(values, quote)}::jsonb[]`;
}

/** UUID. */
export function uuids(values: readonly (string | undefined)[]) {
  return sql.fragment`${literal(values, asItIs)}::uuid[]`;
}

/** TIMESTAMPTZ, from microseconds since 1970. */
export function timestamps(values: readonly (bigint | undefined)[]) {
  // The rows of a group mostly have one time.
  let last: bigint | undefined;
  let written = "";
  const write = (micros: bigint): string => {
    if (micros !== last) written = timestamp((last = micros));
    return written;
  };
  return sql.fragment`${literal(values, write)}::timestamptz[]`;
}

/** TID: where rows lie. */
export function tids(values: readonly (string | undefined)[]) {
  return sql.fragment`${literal(values, quote)}::tid[]`;
}

/** BYTEA. */
export function byteas(values: readonly (Buffer | undefined)[]) {
  return sql.fragment`${literal(values, (value) => `"\\\\x${value.toString("hex")}"`)}::bytea[]`;
}

function literal<T>(values: readonly (T | undefined)[], write: (value: T) => string): string {
  if (values.every((value) => value === undefined)) return "{}";
  return `{${values.map((value) => (value === undefined ? "NULL" : write(value))).join(",")}}`;
}

function asItIs(value: string): string {
  return value;
}

function quote(text: string): string {
  return `"${/["\\]/.test(text) ? text.replaceAll(/["\\]/g, "\\$&") : text}"`;
}
