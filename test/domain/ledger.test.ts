// decide: each command's rules, given what happened before, when it comes, then what follows.

import { describe, expect, test } from "vitest";
import { decide, expire } from "../../src/domain/journal/ledger.ts";
import { MAX_MINOR } from "../../src/domain/money/money.ts";
import { account, command, given, note, NOW, openHold, original, OTHER, USER } from "./given.ts";

describe("a top-up", () => {
  test("adds money", () => {
    given().when(command("top_up", { amount: 500n })).thenWrites({ type: "topup", userId: USER, amount: 500n, heldChange: 0n });
  });

  test("creates the account", () => {
    given({ account: account({ sequence: 0n }) }).when(command("top_up", { amount: 1n })).thenWrites({ amount: 1n });
  });

  test("is refused where the balance would pass the bound", () => {
    given({ account: account({ balance: MAX_MINOR }) }).when(command("top_up", { amount: 1n })).thenRefuses("AMOUNT_OUT_OF_RANGE", { userId: USER, currency: "RUB" });
    given({ account: account({ balance: MAX_MINOR - 1n }) }).when(command("top_up", { amount: 1n })).thenWrites({ amount: 1n });
  });
});

describe("a deduction", () => {
  test("takes all that is available, and not more", () => {
    given().when(command("deduct", { amount: 10_000n })).thenWrites({ type: "deduction", amount: -10_000n });
    given()
      .when(command("deduct", { amount: 10_001n }))
      .thenRefuses("INSUFFICIENT_FUNDS", { available: { currency: "RUB", minor: 10_000n }, requested: { currency: "RUB", minor: 10_001n } });
  });

  test("can't take what is held", () => {
    given({ account: account({ balance: 100n, held: 60n }) }).when(command("deduct", { amount: 41n })).thenRefuses("INSUFFICIENT_FUNDS");
    given({ account: account({ balance: 100n, held: 60n }) }).when(command("deduct", { amount: 40n })).thenWrites({ amount: -40n });
  });

  test("may use the credit limit", () => {
    given({ account: account({ creditLimit: 50n }) }).when(command("deduct", { amount: 50n })).thenWrites({ amount: -50n });
    given({ account: account({ creditLimit: 50n }) }).when(command("deduct", { amount: 51n })).thenRefuses("INSUFFICIENT_FUNDS");
  });

  test("from an account that doesn't exist is a lack of funds", () => {
    given({ account: account({ sequence: 0n }) }).when(command("deduct", { amount: 1n })).thenRefuses("INSUFFICIENT_FUNDS");
  });

  test("is refused on an account that is below its floor, even for a minor unit", () => {
    given({ account: account({ balance: -10n }) }).when(command("deduct", { amount: 1n })).thenRefuses("INSUFFICIENT_FUNDS", { available: { currency: "RUB", minor: -10n } });
  });
});

describe("a refund", () => {
  test("gives back a part, or all that is left if no amount is named", () => {
    given({ original: original() }).when(command("refund", { transactionId: 9n, amount: 30n })).thenWrites({ type: "refund", amount: 30n, refundedTransactionId: 9n });
    given({ original: original({ refunded: 30n }) }).when(command("refund", { transactionId: 9n, amount: undefined })).thenWrites({ amount: 70n });
  });

  test("of a capture works as that of a deduction", () => {
    given({ original: original({ type: "capture" }) }).when(command("refund", { transactionId: 9n, amount: 100n })).thenWrites({ amount: 100n });
  });

  test("never passes the original, together with the earlier ones", () => {
    given({ original: original({ refunded: 30n }) })
      .when(command("refund", { transactionId: 9n, amount: 71n }))
      .thenRefuses("REFUND_EXCEEDS_ORIGINAL", { refundable: { currency: "RUB", minor: 70n } });
    given({ original: original({ refunded: 100n }) }).when(command("refund", { transactionId: 9n, amount: undefined })).thenRefuses("REFUND_EXCEEDS_ORIGINAL");
  });

  test("succeeds on an account that is below its floor", () => {
    given({ account: account({ balance: -500n }), original: original() }).when(command("refund", { transactionId: 9n, amount: 1n })).thenWrites({ amount: 1n });
  });

  test("needs a transaction of the user, of a kind that can be refunded, in its currency", () => {
    given().when(command("refund", { transactionId: 9n, amount: 1n })).thenRefuses("TRANSACTION_NOT_FOUND", { transactionId: 9n });
    for (const type of ["topup", "refund", "transfer_out", "hold", "adjustment"] as const) {
      given({ original: original({ type }) }).when(command("refund", { transactionId: 9n, amount: 1n })).thenRefuses("TRANSACTION_NOT_REFUNDABLE", { type });
    }
    given({ original: original({ currency: "USD" }) })
      .when(command("refund", { transactionId: 9n, amount: 1n }))
      .thenRefuses("CURRENCY_MISMATCH", { currency: "USD", requested: "RUB" });
  });

  test("without an amount is in the original's currency, whatever the default one is", () => {
    given({ account: account({ currency: "USD" }), original: original({ currency: "USD" }) })
      .when(command("refund", { transactionId: 9n, amount: undefined }))
      .thenWrites({ currency: "USD", amount: 100n });
  });
});

