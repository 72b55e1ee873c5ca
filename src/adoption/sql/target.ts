// The ledger's side of an adoption: what is there already, how far it is, and the rows that it writes.
//
// On a connection as the journal's, with its binary rows. Each batch is one transaction, and how far the adoption is changes in it, only from what was
// read before (`step`): a batch is written once, whenever it is cut off. Rows of the log come to an account only behind the sequence that was read.

import pg from "pg";
import { sql } from "slonik";
import { z } from "zod";
import { AdoptionProblem, BEFORE_ALL, type KnownAccount, type MovedAccount } from "../rules/adoption.ts";
import type { AdoptedJob } from "../rules/adopted-job.ts";
import { currencyOf } from "../../domain/money/currency.ts";
import { ByAccount } from "../../domain/journal/by-account.ts";
import { formatAmount } from "../../domain/money/money.ts";
import type { Posting } from "../../domain/journal/transaction.ts";
import { int8s } from "../../postgres/protocol/binary.ts";
import { chainHash, figuresOf } from "../../domain/journal/chain.ts";
import { JournalConnection } from "../../postgres/protocol/connection.ts";
import { upsertJobs } from "../../postgres/journal/write-jobs.ts";
import { balanceRows, selectRowTypes, type AccountRow, type Row, type RowTypes } from "../../postgres/journal/write.ts";
import { addPartitions, lacksPartition } from "../../postgres/schema/partitions.ts";
import { noColumns, parseStored, type Rows } from "../../postgres/rows/rows.ts";
import { type Adoption, insertLog, moveOn, noteJobs, type Progress, upsertBalances } from "./target-statements.ts";
import { accountId } from "../../domain/money/account.ts";

/** Who owns the tables: it may number jobs, which whoever serves may not. The log is append-only to it as well. */
const OWNER_ROLE = "ledgerd_migrator";

const session = {
  role: OWNER_ROLE,
  lock_timeout: 5000,
  statement_timeout: 9000,
  idle_in_transaction_session_timeout: 10_000,
  enable_seqscan: "off",
  enable_sort: "off",
};

const LOCK_NOT_AVAILABLE = "55P03";

/** An account that the ledger has, with the head of its chain. */
export interface StoredAccount extends KnownAccount {
  readonly head: string | undefined;
}

/** A user who has an account, and whether it is from the adoption at hand. */
export interface StoredUser {
  readonly userId: bigint;
  readonly isAdopted: boolean;
}

/** A job that the ledger has, and which adoption it is from. */
export interface StoredJob {
  readonly id: bigint;
  readonly adoption: number | undefined;
  readonly isPending: boolean;
}

/** What one transaction writes. */
export interface Batch {
  readonly postings: readonly Posting[];
  readonly accounts: readonly MovedAccount[];
  /** By `accountId`, as they were before. */
  readonly stored: ReadonlyMap<string, StoredAccount>;
}

const adoptionRow = z
  .object({
    id: z.number(), source: z.string(), options: z.string(), fingerprint: z.string(), id_before: z.bigint(), pass: z.number(), step: z.bigint(),
    phase: z.enum(["users", "jobs", "checks", "done"]), user_id: z.bigint(), transaction_id: z.bigint(), job_id: z.bigint(), report: z.string(), started_at: z.bigint(),
  })
  .transform((row): Adoption => ({
    id: row.id, source: row.source, options: row.options, fingerprint: row.fingerprint, idBefore: row.id_before, pass: row.pass, step: row.step,
    phase: row.phase, userId: row.user_id, transactionId: row.transaction_id, jobId: row.job_id, report: row.report, startedAt: row.started_at,
  }));

const accountRow = z.object({
  user_id: z.bigint(), currency: z.string(), balance: z.string(), held: z.string(), credit_limit: z.string(), sequence: z.bigint(), time: z.bigint(),
  chain_head: z.string().nullable(), last_id: z.bigint().nullable(), last_old_id: z.bigint().nullable(),
});

const servedRow = z.object({ served: z.boolean() });
const userRow = z.object({ user_id: z.bigint(), adopted: z.boolean() });
const jobRow = z.object({ id: z.bigint(), adoption: z.number().nullable(), pending: z.boolean() });

const adoptionColumns = sql.fragment`
  a.id, a.source, a.options::text AS options, a.fingerprint, a.id_before, a.pass, a.step, a.phase, a.user_id, a.transaction_id, a.job_id, a.report::text AS report,
  (extract(epoch FROM a.started_at) * 1000000)::int8 AS started_at`;

