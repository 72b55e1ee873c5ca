// A past for a ledger in which everything holds, hashes and all: a top-up of each user, then deductions of 0.01 of all users in turn, each
// with its key. Made here and inserted in bulk, past the service.

import { newAccount } from "../src/domain/money/account.ts";
import type { Posting } from "../src/domain/journal/transaction.ts";
import { chainHash, figuresOf, type Figures } from "../src/domain/journal/chain.ts";
import { timestamp } from "../src/postgres/rows/rows.ts";
import { inSession } from "./database.ts";

/** How much. */
export interface ChainedHistory {
  readonly rows: number;
  readonly users: number;
}

const CHUNK = 20_000;
const DIGITS = 2;
const RICH = 100_000_000n;
const FIRST_TIME = 1_767_225_600_000_000n;

interface Row extends Figures {
  readonly posting: Posting;
  readonly hash: string;
}

/** Adds it to a ledger without rows. Row n (from 0) is user 1 + n mod users's. */
export async function addChainedHistory(url: string, { rows, users }: ChainedHistory): Promise<void> {
  const heads: (string | undefined)[] = Array.from({ length: users });
  await inSession(url, async (client) => {
    await client.query("SET synchronous_commit = off");
    await client.query("SELECT ledgerd.add_transaction_partitions($1)", [rows]);
    for (let from = 0; from < rows; from += CHUNK) {
      const chunk = Array.from({ length: Math.min(CHUNK, rows - from) }, (_, index) => rowAt(from + index, users, heads));
      await client.query(INSERT, [
        chunk.map(({ posting }) => posting.userId),
        chunk.map(({ posting }) => posting.sequence),
        chunk.map(({ posting }) => posting.type),
        chunk.map(({ amount }) => amount),
        chunk.map(({ balanceAfter }) => balanceAfter),
        chunk.map(({ posting }) => posting.idempotencyKey),
        chunk.map(({ posting }) => timestamp(posting.createdAt)),
        chunk.map(({ hash }) => Buffer.from(hash, "hex")),
      ]);
    }
    await client.query(INSERT_BALANCES, [rows, users]);
    await client.query("VACUUM ANALYZE");
  });
}

function rowAt(place: number, users: number, heads: (string | undefined)[]): Row {
  const user = place % users;
  const sequence = BigInt(Math.floor(place / users) + 1);
  const isFirst = sequence === 1n;
  const balance = RICH - (sequence - 1n);
  const posting: Posting = {
    ...newAccount(BigInt(user + 1), "RUB"),
    sequence,
    type: isFirst ? "topup" : "deduction",
    amount: isFirst ? RICH : -1n,
    heldChange: 0n,
    balanceAfter: balance,
    heldAfter: 0n,
    creditLimitAfter: 0n,
    holdId: undefined,
    holdCaptured: undefined,
    holdExpiresAt: undefined,
    refundedTransactionId: undefined,
    jobId: undefined,
    groupId: undefined,
    idempotencyKey: `history-${place}`,
    reference: "",
    description: "",
    metadata: [],
    actor: "",
    traceId: "",
    createdAt: FIRST_TIME + BigInt(place),
  };
  const figures = figuresOf(posting, DIGITS);
  const hash = chainHash(heads[user], posting, figures);
  heads[user] = hash;
  return { ...figures, posting, hash };
}

const INSERT = `
  WITH log AS (
    INSERT INTO ledgerd.transactions (
      user_id, currency, sequence, type, amount, held_change, balance_after, held_after, credit_limit_after, idempotency_key, created_at, hash)
    SELECT r.user_id, 'RUB', r.sequence, r.type, r.amount, 0.00, r.balance_after, 0.00, 0.00, r.key, r.created_at, r.hash
    FROM unnest($1::int8[], $2::int8[], $3::text[], $4::numeric[], $5::numeric[], $6::text[], $7::timestamptz[], $8::bytea[])
      AS r (user_id, sequence, type, amount, balance_after, key, created_at, hash)
    RETURNING id, user_id, idempotency_key, created_at, hash
  )
  INSERT INTO ledgerd.idempotency_keys (user_id, key, fingerprint, transaction_id, created_at)
  SELECT user_id, idempotency_key, hash, id, created_at FROM log`;

/** The last row of each user is among the last ones of all. */
const INSERT_BALANCES = `
  INSERT INTO ledgerd.user_balances (user_id, balance, sequence, updated_at, chain_head)
  SELECT t.user_id, t.balance_after, t.sequence, t.created_at, t.hash
  FROM ledgerd.transactions t
  WHERE t.id > $1::int8 - $2::int8`;