describe("a transfer", () => {
  test("takes from one and gives the same to the other", () => {
    given()
      .when(command("transfer", { toUserId: OTHER, amount: 25n }))
      .thenWrites({ type: "transfer_out", userId: USER, amount: -25n }, { type: "transfer_in", userId: OTHER, amount: 25n });
  });

  test("needs the sender's available money, and another user", () => {
    given().when(command("transfer", { toUserId: OTHER, amount: 10_001n })).thenRefuses("INSUFFICIENT_FUNDS");
    given().when(command("transfer", { toUserId: USER, amount: 1n })).thenRefuses("SAME_ACCOUNT", { userId: USER });
  });

  test("is refused where the recipient would pass the bound", () => {
    given({ recipient: account({ userId: OTHER, balance: MAX_MINOR }) })
      .when(command("transfer", { toUserId: OTHER, amount: 1n }))
      .thenRefuses("AMOUNT_OUT_OF_RANGE", { userId: OTHER });
  });
});

describe("a hold", () => {
  test("reserves available money until its time is over, counted from the write", () => {
    given()
      .when(command("place_hold", { amount: 60n, expiresIn: 1000n }))
      .thenWrites({ type: "hold", amount: 0n, heldChange: 60n, hold: { id: 77n, amount: 60n, captured: 0n, state: "open", expiresAt: NOW + 1000n, createdAt: NOW } });
  });

  test("can't reserve more than is available", () => {
    given({ account: account({ balance: 100n, held: 100n }) }).when(command("place_hold", { amount: 1n, expiresIn: 1n })).thenRefuses("INSUFFICIENT_FUNDS");
  });

  test("that expires sets free what is left of it", () => {
    expect(expire(openHold({ captured: 40n }))).toMatchObject({ type: "expiry", amount: 0n, heldChange: -60n, hold: { state: "expired", captured: 40n } });
  });
});

describe("a capture", () => {
  test("takes a part and leaves the rest held", () => {
    given({ hold: openHold() })
      .when(command("capture_hold", { holdId: 5n, amount: 30n, final: false }))
      .thenWrites({ type: "capture", amount: -30n, heldChange: -30n, hold: { captured: 30n, state: "open" } });
  });

  test("that is final takes a part and sets the rest free, in one row", () => {
    given({ hold: openHold({ captured: 20n }) })
      .when(command("capture_hold", { holdId: 5n, amount: 30n, final: true }))
      .thenWrites({ amount: -30n, heldChange: -80n, hold: { captured: 50n, state: "captured" } });
  });

  test("of all that is left ends the hold, whether it says so or not", () => {
    given({ hold: openHold({ captured: 20n }) })
      .when(command("capture_hold", { holdId: 5n, amount: 80n, final: false }))
      .thenWrites({ amount: -80n, heldChange: -80n, hold: { captured: 100n, state: "captured" } });
    given({ hold: openHold({ captured: 20n }) })
      .when(command("capture_hold", { holdId: 5n, amount: undefined, final: false }))
      .thenWrites({ amount: -80n, hold: { state: "captured" } });
  });

  test("can't fail for lack of money", () => {
    given({ account: account({ balance: -1000n, held: 100n }), hold: openHold() })
      .when(command("capture_hold", { holdId: 5n, amount: 100n, final: true }))
      .thenWrites({ amount: -100n });
  });

  test("can't take more than is left", () => {
    given({ hold: openHold({ captured: 20n }) })
      .when(command("capture_hold", { holdId: 5n, amount: 81n, final: false }))
      .thenRefuses("CAPTURE_EXCEEDS_HOLD", { holdId: 5n, remaining: { currency: "RUB", minor: 80n } });
  });
});

describe("a release", () => {
  test("ends the hold and sets free what is left", () => {
    given({ hold: openHold({ captured: 20n }) })
      .when(command("release_hold", { holdId: 5n }))
      .thenWrites({ type: "release", amount: 0n, heldChange: -80n, hold: { captured: 20n, state: "released" } });
  });
});

describe("captures and releases", () => {
  const both = [command("capture_hold", { holdId: 5n, amount: 1n, final: false }), command("release_hold", { holdId: 5n })];

  test.each(both)("need an open hold of the user's own ($kind)", (asked) => {
    given().when(asked).thenRefuses("HOLD_NOT_FOUND", { holdId: 5n });
    given({ hold: openHold({ state: "captured" }) }).when(asked).thenRefuses("HOLD_ALREADY_CAPTURED");
    given({ hold: openHold({ state: "released" }) }).when(asked).thenRefuses("HOLD_ALREADY_RELEASED");
    given({ hold: openHold({ state: "expired" }) }).when(asked).thenRefuses("HOLD_EXPIRED", { expiresAt: NOW + 1n });
    given({ hold: openHold({ jobId: 3n }) }).when(asked).thenRefuses("HOLD_OWNED_BY_JOB", { jobId: 3n });
  });

  test("must name the hold's currency if they name an amount", () => {
    given({ account: account({ currency: "USD" }), hold: openHold({ currency: "USD" }) })
      .when(command("capture_hold", { holdId: 5n, amount: 1n, final: false }))
      .thenRefuses("CURRENCY_MISMATCH", { currency: "USD", requested: "RUB" });
  });
});

