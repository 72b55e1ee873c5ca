// What isn't reached by account, table by table: the log in the order of ids, holds, jobs and keys, in pages, each a snapshot of its own. Most of
// the comparing is done by PostgreSQL: what is answered is mostly nothing.

import { sql } from "slonik";
import { integer } from "../../postgres/rows/rows.ts";
import type { Ask, Fields, ProofSession } from "./session.ts";

/** A part of the log in the order of ids, up to `end`; undefined: there was nothing more. */
export interface IdPage {
  readonly rows: number;
  readonly end: bigint | undefined;
  /** The sums of transfers of which not all sides are in this part, or which don't come to zero. */
  readonly transfers: readonly TransferPart[];
  /** Rows whose key isn't stored with them. */
  readonly keyless: readonly RowName[];
  /** Refunds that are too much, or of nothing of their account's. */
  readonly refunds: readonly BadRefund[];
}

/** A row of the log. */
export interface RowName {
  readonly id: bigint;
  readonly userId: bigint;
  readonly currency: string;
  readonly sequence: bigint;
  readonly key: string;
}

/** One group's transfers in one currency: what they come to, and how many sides lack their other one. */
export interface TransferPart {
  readonly groupId: string;
  readonly currency: string;
  readonly sum: string;
  readonly sides: bigint;
  readonly firstId: bigint;
}

/** The last of the refunds of one transaction by one account. */
export interface BadRefund {
  readonly id: bigint;
  readonly userId: bigint;
  readonly currency: string;
  readonly originalId: bigint;
  /** Of the original, if it is there: its account and type, and what can be refunded of it. */
  readonly original: { readonly userId: bigint; readonly currency: string; readonly type: string; readonly refundable: string } | undefined;
  readonly refunded: string;
}

/** Reads the rows behind an id, up to `last`; at most `limit`. */
export function readIdPage(session: ProofSession, after: bigint, last: bigint, limit: number): Promise<IdPage> {
  return session.snapshot(async (ask) => {
    const [found] = await ask(sql.unsafe`
      SELECT count(*), max(page.id)
      FROM (SELECT t.id FROM ledgerd.transactions t WHERE t.id > ${after} AND t.id <= ${last} ORDER BY t.id LIMIT ${limit}) AS page`);
    const end = integer(found?.[1]);
    if (end === undefined) return { rows: 0, end, transfers: [], keyless: [], refunds: [] };
    return {
      rows: Number(found?.[0]),
      end,
      transfers: await unbalanced(ask, after, end, limit),
      keyless: await keyless(ask, after, end, limit),
      refunds: await badRefunds(ask, after, end, limit),
    };
  });
}

async function unbalanced(ask: Ask, after: bigint, end: bigint, limit: number): Promise<readonly TransferPart[]> {
  const found = await ask(sql.unsafe`
    SELECT t.group_id, t.currency, sum(t.amount), sum(CASE t.type WHEN 'transfer_out' THEN 1 ELSE -1 END), min(t.id)
    FROM ledgerd.transactions t
    WHERE t.id > ${after} AND t.id <= ${end} AND t.type IN ('transfer_out', 'transfer_in') AND t.group_id IS NOT NULL
    GROUP BY t.group_id, t.currency
    HAVING sum(t.amount) <> 0 OR sum(CASE t.type WHEN 'transfer_out' THEN 1 ELSE -1 END) <> 0
    LIMIT ${limit}`);
  return found.map(transferPartOf);
}

/** What rows of these groups come to behind an id: of those that were being written while that was the last one. */
export function readTransfers(session: ProofSession, after: bigint, last: bigint, groupIds: readonly string[]): Promise<readonly TransferPart[]> {
  return session.snapshot(async (ask) => {
    const found = await ask(sql.unsafe`
      SELECT t.group_id, t.currency, sum(t.amount), sum(CASE t.type WHEN 'transfer_out' THEN 1 ELSE -1 END), min(t.id)
      FROM ledgerd.transactions t
      WHERE t.id > ${after} AND t.id <= ${last} AND t.type IN ('transfer_out', 'transfer_in') AND t.group_id = ANY(${sql.array(groupIds, "uuid")})
      GROUP BY t.group_id, t.currency
      LIMIT 100000`);
    return found.map(transferPartOf);
  });
}

function transferPartOf(fields: Fields): TransferPart {
  const [groupId, currency, sum, sides, firstId] = texts(fields, 5);
  return { groupId, currency, sum, sides: BigInt(sides), firstId: BigInt(firstId) };
}

