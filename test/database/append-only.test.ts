// What the database itself refuses, whoever asks and however: changes of the log, changes of the schema, rows that break the ledger's rules.

import pg from "pg";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createDatabase, type TestDatabase } from "../harness/database.ts";

const INSUFFICIENT_PRIVILEGE = "42501";
const CHECK_VIOLATION = "23514";
const UNIQUE_VIOLATION = "23505";
const PARTITION_SIZE = 10_000_000n;

let database: TestDatabase;

beforeAll(async () => {
  database = await createDatabase();
  // One partition more than the migrations made, and a row in each.
  await database.query("SELECT ledgerd.add_transaction_partitions($1)", [3n * PARTITION_SIZE]);
  const partitions = await partitionsOfLog();
  expect(partitions).toHaveLength(4);
  for (const place of partitions.keys()) await insert("ledgerd.transactions", { id: BigInt(place) * PARTITION_SIZE + 1n, sequence: BigInt(place) + 1n });
});

afterAll(async () => {
  await database[Symbol.asyncDispose]();
});

async function partitionsOfLog(): Promise<string[]> {
  const rows = await database.query<{ name: string }>(
    "SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = 'ledgerd.transactions'::regclass ORDER BY 1",
  );
  return rows.map(({ name }) => name);
}

const validRows: Readonly<Record<string, Readonly<Record<string, unknown>>>> = {
  "ledgerd.transactions": {
    id: 5n,
    user_id: 1n,
    currency: "RUB",
    sequence: 5n,
    type: "topup",
    amount: "1.00",
    held_change: "0.00",
    balance_after: "5.00",
    held_after: "0.00",
    credit_limit_after: "0.00",
    hash: Buffer.alloc(32),
  },
  "ledgerd.user_balances": { user_id: 1n, currency: "RUB", balance: "5.00", held: "0.00", credit_limit: "0.00", sequence: 1n },
  "ledgerd.holds": { id: 1n, user_id: 1n, currency: "RUB", amount: "2.00", captured: "0.00", state: "open", expires_at: "2100-01-01", created_at: "2026-01-01" },
  "ledgerd.idempotency_keys": { user_id: 1n, key: "a", fingerprint: Buffer.alloc(32), transaction_id: 1n, refusal: null, created_at: "2026-01-01" },
  "ledgerd.unique_references": { user_id: 1n, type: "topup", reference: "a" },
};

/** Inserts a row: a valid one, but for these columns. */
async function insert(table: string, columns: Readonly<Record<string, unknown>>): Promise<void> {
  const row = { ...validRows[table], ...columns };
  const names = Object.keys(row);
  await database.query(`INSERT INTO ${table} (${names.join(", ")}) VALUES (${names.map((_name, index) => `$${index + 1}`).join(", ")})`, Object.values(row));
}

interface Refusal {
  readonly code: string | undefined;
  readonly constraint: string | undefined;
  readonly message: string;
}

/** How the database refuses some work; undefined if it doesn't. */
async function refusalOf(work: Promise<unknown>): Promise<Refusal | undefined> {
  return work.then(
    () => undefined,
    (error: unknown) => {
      if (!(error instanceof pg.DatabaseError)) throw error;
      return { code: error.code, constraint: error.constraint, message: error.message };
    },
  );
}

/** How it refuses a statement in a session of a role. */
async function refusalTo(role: string, statement: string, replication: "origin" | "replica" = "origin"): Promise<Refusal | undefined> {
  const client = await database.connect();
  try {
    // Set as the superuser that the session belongs to; as with a restored dump or a logical replica, the role then works with it.
    await client.query(`SET session_replication_role = ${replication}`);
    await client.query(`SET ROLE ${role}`);
    return await refusalOf(client.query(statement));
  } finally {
    await client.end();
  }
}

const changes = (table: string): readonly string[] => [
  `UPDATE ${table} SET amount = amount + 1`,
  `UPDATE ${table} SET description = 'changed' WHERE user_id = 1`,
  `DELETE FROM ${table}`,
  `TRUNCATE ${table}`,
  `INSERT INTO ${table} SELECT * FROM ${table} ON CONFLICT (id, user_id) DO UPDATE SET amount = 0`,
];

