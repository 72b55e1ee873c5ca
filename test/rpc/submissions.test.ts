// The fingerprint of a request: kept with its key for ever, so its bytes never change.

import { createHash } from "node:crypto";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { Command, CommandKind, Note } from "../../src/domain/journal/command.ts";
import type { Money } from "../../src/domain/money/money.ts";
import { batchSubmissionOf, leasedSubmissionOf, submissionOf } from "../../src/rpc/submissions.ts";
import { texts } from "./messages.ts";

const call = { deadline: 0, traceId: "", ending: () => new AbortController().signal };

/** The fields of each kind that take part, in the order in which they do. */
const ownFields: Readonly<Record<CommandKind, readonly string[]>> = {
  top_up: ["expectedSequence", "amount"],
  deduct: ["expectedSequence", "amount"],
  refund: ["expectedSequence", "amount", "transactionId"],
  transfer: ["expectedSequence", "amount", "toUserId"],
  place_hold: ["expectedSequence", "amount", "expiresIn"],
  capture_hold: ["expectedSequence", "amount", "holdId", "final"],
  release_hold: ["expectedSequence", "holdId"],
  adjust: ["expectedSequence", "amount", "allowNegative"],
  set_credit_limit: ["expectedSequence", "limit"],
  expire_holds: ["expectedSequence"],
  create_job: ["amount", "modelId", "prompt", "parameters", "priority", "runAt", "maxAttempts"],
  complete_job: ["jobId", "fencingToken", "finalCost", "resultUrl"],
  fail_job: ["jobId", "fencingToken", "errorMessage", "final"],
  cancel_job: ["jobId"],
  retry_job: ["jobId"],
  rescue_job: ["jobId"],
  update_job: ["jobId", "status", "resultUrl", "errorMessage", "finalCost"],
};

const ids = fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n });
const maybe = <T>(arbitrary: fc.Arbitrary<T>) => fc.option(arbitrary, { nil: undefined });
const notes: fc.Arbitrary<Note> = fc.record({
  description: texts,
  metadata: fc.array(fc.tuple(texts, texts), { maxLength: 3 }),
  reference: texts,
  uniqueReference: fc.boolean(),
  actor: texts,
  traceId: fc.constant(""),
});
/** Everything that a command of any kind could have. */
const commands = fc.record({
  kind: fc.constantFrom(...Object.keys(ownFields)),
  userId: ids, currency: fc.constantFrom("RUB", "JPY", "CRD"), expectedSequence: maybe(ids), note: notes,
  amount: maybe(ids), limit: ids, transactionId: ids, toUserId: ids, holdId: ids, jobId: ids, fencingToken: ids, expiresIn: ids, runAt: maybe(ids),
  final: fc.boolean(), allowNegative: fc.boolean(), modelId: texts, prompt: texts, parameters: texts, resultUrl: texts, errorMessage: texts,
  priority: fc.integer(), maxAttempts: fc.nat(), status: fc.constantFrom("processing", "completed", "failed"),
  finalCost: maybe(fc.record({ minor: ids, currency: fc.constantFrom("RUB", "JPY") })),
}) as fc.Arbitrary<unknown> as fc.Arbitrary<Command>;

/** As a list: the plain way to say it. */
function canonical(command: Command): readonly string[] {
  const { kind, userId, currency, note } = command;
  const own = ownFields[kind].flatMap((name) => {
    const value = (command as unknown as Readonly<Record<string, bigint | number | boolean | string | Money | undefined>>)[name];
    if (value === undefined) return [];
    return [name, typeof value === "object" ? `${value.minor} ${value.currency}` : `${value}`];
  });
  return ["kind", kind, "userId", `${userId}`, "currency", currency, ...own, note.description, note.reference, `${note.uniqueReference}`, ...note.metadata.flat()];
}

function digest(content: unknown): string {
  return createHash("sha256").update(JSON.stringify(content)).digest("hex").slice(0, 32);
}

describe("a fingerprint is half a SHA-256 over the request's fields as JSON", () => {
  test.each([
    ["a command of any kind", (command: Command) => submissionOf(command, "key", call)],
    ["a command under a lease", (command: Command) => leasedSubmissionOf(command, { jobId: 7n, fencingToken: 3n }, call)],
  ])("for %s", (_name, submission) => {
    fc.assert(
      fc.property(commands, (command) => {
        expect(submission(command).fingerprint).toBe(digest([canonical(command)]));
      }),
      { numRuns: 2000 },
    );
  });

  test("for an atomic batch of them", () => {
    fc.assert(
      fc.property(fc.array(commands, { minLength: 1, maxLength: 4 }), (batch) => {
        expect(batchSubmissionOf(batch, "key", call).fingerprint).toBe(digest(["batch", batch.map(canonical)]));
      }),
    );
  });
});

test("the fingerprints of today are those of the first version", () => {
  const note = { description: 'Says "ж" and 😀', metadata: [["a", "1"], ["b", ""]] as const, reference: "order/7", uniqueReference: true, actor: "", traceId: "" };
  const asked = { userId: 42n, currency: "RUB", note };
  const deduct: Command = { ...asked, kind: "deduct", amount: 1250n, expectedSequence: 9n };
  const capture: Command = { ...asked, kind: "capture_hold", amount: undefined, holdId: 5n, final: true, expectedSequence: undefined };
  const all = [submissionOf(deduct, "k", call), submissionOf(capture, "k", call), batchSubmissionOf([deduct, capture], "k", call)];
  expect(all.map(({ fingerprint }) => fingerprint)).toEqual(["5e7da1a8d1efd5051ad79fbfabaaca83", "1b176609ad2ca066a79809b404f8f0be", "e577325b2b50ec345a11bc0874b2e6a5"]);
});
