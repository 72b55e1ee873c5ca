// The laws hold for whatever is asked of the pure core, in whatever groups it comes.

import fc from "fast-check";
import { expect, test } from "vitest";
import { type Account, accountId, type Hold, newAccount } from "../../src/domain/money/account.ts";
import type { Command } from "../../src/domain/journal/command.ts";
import { type Answer, type Book, keyId, planGroup, type StoredOutcome } from "../../src/domain/journal/group.ts";
import type { Submission } from "../../src/domain/journal/submission.ts";
import { postingOf } from "../../src/domain/journal/transaction.ts";
import { checkLaws, type LogRow } from "../harness/laws.ts";
import { byName, command as commandOf, note, NOW } from "./given.ts";
import { kinds } from "../../src/domain/journal/kinds.ts";

const USERS = [1n, 2n, 3n];
const CURRENCIES = ["RUB", "USD"];

/** A database that is no more than maps: it locks nothing, and writes plans down. */
class MemoryLedger {
  readonly log: LogRow[] = [];
  readonly #accounts = new Map<string, Account>();
  readonly #holds = new Map<bigint, Hold>();
  readonly #outcomes = new Map<string, StoredOutcome>();
  #lastHoldId = 0n;

  constructor() {
    for (const userId of USERS) for (const currency of CURRENCIES) this.#accounts.set(accountId(userId, currency), newAccount(userId, currency));
  }