async function keyless(ask: Ask, after: bigint, end: bigint, limit: number): Promise<readonly RowName[]> {
  const found = await ask(sql.unsafe`
    SELECT t.id, t.user_id, t.currency, t.sequence, t.idempotency_key
    FROM ledgerd.transactions t
    WHERE t.id > ${after} AND t.id <= ${end} AND t.idempotency_key IS NOT NULL
      AND NOT EXISTS (
        SELECT FROM ledgerd.idempotency_keys k WHERE k.user_id = t.user_id AND k.key = t.idempotency_key AND k.transaction_id = t.id)
    LIMIT ${limit}`);
  return found.map((fields) => {
    const [id, userId, currency, sequence, key] = texts(fields, 5);
    return { id: BigInt(id), userId: BigInt(userId), currency, sequence: BigInt(sequence), key };
  });
}

/** By original, since one may have any number of refunds: each is summed up once for each page. */
async function badRefunds(ask: Ask, after: bigint, end: bigint, limit: number): Promise<readonly BadRefund[]> {
  const found = await ask(sql.unsafe`
    SELECT r.id, r.user_id, r.currency, r.original_id, o.user_id, o.currency, o.type, -o.amount, s.refunded
    FROM (
      SELECT t.refunded_transaction_id AS original_id, t.user_id, t.currency, max(t.id) AS id
      FROM ledgerd.transactions t
      WHERE t.id > ${after} AND t.id <= ${end} AND t.refunded_transaction_id IS NOT NULL
      GROUP BY t.refunded_transaction_id, t.user_id, t.currency
    ) AS r
    LEFT JOIN LATERAL (
      SELECT t.user_id, t.currency, t.type, t.amount FROM ledgerd.transactions t WHERE t.id = r.original_id LIMIT 1
    ) AS o ON TRUE
    CROSS JOIN LATERAL (
      SELECT sum(t.amount) AS refunded FROM ledgerd.transactions t WHERE t.refunded_transaction_id = r.original_id
    ) AS s
    WHERE o.user_id IS DISTINCT FROM r.user_id OR o.currency IS DISTINCT FROM r.currency OR o.type NOT IN ('deduction', 'capture') OR s.refunded > -o.amount
    LIMIT ${limit}`);
  return found.map((fields) => {
    const [id, userId, currency, originalId] = texts(fields, 4);
    const [ofUser, inCurrency, type, refundable] = fields.slice(4);
    const original = ofUser === null || ofUser === undefined ? undefined : { userId: BigInt(ofUser), currency: inCurrency ?? "", type: type ?? "", refundable: refundable ?? "" };
    return { id: BigInt(id), userId: BigInt(userId), currency, originalId: BigInt(originalId), original, refunded: fields[8] ?? "" };
  });
}

/** A hold, the account and the job that it belongs to. */
export interface HoldName {
  readonly id: bigint;
  readonly userId: bigint;
  readonly currency: string;
  readonly state: string;
  readonly captured: string;
  readonly jobId: bigint | undefined;
  /** Whether its account has a first row. */
  readonly founded: boolean;
  /** Its job, if that is there: whose it is, and the hold that it has now. */
  readonly job: { readonly userId: bigint; readonly holdId: bigint | undefined } | undefined;
}

/** Reads the holds behind an id. */
export function readHoldPage(session: ProofSession, after: bigint, limit: number): Promise<readonly HoldName[]> {
  return session.snapshot(async (ask) => {
    const found = await ask(sql.unsafe`
      SELECT h.id, h.user_id, h.currency, h.state, h.captured, h.job_id, j.user_id, j.hold_id,
             EXISTS (SELECT FROM ledgerd.transactions t WHERE t.user_id = h.user_id AND t.currency = h.currency AND t.sequence = 1) AS founded
      FROM (
        SELECT h.id, h.user_id, h.currency, h.state, h.captured, h.job_id FROM ledgerd.holds h WHERE h.id > ${after} ORDER BY h.id LIMIT ${limit}
      ) AS h
      LEFT JOIN LATERAL (SELECT j.user_id, j.hold_id FROM ledgerd.jobs j WHERE j.id = h.job_id LIMIT 1) AS j ON TRUE
      ORDER BY h.id
      LIMIT ${limit}`);
    return found.map((fields) => {
      const [id, userId, currency, state, captured] = texts(fields, 5);
      const jobUser = integer(fields[6]);
      const job = jobUser === undefined ? undefined : { userId: jobUser, holdId: integer(fields[7]) };
      return { id: BigInt(id), userId: BigInt(userId), currency, state, captured, jobId: integer(fields[5]), founded: fields[8] === "t", job };
    });
  });
}

