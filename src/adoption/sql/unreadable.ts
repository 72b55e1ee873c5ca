// What the old database's PostgreSQL answers instead of rows, in one sentence with what to do about it.

import pg from "pg";
import { AdoptionProblem } from "../rules/adoption.ts";

/** By the codes of PostgreSQL. */
const remedies: readonly (readonly [codes: RegExp, remedy: string])[] = [
  [
    /^(22021|22P05)$/,
    "a text isn't in the encoding that the database names: restore a dump of it into a database in UTF8, with SET client_encoding to what the texts are in, and adopt that",
  ],
  [
    /^57014$/,
    "a page of rows took too long: raise LEDGERD_QUERY_TIMEOUT, or create the indexes that docs/adoption.md names",
  ],
  [/^42501$/, "let this login read the tables"],
  [/^42/, "the tables are not what they were a moment ago: leave them as they are, and run it again"],
  [/^(08|57P|53|40|55P03)/, "see to that, and run it again: it goes on where it was"],
];

/** The problem that an error of a reading statement is. */
export function unreadable(error: unknown): AdoptionProblem {
  const message = error instanceof Error ? error.message : String(error);
  if (!(error instanceof pg.DatabaseError))
    return new AdoptionProblem(
      `the connection to the old database broke (${message}): run it again, it goes on where it was`,
      { cause: error },
    );
  const { code = "" } = error;
  const remedy = remedies.find(([codes]) => codes.test(code))?.[1] ?? "correct that, and run it again";
  return new AdoptionProblem(`the old database can't be read (${code}: ${message}): ${remedy}`, { cause: error });
}
