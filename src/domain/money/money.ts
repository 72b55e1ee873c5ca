// Exact amounts: a count of minor units as a bigint, a decimal number as text outside. Never a float.

import { MAX_DIGITS } from "./currency.ts";
import { isLonger } from "../text.ts";

/** An amount of one currency, in minor units. */
export interface Money {
  readonly currency: string;
  readonly minor: bigint;
}

/** The largest size of an amount or a balance, in minor units. */
export const MAX_MINOR = 10n ** 18n - 1n;

/** Whether a figure stays within what the ledger can hold. */
export function withinBounds(minor: bigint): boolean {
  return minor <= MAX_MINOR && minor >= -MAX_MINOR;
}

const decimal = /^(-?)(0|[1-9]\d*)(?:\.(\d+))?$/;

/** Why a text is no amount, or the amount in minor units. */
export type ParsedAmount = { readonly minor: bigint } | { readonly problem: string };

/** Reads a decimal number of a currency with this many fraction digits. */
export function parseAmount(text: string, digits: number): ParsedAmount {
  // Longer than any amount within bounds: said before a number of a million digits is looked at.
  if (isLonger(text, 40)) return { problem: "must have at most 40 characters" };
  const match = decimal.exec(text);
  if (match === null) return { problem: 'must be a decimal number such as "12.50", without exponent, "+", spaces or leading zeros' };
  const [, sign, whole, fraction = ""] = match;
  if (fraction.length > digits) return { problem: `must have at most ${digits} fraction digits` };
  const size = BigInt(`${whole}${fraction.padEnd(digits, "0")}`);
  if (size > MAX_MINOR) return { problem: `must be at most ${formatAmount(MAX_MINOR, digits)}` };
  return { minor: sign === "-" ? -size : size };
}

/** A zero, its point and so many more zeros, made once. */
const fractions = Array.from({ length: MAX_DIGITS + 1 }, (_, count) => `0.${"0".repeat(count)}`);

/** Writes an amount with all fraction digits of its currency. */
export function formatAmount(minor: bigint, digits: number): string {
  if (digits === 0) return minor.toString();
  // Half of the figures of a row: held money and credit limits.
  if (minor === 0n) return zeros(digits);
  const sign = minor < 0n ? "-" : "";
  const figures = (minor < 0n ? -minor : minor).toString();
  const whole = figures.length - digits;
  return whole > 0 ? `${sign}${figures.slice(0, whole)}.${figures.slice(whole)}` : `${sign}${zeros(-whole)}${figures}`;
}

function zeros(count: number): string {
  return fractions[count] ?? `0.${"0".repeat(count)}`;
}
