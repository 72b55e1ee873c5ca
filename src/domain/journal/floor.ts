// Spending is held to the floor: what is available must cover it.

import { available, type Account } from "../money/account.ts";
import type { Refusal } from "./refusal.ts";

/** Why an account can't spend this amount; undefined if it can. */
export function refuseSpending(account: Account, amount: bigint): Refusal | undefined {
  const { currency } = account;
  const minor = available(account);
  if (amount <= minor) return undefined;
  return { reason: "INSUFFICIENT_FUNDS", available: { currency, minor }, requested: { currency, minor: amount } };
}
