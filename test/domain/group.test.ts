// planGroup: several submissions decided one after the other, each seeing the ones before it.

import { describe, expect, test } from "vitest";
import type { Account } from "../../src/domain/money/account.ts";
import type { Command } from "../../src/domain/journal/command.ts";
import { type Book, planGroup } from "../../src/domain/journal/group.ts";
import type { Submission } from "../../src/domain/journal/submission.ts";
import { account, byName, command, note, NOW, openHold, original, OTHER, USER } from "./given.ts";

/** A book with these accounts, and otherwise nothing. */
function book(accounts: readonly Account[], facts: Partial<Book> = {}): Book {
  return {
    time: NOW,
    accounts: byName(accounts),
    holds: new Map(),
    originals: new Map(),
    outcomes: new Map(),
    references: new Set(),
    jobs: new Map(),
    newHoldIds: [101n, 102n, 103n],
    newJobIds: [201n, 202n, 203n],
    ...facts,
  };
}

/** One command under a key; the fingerprint says which request it is. */
function single(key: string, asked: Command, fingerprint = key): Submission {
  return { userId: asked.userId, key, lease: undefined, fingerprint, commands: [asked], batch: false, groupId: `group of ${key}` };
}

function atomic(key: string, commands: readonly Command[]): Submission {
  return { userId: USER, key, lease: undefined, fingerprint: key, commands, batch: true, groupId: `group of ${key}` };
}

const rich = account({ balance: 100n, time: NOW - 5n });

describe("in a group, each submission", () => {
  test("sees the ones before it", () => {
    const plan = planGroup(book([rich]), [
      single("a", command("deduct", { amount: 60n })),
      single("b", command("deduct", { amount: 60n })),
      single("c", command("top_up", { amount: 20n })),
      single("d", command("deduct", { amount: 60n })),
    ]);
    expect(plan.answers.map(({ kind }) => kind)).toEqual(["applied", "refused", "applied", "applied"]);
    expect(plan.rows.map(({ account: after }) => [after.sequence, after.balance])).toEqual([[4n, 40n], [5n, 60n], [6n, 0n]]);
    expect(plan.accounts).toMatchObject([{ after: { balance: 0n, sequence: 6n }, sequenceBefore: 3n }]);
  });

  test("with a key that an earlier one has gets that one's answer, if it asks the same", () => {
    const asked = command("deduct", { amount: 60n });
    const plan = planGroup(book([rich]), [single("a", asked), single("a", asked), single("a", asked, "another request")]);
    expect(plan.answers).toMatchObject([{ kind: "applied" }, { kind: "same", submission: 0 }, { kind: "reused" }]);
    expect(plan.rows).toHaveLength(1);
  });

  test("with a key that was used before gets what is stored, if it asks the same", () => {
    const outcome = { fingerprint: "same", createdAt: 1n, transactionIds: [55n], job: undefined, refused: undefined };
    const used = book([rich], { outcomes: new Map([[`${USER} a`, outcome]]) });
    const asked = command("deduct", { amount: 60n });
    const plan = planGroup(used, [single("a", asked, "same"), single("a", asked, "other")]);
    expect(plan.answers).toMatchObject([
      { kind: "stored", outcome },
      { kind: "reused", refusal: { reason: "IDEMPOTENCY_KEY_REUSED", transactionId: 55n, createdAt: 1n } },
    ]);
    expect(plan.rows).toEqual([]);
    expect(plan.accounts).toEqual([]);
  });

  test("may use another user's key: keys are each user's own", () => {
    const asked = command("top_up", { amount: 1n });
    const plan = planGroup(book([rich, account({ userId: OTHER })]), [single("a", asked), single("a", { ...asked, userId: OTHER })]);
    expect(plan.answers.map(({ kind }) => kind)).toEqual(["applied", "applied"]);
  });
});

describe("an atomic batch", () => {
  test("applies all of its commands, in order, under one group and no keys of theirs", () => {
    const plan = planGroup(book([rich, account({ userId: OTHER })]), [
      atomic("a", [command("deduct", { amount: 60n }), command("transfer", { toUserId: OTHER, amount: 40n })]),
    ]);
    expect(plan.answers).toEqual([{ kind: "applied", from: 0, to: 3 }]);
    expect(new Set(plan.rows.map(({ groupId }) => groupId))).toEqual(new Set(["group of a"]));
    expect(plan.rows.every(({ key }) => key === undefined)).toBe(true);
  });

  test("applies nothing if one is refused, and names the culprit", () => {
    const holds = new Map([[5n, openHold({ expiresAt: NOW + 1n })]]);
    const originals = new Map([[9n, original()]]);
    const facts = book([account({ balance: 500n, held: 100n })], { holds, originals });
    const unique = { ...note, reference: "r", uniqueReference: true };
    const plan = planGroup(facts, [
      atomic("a", [
        command("top_up", { amount: 5n, note: unique }),
        command("place_hold", { amount: 10n, expiresIn: 10n }),
        command("capture_hold", { holdId: 5n, amount: 100n, final: true }),
        command("refund", { transactionId: 9n, amount: 100n }),
        command("deduct", { amount: 1_000_000n }),
      ]),
      // What the batch took back is as it was for the next ones.
      single("b", command("top_up", { amount: 5n, note: unique })),
      single("c", command("place_hold", { amount: 10n, expiresIn: 10n })),
      single("d", command("capture_hold", { holdId: 5n, amount: 100n, final: true })),
      single("e", command("refund", { transactionId: 9n, amount: 100n })),
    ]);
    expect(plan.answers).toMatchObject([
      { kind: "refused", refused: { culprit: 4, refusal: { reason: "INSUFFICIENT_FUNDS" } } },
      { kind: "applied", from: 0, to: 1 },
      { kind: "applied", from: 1, to: 2 },
      { kind: "applied", from: 2, to: 3 },
      { kind: "applied", from: 3, to: 4 },
    ]);
    expect(plan.rows.map(({ account: after }) => after.sequence)).toEqual([4n, 5n, 6n, 7n]);
    expect(plan.rows[1]?.entry.hold?.id, "the id that the batch gave back").toBe(101n);
    expect(plan.references).toEqual([{ userId: USER, type: "topup", reference: "r" }]);
  });

  test("of commands that were all refused leaves no trace", () => {
    const plan = planGroup(book([rich]), [atomic("a", [command("deduct", { amount: 60n }), command("deduct", { amount: 60n })])]);
    expect(plan).toMatchObject({ rows: [], accounts: [], holds: [], references: [] });
  });
});

