// The log's partitions: made ahead while writes go on, each with all that guards the log, and nothing that a caller would notice.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Transaction } from "../../src/gen/ledger/v1/account_pb.ts";
import { ListOrder } from "../../src/gen/ledger/v1/ledger_service_pb.ts";
import { archiveOf, restoreInto } from "../harness/archives.ts";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { checkDatabase } from "../harness/inspect.ts";
import { newKey, serve, type TestService } from "../harness/service.ts";
import { until } from "../harness/until.ts";

const SIZE = 10_000_000n;
const rub = (amount: string) => ({ currency: "RUB", amount });

async function partitionsOf({ query }: TestDatabase): Promise<string[]> {
  const rows = await query<{ name: string }>(
    "SELECT c.relname AS name FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'ledgerd.transactions'::regclass ORDER BY 1",
  );
  return rows.map(({ name }) => name);
}

/** What a partition is, without its name: its columns, constraints, indexes, triggers with their state, and rights. */
async function describePartition({ query }: TestDatabase, name: string): Promise<string> {
  const rows = await query<{ line: string }>(
    `SELECT format('column %s %s %s %s', a.attname, a.atttypid::regtype, a.attnotnull, pg_get_expr(d.adbin, d.adrelid)) AS line
     FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
     WHERE a.attrelid = $1::regclass AND a.attnum > 0
     UNION ALL SELECT format('constraint %s', pg_get_constraintdef(oid)) FROM pg_constraint WHERE conrelid = $1::regclass
     UNION ALL SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = $1::regclass
     UNION ALL SELECT format('%s, %s', pg_get_triggerdef(oid), tgenabled) FROM pg_trigger WHERE tgrelid = $1::regclass
     UNION ALL SELECT format('owner %s, rights %s', relowner::regrole, relacl) FROM pg_class WHERE oid = $1::regclass
     ORDER BY 1`,
    [`ledgerd.${name}`],
  );
  return rows.map(({ line }) => line.replaceAll(name, "partition")).join("\n");
}

/** Makes partitions up to a headroom, and answers how many. */
async function addPartitions(query: TestDatabase["query"], headroom: bigint): Promise<number> {
  const [row] = await query<{ made: number }>("SELECT ledgerd.add_transaction_partitions($1) AS made", [headroom]);
  return row?.made ?? Number.NaN;
}