/** One session in the ledger's database, the only one that adopts. */
export class Target {
  readonly #connection: JournalConnection;
  readonly #rows: Rows;
  readonly #types: RowTypes;

  private constructor(connection: JournalConnection, rows: Rows, types: RowTypes) {
    this.#connection = connection;
    this.#rows = rows;
    this.#types = types;
  }

  /** Connects; throws `AdoptionProblem` if another adoption runs. */
  static async open(url: string, connectTimeoutMs: number, rows: Rows): Promise<Target> {
    const connection = await JournalConnection.open(url, session, connectTimeoutMs);
    try {
      const { types } = await connection.pipeline((send) => ({
        // A journal's session is one that serves: this one isn't, and may wait here for another one's end.
        named: send(sql.prepared("adopt_name", noColumns)`SELECT set_config('application_name', 'ledgerd adopt', FALSE)`),
        // The session's lock timeout bounds the wait: the connection of a run that just ended may still be on its way out.
        locked: send(sql.prepared("adopt_lock", noColumns)`SELECT pg_advisory_lock(hashtextextended('ledgerd.adopt', 0))`),
        types: send(selectRowTypes),
      }));
      const [found] = types;
      if (found === undefined) throw new Error("the database told no types of rows");
      return new Target(connection, rows, found);
    } catch (error) {
      connection.close();
      if (!(error instanceof pg.DatabaseError && error.code === LOCK_NOT_AVAILABLE)) throw error;
      throw new AdoptionProblem("another `ledgerd adopt` works on this ledger; wait for its end", { cause: error });
    }
  }

  close(): void {
    this.#connection.close();
  }

