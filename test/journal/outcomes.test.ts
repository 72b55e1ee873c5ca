// What each submission of a group is answered: its own rows, and nobody else's.

import { expect, test } from "vitest";
import type { Job } from "../../src/domain/jobs/job.ts";
import type { Command } from "../../src/domain/journal/command.ts";
import { type Book, planGroup } from "../../src/domain/journal/group.ts";
import type { Submission } from "../../src/domain/journal/submission.ts";
import { postingOf } from "../../src/domain/journal/transaction.ts";
import { outcomesOf } from "../../src/postgres/journal/outcomes.ts";
import { account, byName, command, NOW, OTHER, USER } from "../domain/given.ts";

/** Costs nothing, so that no row is written when it ends. */
const free: Job = {
  id: 201n, userId: USER, currency: "RUB", modelId: "m", prompt: "p", parameters: "", cost: 0n, idempotencyKey: "j", maxAttempts: 1, priority: 0, createdAt: NOW,
  status: "pending", holdId: undefined, finalCost: undefined, resultUrl: "", errorMessage: "", runAt: NOW, attempt: 0, workerId: "", fencingToken: 0n,
  leaseExpiresAt: undefined, progress: 0, cancelRequested: false, completedAt: undefined,
};
const book: Book = {
  time: NOW, accounts: byName([account({ balance: 1000n }), account({ userId: OTHER })]), holds: new Map(), originals: new Map(), outcomes: new Map(),
  references: new Set(), jobs: new Map([[free.id, free]]), newHoldIds: [], newJobIds: [],
};

function submission(key: string, ...commands: readonly Command[]): Submission {
  return { userId: USER, key, lease: undefined, fingerprint: key, commands, batch: commands.length > 1, groupId: "g" };
}

test("each submission is answered its own rows, command by command, whatever the ones around it wrote", () => {
  const submissions = [
    submission("cancelled", command("cancel_job", { jobId: free.id })),
    submission("sent", command("transfer", { toUserId: OTHER, amount: 5n })),
    submission("swept", command("expire_holds", {})),
    submission("batch", command("deduct", { amount: 1n }), command("transfer", { toUserId: OTHER, amount: 2n }), command("top_up", { amount: 3n })),
    submission("last", command("deduct", { amount: 7n })),
  ];
  const plan = planGroup(book, submissions);
  const transactions = plan.rows.map((row, index) => ({ ...postingOf(row), id: BigInt(index + 1), hash: "" }));
  const outcomes = outcomesOf(plan, submissions, { transactions, stored: [], storedHolds: [] });
  const told = outcomes.map((outcome) => (outcome.kind === "applied" ? outcome.results.map((result) => result.transactions.map(({ type, amount }) => `${type} ${amount}`)) : outcome.kind));
  expect(told).toEqual([
    [[]],
    [["transfer_out -5", "transfer_in 5"]],
    [[]],
    [["deduction -1"], ["transfer_out -2", "transfer_in 2"], ["topup 3"]],
    [["deduction -7"]],
  ]);
  expect(outcomes[0]).toMatchObject({ results: [{ job: { id: free.id, status: "cancelled" } }] });
});