describe("add_transaction_partitions", () => {
  let database: TestDatabase;

  beforeAll(async () => {
    database = await createDatabase();
  });

  afterAll(async () => {
    await database[Symbol.asyncDispose]();
  });

  test("makes the partitions that ids up to the headroom will need, and not one that is there", async () => {
    expect(await partitionsOf(database)).toEqual(["transactions_000000", "transactions_000001", "transactions_000002"]);
    expect(await addPartitions(database.query, 2n * SIZE)).toBe(0);
    expect(await addPartitions(database.query, 4n * SIZE)).toBe(2);
    expect(await addPartitions(database.query, 4n * SIZE)).toBe(0);
    expect(await partitionsOf(database)).toHaveLength(5);
  });

  test("counts the headroom from the next id", async () => {
    const setLast = (id: bigint) => database.query("SELECT setval('ledgerd.transactions_id_seq', $1)", [id]);
    await setLast(SIZE - 2n);
    expect(await addPartitions(database.query, 4n * SIZE)).toBe(0);
    await setLast(SIZE - 1n);
    expect(await addPartitions(database.query, 4n * SIZE)).toBe(1);
    await setLast(1n);
  });

  test("refuses a headroom that is negative or absurd", async () => {
    await expect(addPartitions(database.query, -1n)).rejects.toThrow(/must be from 0 to/);
    const before = await partitionsOf(database);
    for (const headroom of [10n * SIZE + 1n, 1000n * SIZE, 2n ** 63n - 1n]) {
      await expect(addPartitions(database.query, headroom)).rejects.toThrow(`headroom of ${headroom} ids: must be from 0 to 100000000`);
    }
    expect(await partitionsOf(database)).toEqual(before);
  });

  test("makes them all alike, with the unique index of accounts and triggers that nothing switches off", async () => {
    const described: string[] = [];
    for (const name of await partitionsOf(database)) described.push(await describePartition(database, name));
    const [first = "", ...others] = described;
    expect(others).toEqual(others.map(() => first));
    expect(first).toContain("CREATE UNIQUE INDEX partition_account ON ledgerd.partition USING btree (user_id, currency, sequence)");
    const triggers = first.split("\n").filter((line) => line.startsWith("CREATE TRIGGER"));
    expect(triggers).toEqual([
      "CREATE TRIGGER transactions_append_only BEFORE DELETE OR UPDATE ON ledgerd.partition FOR EACH ROW EXECUTE FUNCTION ledgerd.refuse_change_of_log(), A",
      "CREATE TRIGGER transactions_no_truncate BEFORE TRUNCATE ON ledgerd.partition FOR EACH STATEMENT EXECUTE FUNCTION ledgerd.refuse_change_of_log(), A",
    ]);
  });

  test("may be called by the role that serves, which can't make a table itself, and by nobody else", async () => {
    const client = await database.connect();
    const query: TestDatabase["query"] = async (text, values = []) => (await client.query(text, [...values])).rows;
    await query("SET ROLE ledgerd_runtime");
    await expect(query("CREATE TABLE ledgerd.other (id INT)")).rejects.toThrow(/permission denied for schema ledgerd/);
    expect(await addPartitions(query, 6n * SIZE)).toBe(1);
    await query("RESET ROLE");
    await query("SET ROLE pg_read_all_data");
    await expect(addPartitions(query, 7n * SIZE)).rejects.toThrow(/permission denied/);
    await client.end();
  });

  test("makes each once when two call it at once: the second waits for the first, and finds them", async () => {
    const [first, second] = [await database.connect(), await database.connect()];
    const queryOf = (client: typeof first): TestDatabase["query"] => async (text, values = []) => (await client.query(text, [...values])).rows;
    await first.query("BEGIN");
    expect(await addPartitions(queryOf(first), 8n * SIZE)).toBe(2);
    const waiting = addPartitions(queryOf(second), 8n * SIZE);
    const waits = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' AND wait_event = 'advisory'";
    await until(async () => (await database.query(waits)).length > 0);
    await first.query("COMMIT");
    expect(await waiting).toBe(0);
    await Promise.all([first.end(), second.end()]);
  });

  test("lets writes go on while it works, and works while they go on", async () => {
    await using service = await serve(database.url);
    const topUp = () => service.ledger.topUp({ userId: 1n, amount: rub("1"), idempotencyKey: newKey() });
    // The partitions that are being made: their maker has not committed.
    const maker = await database.connect();
    await maker.query("BEGIN");
    await maker.query("SELECT ledgerd.add_transaction_partitions($1)", [9n * SIZE]);
    expect((await topUp()).transaction?.sequence).toBe(1n);
    await maker.query("COMMIT");
    // A writer that has not committed.
    await maker.query("BEGIN");
    await maker.query("INSERT INTO ledgerd.transactions (user_id, sequence, type, amount, balance_after, held_after, credit_limit_after, hash) VALUES (2, 1, 'topup', 1, 1, 0, 0, '')");
    expect(await addPartitions(database.query, 10n * SIZE)).toBe(1);
    await maker.query("ROLLBACK");
    await maker.end();
    expect((await topUp()).transaction?.sequence).toBe(2n);
    await checkDatabase(database);
  });
});

