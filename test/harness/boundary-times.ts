// Times and durations at the bounds of what they can hold, and those that languages, databases and timers stumble over;
// and what is neither, though protobuf can carry it.

import type { Duration, Timestamp } from "@bufbuild/protobuf/wkt";

export const time = (seconds: bigint, nanos = 0): Timestamp => ({
  $typeName: "google.protobuf.Timestamp",
  seconds,
  nanos,
});
const span = (seconds: bigint, nanos = 0): Duration => ({ $typeName: "google.protobuf.Duration", seconds, nanos });

const MAX_INT64 = 2n ** 63n - 1n;
const MIN_INT64 = -(2n ** 63n);
export const YEAR_1 = -62_135_596_800n;
const LAST_OF_9999 = 253_402_300_799n;
const LONGEST = 315_576_000_000n;
const DAY = 86_400n;

/** By their types: what is one, and what isn't. */
export const boundaryTimes = {
  Timestamp: {
    right: [
      time(YEAR_1),
      time(YEAR_1, 1),
      time(YEAR_1 + 1n, 999_999_999),
      time(-DAY),
      time(-2n, 500_000_000),
      time(-1n, 999_999_999),
      time(-1n, 999_999),
      time(-1n),
      time(0n),
      time(0n, 1),
      time(0n, 1000),
      time(0n, 999_999_999),
      time(1n),
      time(1_700_000_000n, 123_456_789),
      time(2n ** 31n),
      time(2n ** 33n),
      time(LAST_OF_9999),
      time(LAST_OF_9999, 999_999_999),
    ],
    wrong: [
      time(YEAR_1 - 1n),
      time(YEAR_1 - 1n, 999_999_999),
      time(LAST_OF_9999 + 1n),
      time(MIN_INT64),
      time(MAX_INT64),
      time(0n, -1),
      time(0n, 1_000_000_000),
      time(-2n, -500_000_000),
      time(0n, 2 ** 31 - 1),
      time(0n, -(2 ** 31)),
    ],
  },
  Duration: {
    right: [
      span(0n),
      span(0n, 1),
      span(0n, 999),
      span(0n, 1000),
      span(0n, 500_000),
      span(0n, 1_500_000),
      span(1n),
      span(1n, 1),
      span(1n, 500_000_000),
      span(29n, 999_999_999),
      span(30n),
      span(30n, 1),
      span(3600n),
      span(3600n, 1),
      span(90n * DAY),
      span(90n * DAY, 1),
      span(0n, -1),
      span(-1n),
      span(-1n, -500_000_000),
      span(LONGEST),
      span(-LONGEST),
    ],
    wrong: [
      span(1n, -500_000_000),
      span(-1n, 500_000_000),
      span(1n, -1),
      span(-1n, 1),
      span(0n, 1_000_000_000),
      span(0n, -1_000_000_000),
      span(1n, 2 ** 31 - 1),
      span(-1n, -(2 ** 31)),
      span(LONGEST + 1n),
      span(-LONGEST - 1n),
      span(MAX_INT64),
      span(MIN_INT64),
    ],
  },
};