describe("the log is append-only", () => {
  test.each(["origin", "replica"] as const)("for its owner, in the parent and in each partition, with session_replication_role = %s", async (replication) => {
    for (const table of ["ledgerd.transactions", ...(await partitionsOfLog())]) {
      for (const change of changes(table)) {
        const refusal = await refusalTo("ledgerd_migrator", change, replication);
        expect(refusal, change).toMatchObject({ code: INSUFFICIENT_PRIVILEGE, message: expect.stringMatching("ledgerd.transactions is append-only") });
      }
    }
  });

  test("for the role that serves, which has no right to anything else than to append", async () => {
    for (const table of ["ledgerd.transactions", ...(await partitionsOfLog())]) {
      for (const change of changes(table)) {
        const refusal = await refusalTo("ledgerd_runtime", change);
        expect(refusal, change).toMatchObject({ code: INSUFFICIENT_PRIVILEGE, message: expect.stringMatching("permission denied for") });
      }
    }
  });

  test("for a superuser, as long as he leaves the triggers alone", async () => {
    for (const change of changes("ledgerd.transactions")) {
      expect(await refusalTo("postgres", change), change).toMatchObject({ code: INSUFFICIENT_PRIVILEGE, message: expect.stringMatching("append-only") });
    }
  });

  test("and all rows of these tests are still there, as they were", async () => {
    const rows = await database.query("SELECT id, amount, description FROM ledgerd.transactions ORDER BY id");
    expect(rows).toEqual([0n, 1n, 2n, 3n].map((place) => ({ id: place * PARTITION_SIZE + 1n, amount: "1.00", description: null })));
  });
});

describe("the role that serves", () => {
  test("may append to the log, and keep balances and holds", async () => {
    await insert("ledgerd.user_balances", { user_id: 2n });
    await insert("ledgerd.holds", { user_id: 2n });
    for (const statement of [
      "INSERT INTO ledgerd.transactions (user_id, sequence, type, amount, balance_after, held_after, credit_limit_after, hash) VALUES (2, 1, 'topup', 1, 1, 0, 0, '')",
      "UPDATE ledgerd.user_balances SET balance = 1, held = 0, credit_limit = 0, sequence = 2, updated_at = now(), chain_head = '' WHERE user_id = 2",
      "UPDATE ledgerd.holds SET captured = amount, state = 'captured' WHERE user_id = 2",
    ]) {
      expect(await refusalTo("ledgerd_runtime", `BEGIN; ${statement}; ROLLBACK`), statement).toBeUndefined();
    }
  });

  test.each([
    "CREATE TABLE ledgerd.other (id INT)",
    "CREATE TABLE ledgerd.transactions_009999 PARTITION OF ledgerd.transactions FOR VALUES FROM (99990000000) TO (100000000000)",
    "ALTER TABLE ledgerd.transactions ADD COLUMN other INT",
    "ALTER TABLE ledgerd.transactions DISABLE TRIGGER transactions_append_only",
    "ALTER TABLE ledgerd.transactions_000000 DISABLE TRIGGER ALL",
    "ALTER TABLE ledgerd.transactions DETACH PARTITION ledgerd.transactions_000000",
    "ALTER TABLE ledgerd.transactions DROP CONSTRAINT transactions_floor",
    "DROP TABLE ledgerd.transactions_000000",
    "DROP TABLE ledgerd.idempotency_keys",
    "DROP SCHEMA ledgerd CASCADE",
    "DROP TRIGGER transactions_append_only ON ledgerd.transactions",
    "CREATE OR REPLACE FUNCTION ledgerd.refuse_change_of_log() RETURNS TRIGGER LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$",
    "CREATE INDEX ON ledgerd.holds (amount)",
    "SELECT setval('ledgerd.transactions_id_seq', 1)",
    "SET session_replication_role = replica",
    "SET ROLE ledgerd_migrator",
    "INSERT INTO ledgerd.schema_migrations (number, name, checksum) VALUES (999, '', '')",
  ])("can't change the schema: %s", async (statement) => {
    // A session of its own right, not of a superuser who plays it: that one could become anybody again.
    await using role = await loginAs("ledgerd_runtime");
    expect(await refusalOf(role.client.query(statement))).toMatchObject({ code: INSUFFICIENT_PRIVILEGE });
  });

  test("can't give itself rights", async () => {
    await using role = await loginAs("ledgerd_runtime");
    // Who may pass on nothing is told so by a warning, and nothing is granted.
    await role.client.query("GRANT UPDATE ON ledgerd.transactions TO ledgerd_runtime");
    expect(await refusalOf(role.client.query("UPDATE ledgerd.transactions SET amount = 0"))).toMatchObject({ code: INSUFFICIENT_PRIVILEGE });
  });

  test.each([
    "UPDATE ledgerd.idempotency_keys SET transaction_id = 2 WHERE user_id = 1",
    "DELETE FROM ledgerd.idempotency_keys WHERE user_id = 1",
    "TRUNCATE ledgerd.idempotency_keys",
    "UPDATE ledgerd.unique_references SET reference = 'b' WHERE user_id = 1",
    "DELETE FROM ledgerd.unique_references WHERE user_id = 1",
    "UPDATE ledgerd.holds SET amount = 1 WHERE user_id = 1",
    "UPDATE ledgerd.holds SET user_id = 2 WHERE user_id = 1",
    "UPDATE ledgerd.holds SET expires_at = now() WHERE user_id = 1",
    "DELETE FROM ledgerd.holds WHERE user_id = 1",
    "UPDATE ledgerd.user_balances SET user_id = 2 WHERE user_id = 1",
    "UPDATE ledgerd.user_balances SET currency = 'USD' WHERE user_id = 1",
    "UPDATE ledgerd.user_balances SET created_at = now() WHERE user_id = 1",
    "DELETE FROM ledgerd.user_balances WHERE user_id = 1",
    "DELETE FROM ledgerd.schema_migrations WHERE number = 1",
  ])("can't rewrite what was written: %s", async (statement) => {
    expect(await refusalTo("ledgerd_runtime", statement)).toMatchObject({ code: INSUFFICIENT_PRIVILEGE, message: expect.stringMatching("permission denied for table") });
  });
});