describe("where the ids jump past the last partition", () => {
  const jump = 1_000_000_000_000n;

  /** Makes ids go on from somewhere far away, as an operator may. */
  async function jumpTo({ query }: TestDatabase, id: bigint): Promise<void> {
    await query("SELECT setval('ledgerd.transactions_id_seq', $1, false)", [id]);
  }

  test("writes of any kind go on at once, by two instances, and the feed tells all of them", async () => {
    await using database = await createDatabase();
    await using service = await serve(database.url);
    await using other = await serve(database.url);
    const topUp = ({ ledger }: TestService, userId = 1n) => ledger.topUp({ userId, amount: rub("100"), idempotencyKey: newKey() });
    const first = await topUp(service);
    await jumpTo(database, jump);
    const writes = [service, other, service, other].map((instance, index) => topUp(instance, BigInt(index) + 2n));
    const { hold } = await service.ledger.placeHold({ userId: 1n, amount: rub("1"), idempotencyKey: newKey() });
    const jobs = await other.jobs.createJob({ userId: 1n, modelId: "m", prompt: "p", cost: rub("1"), idempotencyKey: newKey() });
    expect((await service.ledger.captureHold({ userId: 1n, holdId: hold?.id ?? 0n, idempotencyKey: newKey() })).transaction?.sequence).toBe(4n);
    expect(jobs.job?.id).toBeGreaterThan(0n);
    await Promise.all(writes);
    // From 10^13 on, the number of a partition has more than six digits.
    for (const id of [10n * jump, 11n * jump, 1000n * jump]) {
      await jumpTo(database, id);
      await Promise.all([topUp(service), topUp(other)]);
    }
    const seen: bigint[] = [];
    for await (const step of service.ledger.watchTransactions({}, { timeoutMs: 0 })) {
      if (step.event.case === "caughtUp") break;
      if (step.event.case === "transaction") seen.push(step.event.value.id);
    }
    expect(seen).toHaveLength(14);
    expect(seen[0]).toBe(first.transaction?.id);
    expect(new Set((await partitionsOf(database)).map((name) => name.length))).toEqual(new Set([19, 20, 22]));
    await checkDatabase(database);
  });

  test("a backup of that is restored without all the partitions between", async () => {
    const folder = mkdtempSync(path.join(tmpdir(), "ledgerd-partitions-"));
    await using database = await createDatabase();
    await using target = await createDatabase("empty");
    for (const id of [SIZE - 1n, 5n * SIZE, jump, jump + SIZE - 1n]) {
      await jumpTo(database, id);
      await using service = await serve(database.url);
      for (let count = 0; count < 2; count++) await service.ledger.topUp({ userId: 1n, amount: rub("1"), idempotencyKey: newKey() });
    }
    await restoreInto(target.url, (await archiveOf(database.url, folder)).file);
    const ids = "SELECT id FROM ledgerd.transactions ORDER BY id";
    expect(await target.query(ids)).toEqual(await database.query(ids));
    expect((await partitionsOf(target)).length).toBeLessThan(20);
    await using service = await serve(target.url);
    expect((await service.ledger.topUp({ userId: 1n, amount: rub("1"), idempotencyKey: newKey() })).transaction?.sequence).toBe(9n);
    rmSync(folder, { recursive: true });
  });
});

