// What a write would be answered, by committed state: the same reads without locks, the same decisions, nothing written.

import { sql, type DatabasePool } from "slonik";
import { planGroup } from "../../domain/journal/group.ts";
import type { Submission } from "../../domain/journal/submission.ts";
import { postingOf, type Outcome } from "../../domain/journal/transaction.ts";
import type { Rows } from "../rows/rows.ts";
import type { Send } from "../protocol/connection.ts";
import { outcomesOf, storedIdsOf } from "./outcomes.ts";
import { bookOf, readRest, sendReads, type Found } from "./read.ts";
import { accountsOfAll, readNamed } from "./lock.ts";
import { selectHoldsOf, selectTransactions } from "./write.ts";

/** Answers a submission as a group of its own would, at one moment's state. Ids that it would draw are zero. */
export async function preview(pool: DatabasePool, rows: Rows, submission: Submission): Promise<Outcome> {
  return pool.transaction(async (transaction) => {
    await transaction.query(sql.unsafe`SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY`);
    const send = inTurn((statement) => transaction.any(statement));
    const named = await readNamed(send, [submission]);
    const accounts = accountsOfAll([submission], named);
    const found = await received(sendReads(send, rows, [submission], accounts, "look", true));
    const rest = await readRest(send, rows, [submission], found);
    const plan = planGroup(bookOf(found, rest, accounts, rows), [submission]);
    const storedIds = storedIdsOf(plan);
    const stored = storedIds.length === 0 ? [] : await send(selectTransactions(rows, storedIds));
    const storedHolds = storedIds.length === 0 ? [] : await send(selectHoldsOf(rows, storedIds));
    const transactions = plan.rows.map((row) => ({ ...postingOf(row), id: 0n, hash: "" }));
    const [outcome] = outcomesOf(plan, [submission], { transactions, stored, storedHolds });
    if (outcome === undefined) throw new Error("the submission was not answered");
    // A refusal that the real call would store, this one didn't.
    return outcome.kind === "refused" && plan.answers[0]?.kind === "refused" ? { ...outcome, stored: false } : outcome;
  });
}

/** Sends each statement once the one before it is answered, and none behind one that failed: Slonik rolls back at once, whatever is still sent. */
function inTurn(send: Send): Send {
  let last: Promise<unknown> = Promise.resolve();
  return (statement) => {
    const answer = last.then(() => send(statement));
    last = answer;
    return answer;
  };
}

/** What was sent, once it is answered; together, so that no failure is nobody's. */
async function received(sent: ReturnType<typeof sendReads>): Promise<Found> {
  const [accounts, probe, holds, originals, refunded, references, newHoldIds, jobs, jobHolds, newJobIds] = await Promise.all([
    sent.accounts,
    sent.probe,
    sent.holds,
    sent.originals,
    sent.refunded,
    sent.references,
    sent.newHoldIds,
    sent.jobs,
    sent.jobHolds,
    sent.newJobIds,
  ]);
  return { accounts, probe, holds, originals, refunded, references, newHoldIds, jobs, jobHolds, newJobIds };
}
