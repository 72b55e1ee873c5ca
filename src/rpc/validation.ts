// Checks requests and turns them into domain values: by zod, so that all that is wrong is said at once, under the proto's names.
//
// Requests that change money are read by plain functions under a single schema: with a schema for each of their fields, a write of a batch took 2.1 µs
// instead of 0.6, and twice the memory. The rules of a field, such as `idProblem`, are the same for both.

import type { DescMessage, Message } from "@bufbuild/protobuf";
import type { Duration, Timestamp } from "@bufbuild/protobuf/wkt";
import { z } from "zod";
import type { Note } from "../domain/journal/command.ts";
import type { Currencies } from "../domain/money/currency.ts";
import { FIRST_MOMENT, LAST_MOMENT, SECOND } from "../domain/moment.ts";
import { parseAmount } from "../domain/money/money.ts";
import { isLonger, isStorable, reportOf, shownName } from "../domain/text.ts";
import type { Money } from "../gen/ledger/v1/money_pb.ts";
import { errorOfViolations, MOST_VIOLATIONS } from "./errors.ts";

/** The checked and converted request, or an error that names every field that is wrong, up to its bound. */
export function validate<T>(schema: z.ZodType<T>, desc: DescMessage, request: Message): T {
  const checked = schema.safeParse(request);
  if (checked.success) return checked.data;
  const issues = checked.error.issues.slice(0, MOST_VIOLATIONS + 1);
  throw errorOfViolations(issues.map(({ path, message }) => ({ field: protoPath(desc, path), description: message })));
}

/** `["writes", 0, "topUp", "metadata", "a b"]` as the proto names it: `writes[0].top_up.metadata["a b"]`. */
function protoPath(desc: DescMessage, path: readonly PropertyKey[]): string {
  let named = "";
  let message: DescMessage | undefined = desc;
  let field: DescMessage["fields"][number] | undefined;
  for (const [index, step] of path.entries()) {
    if (typeof step === "number") {
      named += `[${step}]`;
    } else if (field?.fieldKind === "map") {
      // It may have been cut within a character.
      named += `["${String(step).toWellFormed()}"]`;
    } else {
      // A oneof has no name on the wire: what follows is the field of it that was given.
      if (index < path.length - 1 && message?.oneofs.some(({ localName }) => localName === step)) continue;
      field = message?.field[String(step)];
      named += `${named === "" ? "" : "."}${field?.name ?? String(step)}`;
      message = field?.message;
    }
  }
  return named;
}

const MOST_IDS = 1000;
const MAX_INT64 = 2n ** 63n - 1n;

/** Says that something is wrong with a field. */
export type Say = (path: readonly PropertyKey[], message: string) => void;

/** A schema for what a function turns into a value, which counts only if nothing was said. */
export function schemaOf<R, T>(read: (request: R, say: Say) => T): z.ZodType<T, R> {
  return z.custom<R>().transform((request, context) => read(request, (path, message) => context.addIssue({ code: "custom", path: [...path], message })));
}

/** What is wrong with a value, if anything is. */
type ProblemOf<T> = (value: T) => string | undefined;

function without<T>(schema: z.ZodType<T>, problemOf: ProblemOf<T>): z.ZodType<T> {
  return schema.superRefine((value, context) => {
    const message = problemOf(value);
    if (message !== undefined) context.addIssue({ code: "custom", message });
  });
}

/** What is wrong with the id of a user, or of anything else that is numbered from 1 on. */
export const idProblem: ProblemOf<bigint> = (value) => (value >= 1n && value <= MAX_INT64 ? undefined : "must be from 1 to 2^63 - 1");

/** A user, or anything else that is numbered from 1 on. */
export const id = without(z.bigint(), idProblem);