/** A session of a login that is a member of this role alone, and works as it. */
async function loginAs(role: string): Promise<{ client: pg.Client; [Symbol.asyncDispose]: () => Promise<void> }> {
  const login = `login_${crypto.randomUUID().replaceAll("-", "")}`;
  await database.query(`CREATE ROLE ${login} LOGIN IN ROLE ${role}`);
  const url = new URL(database.url);
  url.username = login;
  const client = new pg.Client({ connectionString: url.href });
  await client.connect();
  const dispose = async (): Promise<void> => {
    await client.end();
    await database.query(`DROP ROLE ${login}`);
  };
  return { client, [Symbol.asyncDispose]: dispose };
}

describe("of rows, the database", () => {
  const log = "ledgerd.transactions";
  const balances = "ledgerd.user_balances";
  const holds = "ledgerd.holds";

  test("takes these, which each test below spoils in one place", async () => {
    await undone(async () => {
      for (const table of Object.keys(validRows)) await insert(table, {});
    });
  });

  test.each(["deduction", "transfer_out", "hold"])("refuses a %s that takes the account below its floor", async (type) => {
    expect(await refusalOf(insert(log, { type, balance_after: "-0.01" }))).toMatchObject({ code: CHECK_VIOLATION, constraint: "transactions_floor" });
    expect(await refusalOf(insert(log, { type, balance_after: "1.00", held_after: "6.01", credit_limit_after: "5.00" }))).toMatchObject({ constraint: "transactions_floor" });
    await expectAccepted(log, { type, balance_after: "1.00", held_after: "6.00", credit_limit_after: "5.00" });
  });

  test.each(["capture", "adjustment", "credit_limit"])("takes one below the floor that is no spending: %s", async (type) => {
    await expectAccepted(log, { type, balance_after: "-0.01" });
  });

  test.each([
    ["of an unknown type", log, { type: "gift" }, "transactions_type"],
    ["with an amount of more than 12 digits after the point", log, { amount: "0.0000000000001" }, "transactions_scale"],
    ["with such a change of what is held", log, { held_change: "0.0000000000001" }, "transactions_scale"],
    ["with such a credit limit", log, { credit_limit_after: "0.0000000000001" }, "transactions_scale"],
    ["with less than nothing held", log, { held_after: "-0.01" }, "transactions_figures"],
    ["with a negative credit limit", log, { credit_limit_after: "-0.01" }, "transactions_figures"],
    ["with a sequence below 1", log, { sequence: 0n }, "transactions_figures"],
    ["of a balance with less than nothing held", balances, { held: "-0.01" }, "user_balances_figures"],
    ["of a balance with a negative credit limit", balances, { credit_limit: "-0.01" }, "user_balances_figures"],
    ["of a balance that is too fine", balances, { balance: "0.0000000000001" }, "user_balances_scale"],
    ["of a hold of nothing", holds, { amount: "0.00" }, "holds_figures"],
    ["of a hold with more captured than it holds", holds, { captured: "2.01" }, "holds_figures"],
    ["of a hold with less than nothing captured", holds, { captured: "-0.01" }, "holds_figures"],
    ["of a hold that is too fine", holds, { amount: "2.0000000000001" }, "holds_scale"],
    ["of a hold in no known state", holds, { state: "lost" }, "holds_state"],
    ["of a key with neither a transaction nor a refusal", "ledgerd.idempotency_keys", { transaction_id: null }, "idempotency_keys_outcome"],
    ["of a key with both", "ledgerd.idempotency_keys", { refusal: {} }, "idempotency_keys_outcome"],
  ])("refuses one %s", async (_what, table, columns, constraint) => {
    expect(await refusalOf(insert(table, columns))).toMatchObject({ code: CHECK_VIOLATION, constraint });
  });

  test("refuses one of the log whose account has that sequence in that partition already", async () => {
    const refusal = await refusalOf(insert(log, { id: 77n, sequence: 1n }));
    expect(refusal).toMatchObject({ code: UNIQUE_VIOLATION, constraint: "transactions_000000_account" });
  });
});

async function expectAccepted(table: string, columns: Readonly<Record<string, unknown>>): Promise<void> {
  await undone(() => insert(table, columns));
}

/** Does something that leaves nothing behind. */
async function undone(work: () => Promise<void>): Promise<void> {
  await database.query("BEGIN");
  try {
    await work();
  } finally {
    await database.query("ROLLBACK");
  }
}
