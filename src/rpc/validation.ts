// Checks requests and turns them into domain values: by zod, so that all that is wrong is said at once, under the proto's names.

import type { DescMessage, Message } from "@bufbuild/protobuf";
import type { Duration, Timestamp } from "@bufbuild/protobuf/wkt";
import { z } from "zod";
import type { Currencies } from "../domain/currency.ts";
import { parseAmount } from "../domain/money.ts";
import { errorOfViolations } from "./status.ts";

/** The checked and converted request, or an error that names every field that is wrong. */
export function validate<T>(schema: z.ZodType<T>, desc: DescMessage, request: Message): T {
  const checked = schema.safeParse(request);
  if (checked.success) return checked.data;
  throw errorOfViolations(checked.error.issues.map(({ path, message }) => ({ field: protoPath(desc, path), description: message })));
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
      named += `["${String(step)}"]`;
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

const MAX_INT64 = 2n ** 63n - 1n;

/** A user, or anything else that is numbered from 1 on. */
export const id = z.bigint().refine((value) => value >= 1n && value <= MAX_INT64, "must be from 1 to 2^63 - 1");

/** A sequence; 0 is before the first transaction. */
export const sequence = z.bigint().refine((value) => value >= 0n, "must not be negative");

/** Whether PostgreSQL can store it as text. */
export function storable(value: string): boolean {
  return !value.includes("\0") && value.isWellFormed();
}

/** Any text, up to a length in characters. */
export function text(maxLength: number) {
  return z
    .string()
    .refine((value) => value.length <= maxLength, `must have at most ${maxLength} characters`)
    .refine((value) => value.length > maxLength || storable(value), "must not contain U+0000 or half a surrogate pair");
}

const printable = /^[\p{L}\p{M}\p{N}\p{P}\p{S}\p{Zs}]*$/u;

/** Printable characters on one line, up to 128: keys and references. */
export const printableText = z
  .string()
  .refine((value) => value.length <= 128, "must have at most 128 characters")
  .refine((value) => value.length > 128 || (value.isWellFormed() && printable.test(value)), "must consist of printable characters");

/** What a caller calls something: printable characters, at least one. */
export function name(maxLength: number) {
  return printableText.refine((value) => value !== "" && value.length <= maxLength, `must have 1 to ${maxLength} characters`);
}

/** Said where a key is missing. */
export const REQUIRED_KEY = "is required: a key that you mint and store before the first attempt, such as a UUID";

/** A caller's key for one write. */
export const idempotencyKey = printableText.refine((value) => value !== "", REQUIRED_KEY);

const MAX_ENTRIES = 32;
const metadataKey = /^[A-Za-z0-9_.\-/:]{1,64}$/;
const metadataValue = text(512);

/** A map of the caller's, sorted by key. */
export const metadata = z.record(z.string(), z.string()).transform((map, context) => {
  const entries = Object.entries(map);
  const issue = (path: string[], message: string): void => context.addIssue({ code: "custom", path, message });
  if (entries.length > MAX_ENTRIES) issue([], `must have at most ${MAX_ENTRIES} entries`);
  for (const [key, value] of entries) {
    if (!metadataKey.test(key)) issue([key.slice(0, 64)], "must have a key of 1 to 64 letters, digits and _ . - / :");
    const checked = metadataValue.safeParse(value);
    if (!checked.success) issue([key.slice(0, 64)], checked.error.issues[0]?.message ?? "is malformed");
  }
  return entries.toSorted(([a], [b]) => (a < b ? -1 : 1));
});

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

/** An amount that must be given, in minor units of its currency. */
export function money(currencies: Currencies, fallback: string, sign: Sign) {
  return z.custom<{ currency: string; amount: string } | undefined>().transform((value, context) => {
    const issue = (path: string[], message: string) => {
      context.addIssue({ code: "custom", path, message });
      return z.NEVER;
    };
    if (value === undefined) return issue([], 'is required, such as {"currency": "RUB", "amount": "12.50"}');
    const code = value.currency === "" ? fallback : value.currency;
    const known = currencies.get(code);
    if (known === undefined) return issue(["currency"], 'must be a currency of ISO 4217 or a configured unit, such as "RUB", in upper case');
    const parsed = parseAmount(value.amount, known.digits);
    if ("problem" in parsed) return issue(["amount"], parsed.problem);
    if (!signs[sign](parsed.minor)) return issue(["amount"], `must be ${sign}`);
    return { currency: code, amount: parsed.minor };
  });
}

const MICROS = 1_000_000n;
const DEFAULT_LEASE_MICROS = 30n * MICROS;
/** What PostgreSQL and RFC 3339 both can hold. */
const MIN_SECONDS = -62_135_596_800n;
const MAX_SECONDS = 253_402_300_799n;

/** A moment, in microseconds since 1970; what is finer is cut off. */
export const timestamp = z
  .custom<Timestamp>()
  .refine(({ seconds, nanos }) => seconds >= MIN_SECONDS && seconds <= MAX_SECONDS && nanos >= 0 && nanos < 1e9, "must be a time from year 1 to 9999")
  .transform(({ seconds, nanos }) => seconds * MICROS + BigInt(Math.floor(nanos / 1000)));

/** An interval from 1 microsecond up to a number of days, in microseconds. */
export function interval(maxDays: bigint) {
  return z
    .custom<Duration>()
    .transform(({ seconds, nanos }) => seconds * MICROS + BigInt(Math.floor(nanos / 1000)))
    .refine((micros) => micros > 0n && micros <= maxDays * 86_400n * MICROS, `must be longer than zero and at most ${maxDays} days`);
}

/** How long a lease lasts, in microseconds: 1 second to 1 hour. */
export const leaseInterval = z
  .custom<Duration>()
  .transform(({ seconds, nanos }) => seconds * MICROS + BigInt(Math.floor(nanos / 1000)))
  .refine((micros) => micros >= MICROS && micros <= 3600n * MICROS, "must be from 1 second to 1 hour");

/** The same where it may be absent: 30 seconds then. */
export const leaseIntervalOrDefault = leaseInterval.optional().transform((micros) => micros ?? DEFAULT_LEASE_MICROS);

/** How long to wait, in milliseconds: up to 30 seconds. */
export const waitInterval = z
  .custom<Duration>()
  .optional()
  .transform((given) => (given === undefined ? 0 : Number(given.seconds) * 1000 + Math.ceil(given.nanos / 1e6)))
  .refine((ms) => ms >= 0 && ms <= 30_000, "must be from 0 to 30 seconds");

/** How many items a page has. */
export const pageSize = z
  .int()
  .refine((size) => size >= 0, "must not be negative")
  .transform((size) => (size === 0 ? 50 : Math.min(size, 1000)));