/** A job, as far as its money goes, and its hold. */
export interface JobMoney {
  readonly id: bigint;
  readonly userId: bigint;
  readonly currency: string;
  readonly status: string;
  readonly cost: string;
  readonly finalCost: string | undefined;
  readonly ended: boolean;
  readonly holdId: bigint | undefined;
  readonly hold: { readonly userId: bigint; readonly currency: string; readonly amount: string; readonly captured: string; readonly state: string; readonly jobId: bigint | undefined } | undefined;
}

/** Reads the jobs behind an id. */
export function readJobPage(session: ProofSession, after: bigint, limit: number): Promise<readonly JobMoney[]> {
  return session.snapshot(async (ask) => {
    const found = await ask(sql.unsafe`
      SELECT j.id, j.user_id, j.currency, j.status, j.cost, j.final_cost, j.completed_at IS NOT NULL, j.hold_id,
             h.user_id, h.currency, h.amount, h.captured, h.state, h.job_id
      FROM (
        SELECT j.id, j.user_id, j.currency, j.status, j.cost, j.final_cost, j.completed_at, j.hold_id
        FROM ledgerd.jobs j WHERE j.id > ${after} ORDER BY j.id LIMIT ${limit}
      ) AS j
      LEFT JOIN LATERAL (
        SELECT h.user_id, h.currency, h.amount, h.captured, h.state, h.job_id FROM ledgerd.holds h WHERE h.id = j.hold_id LIMIT 1
      ) AS h ON TRUE
      ORDER BY j.id
      LIMIT ${limit}`);
    return found.map((fields) => {
      const [id, userId, currency, status, cost] = texts(fields, 5);
      const holdUser = integer(fields[8]);
      const [holdCurrency = "", amount = "", captured = "", state = ""] = fields.slice(9, 13).map((field) => field ?? "");
      const hold = holdUser === undefined ? undefined : { userId: holdUser, currency: holdCurrency, amount, captured, state, jobId: integer(fields[13]) };
      return { id: BigInt(id), userId: BigInt(userId), currency, status, cost, finalCost: fields[5] ?? undefined, ended: fields[6] === "t", holdId: integer(fields[7]), hold };
    });
  });
}

/** A stored key, and what of what it names isn't there. */
export interface StoredKey {
  readonly userId: bigint;
  readonly key: string;
  /** The first row that was written under it. */
  readonly transactionId: bigint | undefined;
  /** That row's user and key, if it is there. */
  readonly row: { readonly userId: bigint; readonly key: string | undefined } | undefined;
  /** How many of its further rows aren't there. */
  readonly missingRows: bigint;
  readonly jobId: bigint | undefined;
  readonly jobMissing: boolean;
}

/** Reads the keys behind one. */
export function readKeyPage(session: ProofSession, after: Pick<StoredKey, "userId" | "key">, limit: number): Promise<readonly StoredKey[]> {
  return session.snapshot(async (ask) => {
    const found = await ask(sql.unsafe`
      SELECT k.user_id, k.key, k.transaction_id, t.user_id, t.idempotency_key,
             (SELECT count(*) FROM unnest(k.further_transaction_ids) AS u (id) WHERE NOT EXISTS (SELECT FROM ledgerd.transactions t WHERE t.id = u.id)),
             k.job_id, k.job_id IS NOT NULL AND NOT EXISTS (SELECT FROM ledgerd.jobs j WHERE j.id = k.job_id)
      FROM (
        SELECT k.user_id, k.key, k.transaction_id, k.further_transaction_ids, k.job_id
        FROM ledgerd.idempotency_keys k
        WHERE (k.user_id, k.key) > (${after.userId}::int8, ${after.key}::text)
        ORDER BY k.user_id, k.key
        LIMIT ${limit}
      ) AS k
      LEFT JOIN LATERAL (SELECT t.user_id, t.idempotency_key FROM ledgerd.transactions t WHERE t.id = k.transaction_id LIMIT 1) AS t ON TRUE
      ORDER BY k.user_id, k.key
      LIMIT ${limit}`);
    return found.map((fields) => {
      const rowUser = integer(fields[3]);
      return {
        userId: BigInt(fields[0] ?? ""),
        key: fields[1] ?? "",
        transactionId: integer(fields[2]),
        row: rowUser === undefined ? undefined : { userId: rowUser, key: fields[4] ?? undefined },
        missingRows: BigInt(fields[5] ?? 0),
        jobId: integer(fields[6]),
        jobMissing: fields[7] === "t",
      };
    });
  });
}

