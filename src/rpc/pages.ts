// Page tokens: opaque, and bound to the arguments of the list that they continue.

import { hash } from "node:crypto";
import { errorOfViolations } from "./status.ts";

/** The token for the page behind `cursor` of the list that `args` name. */
export function pageToken(args: readonly unknown[], cursor: readonly (bigint | string)[]): string {
  const parts = cursor.map(String);
  return Buffer.from(JSON.stringify([digest(args, parts), ...parts])).toString("base64url");
}

/** The cursor of a token, undefined for the first page. Throws if this list with these arguments didn't give it. */
export function cursorOf(args: readonly unknown[], token: string): readonly string[] | undefined {
  if (token === "") return undefined;
  const [given, ...cursor] = parse(token);
  if (given === digest(args, cursor)) return cursor;
  throw errorOfViolations([{ field: "page_token", description: "must be the next_page_token of a page with the same other arguments" }]);
}

/** A page out of a list that was asked for one item more, and the token for the next one; empty exactly at the end. */
export function pageOf<T>(found: readonly T[], size: number, args: readonly unknown[], cursor: (last: T) => readonly (bigint | string)[]) {
  const items = found.slice(0, size);
  const last = items.at(-1);
  return { items, nextPageToken: found.length > size && last !== undefined ? pageToken(args, cursor(last)) : "" };
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
