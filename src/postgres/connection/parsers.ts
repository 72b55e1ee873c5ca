// What the texts that PostgreSQL answers become, by their types; of types that aren't named here, what pg makes of
// them.

import pg from "pg";
import { hexOf } from "../rows/rows.ts";

/** The type `int8[]`, as pg_type numbers it. */
const INT8_ARRAY = 1016;

const parsers = new Map<number, (text: string) => unknown>([
  [pg.types.builtins.INT8, BigInt],
  [pg.types.builtins.NUMERIC, (text) => text],
  [pg.types.builtins.BYTEA, hexOf],
  [INT8_ARRAY, (text) => (text === "{}" ? [] : text.slice(1, -1).split(",").map(BigInt))],
]);

/** The parser of a type. */
export function parserOf(typeId: number): (text: string) => unknown {
  return parsers.get(typeId) ?? pg.types.getTypeParser(typeId);
}
