// Moments: microseconds since 1970, negative before it. All of years 1 to 9999, which RFC 3339, protobuf's Timestamp
// and PostgreSQL have in common.

/** Microseconds of a second. */
export const SECOND = 1_000_000n;

/** The first moment of year 1. */
export const FIRST_MOMENT = -62_135_596_800n * SECOND;

/** The last moment of year 9999. */
export const LAST_MOMENT = 253_402_300_800n * SECOND - 1n;

/**
 * A moment in whole units of so many microseconds, and what is left: never negative, as a bigint's own `%` is before
 * 1970.
 */
export function split(moment: bigint, unit: bigint): { readonly whole: bigint; readonly rest: bigint } {
  const rest = ((moment % unit) + unit) % unit;
  return { whole: (moment - rest) / unit, rest };
}

/** A moment by RFC 3339, to the microsecond. */
export function isoTime(moment: bigint): string {
  const { whole, rest } = split(moment, 1000n);
  return new Date(Number(whole)).toISOString().replace("Z", `${String(rest).padStart(3, "0")}Z`);
}
