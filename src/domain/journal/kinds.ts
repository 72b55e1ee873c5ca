// The kinds of commands, as one table: what depends on a kind alone is looked up here. A kind that is missing doesn't
// compile, nor does one that says to name something else than its fields do.

import type { TransactionType } from "../money/account.ts";
import type { Command, CommandKind, CommandOf } from "./command.ts";

/** What a command names beside its account. */
type NamedBy<C> = C extends { readonly holdId: bigint }
  ? "hold"
  : C extends { readonly transactionId: bigint }
    ? "transaction"
    : C extends { readonly jobId: bigint }
      ? "job"
      : "nothing";

interface Kind<C> {
  /** Of the transaction that it writes on its user's account; of a job's, the one that it writes for the most part. */
  readonly type: TransactionType;
  readonly names: NamedBy<C>;
  /** Whether it places a hold or moves one: where that is done there are likely others, which may have expired. */
  readonly movesHolds: boolean;
  /** Whether it creates a job or changes one: those who watch jobs are told. */
  readonly changesJobs: boolean;
  /** How many rows of the log it writes at most, beside those of holds that have expired. */
  readonly rows: number;
}

const ofMoney = { movesHolds: false, changesJobs: false, rows: 1 } as const;
const ofHolds = { movesHolds: true, changesJobs: false, rows: 1 } as const;
const ofJobs = { movesHolds: true, changesJobs: true, rows: 1 } as const;

/** All kinds. */
export const kinds: { readonly [K in CommandKind]: Kind<CommandOf<K>> } = {
  top_up: { ...ofMoney, type: "topup", names: "nothing" },
  deduct: { ...ofMoney, type: "deduction", names: "nothing" },
  refund: { ...ofMoney, type: "refund", names: "transaction" },
  transfer: { ...ofMoney, type: "transfer_out", names: "nothing", rows: 2 },
  place_hold: { ...ofHolds, type: "hold", names: "nothing" },
  capture_hold: { ...ofHolds, type: "capture", names: "hold" },
  release_hold: { ...ofHolds, type: "release", names: "hold" },
  adjust: { ...ofMoney, type: "adjustment", names: "nothing" },
  set_credit_limit: { ...ofMoney, type: "credit_limit", names: "nothing" },
  expire_holds: { ...ofHolds, type: "expiry", names: "nothing" },
  create_job: { ...ofJobs, type: "hold", names: "nothing" },
  complete_job: { ...ofJobs, type: "capture", names: "job" },
  fail_job: { ...ofJobs, type: "release", names: "job" },
  cancel_job: { ...ofJobs, type: "release", names: "job" },
  retry_job: { ...ofJobs, type: "hold", names: "job" },
  update_job: { ...ofJobs, type: "capture", names: "job" },
  rescue_job: { ...ofJobs, type: "release", names: "job" },
};

/** The hold that a command names. */
export function holdNamedBy(command: Command): bigint | undefined {
  return "holdId" in command ? command.holdId : undefined;
}

/** The transaction that a command names. */
export function transactionNamedBy(command: Command): bigint | undefined {
  return "transactionId" in command ? command.transactionId : undefined;
}

/** The job that a command names. */
export function jobNamedBy(command: Command): bigint | undefined {
  return "jobId" in command ? command.jobId : undefined;
}
