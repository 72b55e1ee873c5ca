// From what a group did to what each of its submissions is answered.

import type { Hold } from "../../domain/money/account.ts";
import type { Answer, Plan } from "../../domain/journal/group.ts";
import type { Submission } from "../../domain/journal/submission.ts";
import type { Job } from "../../domain/jobs/job.ts";
import { holdAfter, type Outcome, type Result, type Transaction } from "../../domain/journal/transaction.ts";
import { kinds } from "../../domain/journal/kinds.ts";

/** What the answers are made of. */
export interface Material {
  /** The plan's rows. */
  readonly transactions: readonly Transaction[];
  /** The rows that stored outcomes name, and the holds which those moved. */
  readonly stored: readonly Transaction[];
  readonly storedHolds: readonly Hold[];
}

/** The rows that must be read to answer what is stored. */
export function storedIdsOf(plan: Plan): readonly bigint[] {
  return plan.answers.flatMap((answer) => (answer.kind === "stored" ? answer.outcome.transactionIds : []));
}

/** The outcomes of the submissions that a plan was made for, in their order. */
export function outcomesOf(plan: Plan, submissions: readonly Submission[], material: Material): readonly Outcome[] {
  const storedById = new Map(material.stored.map((transaction) => [transaction.id, transaction]));
  const holds = new Map([...material.storedHolds, ...plan.holds].map((hold) => [hold.id, hold]));
  const outcomes: Outcome[] = [];
  submissions.forEach((submission, index) => {
    const answer = plan.answers[index];
    if (answer === undefined) throw new Error("a submission was not answered");
    outcomes.push(outcomeOf(answer, submission));
  });
  return outcomes;

  function outcomeOf(answer: Answer, submission: Submission): Outcome {
    switch (answer.kind) {
      case "applied":
        return { kind: "applied", results: resultsOf(material.transactions, answer, submission, holds, answer.job), replayed: false };
      case "refused":
        return { kind: "refused", stored: submission.key !== undefined && submission.lease === undefined, ...answer.refused };
      case "reused": {
        const first = answer.submission === undefined ? undefined : outcomes[answer.submission];
        const { refusal } = answer;
        const named = refusal.reason === "IDEMPOTENCY_KEY_REUSED" && first?.kind === "applied" ? { ...refusal, transactionId: first.results[0]?.transactions[0]?.id } : refusal;
        return { kind: "refused", stored: false, refusal: named, culprit: 0 };
      }
      case "stored": {
        const { refused, transactionIds, job } = answer.outcome;
        if (refused !== undefined) return { kind: "refused", stored: true, ...refused };
        const rows = transactionIds.flatMap((id) => storedById.get(id) ?? []);
        if (rows.length !== transactionIds.length) throw new Error(`the log lacks rows that a key names: ${transactionIds.join(", ")}`);
        return { kind: "applied", results: resultsOf(rows, { from: 0, to: rows.length }, submission, holds, job), replayed: true };
      }
      case "same": {
        const first = outcomes[answer.submission];
        if (first === undefined) throw new Error("a submission was answered before the one that it repeats");
        return first.kind === "applied" ? { ...first, replayed: true } : first;
      }
    }
  }
}

interface Span {
  readonly from: number;
  readonly to: number;
}

/** The rows of a submission, all those of a span, cut into those of each command. */
function resultsOf(rows: readonly Transaction[], span: Span, { commands }: Submission, holds: ReadonlyMap<bigint, Hold>, job: Job | undefined): readonly Result[] {
  let { from } = span;
  return commands.map(({ kind }) => resultOf(rows.slice(from, Math.min((from += kinds[kind].rows), span.to)), holds, job));
}

function resultOf(transactions: readonly Transaction[], holds: ReadonlyMap<bigint, Hold>, job: Job | undefined): Result {
  const [first] = transactions;
  const hold = first?.holdId === undefined ? undefined : holds.get(first.holdId);
  return { transactions, hold: first === undefined || hold === undefined ? undefined : holdAfter(first, hold), job };
}
