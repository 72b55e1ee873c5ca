// What callers ask of the ledger, as plain values.

import type { JobAsk } from "../jobs/job.ts";

/** What the caller says about a write; kept with its transactions as it came. */
export interface Note {
  readonly description: string;
  /** Sorted by key. */
  readonly metadata: readonly (readonly [key: string, value: string])[];
  /** The caller's own id of the business event; empty: none. */
  readonly reference: string;
  /** Refuse if another transaction of this user and type was written with this reference and this flag. */
  readonly uniqueReference: boolean;
  /** Who asks; empty where callers aren't authenticated. */
  readonly actor: string;
  /** The trace that the call belongs to, 32 hexadecimal digits; empty: none. */
  readonly traceId: string;
}

interface Common {
  /** Who pays, or is credited; a transfer's sender. */
  readonly userId: bigint;
  /** The account's currency. Where a hold or a transaction is named, that one's counts, and this must not differ if an amount is given. */
  readonly currency: string;
  /** Refuse if the account's sequence is another. */
  readonly expectedSequence: bigint | undefined;
  readonly note: Note;
}

/** One change that is asked for. Amounts are above zero, in minor units, unless it says otherwise. */
export type Command = Common &
  (
    | { readonly kind: "top_up"; readonly amount: bigint }
    | { readonly kind: "deduct"; readonly amount: bigint }
    /** No amount: all that is left. */
    | { readonly kind: "refund"; readonly transactionId: bigint; readonly amount: bigint | undefined }
    | { readonly kind: "transfer"; readonly toUserId: bigint; readonly amount: bigint }
    /** `expiresIn` in microseconds. */
    | { readonly kind: "place_hold"; readonly amount: bigint; readonly expiresIn: bigint }
    /** No amount: all that is left. */
    | { readonly kind: "capture_hold"; readonly holdId: bigint; readonly amount: bigint | undefined; readonly final: boolean }
    | { readonly kind: "release_hold"; readonly holdId: bigint }
    /** The amount is signed and not zero. */
    | { readonly kind: "adjust"; readonly amount: bigint; readonly allowNegative: boolean }
    /** The limit is zero or more. */
    | { readonly kind: "set_credit_limit"; readonly limit: bigint }
    /** ledgerd's own: nothing by itself, since a group first sets free the expired holds of all accounts it locks. */
    | { readonly kind: "expire_holds" }
    | JobAsk
  );

/** A kind of command. */
export type CommandKind = Command["kind"];

/** The command of one kind. */
export type CommandOf<K extends CommandKind> = Extract<Command, { kind: K }>;
