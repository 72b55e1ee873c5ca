// The reading half of a group's transaction: locks the accounts, then reads what the decisions depend on.
//
// Order matters. The locks come first, always in the same order, so that groups wait for each other and never deadlock. What is decided upon
// is read by statements of their own after that: only a snapshot taken after the locks sees all that was committed before
// them. (Keys looked up in the statement that locks were read from an older snapshot: seen as a double charge.)
//
// Plans: all are probes of an index, one for each element of the arrays, with empty tables as with full ones (test/plans.test.ts holds
// them to it). They are made once for each session, so one that scans while a table is empty goes on to scan it when it is full: written as
// joins, the lock and the look-up of keys became walks through whole primary keys, and a lone call took 11 ms with 100,000 accounts. Hence the
// lateral subqueries: with a lock or a LIMIT inside they can only be probed, element by element.
//
// What is mostly not there is probed for together, and read only if it is. And the probe itself is left out where it can't find anything that the
// group needs: an account holds money for every open hold, and a key that is used already makes the insert of the group's outcomes fail, whereupon
// the group starts over with a probe. (For a group of 500 the look-up of keys was a tenth of the server's work, nearly always in vain.)

import { sql } from "slonik";
import { z } from "zod";
import { type Account, type AccountName, newAccount, type Hold, type TransactionType } from "../../domain/money/account.ts";
import { ByAccount } from "../../domain/journal/by-account.ts";
import { type Book, keyId, referenceId, type StoredOutcome, type UniqueReference } from "../../domain/journal/group.ts";
import type { Submission } from "../../domain/journal/submission.ts";
import type { Refused } from "../../domain/journal/group.ts";
import { jobColumns, type KeptJob } from "../rows/job-rows.ts";
import { decodeKept, holdColumns, type Rows } from "../rows/rows.ts";
import { int8s, texts } from "../protocol/binary.ts";
import type { Send } from "../protocol/connection.ts";
import { accountTable, holdsNamedBy, jobsNamedBy, nameTable, selectAccounts, selectOriginals, transactionsNamedBy, type LockMode, type Names } from "./lock.ts";
import { kinds } from "../../domain/journal/kinds.ts";

/**
 * How many expired holds of its accounts one group sets free. Where there are more, it frees these and starts over, so that the
 * transaction's size stays bounded.
 */
export const EXPIRY_LIMIT = 1000;

/** What the first reads of a group found. */
export type Found = { [K in keyof ReturnType<typeof sendReads>]: Awaited<ReturnType<typeof sendReads>[K]> };

/** What is mostly not there: outcomes of the group's keys, and expired holds of its accounts. */
export interface Rest {
  readonly outcomes: ReadonlyMap<string, StoredOutcome>;
  readonly expired: readonly Hold[];
}

/** Sends the lock and the first look-ups, with the probe or without; where nothing is locked, no ids are drawn either. */
export function sendReads(send: Send, rows: Rows, submissions: readonly Submission[], accounts: readonly AccountName[], mode: LockMode, probing: boolean) {
  const [holds, transactions, jobs] = [holdsNamedBy(submissions), transactionsNamedBy(submissions), jobsNamedBy(submissions)];
  const { references, newHolds, newJobs } = needsOf(submissions);
  const none = Promise.resolve([]);
  return {
    accounts: send(selectAccounts(rows, accounts, mode), rows.lockedAccountOf),
    probe: probing ? sendProbe(send, submissions, accounts) : none,
    holds: holds.length === 0 ? none : send(selectHolds(rows, holds)),
    // Once more, though they never change: of what was read before the transaction began, a failover may have lost something.
    originals: transactions.length === 0 ? none : send(selectOriginals(transactions)),
    refunded: transactions.length === 0 ? none : send(selectRefunded(transactions.map(([id]) => id))),
    references: references.length === 0 ? none : send(selectReferences(references)),
    newHoldIds: newHolds === 0 || mode === "look" ? none : send(drawHoldIds(newHolds)),
    // Behind the locks of all accounts. Whoever else locks jobs waits for nothing while it does.
    jobs: jobs.length === 0 ? none : send(selectJobs(rows, jobs)),
    jobHolds: jobs.length === 0 ? none : send(selectJobHolds(rows, jobs)),
    newJobIds: newJobs === 0 || mode === "look" ? none : send(drawJobIds(newJobs)),
  };
}

