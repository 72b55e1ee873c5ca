// What an adoption found, in words: for each kind what it is and what became of it. docs/adoption.md has the reasons.

import type { JobKind } from "./rules/adopted-job.ts";
import type { TransactionKind, UserKind } from "./rules/adoption.ts";
import type { Count } from "./rules/tally.ts";
import type { AdoptReport } from "./terms.ts";
import type { Found } from "./finds.ts";

const users: Readonly<Record<UserKind, string>> = {
  adopted: "users with an account now",
  without_transactions: "had a balance and no transactions",
  with_nothing: "had neither money nor transactions: nothing was written",
  without_balance_row: "had transactions and no balance row: the old application read 0, so that is what they have",
  balance_missing: "had a balance that was NULL: 0",
  balance_negative: "have a balance below zero, as before",
  balance_currency_missing: "had a balance without a currency: the default one",
  balance_currency_spelled: "had their currency in another spelling",
  balance_currency_renamed: "had a currency that was renamed",
  with_opening: "accounts begin with an opening: the balance was not the sum of the transactions",
  corrected: "accounts were corrected: the old balance changed while it was being adopted",
  vanished: "were deleted in the old database after an earlier pass had adopted them: an adjustment brought them to 0",
  id_below_1: "have an id below 1, which no call can name",
};

const transactions: Readonly<Record<TransactionKind, string>> = {
  adopted: "transactions in the log",
  currency_missing: "without a currency: the default one",
  currency_spelled: "with their currency in another spelling",
  currency_renamed: "with a currency that was renamed",
  currency_not_of_balance: "in another currency than their user's balance: an account of its own, which comes to 0",
  type_spelled: "with their type in another spelling",
  type_unknown: "of an unknown type: adjustments",
  sign_against_type: "whose sign doesn't go with their type: adjustments",
  below_floor: "deductions that passed zero: adjustments",
  amount_zero: "of nothing: adjustments",
  amount_cut: "with more digits than their currency has: cut toward zero, the opening makes it good",
  amount_not_a_number: "of NULL, NaN or Infinity: adjustments of nothing",
  time_missing: "without a time: that of the row before",
  time_before_1970: "from before 1970: the time of the row before",
  time_in_future: "from the future: the time of the adoption",
  time_out_of_order: "older than the row before them: that one's time",
  description_cut: "with more than 2,000 characters of description: cut",
  old_value_cut: "whose old values, kept beside them, have more than 512 characters: cut",
};

const jobs: Readonly<Record<JobKind, string>> = {
  adopted: "jobs, by their old ids",
  pending: "are pending now",
  processing: "are processing now",
  completed: "are completed now",
  failed: "are failed now",
  cancelled: "are cancelled now",
  interrupted: "were processing: pending again",
  status_spelled: "had their status in another spelling",
  status_unknown: "had an unknown status: failed",
  cost_dropped: "had a cost: nothing is held or charged for it",
  cost_missing: "had no cost",
  end_missing: "were final without an end: they ended when they were created",
  time_missing: "had no time of creation: that of the adoption",
  model_missing: "named no model: unknown",
  model_cut: "named a model in more than 100 characters: cut, and failed unless they were final",
  parameters_wrapped: "had parameters that were no object: {\"value\": …}",
  parameters_no_json: "had parameters that were no JSON: {\"value\": \"…\"}",
  parameters_unreadable: "had parameters that no client could read: kept beside them, and failed unless they were final",
  numbers_rounded: "had numbers in their parameters that no double is: the nearest one, the old text is kept beside it",
  names_doubled: "had a name twice in an object of their parameters: the last one counts, the old text is kept beside it",
  vanished: "were deleted in the old database after an earlier pass had adopted them: cancelled",
  texts_cut: "had more than a megabyte of texts: cut, and failed unless they were final",
  id_below_1: "have an id below 1, which no call can name",
};

/** The report as text. */
export function describeAdoption(report: AdoptReport): string {
  const first = {
    adopted: `adopted, in ${report.passes === 1 ? "one pass" : `${report.passes} passes`}, and proved:`,
    already_adopted: "already adopted: 0 changes. What was found then:",
    rehearsed: "nothing was written. An adoption would find:",
  }[report.outcome];
  const part = (title: keyof Found, words: Readonly<Record<string, string>>): readonly string[] => [title, ...linesOf(report[title], words)];
  const unmatched = report.unmatched === 0 ? [] : [`old transactions less those in the log: ${report.unmatched}; rows came late or went away between two passes, the balances are right nevertheless`];
  return [first, ...unmatched, ...part("users", users), ...part("transactions", transactions), ...part("jobs", jobs)].join("\n");
}

function linesOf(counts: Readonly<Record<string, Count>>, words: Readonly<Record<string, string>>): readonly string[] {
  const lines = Object.entries(words).flatMap(([kind, meaning]) => {
    const found = counts[kind];
    return found === undefined ? [] : [`  ${found.count.toLocaleString("en").padStart(12)}  ${meaning} (such as ${found.examples.slice(0, 3).join(", ")})`];
  });
  return lines.length === 0 ? ["             none"] : lines;
}
