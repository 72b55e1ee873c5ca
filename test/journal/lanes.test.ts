// Lanes with a database that fails at random: which writes reach it, and in which order.

import fc from "fast-check";
import { expect, test } from "vitest";
import { Failure } from "../../src/domain/failure.ts";
import type { Outcome } from "../../src/domain/journal/transaction.ts";
import { Lanes, type GroupCommitter } from "../../src/postgres/journal/lanes.ts";
import { command } from "../domain/given.ts";
import type { Submission } from "../../src/domain/journal/submission.ts";

interface Write {
  readonly users: readonly bigint[];
  /** How it ends where it is tried: by whether its deadline has passed before, and whether the database fails it. */
  readonly ends: "well" | "late" | "failing";
}

const done: Outcome = { kind: "applied", results: [], replayed: false };

function submissionOf({ users: [userId = 0n, toUserId], ends }: Write, key: string): Submission {
  const asked = toUserId === undefined ? command("deduct", { userId, amount: 1n }) : command("transfer", { userId, toUserId, amount: 1n });
  return { userId, key, lease: undefined, fingerprint: ends, commands: [asked], batch: false, groupId: "" };
}

/** Takes a turn of the event loop for each group, and answers in two rounds: what goes well, then what fails. */
class Database implements GroupCommitter {
  readonly groups: (readonly (string | undefined)[])[] = [];

  async commit(...[group, answer]: Parameters<GroupCommitter["commit"]>): Promise<void> {
    this.groups.push(group.map(({ submission }) => submission.key));
    await new Promise(setImmediate);
    answer(group.map(({ submission }) => (submission.fingerprint === "well" ? done : undefined)));
    await new Promise(setImmediate);
    answer(group.map(({ submission }) => (submission.fingerprint === "well" ? undefined : new Failure("TRANSACTION_CONFLICT"))));
  }
}

const user = fc.bigInt({ min: 1n, max: 6n });
const write = fc.record({
  users: fc.oneof({ weight: 5, arbitrary: fc.tuple(user) }, { weight: 1, arbitrary: fc.tuple(user, user) }),
  ends: fc.constantFrom("well", "well", "well", "well", "late", "failing"),
}) satisfies fc.Arbitrary<Write>;

test("of a stream in line, no write is tried in a later group than one without an outcome that shares a user with it", async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(fc.array(write, { minLength: 1, maxLength: 40 }), { minLength: 1, maxLength: 4 }), fc.integer({ min: 1, max: 12 }), async (streams, group) => {
      const databases = [new Database(), new Database()];
      const lanes = new Lanes(databases, { group, queue: 10_000 });
      const settled = await Promise.all(
        streams.map(async (writes, number) => {
          const source = { inLine: true };
          // The first one takes the lane, so that the others wait for it: no deadline but a late one's passes meanwhile.
          const ofNumber = (place: number): string => `${number} ${place}`;
          const [first] = lanes.submit([submissionOf({ users: [99n], ends: "well" }, "first")], Infinity);
          const submitted = writes.map(({ ends, ...own }, place) => lanes.submit([submissionOf({ ...own, ends }, ofNumber(place))], ends === "late" ? 0 : Infinity, source));
          const results = await Promise.allSettled(submitted.flat());
          await first;
          return results.map(({ status }) => status);
        }),
      );
      await lanes.close();
      for (const [number, writes] of streams.entries()) {
        const lost = new Map<bigint, number>();
        for (const [place, { users, ends }] of writes.entries()) {
          const without = users.map((id) => lost.get(id)).find((before) => before !== undefined);
          const status = settled[number]?.[place];
          // The database decides by itself within a group; the two are in one if they were taken together.
          const together = without !== undefined && databases.some(({ groups }) => groups.some((tried) => tried.includes(`${number} ${place}`) && tried.includes(`${number} ${without}`)));
          if (without !== undefined && !together) expect(status, `${place} is behind ${without}`).toBe("rejected");
          if (without === undefined && ends === "well") expect(status).toBe("fulfilled");
          if (status === "rejected") for (const id of users) lost.set(id, place);
        }
      }
    }),
    { numRuns: 200 },
  );
});
