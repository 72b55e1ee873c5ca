// Amounts: exact, with their currency's digits, within bounds.

import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { currenciesWith, currencyOf } from "../../src/domain/money/currency.ts";
import { formatAmount, MAX_MINOR, parseAmount } from "../../src/domain/money/money.ts";

describe("an amount", () => {
  test.each([
    ["12.50", 2, 1250n],
    ["12.5", 2, 1250n],
    ["12", 2, 1200n],
    ["0.01", 2, 1n],
    ["-5", 2, -500n],
    ["0", 2, 0n],
    ["7", 0, 7n],
    ["1.234", 3, 1234n],
    ["9999999999999999.99", 2, MAX_MINOR],
    ["-9999999999999999.99", 2, -MAX_MINOR],
  ])("%s with %i fraction digits is read exactly", (text, digits, minor) => {
    expect(parseAmount(text, digits)).toEqual({ minor });
  });

  test.each([
    ["0.001", 2, "fraction digits"],
    ["1.0", 0, "fraction digits"],
    ["10000000000000000.00", 2, "at most 9999999999999999.99"],
    ["99999999999999999999.99", 2, "at most 9999999999999999.99"],
    ["1e3", 2, "decimal number"],
    ["+5", 2, "decimal number"],
    ["007", 2, "decimal number"],
    ["1.", 2, "decimal number"],
    [".5", 2, "decimal number"],
    ["", 2, "decimal number"],
    [" 1", 2, "decimal number"],
    ["1,5", 2, "decimal number"],
    ["NaN", 2, "decimal number"],
    ["١٢", 2, "decimal number"],
    ["1".repeat(1_000_000), 2, "40 characters"],
  ])("%.20s with %i fraction digits is refused, and told why", (text, digits, problem) => {
    expect(parseAmount(text, digits)).toEqual({ problem: expect.stringContaining(problem) as string });
  });

  test("is the same after it was written and read again, whatever it is", () => {
    fc.assert(
      fc.property(fc.bigInt({ min: -MAX_MINOR, max: MAX_MINOR }), fc.integer({ min: 0, max: 12 }), (minor, digits) => {
        expect(parseAmount(formatAmount(minor, digits), digits)).toEqual({ minor });
      }),
    );
  });

  test("is written with all fraction digits of its currency", () => {
    expect(formatAmount(5n, 2)).toBe("0.05");
    expect(formatAmount(-5n, 2)).toBe("-0.05");
    expect(formatAmount(500n, 0)).toBe("500");
    expect(formatAmount(1_234_567n, 6)).toBe("1.234567");
  });
});

describe("the currencies", () => {
  test("have the fraction digits of ISO 4217", () => {
    const currencies = currenciesWith([]);
    expect(["RUB", "USD", "JPY", "BHD", "IQD", "CLF", "KRW"].map((code) => currencyOf(currencies, code).digits)).toEqual([2, 2, 0, 3, 3, 4, 0]);
    expect(currencies.has("XAU"), "gold has no minor unit").toBe(false);
    expect(currencies.has("rub")).toBe(false);
  });

  test("can be extended by units, but not redefined", () => {
    expect(currencyOf(currenciesWith([{ code: "CRD", digits: 6 }]), "CRD").digits).toBe(6);
    expect(() => currenciesWith([{ code: "JPY", digits: 2 }])).toThrow("JPY has 0 fraction digits by ISO 4217, not 2");
    expect(() => currencyOf(currenciesWith([]), "CRD")).toThrow("CRD");
  });
});
