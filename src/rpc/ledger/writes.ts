// The handlers that change money: check, submit to the journal, answer.

import type { DescMessage, Message } from "@bufbuild/protobuf";
import type { ConnectError } from "@connectrpc/connect";
import type { z } from "zod";
import type { Command, CommandKind } from "../../domain/journal/command.ts";
import type { Currencies } from "../../domain/money/currency.ts";
import type { Outcome } from "../../domain/journal/transaction.ts";
import {
  AdjustRequestSchema,
  BatchWriteRequestSchema,
  CaptureHoldRequestSchema,
  DeductRequestSchema,
  PlaceHoldRequestSchema,
  RefundRequestSchema,
  ReleaseHoldRequestSchema,
  TopUpRequestSchema,
  TransferRequestSchema,
  type BatchWriteRequest,
  type WriteResult,
} from "../../gen/ledger/v1/ledger_service_pb.ts";
import type { Journal } from "../../postgres/journal/journal.ts";
import { refuseTooLarge } from "../answer-size.ts";
import type { Answers } from "../answers.ts";
import { resultBytes, resultCases } from "../result-size.ts";
import { errorOfRefusal, refusalMessage, refusalOfError, type Translate } from "../errors.ts";
import { batchSubmissionOf, submissionOf } from "../submissions.ts";
import { validate } from "../validation.ts";
import type { WriteInput, WriteSchemas } from "./write-requests.ts";
import type { Call } from "../call.ts";

/** What the handlers work with. */
export interface WriteParts {
  readonly currencies: Currencies;
  readonly writes: WriteSchemas;
  readonly answers: Answers;
  readonly journal: Journal;
  readonly translate: Translate;
}

/** The handlers of all writes. */
export function writeHandlers(parts: WriteParts) {
  const { writes } = parts;
  const handler = (schema: z.ZodType<WriteInput>, desc: DescMessage) => (request: Message, call: Call) =>
    write(parts, validate(schema, desc, request), call);
  return {
    topUp: handler(writes.topUp, TopUpRequestSchema),
    deduct: handler(writes.deduct, DeductRequestSchema),
    refund: handler(writes.refund, RefundRequestSchema),
    transfer: handler(writes.transfer, TransferRequestSchema),
    placeHold: handler(writes.placeHold, PlaceHoldRequestSchema),
    captureHold: handler(writes.captureHold, CaptureHoldRequestSchema),
    releaseHold: handler(writes.releaseHold, ReleaseHoldRequestSchema),
    adjust: handler(writes.adjust, AdjustRequestSchema),
    batchWrite: async (request: BatchWriteRequest, call: Call) => {
      const { commands, keys, atomic } = validate(writes.batch, BatchWriteRequestSchema, request);
      refuseLargeAnswer(commands, atomic ? [] : keys);
      return { results: atomic ? await writeAtomic(parts, commands, keys[0] ?? "", call) : await writeEach(parts, commands, keys, call) };
    },
  };
}

/**
 * Refuses a batch before it is executed whose answer clients might not take: once it is applied, no other answer would
 * be true. The bound depends on the request alone, so that a batch is refused either at its first attempt or never.
 */
function refuseLargeAnswer(commands: readonly Command[], keys: readonly string[]): void {
  let bytes = 0;
  commands.forEach((command, index) => (bytes += resultBytes(command, keys[index] ?? "")));
  const advice = "send fewer writes at once, or shorter texts with them";
  refuseTooLarge(bytes, `${advice} (what an earlier version did with such a batch, GetOutcome tells)`);
}

/** Executes one write, or previews it. */
export async function write(parts: WriteParts, { command, key, validateOnly }: WriteInput, call: Call) {
  const submission = submissionOf(command, key, call);
  const [submitted] = validateOnly ? [parts.journal.preview(submission)] : parts.journal.submit([submission], call.deadline);
  if (submitted === undefined) throw new Error("the write was not submitted");
  const outcome = await submitted;
  if (outcome.kind === "refused") throw errorOfRefusal(outcome.refusal, outcome.stored, parts.currencies);
  const [result] = outcome.results;
  if (result === undefined) throw new Error("the write was applied without a result");
  return parts.answers.written(result, outcome.replayed);
}

/** What one of several writes is answered. */
export type Result = Pick<WriteResult, "result">;

async function writeEach(parts: WriteParts, commands: readonly Command[], keys: readonly string[], call: Call): Promise<Result[]> {
  const submissions = commands.map((command, index) => submissionOf(command, keys[index] ?? "", call));
  // Each is to see the ones before it.
  const batch = { inLine: false };
  const settled = await Promise.allSettled(parts.journal.submit(submissions, call.deadline, batch));
  // Where nothing at all got an outcome, the whole call is one to be retried.
  if (settled.every(({ status }) => status === "rejected") && settled[0]?.status === "rejected") throw settled[0].reason;
  return settled.map((outcome, index) => {
    if (outcome.status === "fulfilled") return itemOf(parts, commands[index]?.kind, outcome.value);
    return itemOfError(parts.translate(outcome.reason, "BatchWrite"));
  });
}

async function writeAtomic(parts: WriteParts, commands: readonly Command[], key: string, call: Call): Promise<Result[]> {
  const [submitted] = parts.journal.submit([batchSubmissionOf(commands, key, call)], call.deadline);
  if (submitted === undefined) throw new Error("the batch was not submitted");
  const outcome = await submitted;
  if (outcome.kind === "applied") {
    return outcome.results.map((result, index) => itemOf(parts, commands[index]?.kind, { ...outcome, results: [result] }));
  }
  const { refusal, culprit, stored } = outcome;
  // That is about the batch's key, and no item's fault.
  if (refusal.reason === "IDEMPOTENCY_KEY_REUSED") throw errorOfRefusal(refusal, stored, parts.currencies);
  const notTried = refusalMessage({ reason: "NOT_TRIED", culprit }, stored, parts.currencies);
  const refused = refusalMessage(refusal, stored, parts.currencies);
  return commands.map((_command, index) => ({ result: { case: "refusal", value: index === culprit ? refused : notTried } }));
}

/** What a write is answered that was not carried out, or of which nobody knows whether it was. */
export function itemOfError(error: ConnectError): Result {
  return { result: { case: "refusal", value: refusalOfError(error) } };
}

/** What a write of a kind is answered. */
export function itemOf({ answers, currencies }: WriteParts, kind: CommandKind | undefined, outcome: Outcome): Result {
  if (outcome.kind === "refused") return { result: { case: "refusal", value: refusalMessage(outcome.refusal, outcome.stored, currencies) } };
  const [result] = outcome.results;
  if (result === undefined || kind === undefined || !(kind in resultCases)) throw new Error("a write has no result of its kind");
  return { result: { case: resultCases[kind as keyof typeof resultCases], value: answers.written(result, outcome.replayed) } as Result["result"] };
}
