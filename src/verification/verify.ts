// Verifies a ledger: its log by itself, and all that hangs on it. Online: what is compared is compared in one snapshot, or doesn't change any more.
//
// The log is read twice: by account, where rows are chained (this finds all that is wrong within accounts), and in the order of ids, where it is
// counted and where what goes over accounts is compared. Both read the rows up to the id that was the last one at the beginning; each row that
// is written later belongs to the next verification.

import { setTimeout as delay } from "node:timers/promises";
import type { DatabasePool } from "slonik";
import type { Currencies } from "../domain/money/currency.ts";
import { ProofSession } from "./sql/session.ts";
import { readGuards } from "./sql/sweeps.ts";
import { logEnd, settledEnd } from "../postgres/feed/settled.ts";
import type { ChainHead } from "./digest.ts";
import { PageSize } from "./page-size.ts";
import type { Context, Counts, VerifyEvent } from "./events.ts";
import { verifyAccounts } from "./verify-accounts.ts";
import { countHeads, verifyDigest } from "./verify-digest.ts";
import { verifyHolds, verifyIds, verifyJobs, verifyKeys } from "./verify-tables.ts";

/** What to verify. */
export interface VerifyOptions {
  readonly url: string;
  /** As which its own session works; absent: as the login. */
  readonly role?: string;
  /** Of the same database. */
  readonly pool: DatabasePool;
  readonly currencies: Currencies;
  readonly connectTimeoutMs: number;
  readonly signal: AbortSignal;
  /** At most so many rows a second; absent: as fast as it goes. */
  readonly rowsPerSecond?: number;
  /** A digest that was written earlier, to hold the log against. */
  readonly digest?: string;
  /** Is told the head of each chain, by user and currency. */
  readonly onHead?: (head: ChainHead) => Promise<void> | void;
}

/** Verifies. The last event is the summary. Throws where it can't go on, when the signal ends it, and `DigestProblem` at once if a digest isn't whole. */
export async function* verifyLedger(options: VerifyOptions): AsyncGenerator<VerifyEvent, void> {
  const { url, role, pool, currencies, connectTimeoutMs, signal } = options;
  const start = performance.now();
  const heads = options.digest === undefined ? 0 : await countHeads(options.digest);
  const session = await ProofSession.open(url, connectTimeoutMs, role);
  try {
    const { last } = await settledEnd(pool, signal);
    const { last: settledBy } = await logEnd(pool);
    const counts: Counts = { rows: 0, accounts: 0, holds: 0, jobs: 0, keys: 0, heads: 0 };
    const context: Context = { session, currencies, counts, size: new PageSize(options.rowsPerSecond), lastId: last, settledBy, rest: restOf(options) };
    let differences = 0;
    let accountsMs = 0;
    for await (const event of phases(context, options, heads)) {
      if (event.kind === "finding") differences += 1;
      if (event.kind === "progress" && event.phase === "accounts") accountsMs = performance.now() - start;
      yield event;
    }
    const seconds = (performance.now() - start) / 1000;
    yield {
      kind: "summary",
      summary: { ...counts, differences, lastId: last, seconds: Math.round(seconds * 1000) / 1000, rowsPerSecond: Math.round(counts.rows / Math.max(0.001, accountsMs / 1000)) },
    };
  } finally {
    await session.close();
  }
}

async function* phases(context: Context, { digest, onHead }: VerifyOptions, heads: number): AsyncGenerator<VerifyEvent, void> {
  yield* guards(context);
  const byAccount = { rows: 0 };
  yield* verifyAccounts(context, byAccount, onHead ?? (() => undefined));
  yield* verifyIds(context, byAccount.rows);
  yield* verifyHolds(context);
  yield* verifyJobs(context);
  yield* verifyKeys(context);
  if (digest !== undefined) yield* verifyDigest(context, digest, heads);
}

async function* guards({ session }: Context): AsyncGenerator<VerifyEvent, void> {
  const { partitions, idSequences } = await readGuards(session);
  for (const { name, uniqueIndex, appendOnly, noTruncate } of partitions) {
    const lacks = [uniqueIndex ? [] : "unique index on (user_id, currency, sequence)", appendOnly ? [] : "trigger transactions_append_only, enabled always", noTruncate ? [] : "trigger transactions_no_truncate, enabled always"].flat();
    for (const what of lacks) yield { kind: "finding", finding: { kind: "unguarded", what: `table ledgerd.${name}`, expected: `its ${what}`, actual: "none" } };
  }
  for (const { name, drawn, used } of idSequences) {
    if (drawn < used) yield { kind: "finding", finding: { kind: "id_sequence_behind", what: `ledgerd.${name}_id_seq`, expected: `at least ${used}`, actual: `${drawn}` } };
  }
}

/** Keeps to the rate that was asked for: a part of the work takes at least its share of a second. */
function restOf({ signal, rowsPerSecond }: VerifyOptions): Context["rest"] {
  return async (rows, startedAt) => {
    signal.throwIfAborted();
    if (rowsPerSecond === undefined) return;
    const left = (rows / rowsPerSecond) * 1000 - (performance.now() - startedAt);
    if (left > 0) await delay(left, undefined, { signal });
  };
}