/** What keeps the log as it is, by partition, and whether ids that will be drawn are free. */
export interface Guards {
  readonly partitions: readonly { readonly name: string; readonly uniqueIndex: boolean; readonly appendOnly: boolean; readonly noTruncate: boolean }[];
  readonly idSequences: readonly { readonly name: string; readonly drawn: bigint; readonly used: bigint }[];
}

/** Looks at the catalog. The table itself is among its partitions; a unique index it can't have. */
export function readGuards(session: ProofSession): Promise<Guards> {
  return session.snapshot(async (ask) => {
    const partitions = await ask(sql.unsafe`
      SELECT c.relname,
             c.relkind = 'p' OR EXISTS (
               SELECT FROM pg_index i
               WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indpred IS NULL
                 AND pg_get_indexdef(i.indexrelid) LIKE '%(user_id, currency, sequence)'),
             EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid AND t.tgname = 'transactions_append_only' AND t.tgenabled = 'A'),
             EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid AND t.tgname = 'transactions_no_truncate' AND t.tgenabled = 'A')
      FROM pg_class c
      WHERE c.oid = 'ledgerd.transactions'::regclass
         OR c.oid IN (SELECT i.inhrelid FROM pg_inherits i WHERE i.inhparent = 'ledgerd.transactions'::regclass)
      ORDER BY c.relname
      LIMIT 100000`);
    const sequences = await ask(sql.unsafe`
      SELECT 'transactions', CASE WHEN s.is_called THEN s.last_value ELSE 0 END, (SELECT coalesce(max(t.id), 0) FROM ledgerd.transactions t) FROM ledgerd.transactions_id_seq s
      UNION ALL
      SELECT 'holds', CASE WHEN s.is_called THEN s.last_value ELSE 0 END, (SELECT coalesce(max(h.id), 0) FROM ledgerd.holds h) FROM ledgerd.holds_id_seq s
      UNION ALL
      SELECT 'jobs', CASE WHEN s.is_called THEN s.last_value ELSE 0 END, (SELECT coalesce(max(j.id), 0) FROM ledgerd.jobs j) FROM ledgerd.jobs_id_seq s`);
    return {
      partitions: partitions.map(([name, ...has]) => ({ name: name ?? "", uniqueIndex: has[0] === "t", appendOnly: has[1] === "t", noTruncate: has[2] === "t" })),
      idSequences: sequences.map(([name, drawn, used]) => ({ name: name ?? "", drawn: BigInt(drawn ?? 0), used: BigInt(used ?? 0) })),
    };
  });
}

/** The hashes of these rows, in their order; undefined where there is no such row. */
export function readHashes(session: ProofSession, rows: readonly { readonly userId: bigint; readonly currency: string; readonly sequence: bigint }[]): Promise<readonly (string | undefined)[]> {
  return session.snapshot(async (ask) => {
    const users = sql.array(rows.map(({ userId }) => userId), "int8");
    const currencies = sql.array(rows.map(({ currency }) => currency), "text");
    const sequences = sql.array(rows.map(({ sequence }) => sequence), "int8");
    const found = await ask(sql.unsafe`
      SELECT n.place, encode(f.hash, 'hex')
      FROM unnest(${users}, ${currencies}, ${sequences}) WITH ORDINALITY AS n (user_id, currency, sequence, place)
      CROSS JOIN LATERAL (
        SELECT t.hash FROM ledgerd.transactions t WHERE t.user_id = n.user_id AND t.currency = n.currency AND t.sequence = n.sequence LIMIT 1
      ) AS f`);
    const hashes = new Map(found.map(([place, hash]) => [Number(place), hash ?? undefined]));
    return rows.map((_row, index) => hashes.get(index + 1));
  });
}

/** Columns that are never NULL. */
function texts<N extends number>(fields: Fields, count: N): Tuple<N> {
  return fields.slice(0, count).map((field) => field ?? "") as unknown as Tuple<N>;
}

type Tuple<N extends number, T extends string[] = []> = T["length"] extends N ? T : Tuple<N, [...T, string]>;
