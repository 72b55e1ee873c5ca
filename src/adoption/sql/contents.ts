// What there is in the old database, and who else is connected to it.

/** Somebody else who is connected. */
export interface Stranger {
  readonly pid: string;
  readonly user: string;
  readonly application: string;
  readonly address: string;
}

/** How many rows the tables have, and a text that is another one if any row of theirs is. */
export interface Contents extends Readonly<Record<"balances" | "transactions" | "jobs", bigint>> {
  readonly lastJobId: bigint;
  readonly fingerprint: string;
  /** What keeps rows from being told from each other, each with its remedy. */
  readonly problems: readonly string[];
}
