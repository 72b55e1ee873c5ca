// Lengths in characters, and reports that can always be kept.

import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { firstOf, isLonger, reportOf } from "../../src/domain/text.ts";

/** Of any characters, also halves of surrogate pairs and U+0000. */
const anyText = fc
  .array(fc.constantFrom("a", "é", "猫", "😀", "\0", "\uD800", "\uDC00"), { maxLength: 80 })
  .map((parts) => parts.join(""));
const count = (text: string): number => Array.from(text).length;

test("a length is a number of code points, and the first ones are never cut through", () => {
  fc.assert(
    fc.property(anyText, fc.nat(80), (text, most) => {
      expect(isLonger(text, most)).toBe(count(text) > most);
      expect(firstOf(text, most)).toBe(Array.from(text).slice(0, most).join(""));
    }),
  );
});

describe("a report", () => {
  test("that can be kept stays as it is", () => {
    for (const text of ["", "it\nfailed", "😀".repeat(50)]) expect(reportOf(text, 50)).toBe(text);
  });

  test("loses only what can't be stored, and what is too long, with a mark that says so", () => {
    expect(reportOf("a\0b \uD800 \uDC00 😀", 50)).toBe("a\uFFFDb \uFFFD \uFFFD 😀");
    expect(reportOf("😀".repeat(2001), 2000)).toBe(`${"😀".repeat(1973)}… (cut at 2,000 characters)`);
  });

  test("is always storable, within its bound, and the same again when it is reported again", () => {
    fc.assert(
      fc.property(anyText, fc.integer({ min: 30, max: 60 }), (text, most) => {
        const kept = reportOf(text, most);
        expect([kept.isWellFormed(), kept.includes("\0"), count(kept) <= most, reportOf(kept, most)]).toEqual([
          true,
          false,
          true,
          kept,
        ]);
      }),
    );
  });
});
