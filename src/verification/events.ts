// A verification under way: what its phases work with, and what it tells.

import type { Currencies } from "../domain/money/currency.ts";
import type { ProofSession } from "./sql/session.ts";
import type { Finding } from "./finding.ts";
import type { PageSize } from "./page-size.ts";

/** What was gone through. */
export interface Counts {
  rows: number;
  accounts: number;
  holds: number;
  jobs: number;
  keys: number;
  /** Of a digest. */
  heads: number;
}

/** The end of a verification. */
export interface Summary extends Readonly<Counts> {
  readonly differences: number;
  /** The id of the log's last row that it is about. */
  readonly lastId: bigint;
  readonly seconds: number;
  /** Rows of the log by account, where nearly all of the work is. */
  readonly rowsPerSecond: number;
}

/** What a verification tells as it goes. */
export type VerifyEvent =
  | { readonly kind: "finding"; readonly finding: Finding }
  | { readonly kind: "progress"; readonly phase: Phase; readonly done: number; readonly total: number | undefined }
  | { readonly kind: "summary"; readonly summary: Summary };

/** What a verification does, in this order. */
export type Phase = "accounts" | "log" | "holds" | "jobs" | "keys" | "digest";

/** What each phase works with. */
export interface Context {
  readonly session: ProofSession;
  readonly currencies: Currencies;
  readonly counts: Counts;
  readonly size: Pick<PageSize, "measure">;
  /** The last id of the log that this verification is about. */
  readonly lastId: bigint;
  /** A later one, at which nothing was being written any more that has ids up to `lastId`. */
  readonly settledBy: bigint;
  /** Rests after this many rows, as it was asked to; throws when it was asked to end. */
  readonly rest: (rows: number, startedAt: number) => Promise<void>;
}