describe("an adjustment", () => {
  test("goes either way, and passes the floor only where that is allowed", () => {
    given().when(command("adjust", { amount: 5n, allowNegative: false })).thenWrites({ type: "adjustment", amount: 5n });
    given().when(command("adjust", { amount: -10_000n, allowNegative: false })).thenWrites({ amount: -10_000n });
    given().when(command("adjust", { amount: -10_001n, allowNegative: false })).thenRefuses("INSUFFICIENT_FUNDS");
    given().when(command("adjust", { amount: -10_001n, allowNegative: true })).thenWrites({ amount: -10_001n });
  });
});

describe("a credit limit", () => {
  test("is an entry that changes no balance", () => {
    given().when(command("set_credit_limit", { limit: 900n })).thenWrites({ type: "credit_limit", amount: 0n, heldChange: 0n, creditLimit: 900n });
  });

  test("may be lowered below what is used", () => {
    given({ account: account({ balance: -500n, creditLimit: 900n }) }).when(command("set_credit_limit", { limit: 0n })).thenWrites({ creditLimit: 0n });
  });

  test("needs an account that exists", () => {
    given({ account: account({ sequence: 0n }) }).when(command("set_credit_limit", { limit: 1n })).thenRefuses("ACCOUNT_NOT_FOUND", { userId: USER, currency: "RUB" });
  });
});

describe("an expected sequence", () => {
  test("lets a write through only at that sequence", () => {
    given().when(command("top_up", { amount: 1n, expectedSequence: 3n })).thenWrites({ amount: 1n });
    given().when(command("top_up", { amount: 1n, expectedSequence: 2n })).thenRefuses("SEQUENCE_MISMATCH", { expectedSequence: 2n, sequence: 3n });
    given().when(command("top_up", { amount: 1n, expectedSequence: 0n })).thenRefuses("SEQUENCE_MISMATCH");
  });

  test("of 0 means that the account must not exist, a higher one that it must", () => {
    const unborn = { account: account({ sequence: 0n }) };
    given(unborn).when(command("top_up", { amount: 1n, expectedSequence: 0n })).thenWrites({ amount: 1n });
    given(unborn).when(command("top_up", { amount: 1n, expectedSequence: 1n })).thenRefuses("ACCOUNT_NOT_FOUND");
  });
});

describe("where several refusals apply", () => {
  // Each line takes away the reason of the line before; the refusals must come in the order in which the union declares them.
  const worst = {
    situation: { account: account({ sequence: 0n }), referenceUsed: true, hold: openHold({ currency: "USD", jobId: 3n, state: "captured" as const, captured: 100n }) },
    asked: command("capture_hold", { holdId: 5n, amount: 1000n, final: false, expectedSequence: 9n, note: { ...note, uniqueReference: true, reference: "r" } }),
  };

  test("the first one in order of precedence is the answer", () => {
    const refusals: string[] = [];
    const steps = [
      { situation: {}, asked: {} },
      { situation: { account: account() }, asked: {} },
      { situation: {}, asked: { expectedSequence: undefined } },
      { situation: { referenceUsed: false }, asked: {} },
      { situation: { hold: openHold({ jobId: 3n, state: "captured" as const, captured: 100n }) }, asked: {} },
      { situation: { hold: openHold({ state: "captured" as const, captured: 100n }) }, asked: {} },
      { situation: { hold: openHold() }, asked: {} },
    ];
    const nothing = { recipient: undefined, original: undefined, job: undefined, newHoldId: 0n, newJobId: 0n };
    let facts = { ...nothing, time: NOW, now: NOW, ...worst.situation };
    let asked = worst.asked;
    for (const step of steps) {
      facts = { ...facts, ...step.situation };
      asked = { ...asked, ...step.asked };
      const decision = decide(facts, asked);
      if ("refusal" in decision) refusals.push(decision.refusal.reason);
    }
    expect(refusals).toEqual([
      "ACCOUNT_NOT_FOUND",
      "SEQUENCE_MISMATCH",
      "REFERENCE_ALREADY_USED",
      "CURRENCY_MISMATCH",
      "HOLD_OWNED_BY_JOB",
      "HOLD_ALREADY_CAPTURED",
      "CAPTURE_EXCEEDS_HOLD",
    ]);
  });

  test("a lack of funds comes before a bound that is passed", () => {
    given({ recipient: account({ userId: OTHER, balance: MAX_MINOR }) })
      .when(command("transfer", { toUserId: OTHER, amount: 10_001n }))
      .thenRefuses("INSUFFICIENT_FUNDS");
  });
});