  /** Whether a ledgerd takes calls on this database: what sessions are called, every login may see. */
  async isServed(): Promise<boolean> {
    const { found } = await this.#connection.pipeline((send) => ({
      found: send(sql.prepared("adopt_is_served", servedRow)`
        SELECT EXISTS (
          SELECT FROM pg_stat_activity s
          WHERE s.datname = current_database() AND s.pid <> pg_backend_pid() AND s.application_name IN ('ledgerd', 'ledgerd journal', 'ledgerd wait')
        ) AS served`),
    }));
    return found[0]?.served === true;
  }

  /** The adoption that is under way; else the last one of this source. */
  async adoption(source: string): Promise<Adoption | undefined> {
    const { found } = await this.#connection.pipeline((send) => ({
      found: send(sql.prepared("adopt_find", adoptionRow)`
        SELECT ${adoptionColumns}
        FROM ledgerd.adoptions a
        WHERE a.source = ${source} OR a.finished_at IS NULL
        ORDER BY (a.finished_at IS NULL) DESC, a.id DESC
        LIMIT 1`),
    }));
    return found[0];
  }

  /** Begins an adoption: from now on nobody starts to serve. */
  async begin(source: string, options: string, fingerprint: string, start: Progress): Promise<Adoption> {
    const { begun } = await this.#connection.pipeline((send) => ({
      begun: send(sql.prepared("adopt_begin", adoptionRow)`
        WITH begun AS (
          INSERT INTO ledgerd.adoptions (id, source, options, fingerprint, id_before, user_id, transaction_id, job_id, report)
          SELECT (SELECT coalesce(max(b.id), 0) + 1 FROM ledgerd.adoptions b), ${source}, ${options}::jsonb, ${fingerprint},
                 (SELECT CASE WHEN s.is_called THEN s.last_value ELSE 0 END FROM ledgerd.transactions_id_seq s),
                 ${start.userId}::int8, ${start.transactionId}::int8, ${start.jobId}::int8, ${start.report}::jsonb
          RETURNING id, source, options, fingerprint, id_before, pass, step, phase, user_id, transaction_id, job_id, report, started_at
        )
        SELECT ${adoptionColumns} FROM begun a`),
    }));
    const [adoption] = begun;
    if (adoption === undefined) throw new Error("an adoption was not begun");
    return adoption;
  }

  /** Takes an adoption back that has written nothing. */
  async abandon({ id }: Adoption): Promise<void> {
    await this.#connection.pipeline((send) => ({
      gone: send(sql.prepared("adopt_abandon", noColumns)`DELETE FROM ledgerd.adoptions WHERE id = ${id} AND step = 0 AND pass = 1`),
    }));
  }

  /** The users who have accounts, page by page. */
  async *users({ idBefore }: Pick<Adoption, "idBefore">): AsyncGenerator<readonly StoredUser[]> {
    for (let after = BEFORE_ALL; ; ) {
      const { found } = await this.#connection.pipeline((send) => ({
        found: send(sql.prepared("adopt_users", userRow)`
          SELECT b.user_id, EXISTS (
            SELECT FROM ledgerd.transactions t WHERE t.user_id = b.user_id AND t.currency = b.currency AND t.sequence = b.sequence AND t.id > ${idBefore}::int8
          ) AS adopted
          FROM ledgerd.user_balances b
          WHERE b.user_id > ${after} AND b.sequence > 0
          ORDER BY b.user_id
          LIMIT 5000`),
      }));
      const last = found.at(-1);
      if (last === undefined) return;
      yield found.map(({ user_id: userId, adopted }) => ({ userId, isAdopted: adopted }));
      after = last.user_id;
    }
  }

  /** The jobs that there are, page by page: millions of them are more than one statement may look at. */
  async *jobs(): AsyncGenerator<readonly StoredJob[]> {
    for (let after = BEFORE_ALL; ; ) {
      const { found } = await this.#connection.pipeline((send) => ({
        found: send(sql.prepared("adopt_jobs", jobRow)`
          SELECT j.id, (j.adopted ->> 'adoption')::int AS adoption, j.status = 'pending' AS pending
          FROM ledgerd.jobs j
          WHERE j.id > ${after}
          ORDER BY j.id
          LIMIT 10000`),
      }));
      const last = found.at(-1);
      if (last === undefined) return;
      yield found.map(({ id, adoption, pending }) => ({ id, adoption: adoption ?? undefined, isPending: pending }));
      after = last.id;
    }
  }

  /** Makes room for jobs with their old ids. Throws `AdoptionProblem` where the ledger has jobs of its own among them. */
  async reserveJobs({ id }: Adoption, lastId: bigint): Promise<void> {
    if (lastId < 1n) return;
    for await (const page of this.jobs()) {
      if ((page[0]?.id ?? 0n) > lastId) break;
      const own = page.find((job) => job.id <= lastId && job.adoption !== id);
      if (own === undefined) continue;
      throw new AdoptionProblem(`the ledger has jobs of its own, such as ${own.id}, with ids of old ones (up to ${lastId}), and jobs keep their ids: adopt into a database without jobs`);
    }
    await this.#connection.pipeline((send) => ({
      drawn: send(sql.prepared("adopt_job_ids", noColumns)`
        SELECT setval('ledgerd.jobs_id_seq', greatest(s.last_value, ${lastId}::int8)) FROM ledgerd.jobs_id_seq s`),
    }));
  }

  async addPartitions(): Promise<void> {
    await this.#connection.pipeline((send) => ({ made: send(addPartitions) }));
  }

  /** The accounts that these users have, by `accountId`. Throws `AdoptionProblem` if one of them isn't from this adoption. */
  async accountsOf(userIds: readonly bigint[], { idBefore }: Pick<Adoption, "idBefore">): Promise<ReadonlyMap<string, StoredAccount>> {
    const { found } = await this.#connection.pipeline((send) => ({
      found: send(sql.prepared("adopt_accounts", accountRow)`
        SELECT b.user_id, b.currency, b.balance, b.held, b.credit_limit, b.sequence, b.time, b.chain_head, l.id AS last_id, o.id AS last_old_id
        FROM unnest(${int8s(userIds)}::int8[]) AS u (user_id)
        CROSS JOIN LATERAL (
          SELECT b.user_id, b.currency, b.balance, b.held, b.credit_limit, b.sequence, (extract(epoch FROM b.updated_at) * 1000000)::int8 AS time, b.chain_head
          FROM ledgerd.user_balances b
          WHERE b.user_id = u.user_id
          LIMIT 1000
        ) AS b
        LEFT JOIN LATERAL (
          SELECT t.id FROM ledgerd.transactions t WHERE t.user_id = b.user_id AND t.currency = b.currency AND t.sequence = b.sequence LIMIT 1
        ) AS l ON TRUE
        LEFT JOIN LATERAL (
          SELECT substring(t.reference FROM '^transactions/(-?[0-9]+)$')::int8 AS id
          FROM ledgerd.transactions t
          WHERE t.user_id = b.user_id AND t.currency = b.currency AND t.reference IS NOT NULL
          ORDER BY t.sequence DESC
          LIMIT 1
        ) AS o ON TRUE`),
    }));
    const foreign = found.find(({ sequence, last_id: lastId }) => sequence > 0n && (lastId ?? 0n) <= idBefore);
    if (foreign !== undefined) {
      throw new AdoptionProblem(`user ${foreign.user_id} has an account in ${foreign.currency} that is not from this adoption: adopt into a database where the old application's users have none`);
    }
    return new Map(found.map((row) => [accountId(row.user_id, row.currency), this.#stored(row)]));
  }

  #stored(row: z.output<typeof accountRow>): StoredAccount {
    const { digits } = currencyOf(this.#rows.currencies, row.currency);
    const account = {
      userId: row.user_id, currency: row.currency, balance: parseStored(row.balance, digits), held: parseStored(row.held, digits),
      creditLimit: parseStored(row.credit_limit, digits), sequence: row.sequence, time: row.sequence === 0n ? 0n : row.time,
    };
    return { account, lastOldId: row.last_old_id ?? BEFORE_ALL, head: row.chain_head ?? undefined };
  }

  /** Writes the rows of accounts, and how far the adoption then is. */
  async write(adoption: Adoption, { postings, accounts, stored }: Batch, progress: Progress): Promise<Adoption> {
    const heads = new ByAccount<AccountRow>();
    for (const { account, head } of stored.values()) heads.set(account.userId, account.currency, { head });
    const rows = postings.map((posting): Row => {
      const { userId, currency } = posting;
      const figures = figuresOf(posting, currencyOf(this.#rows.currencies, currency).digits);
      const hash = chainHash(heads.get(userId, currency)?.head, posting, figures);
      heads.set(userId, currency, { head: hash, figures });
      return { posting, hash, figures };
    });
    const balances = upsertBalances(balanceRows(accounts, heads, this.#types.balance), accounts);
    const written = (): Promise<Adoption> =>
      this.#inTransaction(adoption, progress, (send) => ({ log: send(insertLog(rows, this.#types)), balances: send(balances) }));
    try {
      return await written();
    } catch (error) {
      if (!lacksPartition(error)) throw error;
    }
    await this.#connection.pipeline(() => ({ undone: this.#connection.rollback() }));
    await this.addPartitions();
    return written();
  }

  /** Writes jobs, and how far the adoption then is. */
  async writeJobs(adoption: Adoption, jobs: readonly AdoptedJob[], progress: Progress): Promise<Adoption> {
    const amount = (minor: bigint, currency: string): string => formatAmount(minor, currencyOf(this.#rows.currencies, currency).digits);
    return this.#inTransaction(adoption, progress, (send) => ({
      jobs: send(upsertJobs(jobs.map(({ job }) => job), adoption.startedAt, amount, this.#types.job)),
      notes: send(noteJobs(adoption, jobs)),
    }));
  }

  /** Cancels jobs that wait. */
  async cancelJobs(adoption: Adoption, ids: readonly bigint[], progress: Progress): Promise<Adoption> {
    return this.#inTransaction(adoption, progress, (send) => ({
      cancelled: send(sql.prepared("adopt_cancel_jobs", noColumns)`
        UPDATE ledgerd.jobs j
        SET status = 'cancelled', completed_at = clock_timestamp(), changed_at = clock_timestamp(), error_message = 'deleted while it was being adopted'
        WHERE j.id = ANY(${int8s(ids)}::int8[]) AND j.status = 'pending'`),
    }));
  }

  /** Moves on without rows: to the next phase, say. */
  async move(adoption: Adoption, progress: Progress): Promise<Adoption> {
    return this.#inTransaction(adoption, progress, () => ({}));
  }

  /** Begins from the start again: the old database has changed. */
  async restart(adoption: Adoption, fingerprint: string, start: Progress): Promise<Adoption> {
    const next = { ...adoption, fingerprint, pass: adoption.pass + 1 };
    return this.#inTransaction(next, start, () => ({}));
  }

  async #inTransaction(adoption: Adoption, progress: Progress, write: (send: Parameters<Parameters<JournalConnection["pipeline"]>[0]>[0]) => Readonly<Record<string, Promise<unknown>>>): Promise<Adoption> {
    await this.#connection.pipeline((send) => ({
      begun: this.#connection.begin(),
      ...write(send),
      moved: send(moveOn(adoption, progress)),
      committed: this.#connection.commit(),
    }));
    return { ...adoption, ...progress, step: adoption.step + 1n };
  }
}
