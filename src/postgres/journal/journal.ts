// The journal: the one way in for every change of money.

import type { DatabasePool } from "slonik";
import type { Outcome } from "../../domain/journal/transaction.ts";
import type { Durability } from "../protocol/durability.ts";
import { RUNTIME_ROLE } from "../connection/pool.ts";
import type { Rows } from "../rows/rows.ts";
import { Committer } from "./commit.ts";
import { JournalConnection } from "../protocol/connection.ts";
import { Lanes, weightOf, type GroupCommitter } from "./lanes.ts";
import type { Source } from "./order.ts";
import { preview } from "./preview.ts";
import type { Submission } from "../../domain/journal/submission.ts";
import { kinds } from "../../domain/journal/kinds.ts";

/** How to open a journal. */
export interface JournalOptions {
  readonly url: string;
  readonly rows: Rows;
  readonly lanes: number;
  readonly groupLimit: number;
  readonly queueLimit: number;
  readonly connectTimeoutMs: number;
  readonly durability: Durability;
  /** Is told after each group that was committed, and whether it was about jobs as well. */
  readonly onCommit: (jobs: boolean) => void;
}

/** Takes writes. */
export interface Journal {
  /**
   * Queues writes that belong together; each is answered once it is durable. Throws `Failure` if there is no room for them. The writes of a user keep
   * their order, and so do all of a source while it says so. Of a source's, none is tried behind one with a user in common that has no outcome.
   */
  readonly submit: (submissions: readonly Submission[], deadline: number, source?: Source) => readonly Promise<Outcome>[];
  /** For writes that can wait until there is room: undefined if there is, else resolves when there may be. */
  readonly full: Lanes["full"];
  /** How many writes one counts for: its text may be long. */
  readonly weightOf: (submission: Submission) => number;
  /**
   * What `submit` would answer, by committed state. Changes nothing, locks nothing, uses no key. What it refuses, or
   * answers again, is durable as the answers of `submit` are.
   */
  readonly preview: (submission: Submission) => Promise<Outcome>;
  readonly status: Lanes["status"];
  /** Takes no more, and returns when all that was taken is answered. */
  readonly close: () => Promise<void>;
}

/**
 * The sessions of the journal. Its statements must never be planned as scans of a whole table, whatever the statistics say (a plan
 * made while a table was empty stays: seen as lone calls of 3 ms), so plans are generic, and only nested loops over indexes are left.
 */
const session = {
  role: RUNTIME_ROLE,
  statement_timeout: 5000,
  lock_timeout: 2000,
  idle_in_transaction_session_timeout: 10_000,
  plan_cache_mode: "force_generic_plan",
  enable_seqscan: "off",
  enable_hashjoin: "off",
  enable_mergejoin: "off",
};

/** Whether a preview tells of what was done, rather than what would be. */
const isTold = (outcome: Outcome): boolean => outcome.kind === "refused" || outcome.replayed;

/** Opens a journal. Its connections are opened when they are first needed. */
export function openJournal(options: JournalOptions, pool: DatabasePool): Journal {
  const { url, rows, connectTimeoutMs, durability, onCommit } = options;
  const open = () => JournalConnection.open(url, session, connectTimeoutMs);
  const committers = Array.from({ length: options.lanes }, () => new Committer(open, rows));
  const waking = committers.map((committer) => ({
    commit: async (...group: Parameters<GroupCommitter["commit"]>) => {
      await committer.commit(...group);
      onCommit(group[0].some(({ submission }) => submission.commands.some(({ kind }) => kinds[kind].changesJobs)));
    },
  }));
  const lanes = new Lanes(waking, { group: options.groupLimit, queue: options.queueLimit });
  return {
    submit: (submissions, deadline, source) => lanes.submit(submissions, deadline, source),
    get full() {
      return lanes.full;
    },
    weightOf,
    preview: (submission) => durability.durably(() => preview(pool, rows, submission), isTold),
    get status() {
      return lanes.status;
    },
    close: async () => {
      await lanes.close();
      for (const committer of committers) committer.close();
    },
  };
}
