// What a browser must be told before a page of another origin may call, and read what it is answered.

import type { IncomingMessage } from "node:http";
import { cors } from "@connectrpc/connect";

type Headers = Readonly<Record<string, string>>;

/** So long may a browser rely on what it was told: 2 hours, the most that Chromium takes. */
const MAX_AGE_SECONDS = 7200;

/** A browser asks so, in advance, whether a page may send what isn't plain. */
export function isPreflight({ method, headers }: IncomingMessage): boolean {
  return method === "OPTIONS" && headers["access-control-request-method"] !== undefined;
}

/** What any answer to a page of an allowed origin says; undefined: of no such page. */
export function corsHeaders(origin: string | undefined): Headers {
  // Whatever the answer, a cache must not take it for one to another origin.
  const vary = { vary: "Origin" };
  if (origin === undefined) return vary;
  return {
    ...vary,
    "access-control-allow-origin": origin,
    "access-control-expose-headers": cors.exposedHeaders.join(", "),
  };
}

/** What the answer to a preflight says besides. */
export function preflightHeaders({ headers }: IncomingMessage): Headers {
  const isPrivate = headers["access-control-request-private-network"] === "true";
  return {
    "access-control-allow-methods": cors.allowedMethods.join(", "),
    "access-control-allow-headers": [...cors.allowedHeaders, "traceparent"].join(", "),
    "access-control-max-age": `${MAX_AGE_SECONDS}`,
    ...(isPrivate ? { "access-control-allow-private-network": "true" } : {}),
  };
}