/** Which unique references a group's commands have, and how many ids they may draw. */
function needsOf(submissions: readonly Submission[]) {
  const references: UniqueReference[] = [];
  let newHolds = 0;
  let newJobs = 0;
  for (const { commands } of submissions) {
    for (const { userId, kind, note } of commands) {
      if (note.uniqueReference) references.push({ userId, type: kinds[kind].type, reference: note.reference });
      if (kind === "place_hold" || kind === "create_job" || kind === "retry_job") newHolds += 1;
      if (kind === "create_job") newJobs += 1;
    }
  }
  return { references, newHolds, newJobs };
}

/** Sends the probe for what is mostly not there. */
export function sendProbe(send: Send, submissions: readonly Submission[], accounts: readonly AccountName[]) {
  return send(probe(keysOf(submissions), accounts));
}

/**
 * Whether a group must be probed for with its first reads: what is refused under a lease isn't stored, so no insert would tell that its key is used;
 * and where holds are moved, there are likely others.
 */
export function mustProbe(submissions: readonly Submission[], mode: LockMode): boolean {
  const moves = ({ lease, commands }: Submission): boolean =>
    lease !== undefined || commands.some(({ kind }) => kinds[kind].movesHolds);
  return mode !== "wait" || submissions.some(moves);
}

/** Whether a group that was not probed for has accounts with holds, which may have expired. */
export function lacksProbe({ probe: [seen], accounts }: Found): boolean {
  return seen === undefined && accounts.some(({ account }) => account.held > 0n);
}

/** Reads the rest, if there is any: under the locks, nothing of it can have changed since the first look. */
export async function readRest(send: Send, rows: Rows, submissions: readonly Submission[], { probe: [seen] }: Found): Promise<Rest> {
  const [outcomes, expired] = await Promise.all([
    seen?.keys_used === true ? send(selectOutcomes(keysOf(submissions))) : [],
    seen === undefined || seen.expired.length === 0 ? [] : send(selectHoldsById(rows, seen.expired)),
  ]);
  return { outcomes: new Map(outcomes.map(({ user_id: userId, key, ...outcome }) => [keyId(userId, key), outcome])), expired };
}

/** Whether there is a rest to read. */
export function hasRest({ probe: [seen] }: Found): boolean {
  return seen?.keys_used === true || (seen?.expired.length ?? 0) > 0;
}

/**
 * The facts for the decisions on the accounts that were found, which are the locked ones; where nothing was locked (mode `look`), also
 * on `unborn` ones, that don't exist yet.
 */
export function bookOf(found: Found, rest: Rest, unborn: readonly AccountName[], rows: Rows): Book {
  const time = found.probe[0]?.time ?? found.accounts.at(-1)?.now;
  if (time === undefined) throw new Error("PostgreSQL did not tell the time");
  const accounts = new ByAccount<Account>();
  for (const { userId, currency } of unborn) accounts.set(userId, currency, newAccount(userId, currency));
  for (const { account } of found.accounts) accounts.set(account.userId, account.currency, account);
  const holds = [...found.holds, ...found.jobHolds, ...rest.expired].filter((hold) => accounts.get(hold.userId, hold.currency) !== undefined);
  const refunded = new Map(found.refunded.map(({ id, refunded: sum }) => [id, sum]));
  return {
    time,
    accounts,
    holds: new Map(holds.map((hold) => [hold.id, hold])),
    originals: new Map(
      found.originals.map(({ id, user_id: userId, currency, type, amount }) => {
        const minor = (text: string): bigint => rows.minor(text, currency);
        return [id, { id, userId, currency, type, amount: minor(amount), refunded: minor(refunded.get(id) ?? "0") }];
      }),
    ),
    outcomes: rest.outcomes,
    references: new Set(found.references.map(referenceId)),
    jobs: new Map(found.jobs.map((job) => [job.id, job])),
    newHoldIds: found.newHoldIds.map(({ id }) => id),
    newJobIds: found.newJobIds.map(({ id }) => id),
  };
}

interface Key {
  readonly userId: bigint;
  readonly key: string;
}