describe("a transfer's rows", () => {
  test("share a group, and only the sender's has the key", () => {
    const plan = planGroup(book([rich, account({ userId: OTHER })]), [single("a", command("transfer", { toUserId: OTHER, amount: 1n }))]);
    expect(plan.rows).toMatchObject([
      { groupId: "group of a", key: "a" },
      { groupId: "group of a", key: undefined },
    ]);
  });
});

describe("holds whose time is over", () => {
  const due = openHold({ expiresAt: NOW, amount: 80n });

  test("are set free before anything else, by rows of ledgerd's own", () => {
    const facts = book([account({ balance: 100n, held: 80n })], { holds: new Map([[5n, due]]) });
    const plan = planGroup(facts, [single("a", command("deduct", { amount: 100n })), single("b", command("capture_hold", { holdId: 5n, amount: 1n, final: true }))]);
    expect(plan.rows).toMatchObject([
      { entry: { type: "expiry", heldChange: -80n }, key: undefined, note: { actor: "ledgerd" } },
      { entry: { type: "deduction", amount: -100n } },
    ]);
    expect(plan.answers).toMatchObject([{ kind: "applied" }, { kind: "refused", refused: { refusal: { reason: "HOLD_EXPIRED" } } }]);
    expect(plan.holds).toMatchObject([{ id: 5n, state: "expired" }]);
  });

  test("end in the order in which they expired", () => {
    const holds = [openHold({ id: 3n, expiresAt: NOW - 1n }), openHold({ id: 1n, expiresAt: NOW }), openHold({ id: 2n, expiresAt: NOW - 9n })];
    const facts = book([account({ balance: 300n, held: 300n })], { holds: new Map(holds.map((hold) => [hold.id, hold])) });
    expect(planGroup(facts, []).rows.map(({ entry }) => entry.hold?.id)).toEqual([2n, 3n, 1n]);
  });

  test("stay open up to the very microsecond before", () => {
    const facts = book([account({ balance: 100n, held: 80n })], { holds: new Map([[5n, { ...due, expiresAt: NOW + 1n }]]) });
    expect(planGroup(facts, []).rows).toEqual([]);
  });

  test("are judged by the account's time where the clock went back", () => {
    const facts = book([account({ balance: 100n, held: 80n, time: NOW + 10n })], { holds: new Map([[5n, { ...due, expiresAt: NOW + 10n }]]) });
    const plan = planGroup(facts, []);
    expect(plan.rows).toMatchObject([{ entry: { type: "expiry" }, account: { time: NOW + 10n } }]);
  });
});

describe("the time of a row", () => {
  test("is the group's, but never before the account's last row", () => {
    const plan = planGroup(book([rich, account({ userId: OTHER, time: NOW + 7n })]), [
      single("a", command("top_up", { amount: 1n })),
      single("b", { ...command("top_up", { amount: 1n }), userId: OTHER }),
    ]);
    expect(plan.rows.map(({ account: after }) => after.time)).toEqual([NOW, NOW + 7n]);
  });
});

describe("a hold or a transaction of another user", () => {
  test("doesn't exist for this one", () => {
    const facts = book([rich, account({ userId: OTHER })], {
      holds: new Map([[5n, openHold({ userId: OTHER })]]),
      originals: new Map([[9n, original({ userId: OTHER })]]),
    });
    const plan = planGroup(facts, [single("a", command("release_hold", { holdId: 5n })), single("b", command("refund", { transactionId: 9n, amount: 1n }))]);
    expect(plan.answers).toMatchObject([
      { refused: { refusal: { reason: "HOLD_NOT_FOUND" } } },
      { refused: { refusal: { reason: "TRANSACTION_NOT_FOUND" } } },
    ]);
  });
});

describe("a unique reference", () => {
  test("is taken by the first write of its user and type", () => {
    const unique = (reference: string) => ({ note: { ...note, reference, uniqueReference: true } });
    const plan = planGroup(book([rich], { references: new Set([`${USER} topup old`]) }), [
      single("a", command("top_up", { amount: 1n, ...unique("new") })),
      single("b", command("top_up", { amount: 1n, ...unique("new") })),
      single("c", command("deduct", { amount: 1n, ...unique("new") })),
      single("d", command("top_up", { amount: 1n, ...unique("old") })),
      single("e", command("top_up", { amount: 1n, note: { ...note, reference: "old" } })),
    ]);
    expect(plan.answers.map((answer) => (answer.kind === "refused" ? answer.refused.refusal.reason : answer.kind))).toEqual([
      "applied",
      "REFERENCE_ALREADY_USED",
      "applied",
      "REFERENCE_ALREADY_USED",
      "applied",
    ]);
  });
});