  get accounts(): readonly Account[] {
    return [...this.#accounts.values()];
  }

  get holds(): readonly Hold[] {
    return [...this.#holds.values()];
  }

  commit(time: bigint, submissions: readonly Submission[]): readonly Answer[] {
    const plan = planGroup(this.#book(time, submissions), submissions);
    const ids = plan.rows.map((row) => {
      const id = BigInt(this.log.length + 1);
      this.log.push({ ...postingOf(row), id });
      return id;
    });
    for (const { after, sequenceBefore } of plan.accounts) {
      const name = accountId(after.userId, after.currency);
      expect(this.#accounts.get(name)?.sequence).toBe(sequenceBefore);
      this.#accounts.set(name, after);
    }
    for (const hold of plan.holds) this.#holds.set(hold.id, hold);
    plan.answers.forEach((answer, index) => {
      const { userId, key = "", fingerprint } = submissions[index] as Submission;
      const store = (transactionIds: bigint[], refused: StoredOutcome["refused"]): void => {
        this.#outcomes.set(keyId(userId, key), { fingerprint, createdAt: time, transactionIds, job: undefined, refused });
      };
      if (answer.kind === "applied") store(ids.slice(answer.from, answer.to), undefined);
      if (answer.kind === "refused") store([], answer.refused);
    });
    return plan.answers;
  }

  #book(time: bigint, submissions: readonly Submission[]): Book {
    const refunds = Map.groupBy(this.log.filter(({ type }) => type === "refund"), (row) => row.refundedTransactionId);
    const refundedOf = (id: bigint): bigint => (refunds.get(id) ?? []).reduce((total, { amount }) => total + amount, 0n);
    const newHolds = submissions.flatMap(({ commands }) => commands).filter(({ kind }) => kind === "place_hold");
    return {
      time,
      accounts: byName(this.accounts),
      holds: new Map(this.#holds),
      originals: new Map(this.log.map((row) => [row.id, { ...row, refunded: refundedOf(row.id) }])),
      outcomes: new Map(this.#outcomes),
      references: new Set(),
      jobs: new Map(),
      newHoldIds: newHolds.map(() => (this.#lastHoldId += 1n)),
      newJobIds: [],
    };
  }
}

/** What is asked for, before it is aimed at holds and transactions that exist. */
interface Ask {
  readonly key: number;
  /** Ask the same as an earlier one, under its key, instead. */
  readonly again: number | undefined;
  readonly aims: readonly { readonly command: Command; readonly target: number; readonly stray: boolean }[];
}

/** One time in eight. */
function seldom<T>(arbitrary: fc.Arbitrary<T>): fc.Arbitrary<T | undefined> {
  return fc.oneof({ weight: 7, arbitrary: fc.constant(undefined) }, { weight: 1, arbitrary });
}

const amount = fc.bigInt({ min: 1n, max: 100n });
const optionalAmount = fc.option(amount, { nil: undefined });
const common = fc.record({
  userId: fc.constantFrom(...USERS),
  currency: fc.constantFrom(...CURRENCIES),
  expectedSequence: seldom(fc.bigInt({ min: 0n, max: 9n })),
  note: fc.constant(note),
});
const own = fc.oneof(
  fc.record({ kind: fc.constant("top_up" as const), amount }),
  fc.record({ kind: fc.constant("deduct" as const), amount }),
  fc.record({ kind: fc.constant("refund" as const), transactionId: fc.constant(0n), amount: optionalAmount }),
  fc.record({ kind: fc.constant("transfer" as const), toUserId: fc.constantFrom(...USERS), amount }),
  fc.record({ kind: fc.constant("place_hold" as const), amount, expiresIn: fc.bigInt({ min: 1n, max: 40n }) }),
  fc.record({ kind: fc.constant("capture_hold" as const), holdId: fc.constant(0n), amount: optionalAmount, final: fc.boolean() }),
  fc.record({ kind: fc.constant("release_hold" as const), holdId: fc.constant(0n) }),
  fc.record({ kind: fc.constant("adjust" as const), amount: fc.bigInt({ min: -150n, max: 50n }).filter((n) => n !== 0n), allowNegative: fc.boolean() }),
  fc.record({ kind: fc.constant("set_credit_limit" as const), limit: fc.bigInt({ min: 0n, max: 80n }) }),
);
const aim = fc.record({
  command: fc.tuple(common, own).map(([shared, part]): Command => ({ ...shared, ...part })),
  target: fc.nat(1000),
  stray: fc.integer({ min: 0, max: 9 }).map((n) => n === 9),
});
const ask: fc.Arbitrary<Ask> = fc.record({
  // Mostly new keys, sometimes one that was there.
  key: fc.oneof({ weight: 8, arbitrary: fc.noBias(fc.nat(1_000_000_000)) }, { weight: 1, arbitrary: fc.nat(5) }),
  again: seldom(fc.nat(8)),
  aims: fc.oneof({ weight: 4, arbitrary: aim.map((one) => [one]) }, { weight: 1, arbitrary: fc.array(aim, { minLength: 2, maxLength: 4 }) }),
});
/** Groups, each some microseconds after the one before, or before it: clocks step. */
const groups = fc.array(fc.tuple(fc.bigInt({ min: -2n, max: 8n }), fc.array(ask, { minLength: 1, maxLength: 6, size: "max" })), { maxLength: 20, size: "max" });

/** Points captures, releases and refunds at something that is there, mostly. */
function aimed({ command, target, stray }: Ask["aims"][number], { holds, log }: MemoryLedger): Command {
  const found = "holdId" in command ? holds[target % holds.length] : log.filter(({ type }) => stray || type === "deduction" || type === "capture").at(-1 - (target % 4));
  if (found === undefined) return command;
  const owner = stray ? {} : { userId: found.userId, currency: found.currency };
  if ("holdId" in command) return { ...command, ...owner, holdId: found.id };
  return "transactionId" in command ? { ...command, ...owner, transactionId: found.id } : command;
}

function submissionOf({ key, aims }: Ask, ledger: MemoryLedger): Submission {
  const commands = aims.map((one) => aimed(one, ledger));
  const fingerprint = JSON.stringify(commands, (_name, value: unknown) => (typeof value === "bigint" ? `${value}` : value));
  return { userId: commands[0]?.userId ?? 1n, key: `${key}`, lease: undefined, fingerprint, commands, batch: commands.length > 1, groupId: `${key} ${fingerprint}` };
}

/** A ledger in which everybody has some money, after these groups; and what was asked of it. */
function run(all: readonly (readonly [bigint, readonly Ask[]])[]) {
  const ledger = new MemoryLedger();
  const gifts = USERS.flatMap((userId) => CURRENCIES.map((currency) => ({ ...commandOf("top_up", { amount: 200n }), userId, currency })));
  ledger.commit(NOW, [{ userId: 1n, key: "gifts", lease: undefined, fingerprint: "", commands: gifts, batch: true, groupId: "gifts" }]);
  let time = NOW;
  const before: Submission[] = [];
  const asked = all.map(([step, asks]) => {
    const submissions = asks.map((one) => {
      const submission = before[before.length - 1 - (one.again ?? before.length)] ?? submissionOf(one, ledger);
      before.push(submission);
      return submission;
    });
    return { submissions, answers: ledger.commit((time += step), submissions) };
  });
  return { ledger, asked };
}

test("the laws hold after any groups of any commands", () => {
  const seen = new Set<string>();
  fc.assert(
    fc.property(groups, (all) => {
      const { ledger, asked } = run(all);
      checkLaws(ledger);
      for (const { type } of ledger.log) seen.add(type);
      for (const { answers } of asked) for (const answer of answers) seen.add(answer.kind === "refused" ? answer.refused.refusal.reason : answer.kind);
    }),
    { numRuns: 1000 },
  );
  // A property that never met a case says nothing about it.
  expect([...seen].toSorted()).toEqual(EVERYTHING.split(" ").toSorted());
});

const EVERYTHING =
  "topup deduction refund transfer_out transfer_in hold capture release expiry adjustment credit_limit applied stored same reused " +
  "SEQUENCE_MISMATCH CURRENCY_MISMATCH SAME_ACCOUNT TRANSACTION_NOT_FOUND TRANSACTION_NOT_REFUNDABLE REFUND_EXCEEDS_ORIGINAL " +
  "HOLD_NOT_FOUND HOLD_ALREADY_CAPTURED HOLD_ALREADY_RELEASED HOLD_EXPIRED CAPTURE_EXCEEDS_HOLD INSUFFICIENT_FUNDS";

test("an atomic batch is applied whole or not at all", () => {
  fc.assert(
    fc.property(groups, (all) => {
      const { ledger, asked } = run(all);
      for (const { submissions, answers } of asked) {
        submissions.forEach(({ commands, groupId, batch }, index) => {
          if (!batch) return;
          const rows = ledger.log.filter((row) => row.groupId === groupId).length;
          const whole = commands.reduce((total, { kind }) => total + kinds[kind].rows, 0);
          const answer = answers[index]?.kind;
          if (answer === "applied") expect(rows).toBe(whole);
          if (answer === "refused") expect(rows).toBe(0);
        });
      }
    }),
    { numRuns: 100 },
  );
});

test("a replay of everything changes nothing, and answers what was stored", () => {
  fc.assert(
    fc.property(groups, (all) => {
      const { ledger, asked } = run(all);
      const before = { log: ledger.log.length, accounts: ledger.accounts, holds: ledger.holds };
      // At the beginning of time, when nothing expires.
      const again = asked.map(({ submissions }) => ledger.commit(0n, submissions));
      expect({ log: ledger.log.length, accounts: ledger.accounts, holds: ledger.holds }).toEqual(before);
      asked.forEach(({ answers }, group) => {
        answers.forEach(({ kind }, place) => expect(again[group]?.[place]?.kind).toBe(kind === "reused" ? "reused" : "stored"));
      });
    }),
    { numRuns: 100 },
  );
});

test("how submissions are cut into groups makes no difference", () => {
  // Of what refers to nothing by an id: ids depend on the cut, since refused holds use them up.
  const plain = fc.array(ask, { maxLength: 30, size: "max" }).map((asks) => asks.filter(({ aims }) => aims.every(({ command: one }) => !("holdId" in one) && !("transactionId" in one))));
  fc.assert(
    fc.property(plain, fc.integer({ min: 1, max: 7 }), (asks, size) => {
      const whole = run([[0n, asks]]).ledger;
      const pieces = Array.from({ length: Math.ceil(asks.length / size) }, (_, index) => [0n, asks.slice(index * size, (index + 1) * size)] as const);
      expect(run(pieces).ledger.accounts).toEqual(whole.accounts);
    }),
    { numRuns: 200 },
  );
});
