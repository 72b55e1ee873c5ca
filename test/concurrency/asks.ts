// Random requests of every kind that changes money, for a few users in two currencies. What they refer to is found when they are sent: holds
// and transactions that callers were told of by then.

import type { MessageInitShape } from "@bufbuild/protobuf";
import fc from "fast-check";
import { formatAmount } from "../../src/domain/money/money.ts";
import { TransactionType, type Hold, type Transaction } from "../../src/gen/ledger/v1/account_pb.ts";
import type { SetCreditLimitRequestSchema } from "../../src/gen/ledger/v1/admin_service_pb.ts";
import type { WriteSchema } from "../../src/gen/ledger/v1/ledger_service_pb.ts";
import type { Answer } from "../harness/told.ts";

type OneWrite = Exclude<NonNullable<MessageInitShape<typeof WriteSchema>["write"]>, { case: undefined }>;

/** What is sent. */
export type Request =
  | OneWrite
  | { readonly case: "setCreditLimit"; readonly value: MessageInitShape<typeof SetCreditLimitRequestSchema> }
  | { readonly case: "batchWrite"; readonly value: { readonly atomic: boolean; readonly idempotencyKey: string; readonly writes: { write: OneWrite }[] } };

/** How many fraction digits the currencies have. */
const digits = { RUB: 2, CRD: 6 } as const;
const CURRENCIES = ["RUB", "CRD"] as const;
export const USERS = 3;

/** One time in so many. */
function seldom<T>(times: number, arbitrary: fc.Arbitrary<T>): fc.Arbitrary<T | undefined> {
  return fc.oneof({ weight: times - 1, arbitrary: fc.constant(undefined) }, { weight: 1, arbitrary });
}

/** In minor units. */
const amount = fc.bigInt({ min: 1n, max: 100n });
const part = fc.option(amount, { nil: undefined });
/** At once or not at all, in terms of a test. */
const expiresIn = fc.oneof(fc.integer({ min: 1, max: 30 }).map((ms) => ({ seconds: 0n, nanos: ms * 1_000_000 })), fc.constant({ seconds: 3600n, nanos: 0 }));
const other = fc.nat(USERS - 1);

const own = fc.oneof(
  fc.record({ case: fc.constant("topUp" as const), amount }),
  fc.record({ case: fc.constant("deduct" as const), amount }),
  fc.record({ case: fc.constant("refund" as const), part }),
  fc.record({ case: fc.constant("transfer" as const), amount, other }),
  fc.record({ case: fc.constant("placeHold" as const), amount, expiresIn }),
  fc.record({ case: fc.constant("captureHold" as const), part, final: fc.boolean() }),
  fc.record({ case: fc.constant("releaseHold" as const) }),
  fc.record({ case: fc.constant("adjust" as const), change: fc.bigInt({ min: -150n, max: 50n }).filter((n) => n !== 0n), allowNegative: fc.boolean() }),
);
const aimFor = <T>(what: fc.Arbitrary<T>) =>
  fc.record({
    own: what,
    user: other,
    currency: fc.constantFrom(...CURRENCIES),
    expectedSequence: seldom(16, fc.bigInt({ min: 2n, max: 9n })),
    reference: seldom(6, fc.constantFrom("one", "two")),
    /** Mostly new keys, sometimes one of a few. */
    key: fc.oneof({ weight: 8, arbitrary: fc.uuid() }, { weight: 1, arbitrary: fc.constantFrom("a", "b", "c") }),
    /** Which of the latest holds or transactions it refers to. */
    target: fc.nat(3),
    /** What of that is somebody else's, or something else. */
    stray: seldom(5, fc.constantFrom("user" as const, "currency" as const)),
  });
const aim = aimFor(own);
const limit = aimFor(fc.record({ case: fc.constant("setCreditLimit" as const), limit: fc.bigInt({ min: 0n, max: 80n }) }));

/** What a caller does next. */
export const ask = fc.oneof(
  { weight: 12, arbitrary: fc.record({ kind: fc.constant("one" as const), aim }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("limit" as const), aim: limit }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant("batch" as const), atomic: fc.boolean(), aims: fc.array(aim, { minLength: 1, maxLength: 4 }) }) },
  /** The same as somebody sent shortly before, who may not have an answer yet. */
  { weight: 3, arbitrary: fc.record({ kind: fc.constant("again" as const), back: fc.nat(12) }) },
);

type Ask = typeof ask extends fc.Arbitrary<infer T> ? T : never;
type Aim = typeof aim extends fc.Arbitrary<infer T> ? T : never;

