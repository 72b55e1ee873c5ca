// A past for a ledger, made by SQL: deductions of 0.01 of all users in turn, each with its key, as ledgerd would have written them but for their
// hashes, which are any bytes.

import { inSession } from "./database.ts";

/** How many ids a partition of the log has. */
export const PARTITION = 10_000_000;
/** Rows of one statement. */
const CHUNK = 500_000;

/** How much, and where. */
export interface History {
  readonly rows: number;
  readonly users: number;
  /** The id at which each equal part of the rows begins. What is written later comes behind the last part. */
  readonly firstIds: readonly number[];
}

/** Adds it to a ledger that has one row for each user, and whose service doesn't run. */
export async function addHistory(url: string, { rows, users, firstIds }: History): Promise<void> {
  const part = rows / firstIds.length;
  await inSession(url, async (client) => {
    // What a checkpoint writes is durable; so much need not be after each statement.
    await client.query("SET synchronous_commit = off");
    for (const [index, firstId] of firstIds.entries()) {
      // An id that the users' own rows have is not drawn again.
      await client.query("SELECT setval('ledgerd.transactions_id_seq', greatest($1, (SELECT max(id) + 1 FROM ledgerd.transactions)), false)", [firstId]);
      await client.query("SELECT ledgerd.add_transaction_partitions($1)", [part + PARTITION]);
      for (let from = index * part; from < (index + 1) * part; from += CHUNK) {
        await client.query(INSERT, [from, Math.min(from + CHUNK, (index + 1) * part) - 1, users]);
      }
    }
    await client.query(UPDATE_BALANCES, [rows, users]);
    await client.query("VACUUM ANALYZE");
  });
}

/** Row n (from 0) is user 1 + n mod users's, and its sequence the next after the first one's. */
const INSERT = `
  WITH log AS (
    INSERT INTO ledgerd.transactions (
      user_id, currency, sequence, type, amount, held_change, balance_after, held_after, credit_limit_after, idempotency_key, created_at, hash)
    SELECT 1 + n % $3::bigint, 'RUB', 2 + n / $3::bigint, 'deduction', -0.01, 0.00, 1000000.00 - 0.01 * (1 + n / $3::bigint), 0.00, 0.00,
           gen_random_uuid()::text, clock_timestamp(), sha256(int8send(n))
    FROM generate_series($1::bigint, $2::bigint) n
    RETURNING id, user_id, idempotency_key, created_at, hash
  )
  INSERT INTO ledgerd.idempotency_keys (user_id, key, fingerprint, transaction_id, created_at)
  SELECT user_id, idempotency_key, hash, id, created_at FROM log`;

const UPDATE_BALANCES = `
  UPDATE ledgerd.user_balances b
  SET balance = b.balance - 0.01 * a.rows, sequence = b.sequence + a.rows, updated_at = clock_timestamp(), chain_head = sha256(int8send(a.last))
  FROM (SELECT u, ($1::bigint - u) / $2::bigint + 1 AS rows, u - 1 + $2::bigint * (($1::bigint - u) / $2::bigint) AS last
        FROM generate_series(1, least($1::bigint, $2::bigint)) u) a
  WHERE b.user_id = a.u`;
