// Which of the writes that wait in a lane make up its next group.

import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { halfOf, Queue, type Half } from "../../src/postgres/journal/queue.ts";
import { command } from "../domain/given.ts";
import type { Submission } from "../../src/domain/journal/submission.ts";

interface Write {
  readonly number: number;
  readonly users: readonly bigint[];
  readonly weight: number;
  readonly half: Half | undefined;
}

function submissionOf([userId = 0n, toUserId]: readonly bigint[]): Submission {
  const asked = toUserId === undefined ? command("deduct", { userId, amount: 1n }) : command("transfer", { userId, toUserId, amount: 1n });
  return { userId, key: "k", lease: undefined, fingerprint: "", commands: [asked], batch: false, groupId: "" };
}

function write(number: number, users: readonly bigint[], weight = 1): Write {
  return { number, users, weight, half: halfOf(submissionOf(users)) };
}

/** Writes of these users, one after the other. */
function writesOf(users: readonly bigint[], count: number): Write[] {
  return Array.from({ length: count }, (_, number) => write(number, [users[number % users.length] ?? 0n]));
}

function queueOf(writes: readonly Write[]): Queue<Write> {
  const queue = new Queue<Write>();
  for (const added of writes) queue.add(added);
  return queue;
}

function halvesOf(group: readonly Write[]): readonly (Half | undefined)[] {
  return [...new Set(group.map(({ half }) => half))];
}

const users = Array.from({ length: 40 }, (_, index) => BigInt(index));

describe("the next group", () => {
  test("is all that waits, as long as that is no more than a group takes", () => {
    expect(queueOf(writesOf(users, 500)).take(500)).toHaveLength(500);
  });

  test("of more writes is those of one half of the users, and the one after it those of the other half", () => {
    const queue = queueOf(writesOf(users, 1000));
    const groups = [queue.take(300), queue.take(300), queue.take(300)];
    expect(groups.map((group) => group.length)).toEqual([300, 300, expect.any(Number)]);
    const [first, second, third] = groups.map(halvesOf);
    expect([first, second]).toEqual(expect.arrayContaining([[0], [1]]));
    expect(third).toEqual(first);
  });

  test("is of the half that is there, if the other one isn't", () => {
    const queue = queueOf(writesOf([7n], 900));
    expect([queue.take(300).length, queue.take(300).length, queue.take(300).length, queue.length]).toEqual([300, 300, 300, 0]);
  });

  test("is of both, if there are few of one: small groups cost as much as large ones", () => {
    const one = users.find((user) => halfOf(submissionOf([user])) === 0) ?? 0n;
    const queue = queueOf([...writesOf([one], 700), ...writesOf(users.filter((user) => halfOf(submissionOf([user])) === 1), 5), ...writesOf([one], 700)]);
    expect([queue.take(500).length, queue.take(500).length, queue.take(500).length]).toEqual([500, 500, 405]);
  });

  test("holds one write that is over the bound by itself", () => {
    const queue = queueOf([write(0, [1n], 700), write(1, [1n])]);
    expect(queue.take(500)).toMatchObject([{ number: 0 }]);
  });

  test("isn't made small by transfers between the halves: then it is of both", () => {
    const [one, other] = [users.find((user) => halfOf(submissionOf([user])) === 0), users.find((user) => halfOf(submissionOf([user])) === 1)] as [bigint, bigint];
    const transfer = write(10, [one, other]);
    expect(transfer.half).toBeUndefined();
    const queue = queueOf([...writesOf(users, 10), transfer, ...writesOf(users, 600)]);
    expect(queue.take(500)).toHaveLength(500);
  });

  test("is one of halves that are about equal, whichever numbers users have: all even, in thousands, one behind the other", () => {
    for (const step of [1n, 2n, 64n, 1000n, 4096n]) {
      const halves = Array.from({ length: 1000 }, (_, index) => halfOf(submissionOf([BigInt(index) * step])));
      const ones = halves.filter((half) => half === 1).length;
      expect(ones).toBeGreaterThan(400);
      expect(ones).toBeLessThan(600);
    }
  });
});

test("whatever is queued, and whenever groups are taken, each write is taken once, and after those before it that share a user with it", () => {
  const user = fc.bigInt({ min: 1n, max: 12n });
  const few = fc.array(fc.oneof({ weight: 400, arbitrary: fc.tuple(user) }, { weight: 1, arbitrary: fc.tuple(user, user) }), { minLength: 200, maxLength: 600 });
  const step = fc.oneof(fc.record({ add: few }), fc.record({ take: fc.integer({ min: 1, max: 300 }) }));
  fc.assert(
    fc.property(fc.array(step, { minLength: 1, maxLength: 12, size: "max" }), (steps) => {
      const queue = new Queue<Write>();
      let added = 0;
      const taken: Write[] = [];
      for (const done of steps) {
        if ("add" in done) for (const own of done.add) queue.add(write(added++, own));
        else taken.push(...queue.take(done.take));
      }
      while (queue.length > 0) taken.push(...queue.take(500));
      expect(taken.map(({ number }) => number).toSorted((a, b) => a - b)).toEqual(Array.from({ length: added }, (_, number) => number));
      const last = new Map<bigint, number>();
      for (const { number, users: own } of taken) {
        for (const id of new Set(own)) {
          expect(number).toBeGreaterThan(last.get(id) ?? -1);
          last.set(id, number);
        }
      }
    }),
    { numRuns: 100, endOnFailure: true },
  );
});
