// What each type of row may say, by itself.

import type { TransactionType } from "../domain/money/account.ts";
import { ADOPTER, type Posting } from "../domain/journal/transaction.ts";

/** A law that a row breaks. */
export interface BrokenLaw {
  readonly what: string;
  readonly expected: string;
  readonly actual: string;
}

type Sign = "above zero" | "below zero" | "zero" | "any";

interface Law {
  readonly amount: Sign;
  readonly heldChange: Sign;
  /** What such a row must name. */
  readonly names?: "holdId" | "refundedTransactionId" | "groupId";
  /** Whether it spends, so that the account must be above its floor afterwards. */
  readonly spends?: true;
}

const laws: Readonly<Record<TransactionType, Law>> = {
  topup: { amount: "above zero", heldChange: "zero" },
  deduction: { amount: "below zero", heldChange: "zero", spends: true },
  refund: { amount: "above zero", heldChange: "zero", names: "refundedTransactionId" },
  transfer_out: { amount: "below zero", heldChange: "zero", names: "groupId", spends: true },
  transfer_in: { amount: "above zero", heldChange: "zero", names: "groupId" },
  hold: { amount: "zero", heldChange: "above zero", names: "holdId", spends: true },
  capture: { amount: "below zero", heldChange: "below zero", names: "holdId" },
  release: { amount: "zero", heldChange: "below zero", names: "holdId" },
  expiry: { amount: "zero", heldChange: "below zero", names: "holdId" },
  adjustment: { amount: "any", heldChange: "zero" },
  credit_limit: { amount: "zero", heldChange: "zero" },
  opening: { amount: "any", heldChange: "zero" },
};

/** The laws that a row breaks by itself; none of a row of the ledger. */
export function brokenLaws(row: Posting): readonly BrokenLaw[] {
  // Any text may stand in a row that somebody altered.
  const law = (laws as Readonly<Record<string, Law | undefined>>)[row.type];
  if (law === undefined) return [{ what: "type", expected: "a type of transaction", actual: row.type }];
  const broken: BrokenLaw[] = [];
  if (!hasSign(row.amount, law.amount)) broken.push({ what: "amount", expected: law.amount, actual: `${row.amount}` });
  if (!hasSign(row.heldChange, law.heldChange)) broken.push({ what: "held_change", expected: law.heldChange, actual: `${row.heldChange}` });
  // The old application didn't say what it gave back.
  const isAdoptedRefund = row.type === "refund" && row.actor === ADOPTER;
  if (law.names !== undefined && row[law.names] === undefined && !isAdoptedRefund) broken.push({ what: law.names, expected: `what a ${row.type} names`, actual: "none" });
  if (row.type === "hold" && row.holdExpiresAt === undefined) broken.push({ what: "hold_expires_at", expected: "a time", actual: "none" });
  const available = row.balanceAfter - row.heldAfter + row.creditLimitAfter;
  if (law.spends === true && available < 0n) broken.push({ what: "available", expected: "zero or more after spending", actual: `${available}` });
  return broken;
}

function hasSign(value: bigint, sign: Sign): boolean {
  switch (sign) {
    case "above zero":
      return value > 0n;
    case "below zero":
      return value < 0n;
    case "zero":
      return value === 0n;
    case "any":
      return true;
  }
}
