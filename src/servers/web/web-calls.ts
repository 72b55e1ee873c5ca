// What Connect's router would read of a call's headers and address before its message, looked at first: it passes over
// some of what is wrong there, and quotes the rest in full.

import { MethodOptions_IdempotencyLevel as Idempotency } from "@bufbuild/protobuf/wkt";
import type { ConnectError } from "@connectrpc/connect";
import type { UniversalHandler, UniversalServerRequest } from "@connectrpc/connect/protocol";
import { quote } from "../../domain/text.ts";
import { grpcTimeoutMs } from "../grpc/grpc-call.ts";
import { errorOf, errorOfViolations } from "../../rpc/errors.ts";
import { LONGEST_TIMER_MS } from "../../rpc/call.ts";

type Call = Pick<UniversalServerRequest, "header" | "method" | "url">;

/**
 * The methods of HTTP by which a call may come: one that only reads takes Connect's GET too, with its request in the
 * address.
 */
export function methodsOf({ method }: Pick<UniversalHandler, "method">): readonly string[] {
  const reads = method.methodKind === "unary" && method.idempotency === Idempotency.NO_SIDE_EFFECTS;
  return reads ? ["GET", "POST"] : ["POST"];
}

/** What is wrong with how a call was made; undefined: nothing. */
export function problemOfCall(call: Call): ConnectError | undefined {
  if (call.method === "GET") return problemOfQuery(call.url) ?? problemOfTimeout(call.header, CONNECT_TIMEOUT);
  const type = call.header.get("content-type") ?? "";
  if (/^application\/grpc-web/i.test(type)) return problemOfHeaders(call.header, "grpc-encoding", GRPC_TIMEOUT);
  const isStream = /^application\/connect/i.test(type);
  return (
    problemOfVersion(call.header.get("connect-protocol-version"), "1") ??
    problemOfHeaders(call.header, isStream ? "connect-content-encoding" : "content-encoding", CONNECT_TIMEOUT)
  );
}

/**
 * Connect's router sets a timer for as long as the caller waits: no longer than a timer holds, days beyond our own
 * limit.
 */
export function cutDeadline(header: Headers): void {
  if (Number(header.get(CONNECT_TIMEOUT.name)) > LONGEST_TIMER_MS)
    header.set(CONNECT_TIMEOUT.name, `${LONGEST_TIMER_MS}`);
  const grpcMs = grpcTimeoutMs(header.get(GRPC_TIMEOUT.name) ?? "") ?? 0;
  if (grpcMs > LONGEST_TIMER_MS) header.set(GRPC_TIMEOUT.name, `${Math.floor(LONGEST_TIMER_MS / 1000)}S`);
}

/** How a header is to be written. */
interface Written {
  readonly name: string;
  readonly right: RegExp;
  readonly as: string;
}

const CONNECT_TIMEOUT: Written = { name: "connect-timeout-ms", right: /^\d{1,10}$/, as: "up to 10 digits" };
const GRPC_TIMEOUT: Written = {
  name: "grpc-timeout",
  right: /^\d{1,8}[HMSmun]$/,
  as: 'up to 8 digits and one of H, M, S, m, u, n, such as "500m"',
};

function problemOfHeaders(header: Headers, encoding: string, timeout: Written): ConnectError | undefined {
  return problemOfEncoding(header.get(encoding)) ?? problemOfTimeout(header, timeout);
}

function problemOfTimeout(header: Headers, { name, right, as }: Written): ConnectError | undefined {
  const given = header.get(name);
  return given === null || right.test(given)
    ? undefined
    : malformed(`the header ${name} must be ${as}, not ${quote(given)}`);
}

function problemOfEncoding(given: string | null): ConnectError | undefined {
  if (given === null || given === "" || given === "identity" || given === "gzip") return undefined;
  return errorOf("UNSUPPORTED", `a request must come as it is or as gzip, not as ${quote(given)}`);
}

function problemOfVersion(given: string | null, right: string): ConnectError | undefined {
  if (given === null || given === right) return undefined;
  return malformed(`this is version "${right}" of the protocol Connect, not ${quote(given)}`);
}

/** The parameters of Connect's GET; others mean nothing. */
const parameters = ["connect", "encoding", "base64", "compression", "message"];

function problemOfQuery(url: string): ConnectError | undefined {
  const { search, searchParams: query } = new URL(url);
  // What isn't UTF-8 would be read as another text.
  if (!isUtf8(search)) return malformed("the address must be percent-encoded UTF-8");
  const twice = parameters.find((name) => query.getAll(name).length > 1);
  if (twice !== undefined) return malformed(`the parameter ${twice} must be given once`);
  const encoding = query.get("encoding");
  if (encoding !== "json" && encoding !== "proto") return malformed('the parameter encoding must be "json" or "proto"');
  const isBase64 = query.get("base64") === "1";
  const compression = query.get("compression");
  const isText = encoding === "json" && (compression ?? "identity") === "identity";
  if (!isText && !isBase64) return malformed("a message that isn't plain JSON must come in base64, with base64=1");
  if (isBase64 && !base64.test(query.get("message") ?? "")) return malformed("the parameter message is not base64");
  return problemOfVersion(query.get("connect"), "v1") ?? problemOfEncoding(compression);
}

const base64 = /^(?:[\w+/-]{4})*(?:[\w+/-]{2,3}={0,2})?$/;

function isUtf8(encoded: string): boolean {
  try {
    return decodeURIComponent(encoded) !== undefined;
  } catch {
    return false;
  }
}

function malformed(description: string): ConnectError {
  return errorOfViolations([{ field: "", description }]);
}