/** A list of such, of 1 to 1,000: all of what is wrong in it isn't looked for. */
export function ids(what: string): z.ZodType<readonly bigint[]> {
  return z.custom<readonly bigint[]>().superRefine((given, context) => {
    const say: Say = (path, message) => context.addIssue({ code: "custom", path: [...path], message });
    if (given.length < 1 || given.length > MOST_IDS) return say([], `must name 1 to ${MOST_IDS} ${what}`);
    const wrong = given.flatMap((one, index) => idProblem(one) === undefined ? [] : index);
    for (const index of wrong.slice(0, MOST_VIOLATIONS + 1)) say([index], idProblem(given[index] ?? 0n) ?? "");
  });
}

/** What is wrong with a sequence. */
export const sequenceProblem: ProblemOf<bigint> = (value) => (value >= 0n ? undefined : "must not be negative");

/** A sequence; 0 is before the first transaction. */
export const sequence = without(z.bigint(), sequenceProblem);

/** What is wrong with any text of up to so many characters. */
export function textProblem(value: string, maxLength: number): string | undefined {
  if (isLonger(value, maxLength)) return `must have at most ${maxLength} characters`;
  return isStorable(value) ? undefined : "must not contain U+0000 or half a surrogate pair";
}

/** Any text, up to a length in characters. */
export function text(maxLength: number) {
  return without(z.string(), (value) => textProblem(value, maxLength));
}

/** Any text that says what went wrong; see `reportOf`. */
export function report(maxLength: number) {
  return z.string().transform((given) => reportOf(given, maxLength));
}

const printable = /^[\p{L}\p{M}\p{N}\p{P}\p{S}\p{Zs}]*$/u;

/** What is wrong with a key or a reference. */
export const printableProblem: ProblemOf<string> = (value) => {
  if (isLonger(value, 128)) return "must have at most 128 characters";
  return value.isWellFormed() && printable.test(value) ? undefined : "must consist of printable characters";
};

/** Printable characters on one line, up to 128: keys and references. */
export const printableText = without(z.string(), printableProblem);

/** What a caller calls something: printable characters, at least one. */
export function name(maxLength: number) {
  return printableText.refine((value) => value !== "" && !isLonger(value, maxLength), `must have 1 to ${maxLength} characters`);
}

/** Said where a key is missing. */
export const REQUIRED_KEY = "is required: a key that you mint and store before the first attempt, such as a UUID";

/** What is wrong with a key that must be given. */
export const keyProblem: ProblemOf<string> = (value) => (value === "" ? REQUIRED_KEY : printableProblem(value));

/** A caller's key for one write. */
export const idempotencyKey = without(z.string(), keyProblem);

const MAX_ENTRIES = 32;
const MAX_VALUE = 512;
const metadataKey = /^[A-Za-z0-9_.\-/:]{1,64}$/;

/** A map of the caller's, sorted by key. */
export function readMetadata(map: Readonly<Record<string, string>>, say: Say): Note["metadata"] {
  const keys = Object.keys(map);
  if (keys.length > MAX_ENTRIES) {
    say([], `must have at most ${MAX_ENTRIES} entries`);
    return [];
  }
  const entries = keys.map((key) => {
    const value = map[key] ?? "";
    if (!metadataKey.test(key)) say([shownName(key)], "must have a key of 1 to 64 letters, digits and _ . - / :");
    const problem = textProblem(value, MAX_VALUE);
    if (problem !== undefined) say([shownName(key)], problem);
    return [key, value] as const;
  });
  return entries.toSorted(([a], [b]) => (a < b ? -1 : 1));
}

/** A currency's code; empty means the default one. */
export function currency(currencies: Currencies, fallback: string) {
  return z
    .string()
    .refine((code) => code === "" || currencies.has(code), 'must be a currency of ISO 4217 or a configured unit, such as "RUB", in upper case')
    .transform((code) => (code === "" ? fallback : code));
}

/** Which amounts a field takes. */
export type Sign = "positive" | "not negative" | "not zero";

const signs: Readonly<Record<Sign, (minor: bigint) => boolean>> = {
  positive: (minor) => minor > 0n,
  "not negative": (minor) => minor >= 0n,
  "not zero": (minor) => minor !== 0n,
};