/** What callers know so far. */
export class Known {
  readonly firstUser: bigint;
  readonly sent: Request[] = [];
  readonly #holds: Hold[] = [];
  readonly #spent: Transaction[] = [];

  constructor(firstUser: bigint) {
    this.firstUser = firstUser;
  }

  get users(): readonly bigint[] {
    return Array.from({ length: USERS }, (_, index) => this.firstUser + BigInt(index));
  }

  /** What is given to each account before, so that there is something to refer to. */
  gifts(): readonly Request[] {
    const accounts = this.users.flatMap((userId) => CURRENCIES.map((currency) => ({ userId, currency })));
    return accounts.map(({ userId, currency }): Request => {
      const item = (minor: bigint) => ({ userId, amount: money(minor, currency) });
      const writes: { write: OneWrite }[] = [
        { write: { case: "topUp", value: item(300n) } },
        { write: { case: "deduct", value: item(50n) } },
        { write: { case: "placeHold", value: item(50n) } },
      ];
      return { case: "batchWrite", value: { atomic: true, idempotencyKey: `gift of ${currency}`, writes } };
    });
  }

  /** Takes in an answer. */
  learn({ transaction, hold }: Answer & { readonly hold?: Hold | undefined }): void {
    if (hold !== undefined) this.#holds.push(hold);
    if (transaction?.type === TransactionType.DEDUCTION || transaction?.type === TransactionType.CAPTURE) this.#spent.push(transaction);
  }

  /** The request that an ask is now. */
  request(next: Ask): Request | undefined {
    switch (next.kind) {
      case "one":
        return this.#aimed(next.aim, true);
      case "limit": {
        const { currency, own: given } = next.aim;
        return { case: given.case, value: { ...this.#common(next.aim, true), creditLimit: money(given.limit, currency) } };
      }
      case "batch": {
        const writes = next.aims.map((one) => ({ write: this.#aimed(one, !next.atomic) }));
        return { case: "batchWrite", value: { atomic: next.atomic, idempotencyKey: next.atomic ? (next.aims[0]?.key ?? "") : "", writes } };
      }
      case "again":
        return this.sent.at(-1 - next.back);
    }
  }

  #aimed(one: Aim, withKey: boolean): OneWrite {
    const { own: given, currency, target, stray } = one;
    const hold = this.#holds.at(-1 - target);
    const spent = this.#spent.at(-1 - target);
    const common = this.#common(one, withKey);
    const partOf = (minor: bigint | undefined, itsCurrency: string | undefined) =>
      minor === undefined ? {} : { amount: money(minor, stray === "currency" ? currency : (itsCurrency ?? currency)) };
    const ownerOf = (userId: bigint | undefined) => (stray === "user" || userId === undefined ? common : { ...common, userId });
    switch (given.case) {
      case "topUp":
        return { case: given.case, value: { ...common, amount: money(given.amount, currency) } };
      case "deduct":
        return { case: given.case, value: { ...common, amount: money(given.amount, currency) } };
      case "refund":
        return { case: given.case, value: { ...ownerOf(spent?.userId), ...partOf(given.part, spent?.amount?.currency), transactionId: spent?.id ?? 1n } };
      case "transfer":
        return { case: given.case, value: { ...common, amount: money(given.amount, currency), toUserId: this.firstUser + BigInt(given.other) } };
      case "placeHold":
        return { case: given.case, value: { ...common, amount: money(given.amount, currency), expiresIn: given.expiresIn } };
      case "captureHold":
        return {
          case: given.case,
          value: { ...ownerOf(hold?.userId), ...partOf(given.part, hold?.amount?.currency), holdId: hold?.id ?? 1n, final: given.final },
        };
      case "releaseHold":
        return { case: given.case, value: { ...ownerOf(hold?.userId), holdId: hold?.id ?? 1n } };
      case "adjust":
        return { case: given.case, value: { ...common, amount: money(given.change, currency), reason: "test", allowNegative: given.allowNegative } };
    }
  }

  #common({ user, key, expectedSequence, reference }: Pick<Aim, "user" | "key" | "expectedSequence" | "reference">, withKey: boolean) {
    return {
      userId: this.firstUser + BigInt(user),
      idempotencyKey: withKey ? key : "",
      ...(expectedSequence === undefined ? {} : { expectedSequence }),
      ...(reference === undefined ? {} : { reference, uniqueReference: true }),
    };
  }
}

function money(minor: bigint, currency: string): { currency: string; amount: string } {
  return { currency, amount: formatAmount(minor, digits[currency as keyof typeof digits]) };
}
