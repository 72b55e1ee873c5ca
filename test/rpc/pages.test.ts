// Page tokens: whatever somebody makes up is refused as malformed, also with the right digest.

import { Code, ConnectError } from "@connectrpc/connect";
import fc from "fast-check";
import { expect, test } from "vitest";
import { z } from "zod";
import { cursorNumber, cursorOf, oneNumber, pageToken } from "../../src/rpc/pages.ts";

const args = ["list", 7n, undefined];

/** What a token is read as, or how it is refused. */
function read<C>(token: string, shape: z.ZodType<C>): C | undefined | "refused" {
  try {
    return cursorOf(args, token, shape);
  } catch (error) {
    expect(error).toBeInstanceOf(ConnectError);
    expect(error).toMatchObject({ code: Code.InvalidArgument });
    return "refused";
  }
}

test("a token is read as it was given, for the same list alone", () => {
  fc.assert(
    fc.property(fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }), (number) => {
      const token = pageToken(args, [number]);
      expect(read(token, oneNumber)).toEqual([number]);
      expect(read(pageToken(["list", 8n, undefined], [number]), oneNumber)).toBe("refused");
    }),
  );
  expect(read("", oneNumber)).toBeUndefined();
});

test("a token that somebody made up with the right digest is read as numbers of 64 bits, or refused", () => {
  const part = fc.oneof(fc.string(), fc.bigInt({ min: -(2n ** 70n), max: 2n ** 70n }).map(String), fc.constant("1e5"));
  fc.assert(
    fc.property(fc.array(part, { maxLength: 3 }), (cursor) => {
      const [only = ""] = cursor;
      const isNumber = cursor.length === 1 && /^-?\d{1,19}$/.test(only) && BigInt.asIntN(64, BigInt(only)) === BigInt(only);
      expect(read(pageToken(args, cursor), oneNumber)).toEqual(isNumber ? [BigInt(only)] : "refused");
    }),
  );
  expect(read(pageToken(args, ["9", "RUB"]), z.tuple([cursorNumber]))).toBe("refused");
});

test("what is no token is refused", () => {
  fc.assert(
    fc.property(fc.string({ minLength: 1 }), (text) => {
      expect(read(text, oneNumber)).toBe("refused");
    }),
  );
});
