// Page tokens: opaque, and bound to the arguments of the list that they continue.

import { hash } from "node:crypto";
import { z } from "zod";
import { fitting } from "./answer-size.ts";
import { errorOfViolations } from "./errors.ts";

/**
 * A token as a request gives it. That of a user's transactions names a part of each of the user's accounts, of which
 * there may be a thousand.
 */
export const pageTokenText = z.string().max(100_000, "must be a next_page_token");

/** More than a token has. */
const TOKEN_BYTES = 100_000;

/** The token for the page behind `cursor` of the list that `args` name. */
export function pageToken(args: readonly unknown[], cursor: readonly (bigint | string)[]): string {
  const parts = cursor.map(String);
  return Buffer.from(JSON.stringify([digest(args, parts), ...parts])).toString("base64url");
}

/** A whole number of 64 bits in a cursor. */
export const cursorNumber = z
  .string()
  .regex(/^-?\d{1,19}$/)
  .transform(BigInt)
  .refine((number) => BigInt.asIntN(64, number) === number);

/**
 * The cursor of a token, as its list reads it; undefined for the first page. Throws if this list with these arguments
 * didn't give it. The digest has no key: it tells tokens of other lists, and a cursor that somebody made up is read as
 * strictly as a request.
 */
export function cursorOf<C>(args: readonly unknown[], token: string, shape: z.ZodType<C>): C | undefined {
  if (token === "") return undefined;
  const [given, ...cursor] = parse(token);
  const read = given === digest(args, cursor) ? shape.safeParse(cursor) : undefined;
  if (read?.success === true) return read.data;
  const description = "must be the next_page_token of a page with the same other arguments";
  throw errorOfViolations([{ field: "page_token", description }]);
}

/** The cursor of a list in the order of one number. */
export const oneNumber = z.tuple([cursorNumber]);

/** What a page is cut out of. */
interface Cut<T, M> {
  /** In the list's order, one more than the page is to have if there are so many. */
  readonly found: readonly T[];
  /** How many the page is to have at most. */
  readonly size: number;
  /**
   * Whether there are none behind those that were found, unless they are more than the page is to have; not where large
   * ones are found in parts.
   */
  readonly isWhole?: boolean;
  readonly message: (item: T) => M;
  /** Of a message, in bytes at most. */
  readonly sizeOf: (message: M) => number;
  /** How many bytes the answer has beside the page. */
  readonly beside?: number;
  readonly cursor: (last: T, items: readonly T[]) => readonly (bigint | string)[];
}

/**
 * The messages of a page, as many as were asked for and fit into an answer, and the token for the next one; empty
 * exactly at the end.
 */
export function pageOf<T, M>(args: readonly unknown[], cut: Cut<T, M>) {
  const { found, size, isWhole = true, message, sizeOf, beside = 0, cursor } = cut;
  const messages = fitting(found.slice(0, size), message, sizeOf, beside + TOKEN_BYTES);
  const items = found.slice(0, messages.length);
  const last = items.at(-1);
  const isLast = isWhole && found.length === items.length;
  return { messages, nextPageToken: isLast || last === undefined ? "" : pageToken(args, cursor(last, items)) };
}

function digest(args: readonly unknown[], cursor: readonly string[]): string {
  return hash("sha256", JSON.stringify([args.map(String), cursor]), "base64url").slice(0, 11);
}

function parse(token: string): readonly string[] {
  try {
    const parts: unknown = JSON.parse(Buffer.from(token, "base64url").toString());
    return Array.isArray(parts) && parts.every((part) => typeof part === "string") ? parts : [];
  } catch {
    // Not one of ours: the caller says so.
    return [];
  }
}
