// What PostgreSQL itself takes at most: the rows of a batch, inserted and added to their balances by one statement each, from arrays, with no
// service before it that locks, decides, hashes or answers. The rows are of the same columns and sizes as ledgerd's; what they say of the
// account's state isn't true of it, since nothing here has read it.

import { randomBytes, randomUUID } from "node:crypto";
import pg from "pg";
import { Meter, type Load, type Window } from "./meter.ts";

/** Where ledgerd's tables are, and what to write. */
export interface UnnestTask {
  readonly url: string;
  readonly connections: number;
  /** Rows of a transaction. */
  readonly size: number;
  readonly users: number;
  /** Whether to insert each row's idempotency key as well. */
  readonly withKeys: boolean;
}

/** So many batches are made before the clock starts, but for their keys and sequences, and used in turn. */
const MADE_BEFORE = 20;
const HASH_BYTES = 32;

const insertLog = {
  name: "insert_log",
  text: `INSERT INTO ledgerd.transactions (
           user_id, currency, sequence, type, amount, held_change, balance_after, held_after, credit_limit_after, idempotency_key, created_at, hash)
         SELECT r.user_id, 'RUB', $2::bigint + r.place, 'deduction', -0.01, 0.00, r.balance_after, 0.00, 0.00, r.key, $3::timestamptz, r.hash
         FROM unnest($1::bigint[], $4::numeric[], $5::text[], $6::bytea[]) WITH ORDINALITY AS r (user_id, balance_after, key, hash, place)`,
};
/** Relative, so that the sum is right whichever connection comes first. */
const updateBalances = {
  name: "update_balances",
  text: `UPDATE ledgerd.user_balances b
         SET balance = b.balance + a.amount, sequence = greatest(b.sequence, $3::bigint), updated_at = $4::timestamptz, chain_head = a.hash
         FROM unnest($1::bigint[], $2::numeric[], $5::bytea[]) AS a (user_id, amount, hash)
         WHERE b.user_id = a.user_id AND b.currency = 'RUB'`,
};
const insertKeys = {
  name: "insert_keys",
  text: `INSERT INTO ledgerd.idempotency_keys (user_id, key, fingerprint, transaction_id, created_at)
         SELECT k.user_id, k.key, k.fingerprint, $1::bigint + k.place, $2::timestamptz
         FROM unnest($3::bigint[], $4::text[], $5::bytea[]) WITH ORDINALITY AS k (user_id, key, fingerprint, place)`,
};

/** The fixed part of a batch, as PostgreSQL writes arrays. */
interface Batch {
  readonly users: string;
  readonly balances: string;
  readonly hashes: string;
  /** Of the accounts, each once: in the order of users, as all who lock several rows must take them. */
  readonly accounts: { readonly users: string; readonly amounts: string; readonly heads: string };
}

/** Keeps every connection writing, each its own users unless there is only one. An operation is a row, a latency a transaction's. */
export async function run({ url, connections, size, users, withKeys }: UnnestTask, window: Window): Promise<Load> {
  const clients = await Promise.all(Array.from({ length: connections }, () => connect(url)));
  const { rows } = await (clients[0] as pg.Client).query<{ last: string }>("SELECT max(sequence) AS last FROM ledgerd.user_balances");
  let sequence = Number(rows[0]?.last);
  const batches = clients.map((_, index) => Array.from({ length: MADE_BEFORE }, () => batchOf(size, ownUsers(users, index, connections))));
  const meter = new Meter(window);
  const keepWriting = async (client: pg.Client, own: readonly Batch[]): Promise<void> => {
    for (let count = 0, from = performance.now(); !meter.isOver(from); count += 1, from = performance.now()) {
      const first = sequence;
      sequence += size;
      await write(client, own[count % MADE_BEFORE] as Batch, { first, size, withKeys });
      meter.add(from, size);
    }
  };
  await Promise.all(clients.map((client, index) => keepWriting(client, batches[index] ?? [])));
  await Promise.all(clients.map((client) => client.end()));
  return meter.load();
}

async function connect(url: string): Promise<pg.Client> {
  // With 100,000 accounts, a plan that doesn't know how many rows an array has would read the whole table.
  const client = new pg.Client({ connectionString: url, pipeline: true, options: "-c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off" });
  await client.connect();
  return client;
}

/** One transaction, sent at once. */
async function write(client: pg.Client, batch: Batch, { first, size, withKeys }: { first: number; size: number; withKeys: boolean }): Promise<void> {
  const now = new Date();
  const keys = keysOf(size);
  const results = await Promise.all([
    client.query("BEGIN"),
    client.query({ ...insertLog, values: [batch.users, first, now, batch.balances, keys, batch.hashes] }),
    client.query({ ...updateBalances, values: [batch.accounts.users, batch.accounts.amounts, first + size, now, batch.accounts.heads] }),
    ...(withKeys ? [client.query({ ...insertKeys, values: [first, now, batch.users, keys, batch.hashes] })] : []),
    client.query("COMMIT"),
  ]);
  if (results[1]?.rowCount !== size || results.at(-1)?.command !== "COMMIT") throw new Error("a batch was not written");
}

/** Keys that were never used, in no order. */
function keysOf(size: number): string {
  const rest = randomUUID().slice(8);
  const keys = Array.from({ length: size }, (_, index) => (Math.imul(index, 0x9e37_79b1) >>> 0).toString(16).padStart(8, "0") + rest);
  return `{${keys.join(",")}}`;
}

/** A random user, of those that one connection writes for. */
function ownUsers(users: number, index: number, connections: number): () => number {
  if (users < connections) return () => 1;
  return () => 1 + index + connections * Math.floor(Math.random() * Math.floor(users / connections));
}

function batchOf(size: number, userOf: () => number): Batch {
  const users = Array.from({ length: size }, userOf);
  const hashes = users.map(() => bytea(randomBytes(HASH_BYTES)));
  const counts = new Map<number, number>();
  for (const user of users) counts.set(user, (counts.get(user) ?? 0) + 1);
  const accounts = [...counts].toSorted(([one], [other]) => one - other);
  return {
    users: array(users),
    balances: array(users.map(() => "999999.99")),
    hashes: array(hashes),
    accounts: {
      users: array(accounts.map(([user]) => user)),
      amounts: array(accounts.map(([, count]) => `-${amount(count)}`)),
      heads: array(hashes.slice(0, accounts.length)),
    },
  };
}

function array(values: readonly (string | number)[]): string {
  return `{${values.join(",")}}`;
}

function bytea(bytes: Buffer): string {
  return `"\\\\x${bytes.toString("hex")}"`;
}

/** So many hundredths. */
function amount(hundredths: number): string {
  return `${Math.floor(hundredths / 100)}.${String(hundredths % 100).padStart(2, "0")}`;
}