function keysOf(submissions: readonly Submission[]): readonly Key[] {
  return submissions.flatMap(({ userId, key }) => (key === undefined ? [] : [{ userId, key }]));
}

/** Keys as a table: `u (user_id, key)`. */
function keyTable(keys: readonly Key[]) {
  return sql.fragment`unnest(${int8s(keys.map(({ userId }) => userId))}::int8[], ${texts(keys.map(({ key }) => key))}::text[]) AS u (user_id, key)`;
}

const probeRow = z.object({ time: z.bigint(), keys_used: z.boolean(), expired: z.array(z.bigint()) });

/** The time (of this statement, so after the locks), whether any key is used, and which open holds of the accounts are over. */
function probe(keys: readonly Key[], accounts: readonly AccountName[]) {
  return sql.prepared("probe", probeRow)`
    SELECT (extract(epoch FROM statement_timestamp()) * 1000000)::int8 AS time,
           EXISTS (
             SELECT FROM ${keyTable(keys)}
             CROSS JOIN LATERAL (SELECT FROM ledgerd.idempotency_keys k WHERE k.user_id = u.user_id AND k.key = u.key LIMIT 1) AS f
           ) AS keys_used,
           ARRAY (
             SELECT f.id
             FROM ${accountTable(accounts)}
             CROSS JOIN LATERAL (
               SELECT h.id
               FROM ledgerd.holds h
               WHERE h.user_id = a.user_id AND h.currency = a.currency AND h.state = 'open' AND h.expires_at <= statement_timestamp()
               ORDER BY h.expires_at
               LIMIT ${EXPIRY_LIMIT}
             ) AS f
             LIMIT ${EXPIRY_LIMIT}
           ) AS expired`;
}

const outcomeRow = z
  .object({
    user_id: z.bigint(),
    key: z.string(),
    fingerprint: z.string(),
    transaction_id: z.bigint().nullable(),
    further_transaction_ids: z.array(z.bigint()).nullable(),
    refusal: z.string().nullable(),
    job: z.string().nullable(),
    prompt: z.string().nullable(),
    parameters: z.string().nullable(),
    created_at: z.bigint(),
  })
  .transform((row): StoredOutcome & { user_id: bigint; key: string } => ({
    user_id: row.user_id,
    key: row.key,
    fingerprint: row.fingerprint,
    createdAt: row.created_at,
    // 0: no money moved.
    transactionIds: [row.transaction_id ?? 0n, ...(row.further_transaction_ids ?? [])].filter((id) => id > 0n),
    refused: row.refusal === null ? undefined : (decodeKept(row.refusal) as Refused),
    job: row.job === null ? undefined : { ...(decodeKept(row.job) as KeptJob), prompt: row.prompt ?? "", parameters: row.parameters ?? "" },
  }));

/** The stored outcomes of these keys. */
export function selectOutcomes(keys: readonly Key[]) {
  return sql.prepared("select_outcomes", outcomeRow)`
    SELECT o.user_id, o.key, o.fingerprint, o.transaction_id, o.further_transaction_ids, o.refusal, o.job, o.created_at, j.prompt, j.parameters
    FROM ${keyTable(keys)}
    CROSS JOIN LATERAL (
      SELECT k.user_id, k.key, encode(k.fingerprint, 'hex') AS fingerprint, k.transaction_id, k.further_transaction_ids,
             k.refusal::text, k.job_id, k.job::text, (extract(epoch FROM k.created_at) * 1000000)::int8 AS created_at
      FROM ledgerd.idempotency_keys k
      WHERE k.user_id = u.user_id AND k.key = u.key
      LIMIT 1
    ) AS o
    LEFT JOIN LATERAL (
      SELECT p.prompt, p.parameters::text AS parameters FROM ledgerd.jobs p WHERE p.id = o.job_id LIMIT 1
    ) AS j ON TRUE`;
}

function selectHolds(rows: Rows, names: Names) {
  return sql.prepared("select_holds", rows.hold)`
    SELECT f.id, f.user_id, f.currency, f.amount, f.captured, f.state, f.job_id, f.expires_at, f.created_at
    FROM ${nameTable(names)}
    CROSS JOIN LATERAL (SELECT ${holdColumns} FROM ledgerd.holds h WHERE h.id = n.id AND h.user_id = n.user_id LIMIT 1) AS f`;
}

