// The catalogue of errors is one, wherever it is written: the proto's enum, the table of codes, the README.

import { readFileSync } from "node:fs";
import path from "node:path";
import { expect, test } from "vitest";
import { Code } from "@connectrpc/connect";
import { ErrorReasonSchema } from "../../src/gen/ledger/v1/errors_pb.ts";
import { codes } from "../../src/rpc/errors.ts";

const root = path.resolve(import.meta.dirname, "../..");
const proto = readFileSync(path.join(root, "proto/ledger/v1/errors.proto"), "utf8");
const readme = readFileSync(path.join(root, "README.md"), "utf8");

/** FailedPrecondition → FAILED_PRECONDITION; gRPC's own spelling of Canceled has two l. */
function nameOf(code: Code): string {
  return code === Code.Canceled ? "CANCELLED" : (Code[code] ?? "").replaceAll(/(?<=[a-z])[A-Z]/g, "_$&").toUpperCase();
}

const table = Object.entries(codes).map(([reason, code]) => [reason, nameOf(code)]);

test("the table of codes has the reasons of the proto's enum, in its order of precedence", () => {
  const declared = ErrorReasonSchema.values.map(({ name }) => name.replace("ERROR_REASON_", "")).filter((name) => name !== "UNSPECIFIED");
  expect(table.map(([reason]) => reason)).toEqual(declared);
});

test("the comment on each reason in the proto begins with its code", () => {
  const commented = [...proto.matchAll(/ {2}\/\/ ([A-Z_]+)\. [^\n]*\n(?: {2}\/\/ [^\n]*\n)* {2}ERROR_REASON_([A-Z_]+) = \d+;/g)];
  expect(commented.map(([, code, reason]) => [reason, code])).toEqual(table);
});

test("the README's table has the same reasons and codes, in the same order", () => {
  const rows = [...readme.matchAll(/^\| `([A-Z_]+)` \| ([A-Z_]+) \|/gm)];
  expect(rows.map(([, reason, code]) => [reason, code])).toEqual(table);
});
