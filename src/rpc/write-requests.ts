// The requests that change money: checked, and turned into submissions for the journal.

import { z } from "zod";
import type { Command, Note } from "../domain/command.ts";
import type { Currencies } from "../domain/currency.ts";
import type { BatchWriteRequest, Write } from "../gen/ledger/v1/ledger_service_pb.ts";
import { id, idempotencyKey, interval, metadata, money, printableText, REQUIRED_KEY, sequence, text } from "./validation.ts";

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
/** In one message. */
export const MAX_WRITES = 1000;

interface Common {
  readonly userId: bigint;
  readonly idempotencyKey: string;
  readonly description: string;
  readonly metadata: Note["metadata"];
  readonly expectedSequence?: bigint | undefined;
  readonly validateOnly: boolean;
  readonly reference: string;
  readonly uniqueReference: boolean;
}

type OwnPart<C> = C extends Command ? Omit<C, "userId" | "expectedSequence" | "note"> : never;

/** The schemas of all writes. */
export type WriteSchemas = ReturnType<typeof writeSchemas>;

/** The schemas of all writes, for a ledger with these currencies. */
export function writeSchemas(currencies: Currencies, defaultCurrency: string) {
  const atomicItem = itemSchema(schemasAt("atomic item", currencies, defaultCurrency));
  const item = itemSchema(schemasAt("item", currencies, defaultCurrency));
  return { ...schemasAt("call", currencies, defaultCurrency), item, batch: batchSchema(item, atomicItem) };
}

function schemasAt(place: Place, currencies: Currencies, defaultCurrency: string) {
  const amount = money(currencies, defaultCurrency, "positive");
  // Absent has a meaning of its own here: all that is left.
  const partial = amount.optional().transform((given) => given ?? { currency: defaultCurrency, amount: undefined });
  const expiresIn = interval(MAX_HOLD_DAYS).optional();
  const placed = commonAt(place);
  const write = placed.safeExtend({ description: text(2000) });
  return {
    topUp: write.safeExtend({ amount }).transform((r) => input(r, { kind: "top_up", ...r.amount })),
    deduct: write.safeExtend({ amount }).transform((r) => input(r, { kind: "deduct", ...r.amount })),
    refund: write
      .safeExtend({ amount: partial, transactionId: id })
      .transform((r) => input(r, { kind: "refund", ...r.amount, transactionId: r.transactionId })),
    transfer: write.safeExtend({ amount, toUserId: id }).transform((r) => input(r, { kind: "transfer", ...r.amount, toUserId: r.toUserId })),
    placeHold: write
      .safeExtend({ amount, expiresIn })
      .transform((r) => input(r, { kind: "place_hold", ...r.amount, expiresIn: r.expiresIn ?? DEFAULT_HOLD_MICROS })),
    captureHold: write
      .safeExtend({ amount: partial, holdId: id, final: z.boolean() })
      .transform((r) => input(r, { kind: "capture_hold", ...r.amount, holdId: r.holdId, final: r.final })),
    releaseHold: write
      .safeExtend({ holdId: id })
      .transform((r) => input(r, { kind: "release_hold", currency: defaultCurrency, holdId: r.holdId })),
    adjust: placed
      .safeExtend({
        reason: text(2000).refine((reason) => reason !== "", "is required"),
        amount: money(currencies, defaultCurrency, "not zero"),
        allowNegative: z.boolean(),
      })
      .transform((r) => input({ ...r, description: r.reason }, { kind: "adjust", ...r.amount, allowNegative: r.allowNegative })),
    setCreditLimit: write
      .safeExtend({ creditLimit: money(currencies, defaultCurrency, "not negative") })
      .transform((r) => input(r, { kind: "set_credit_limit", currency: r.creditLimit.currency, limit: r.creditLimit.amount })),
  };
}

/** What all writes have in common. Rules over two fields are checked even where another field is wrong: all is said at once. */
function commonAt(place: Place) {
  const always = { when: () => true };
  const key = {
    call: printableText,
    item: idempotencyKey,
    "atomic item": z.literal("", "must be empty: an atomic batch has one key of its own"),
  }[place];
  return z
    .object({
      userId: id,
      idempotencyKey: key,
      metadata,
      expectedSequence: sequence.optional(),
      validateOnly: place === "call" ? z.boolean() : z.literal(false, "must not be set inside a batch or a stream"),
      reference: printableText,
      uniqueReference: z.boolean(),
    })
    .refine(({ idempotencyKey: given, validateOnly }) => place !== "call" || validateOnly || given !== "", {
      path: ["idempotencyKey"],
      error: REQUIRED_KEY,
      ...always,
    })
    .refine(({ reference, uniqueReference }) => !uniqueReference || reference !== "", {
      path: ["reference"],
      error: "is required by unique_reference",
      ...always,
    });
}

function input(request: Common, own: OwnPart<Command>): WriteInput {
  const { userId, expectedSequence, idempotencyKey: key, validateOnly, description, reference, uniqueReference } = request;
  const note: Note = { description, metadata: request.metadata, reference, uniqueReference, actor: "", traceId: "" };
  return { command: { ...own, userId, expectedSequence, note }, key, validateOnly };
}

type ItemSchema = ReturnType<typeof itemSchema>;

/** One of a batch's writes: the schema of its kind, its violations under the kind's name. */
function itemSchema(schemas: ReturnType<typeof schemasAt>) {
  return z.custom<Write>().transform(({ write }, context): WriteInput => {
    if (write.case === undefined) {
      context.addIssue({ code: "custom", path: [], message: "must hold one of the kinds of writes" });
      return z.NEVER;
    }
    const checked = schemas[write.case].safeParse(write.value);
    if (checked.success) return checked.data;
    for (const { path, message } of checked.error.issues) context.addIssue({ code: "custom", path: [write.case, ...path], message });
    return z.NEVER;
  });
}

function batchSchema(item: ItemSchema, atomicItem: ItemSchema) {
  const noKey = z.literal("", "must be empty: each write of a batch that isn't atomic has a key of its own");
  const plain = z.object({ writes: z.array(item), idempotencyKey: noKey });
  const atomic = z.object({ writes: z.array(atomicItem), idempotencyKey });
  return z.custom<BatchWriteRequest>().transform((request, context): BatchInput => {
    const { writes, atomic: isAtomic } = request;
    if (writes.length < 1 || writes.length > MAX_WRITES) {
      context.addIssue({ code: "custom", path: ["writes"], message: `must hold 1 to ${MAX_WRITES} writes` });
      return z.NEVER;
    }
    const checked = (isAtomic ? atomic : plain).safeParse(request);
    if (checked.success) {
      const inputs = checked.data.writes;
      return { commands: inputs.map(({ command }) => command), atomic: isAtomic, keys: isAtomic ? [request.idempotencyKey] : inputs.map(({ key }) => key) };
    }
    for (const { path, message } of checked.error.issues) context.addIssue({ code: "custom", path: [...path], message });
    return z.NEVER;
  });
}