/** An amount as a request gives it. */
type GivenMoney = Pick<Money, "currency" | "amount">;

/** An amount in minor units of its currency. */
interface ReadMoney {
  readonly currency: string;
  readonly amount: bigint;
}

/** What reads an amount that must be given. */
export function moneyReader(currencies: Currencies, fallback: string, sign: Sign): (given: GivenMoney | undefined, say: Say) => ReadMoney {
  return (given, say) => {
    const wrong = (path: readonly string[], message: string): ReadMoney => {
      say(path, message);
      return z.NEVER;
    };
    if (given === undefined) return wrong([], 'is required, such as {"currency": "RUB", "amount": "12.50"}');
    const code = given.currency === "" ? fallback : given.currency;
    const known = currencies.get(code);
    if (known === undefined) return wrong(["currency"], 'must be a currency of ISO 4217 or a configured unit, such as "RUB", in upper case');
    const parsed = parseAmount(given.amount, known.digits);
    if ("problem" in parsed) return wrong(["amount"], parsed.problem);
    if (!signs[sign](parsed.minor)) return wrong(["amount"], `must be ${sign}`);
    return { currency: code, amount: parsed.minor };
  };
}

/** An amount that must be given, in minor units of its currency. */
export function money(currencies: Currencies, fallback: string, sign: Sign) {
  return schemaOf(moneyReader(currencies, fallback, sign));
}

const isTimestamp = ({ seconds, nanos }: Timestamp): boolean =>
  seconds >= FIRST_MOMENT / SECOND && seconds * SECOND <= LAST_MOMENT && nanos >= 0 && nanos < 1e9;

/** A moment; what is finer than a microsecond is cut off. */
export const timestamp = z
  .custom<Timestamp>()
  .refine(isTimestamp, "must be a time from year 1 to 9999, with nanos from 0 to 999,999,999")
  .transform(({ seconds, nanos }) => seconds * SECOND + BigInt(Math.floor(nanos / 1000)));

/** What reads a duration between two bounds, all in microseconds; what is finer is cut off once it has passed them. */
function durationReader(min: bigint, max: bigint, range: string): (given: Duration, say: Say) => bigint {
  return ({ seconds, nanos }, say) => {
    const total = seconds * 1_000_000_000n + BigInt(nanos);
    if (Math.abs(nanos) >= 1e9 || (seconds > 0n && nanos < 0) || (seconds < 0n && nanos > 0)) {
      say([], "must have nanos of less than a second, and of the same sign as its seconds");
    } else if (total < min * 1000n || total > max * 1000n) {
      say([], `must be ${range}`);
    }
    return total / 1000n;
  };
}

/** What reads an interval from 1 microsecond up to a number of days, in microseconds. */
export function intervalReader(maxDays: bigint): (given: Duration, say: Say) => bigint {
  return durationReader(1n, maxDays * 86_400n * SECOND, `from 1 microsecond to ${maxDays} days`);
}

const DEFAULT_LEASE = 30n * SECOND;

/** How long a lease lasts, in microseconds: 1 second to 1 hour. */
export const leaseInterval = schemaOf(durationReader(SECOND, 3600n * SECOND, "from 1 second to 1 hour"));

/** The same where it may be absent: 30 seconds then. */
export const leaseIntervalOrDefault = leaseInterval.optional().transform((micros) => micros ?? DEFAULT_LEASE);

/** How long to wait, in whole milliseconds: up to 30 seconds. */
export const waitInterval = schemaOf(durationReader(0n, 30n * SECOND, "from 0 to 30 seconds"))
  .optional()
  .transform((micros) => Math.ceil(Number(micros ?? 0n) / 1000));

/** How many items a page has. */
export const pageSize = z
  .int()
  .refine((size) => size >= 0, "must not be negative")
  .transform((size) => (size === 0 ? 50 : Math.min(size, 1000)));
