// A locked account, read straight from the texts of its row: what zod makes of the same row, or a clear error.

import fc from "fast-check";
import { expect, test } from "vitest";
import { currenciesWith } from "../../src/domain/money/currency.ts";
import { formatAmount } from "../../src/domain/money/money.ts";
import { rowsFor, type Texts } from "../../src/postgres/rows/rows.ts";

const { lockedAccount, lockedAccountOf } = rowsFor(currenciesWith([{ code: "CRD", digits: 6 }]));
const good: Texts = ["7", "RUB", "10.00", "0.00", "-0.01", "3", "1767225600000001", `\\x${"ab".repeat(32)}`, "(0,1)", null];

const int8 = fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n });
const minor = fc.oneof(fc.constant(0n), fc.bigInt({ min: -(10n ** 18n), max: 10n ** 18n }));
/** An amount as PostgreSQL may write it: with the currency's digits, or more zeros. */
const amounts = fc.tuple(fc.constantFrom(["RUB", 2] as const, ["JPY", 0] as const, ["CRD", 6] as const), fc.tuple(minor, minor, minor), fc.nat(3));
const row = fc.tuple(int8, amounts, int8, int8, fc.option(fc.uint8Array({ minLength: 32, maxLength: 32 })), fc.option(int8));

test("a locked account is the same by its texts as by its columns, whatever they hold", () => {
  fc.assert(
    fc.property(row, ([userId, [[currency, digits], figures, more], sequence, time, head, now]) => {
      const [balance = "", held = "", creditLimit = ""] = figures.map((figure) => formatAmount(figure, digits) + (digits > 0 ? "0".repeat(more) : ""));
      const hex = head === null ? null : Buffer.from(head).toString("hex");
      const texts = [`${userId}`, currency, balance, held, creditLimit, `${sequence}`, `${time}`, hex === null ? null : `\\x${hex}`, "(12,3)", now === null ? null : `${now}`];
      const columns = { user_id: userId, currency, balance, held, credit_limit: creditLimit, sequence, time, chain_head: hex, row: "(12,3)", now };
      const read = lockedAccountOf(texts);
      expect(read).toEqual(lockedAccount.parse(columns));
      expect(read.account).toMatchObject({ balance: figures[0], held: figures[1], creditLimit: figures[2] });
    }),
  );
});

test.each([
  ["NULL for a balance", 2, null, /NULL/],
  ["no place of the row", 8, undefined, /fewer columns/],
  ["a balance that is no number", 2, "ten", /ten/],
  ["more digits than the currency has", 2, "10.001", /more than 2 fraction digits/],
  ["a currency that nobody knows", 1, "ZZZ", /ZZZ/],
  ["a sequence that is no number", 5, "3.5", /3\.5/],
  ["a hash that is no bytes", 7, "abab", /abab/],
] as const)("a locked account isn't read from %s", (_what, column, text, message) => {
  expect(lockedAccountOf(good).account).toMatchObject({ userId: 7n, balance: 1000n });
  const texts = good.map((one, index) => (index === column ? text : one)) as (string | null)[];
  expect(() => lockedAccountOf(texts)).toThrow(message);
});