function selectHoldsById(rows: Rows, ids: readonly bigint[]) {
  return sql.prepared("select_holds_by_id", rows.hold)`
    SELECT f.id, f.user_id, f.currency, f.amount, f.captured, f.state, f.job_id, f.expires_at, f.created_at
    FROM unnest(${int8s(ids)}::int8[]) AS n (id)
    CROSS JOIN LATERAL (SELECT ${holdColumns} FROM ledgerd.holds h WHERE h.id = n.id LIMIT 1) AS f`;
}

const refundedRow = z.object({ id: z.bigint(), refunded: z.string() });

function selectRefunded(transactionIds: readonly bigint[]) {
  return sql.prepared("select_refunded", refundedRow)`
    SELECT t.refunded_transaction_id AS id, sum(t.amount) AS refunded
    FROM ledgerd.transactions t
    WHERE t.refunded_transaction_id = ANY(${int8s(transactionIds)}::int8[])
    GROUP BY t.refunded_transaction_id`;
}

const referenceRow = z
  .object({ user_id: z.bigint(), type: z.custom<TransactionType>((type) => typeof type === "string"), reference: z.string() })
  .transform((row): UniqueReference => ({ userId: row.user_id, type: row.type, reference: row.reference }));

function selectReferences(references: readonly UniqueReference[]) {
  const users = int8s(references.map(({ userId }) => userId));
  const types = texts(references.map(({ type }) => type));
  const names = texts(references.map(({ reference }) => reference));
  return sql.prepared("select_references", referenceRow)`
    SELECT f.user_id, f.type, f.reference
    FROM unnest(${users}::int8[], ${types}::text[], ${names}::text[]) AS u (user_id, type, reference)
    CROSS JOIN LATERAL (
      SELECT r.user_id, r.type, r.reference
      FROM ledgerd.unique_references r
      WHERE r.user_id = u.user_id AND r.type = u.type AND r.reference = u.reference
      LIMIT 1
    ) AS f`;
}

/** The named jobs, locked in the order of their ids. By id alone: with the user as well, an index of users' jobs seemed as good while it was empty. */
function selectJobs({ job }: Rows, names: Names) {
  return sql.prepared("select_jobs", job)`
    SELECT j.id, j.user_id, j.currency, j.model_id, j.prompt, j.parameters, j.cost, j.idempotency_key, j.priority, j.max_attempts, j.created_at,
           j.status, j.hold_id, j.final_cost, j.result_url, j.error_message, j.run_at, j.attempt, j.worker_id, j.fencing_token,
           j.lease_expires_at, j.progress, j.cancel_requested, j.completed_at
    FROM ${nameTable(inOrder(names))}
    CROSS JOIN LATERAL (SELECT ${jobColumns} FROM ledgerd.jobs j WHERE j.id = n.id FOR UPDATE) AS j`;
}

function inOrder(names: Names): Names {
  return [...new Map(names).entries()].toSorted(([a], [b]) => (a < b ? -1 : 1));
}

/** The holds of the named jobs, by a statement behind the one that locks them: it sees the holds that belong to their last state. */
function selectJobHolds(rows: Rows, names: Names) {
  return sql.prepared("select_job_holds", rows.hold)`
    SELECT f.id, f.user_id, f.currency, f.amount, f.captured, f.state, f.job_id, f.expires_at, f.created_at
    FROM ${nameTable(names)}
    CROSS JOIN LATERAL (SELECT j.hold_id FROM ledgerd.jobs j WHERE j.id = n.id LIMIT 1) AS o
    CROSS JOIN LATERAL (SELECT ${holdColumns} FROM ledgerd.holds h WHERE h.id = o.hold_id AND h.user_id = n.user_id LIMIT 1) AS f`;
}

const idRow = z.object({ id: z.bigint() });

function drawJobIds(count: number) {
  return sql.prepared("draw_job_ids", idRow)`
    SELECT nextval('ledgerd.jobs_id_seq') AS id FROM generate_series(1, ${count}::int)`;
}

function drawHoldIds(count: number) {
  return sql.prepared("draw_hold_ids", idRow)`
    SELECT nextval('ledgerd.holds_id_seq') AS id FROM generate_series(1, ${count}::int)`;
}
