// Accounts, their holds, and how an entry of the log changes them. The balance of an account is the fold of its entries.

/** What an entry did to its account. The words are those of the table `transactions`. */
export type TransactionType =
  | "topup"
  | "deduction"
  | "refund"
  | "transfer_out"
  | "transfer_in"
  | "hold"
  | "capture"
  | "release"
  | "expiry"
  | "adjustment"
  | "credit_limit"
  | "opening";

/** An account's name. */
export interface AccountName {
  readonly userId: bigint;
  readonly currency: string;
}

/** The order in which everything that locks several accounts locks them, so that none waits for another that waits for it. */
export function inLockOrder(a: AccountName, b: AccountName): number {
  if (a.userId !== b.userId) return a.userId < b.userId ? -1 : 1;
  return a.currency < b.currency ? -1 : 1;
}

/** One user's money in one currency, in minor units. With sequence 0 it doesn't exist yet. */
export interface Account {
  readonly userId: bigint;
  readonly currency: string;
  readonly balance: bigint;
  readonly held: bigint;
  readonly creditLimit: bigint;
  /** The count of its transactions. */
  readonly sequence: bigint;
  /** The time of its last transaction, in microseconds since 1970. */
  readonly time: bigint;
}

/** Where a hold stands. All but `open` are final. */
export type HoldState = "open" | "captured" | "released" | "expired";

/** Money reserved for later. */
export interface Hold {
  readonly id: bigint;
  readonly userId: bigint;
  readonly currency: string;
  /** What was reserved. It never changes. */
  readonly amount: bigint;
  /** What was captured of it so far. */
  readonly captured: bigint;
  readonly state: HoldState;
  /** The job that alone may move it. */
  readonly jobId: bigint | undefined;
  /** From this moment on nothing can be captured; microseconds since 1970. */
  readonly expiresAt: bigint;
  readonly createdAt: bigint;
}

/** One change of one account: what the rules decide, before it has its place in the log. */
export interface Entry {
  readonly type: TransactionType;
  readonly userId: bigint;
  readonly currency: string;
  /** The signed change of the balance. */
  readonly amount: bigint;
  /** The signed change of the held money. */
  readonly heldChange: bigint;
  /** The new limit, of a `credit_limit` entry. */
  readonly creditLimit?: bigint;
  /** The hold that it placed, captured, released or expired, as it is afterwards. */
  readonly hold?: Hold;
  /** The deduction or capture that it refunds. */
  readonly refundedTransactionId?: bigint;
}

/** The account before its first transaction. */
export function newAccount(userId: bigint, currency: string): Account {
  return { userId, currency, balance: 0n, held: 0n, creditLimit: 0n, sequence: 0n, time: 0n };
}

/** What can be spent; below zero after a lowered limit or an allowed adjustment. */
export function available(account: Account): bigint {
  return account.balance - account.held + account.creditLimit;
}

/** The account after an entry that was written at `time`. */
export function evolve(account: Account, entry: Entry, time: bigint): Account {
  return {
    userId: account.userId,
    currency: account.currency,
    balance: account.balance + entry.amount,
    held: account.held + entry.heldChange,
    creditLimit: entry.creditLimit ?? account.creditLimit,
    sequence: account.sequence + 1n,
    time,
  };
}

/** What of a hold is still reserved. */
export function remaining(hold: Hold): bigint {
  return hold.state === "open" ? hold.amount - hold.captured : 0n;
}

/** The hold after an open one was captured in part (`taken`), with this change of the account's held money. */
export function captureHold(hold: Hold, taken: bigint, heldChange: bigint): Hold {
  const ended = -heldChange === remaining(hold);
  return { ...hold, captured: hold.captured + taken, state: ended ? "captured" : "open" };
}

/** The hold after an open one was released or expired. */
export function endHold(hold: Hold, state: "released" | "expired"): Hold {
  return { ...hold, state };
}

/** Names an account in one text. */
export function accountId(userId: bigint, currency: string): string {
  return `${currency}${userId}`;
}