describe("across the border of two partitions", () => {
  let database: TestDatabase;
  let service: TestService;
  /** All that was written, in order. */
  let written: readonly (Transaction | undefined)[];

  /** Ten rows of user 1, six of them before the border: one to refund and a hold on this side, and what becomes of them on the other. */
  beforeAll(async () => {
    database = await createDatabase();
    await database.query("SELECT setval('ledgerd.transactions_id_seq', $1)", [SIZE - 7n]);
    service = await serve(database.url);
    const { ledger } = service;
    const ofUser = { userId: 1n, amount: rub("10") };
    const first = await ledger.topUp({ ...ofUser, amount: rub("100"), idempotencyKey: newKey() });
    const deduction = await ledger.deduct({ ...ofUser, idempotencyKey: newKey() });
    const placed = await ledger.placeHold({ ...ofUser, idempotencyKey: newKey() });
    const [transactionId, holdId] = [deduction.transaction?.id ?? 0n, placed.hold?.id ?? 0n];
    const more = [];
    for (let count = 0; count < 4; count++) more.push(await ledger.topUp({ ...ofUser, amount: rub("1"), idempotencyKey: newKey(), reference: `count ${count}` }));
    const captured = await ledger.captureHold({ userId: 1n, holdId, amount: rub("4"), idempotencyKey: newKey() });
    const refunded = await ledger.refund({ userId: 1n, transactionId, amount: rub("6"), idempotencyKey: newKey() });
    const released = await ledger.releaseHold({ userId: 1n, holdId, idempotencyKey: newKey() });
    written = [first, deduction, placed, ...more, captured, refunded, released].map(({ transaction }) => transaction);
  });

  afterAll(async () => {
    await service.close();
    await database[Symbol.asyncDispose]();
  });

  test("rows go on from one into the next", async () => {
    const rows = await database.query("SELECT tableoid::regclass::text AS partition, min(id) AS first, count(*) AS count FROM ledgerd.transactions GROUP BY 1 ORDER BY 1");
    expect(rows).toEqual([
      { partition: "ledgerd.transactions_000000", first: SIZE - 6n, count: 6n },
      { partition: "ledgerd.transactions_000001", first: SIZE, count: 4n },
    ]);
    expect(written.map((row) => row?.sequence)).toEqual([1n, 2n, 3n, 4n, 5n, 6n, 7n, 8n, 9n, 10n]);
  });

  test("a hold is captured and released, and a deduction is refunded, up to what is left of them", async () => {
    const { balance } = await service.ledger.getBalance({ userId: 1n });
    expect(balance).toMatchObject({ balance: rub("96.00"), held: rub("0.00"), sequence: 10n });
    const tooMuch = service.ledger.refund({ userId: 1n, transactionId: written[1]?.id ?? 0n, amount: rub("4.01"), idempotencyKey: newKey() });
    await expect(tooMuch).rejects.toThrow(/refund/i);
  });

  test("lists go on in both directions, page by page", async () => {
    for (const order of [ListOrder.OLDEST_FIRST, ListOrder.NEWEST_FIRST]) {
      const listed: Transaction[] = [];
      let pageToken = "";
      do {
        const page = await service.ledger.listTransactions({ userId: 1n, order, pageSize: 4, pageToken });
        listed.push(...page.transactions);
        pageToken = page.nextPageToken;
      } while (pageToken !== "");
      expect(listed).toEqual(order === ListOrder.OLDEST_FIRST ? written : written.toReversed());
    }
  });

  test("single rows are found by id and by sequence, and a past balance by its moment", async () => {
    for (const row of written) {
      expect((await service.ledger.getTransaction({ name: { case: "transactionId", value: row?.id ?? 0n } })).transaction).toEqual(row);
      const [userId, sequence] = [1n, row?.sequence ?? 0n];
      const bySequence = await service.ledger.getTransaction({ name: { case: "accountSequence", value: { userId, sequence } } });
      expect(bySequence.transaction).toEqual(row);
      const then = await service.ledger.getBalance({ userId, asOf: { case: "asOfSequence", value: sequence } });
      expect(then.balance?.balance).toEqual(row?.balanceAfter);
    }
  });

  test.each([{ of: "everyone", userId: 0n }, { of: "one user", userId: 1n }])("the feed of $of tells all rows in order", async ({ userId }) => {
    // From before the border, too, by the position that a first watcher stopped at.
    let position = "";
    for (const from of [0, 3]) {
      const seen: Transaction[] = [];
      for await (const step of service.ledger.watchTransactions({ userId, position }, { timeoutMs: 0 })) {
        if (step.event.case === "caughtUp") break;
        if (step.event.case === "transaction") seen.push(step.event.value);
        if (from === 0 && seen.length === 3) position = step.position;
      }
      expect(seen).toEqual(written.slice(from));
    }
  });

  test("a reference is found on either side", async () => {
    for (const [place, reference] of [[3, "count 0"], [6, "count 3"]] as const) {
      const { transactions } = await service.ledger.listTransactions({ userId: 1n, reference });
      expect(transactions).toEqual([written[place]]);
    }
  });

  test("GetServiceStatus tells how many partitions there are, and for how many more ids", async () => {
    const { partitions } = await service.admin.getServiceStatus({});
    const count = partitions?.count ?? 0;
    expect(count).toBeGreaterThanOrEqual(3);
    expect(partitions?.headroom).toBe(BigInt(count) * SIZE - (written.at(-1)?.id ?? 0n));
  });

  test("all laws hold", async () => {
    expect((await checkDatabase(database)).log).toHaveLength(10);
  });
});
