// The requests that change money: checked, and turned into submissions for the journal.

import { z } from "zod";
import type { Command } from "../../domain/journal/command.ts";
import type { Currencies } from "../../domain/money/currency.ts";
import type { SetCreditLimitRequest } from "../../gen/ledger/v1/admin_service_pb.ts";
import type {
  AdjustRequest,
  BatchWriteRequest,
  CaptureHoldRequest,
  DeductRequest,
  PlaceHoldRequest,
  RefundRequest,
  ReleaseHoldRequest,
  TopUpRequest,
  TransferRequest,
  Write,
} from "../../gen/ledger/v1/ledger_service_pb.ts";
import type { Money } from "../../gen/ledger/v1/money_pb.ts";
import { MOST_VIOLATIONS } from "../errors.ts";
import { idProblem, intervalReader, keyProblem, moneyReader, printableProblem, readMetadata, REQUIRED_KEY, schemaOf, sequenceProblem, textProblem, type Say } from "../validation.ts";

/** A write that was checked. */
export interface WriteInput {
  readonly command: Command;
  /** Empty only where it may be. */
  readonly key: string;
  readonly validateOnly: boolean;
}

/** A batch that was checked. */
export interface BatchInput {
  readonly commands: readonly Command[];
  readonly atomic: boolean;
  /** One for each command; of an atomic batch, the one of its own. */
  readonly keys: readonly string[];
}

/** Where a write stands: a call of its own, an item of a batch, or an item of an atomic one. */
type Place = "call" | "item" | "atomic item";

const DEFAULT_HOLD_MICROS = 7n * 86_400_000_000n;
const MAX_HOLD_DAYS = 90n;
const MAX_DESCRIPTION = 2000;
/** In one message. */
export const MAX_WRITES = 1000;

/** What all requests for a write have in common; an adjustment has a reason for a description. */
type Common = Omit<TopUpRequest, "$typeName" | "amount" | "description"> & (Pick<TopUpRequest, "description"> | Pick<AdjustRequest, "reason">);
/** What all commands have in common, as they are read from it; the currency comes with the amount. */
type Asked = Pick<Command, "userId" | "expectedSequence" | "note">;
/** Turns a request into a write, which counts only if nothing is said to be wrong. */
type Read<R> = (request: R, say: Say) => WriteInput;

/** The schemas of all writes. */
export type WriteSchemas = ReturnType<typeof writeSchemas>;

/** The schemas of all writes, for a ledger with these currencies. */
export function writeSchemas(currencies: Currencies, defaultCurrency: string) {
  const call = readersAt("call", currencies, defaultCurrency);
  const item = itemReader(readersAt("item", currencies, defaultCurrency));
  const atomicItem = itemReader(readersAt("atomic item", currencies, defaultCurrency));
  return {
    topUp: schemaOf(call.topUp),
    deduct: schemaOf(call.deduct),
    refund: schemaOf(call.refund),
    transfer: schemaOf(call.transfer),
    placeHold: schemaOf(call.placeHold),
    captureHold: schemaOf(call.captureHold),
    releaseHold: schemaOf(call.releaseHold),
    adjust: schemaOf(call.adjust),
    setCreditLimit: schemaOf(call.setCreditLimit),
    item: schemaOf(item),
    batch: schemaOf(batchReader(item, atomicItem)),
  };
}

function readersAt(place: Place, currencies: Currencies, defaultCurrency: string) {
  const positive = moneyReader(currencies, defaultCurrency, "positive");
  const notZero = moneyReader(currencies, defaultCurrency, "not zero");
  const notNegative = moneyReader(currencies, defaultCurrency, "not negative");
  const interval = intervalReader(MAX_HOLD_DAYS);
  const amountOf = ({ amount }: { readonly amount?: Money | undefined }, say: Say, read = positive) => read(amount, within("amount", say));
  // Absent has a meaning of its own here: all that is left.
  const partOf = (request: { readonly amount?: Money | undefined }, say: Say) => (request.amount === undefined ? { currency: defaultCurrency, amount: undefined } : amountOf(request, say));
  const idOf = <N extends string>(request: Readonly<Record<N, bigint>>, name: N, say: Say): bigint => {
    refuse(idProblem(request[name]), name, say);
    return request[name];
  };
  const reader = <R extends Common>(commandOf: (asked: Asked, request: R, say: Say) => Command): Read<R> => (request, say) => {
    const command = commandOf(readCommon(place, request, say), request, say);
    refuseTogether(place, request, say);
    return { command, key: request.idempotencyKey, validateOnly: request.validateOnly };
  };
  return {
    topUp: reader<TopUpRequest>((asked, request, say) => ({ ...asked, kind: "top_up", ...amountOf(request, say) })),
    deduct: reader<DeductRequest>((asked, request, say) => ({ ...asked, kind: "deduct", ...amountOf(request, say) })),
    refund: reader<RefundRequest>((asked, request, say) => ({
      ...asked, kind: "refund", ...partOf(request, say), transactionId: idOf(request, "transactionId", say),
    })),
    transfer: reader<TransferRequest>((asked, request, say) => ({ ...asked, kind: "transfer", ...amountOf(request, say), toUserId: idOf(request, "toUserId", say) })),
    placeHold: reader<PlaceHoldRequest>((asked, request, say) => ({
      ...asked, kind: "place_hold", ...amountOf(request, say),
      expiresIn: request.expiresIn === undefined ? DEFAULT_HOLD_MICROS : interval(request.expiresIn, within("expiresIn", say)),
    })),
    captureHold: reader<CaptureHoldRequest>((asked, request, say) => ({
      ...asked, kind: "capture_hold", ...partOf(request, say), holdId: idOf(request, "holdId", say), final: request.final,
    })),
    releaseHold: reader<ReleaseHoldRequest>((asked, request, say) => ({
      ...asked, kind: "release_hold", currency: defaultCurrency, holdId: idOf(request, "holdId", say),
    })),
    adjust: reader<AdjustRequest>((asked, request, say) => ({
      ...asked, kind: "adjust", ...amountOf(request, say, notZero), allowNegative: request.allowNegative,
    })),
    setCreditLimit: reader<SetCreditLimitRequest>((asked, { creditLimit }, say) => {
      const { currency, amount: limit } = notNegative(creditLimit, within("creditLimit", say));
      return { ...asked, kind: "set_credit_limit", currency, limit };
    }),
  };
}

function readCommon(place: Place, request: Common, say: Say): Asked {
  const { userId, idempotencyKey, expectedSequence, validateOnly, reference, uniqueReference } = request;
  refuse(idProblem(userId), "userId", say);
  refuse(keyProblemAt(place, idempotencyKey), "idempotencyKey", say);
  const metadata = readMetadata(request.metadata, within("metadata", say));
  if (expectedSequence !== undefined) refuse(sequenceProblem(expectedSequence), "expectedSequence", say);
  if (validateOnly && place !== "call") say(["validateOnly"], "must not be set inside a batch or a stream");
  refuse(printableProblem(reference), "reference", say);
  const description = readDescription(request, say);
  return { userId, expectedSequence, note: { description, metadata, reference, uniqueReference, actor: "", traceId: "" } };
}

/** An adjustment has a reason instead, and can't do without one. */
function readDescription(request: Common, say: Say): string {
  const [field, description] = "reason" in request ? ["reason", request.reason] : ["description", request.description];
  refuse(field === "reason" && description === "" ? "is required" : textProblem(description, MAX_DESCRIPTION), field, say);
  return description;
}

function keyProblemAt(place: Place, key: string): string | undefined {
  if (place === "atomic item") return key === "" ? undefined : "must be empty: an atomic batch has one key of its own";
  return place === "item" ? keyProblem(key) : printableProblem(key);
}

/** The rules over two fields. */
function refuseTogether(place: Place, { idempotencyKey, validateOnly, reference, uniqueReference }: Common, say: Say): void {
  if (place === "call" && !validateOnly && idempotencyKey === "") say(["idempotencyKey"], REQUIRED_KEY);
  if (uniqueReference && reference === "") say(["reference"], "is required by unique_reference");
}

function refuse(problem: string | undefined, field: string, say: Say): void {
  if (problem !== undefined) say([field], problem);
}

function within(field: PropertyKey, say: Say): Say {
  return (path, message) => say([field, ...path], message);
}

/** One of a batch's writes, or a stream's: its violations under the name of its kind. */
function itemReader(readers: ReturnType<typeof readersAt>): Read<Write> {
  return ({ write }, say) => {
    if (write.case === undefined) {
      say([], "must hold one of the kinds of writes");
      return z.NEVER;
    }
    const read = readers[write.case] as Read<typeof write.value>;
    return read(write.value, within(write.case, say));
  };
}

function batchReader(item: Read<Write>, atomicItem: Read<Write>): (request: BatchWriteRequest, say: Say) => BatchInput {
  return ({ writes, atomic, idempotencyKey: key }, say) => {
    if (writes.length < 1 || writes.length > MAX_WRITES) {
      say(["writes"], `must hold 1 to ${MAX_WRITES} writes`);
      return z.NEVER;
    }
    const read = atomic ? atomicItem : item;
    let problems = 0;
    const inputs: WriteInput[] = [];
    for (const [index, write] of writes.entries()) {
      const sayOfIt: Say = (path, message) => {
        problems += 1;
        say(["writes", index, ...path], message);
      };
      inputs.push(read(write, sayOfIt));
      if (problems > MOST_VIOLATIONS) return z.NEVER;
    }
    if (atomic) refuse(keyProblem(key), "idempotencyKey", say);
    else if (key !== "") say(["idempotencyKey"], "must be empty: each write of a batch that isn't atomic has a key of its own");
    return { commands: inputs.map(({ command }) => command), atomic, keys: atomic ? [key] : inputs.map((input) => input.key) };
  };
}
