// WatchTransactions: the log as a live feed that never skips a row.

import { randomInt } from "node:crypto";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Code, type CallOptions } from "@connectrpc/connect";
import type { Transaction } from "../../src/gen/ledger/v1/account_pb.ts";
import { TransactionType } from "../../src/gen/ledger/v1/account_pb.ts";
import type { WatchTransactionsResponse } from "../../src/gen/ledger/v1/ledger_service_pb.ts";
import { past } from "../harness/damage.ts";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { journalsWaiting } from "../harness/blocker.ts";
import { checkDatabase } from "../harness/inspect.ts";
import { startInstance } from "../harness/instance.ts";
import { clientsOf, failureOf, newKey, serve, type Clients, type TestService } from "../harness/service.ts";
import { until } from "../harness/until.ts";

let database: TestDatabase;
let service: TestService;
let lastUser = 0n;

beforeAll(async () => {
  database = await createDatabase();
  service = await serve(database.url);
});

afterAll(async () => {
  await service.close();
  await checkDatabase(database);
  await database[Symbol.asyncDispose]();
});

const rub = (amount: string) => ({ currency: "RUB", amount });
const newUser = (): bigint => (lastUser += 1n);
const topUp = ({ ledger }: Clients, userId: bigint) => ledger.topUp({ userId, amount: rub("1"), idempotencyKey: newKey() });

interface Watched {
  readonly transactions: readonly Transaction[];
  /** The position that came with each transaction. */
  readonly positions: readonly string[];
  readonly marks: readonly { readonly after: number; readonly position: string }[];
}

/** Watches until it has seen enough. */
async function watch(
  clients: Clients,
  request: Parameters<Clients["ledger"]["watchTransactions"]>[0],
  enough: (seen: Watched) => boolean,
  onEvent: (event: WatchTransactionsResponse) => void = () => undefined,
): Promise<Watched> {
  const transactions: Transaction[] = [];
  const positions: string[] = [];
  const marks: { after: number; position: string }[] = [];
  const seen = { transactions, positions, marks };
  const gone = new AbortController();
  const options: CallOptions = { signal: gone.signal, timeoutMs: 0 };
  for await (const response of clients.ledger.watchTransactions(request, options)) {
    if (response.event.case === "transaction") {
      transactions.push(response.event.value);
      positions.push(response.position);
    } else if (response.event.case === "caughtUp") {
      marks.push({ after: transactions.length, position: response.position });
    }
    onEvent(response);
    if (enough(seen)) break;
  }
  gone.abort();
  return seen;
}

const caughtUp = ({ marks }: Watched): boolean => marks.length > 0;
const ids = (transactions: readonly Transaction[]): readonly bigint[] => transactions.map(({ id }) => id);

async function idsInLog(userId?: bigint): Promise<readonly bigint[]> {
  const rows = await database.query<{ id: bigint }>("SELECT id FROM ledgerd.transactions WHERE $1::int8 IS NULL OR user_id = $1 ORDER BY id", [userId ?? null]);
  return rows.map(({ id }) => id);
}

describe("the feed", () => {
  test("tells all of the log from the start, says that it has caught up, and then lives", async () => {
    const userId = newUser();
    await topUp(service, userId);
    const before = await idsInLog();
    const seen = await watch(
      service,
      {},
      ({ transactions }) => transactions.length > before.length,
      ({ event }) => {
        if (event.case === "caughtUp") void topUp(service, userId);
      },
    );
    expect(seen.marks, "one mark, after all that was there").toEqual([{ after: before.length, position: seen.positions[before.length - 1] }]);
    expect(ids(seen.transactions)).toEqual(await idsInLog());
    expect(seen.transactions.at(-1)).toEqual((await service.ledger.getTransaction({ name: { case: "transactionId", value: seen.transactions.at(-1)?.id ?? 0n } })).transaction);
  });

  test("sees every committed row once, per account in order, while 8 writers write through two instances", async () => {
    await using other = await startInstance(database.url);
    const users = Array.from({ length: 6 }, newUser);
    const end = newUser();
    const write = async (_: unknown, writer: number): Promise<void> => {
      const clients = clientsOf(writer % 2 === 0 ? service.grpcAddress : other.grpcAddress);
      for (let round = 0; round < 40; round++) {
        const [userId = 1n, toUserId = 2n] = [users[randomInt(3)], users[3 + randomInt(3)]];
        const transfer = clients.ledger.transfer({ userId, toUserId, amount: rub("0.01"), idempotencyKey: newKey() });
        // At first there may be nothing to transfer.
        await Promise.all([topUp(clients, userId), topUp(clients, toUserId), transfer.catch(() => undefined)]);
      }
    };
    const toTheEnd = (clients: Clients) => watch(clients, {}, ({ transactions }) => transactions.at(-1)?.userId === end);
    const watching = [toTheEnd(service), toTheEnd(other)];
    await Promise.all(Array.from({ length: 8 }, write));
    await topUp(other, end);
    for (const { transactions } of await Promise.all(watching)) {
      expect(ids(transactions), "each row once, in the order of ids").toEqual(await idsInLog());
      for (const rows of Map.groupBy(transactions, ({ userId }) => userId).values()) {
        expect(rows.map(({ sequence }) => sequence)).toEqual(rows.map((_, index) => BigInt(index + 1)));
      }
    }
  });

  test("waits for a transaction that is still open while later ids commit, then sees all in order", async () => {
    // The journal gives up waiting after seconds, and draws another id. Where the machine was slower, it is done again.
    while (!(await waitsForAnOpenOne())) continue;
  });

  /** Answers whether the transaction that was open had the first id, up to its end. */
  async function waitsForAnOpenOne(): Promise<boolean> {
    const [slow, quick] = [newUser(), newUser()];
    const { position = "" } = (await watch(service, {}, caughtUp)).marks[0] ?? {};
    // A session that is about to use the same key keeps the write from ending: its id is drawn, and not yet committed.
    const [open, idempotencyKey] = [await database.connect(), newKey()];
    await open.query("BEGIN");
    await open.query("INSERT INTO ledgerd.idempotency_keys (user_id, key, fingerprint, refusal, created_at) VALUES ($1, $2, '', '{}', now())", [slow, idempotencyKey]);
    const first = service.ledger.topUp({ userId: slow, amount: rub("1"), idempotencyKey }).catch(() => undefined);
    await until(async () => (await journalsWaiting(database, "lock")) === 1);

    const seen = watch(service, { position }, ({ transactions }) => transactions.filter(({ userId }) => userId === quick).length === 2);
    const later = [await topUp(service, quick), await topUp(service, quick)];
    await open.query("ROLLBACK");
    await open.end();
    const [one = 0n, ...others] = [await first, ...later].map((answer) => answer?.transaction?.id ?? 0n);
    const told = ids((await seen).transactions);
    if (one === 0n || others.some((id) => id < one)) return false;
    expect(told).toEqual([one, ...others]);
    return true;
  }
});

describe("a watcher", () => {
  test("goes on behind the position that it was given, without a gap and without a repeat", async () => {
    const userId = newUser();
    for (let write = 0; write < 5; write++) await topUp(service, userId);
    const all = await watch(service, { userId }, caughtUp);
    for (const [index, position] of all.positions.entries()) {
      const rest = await watch(service, { userId, position }, caughtUp);
      expect(ids(rest.transactions)).toEqual(ids(all.transactions).slice(index + 1));
    }
    const atEnd = await watch(service, { userId, position: all.marks[0]?.position ?? "" }, caughtUp);
    expect(atEnd.transactions, "nothing new").toEqual([]);
  });

  test("of one user sees that user's rows of all currencies, and no others", async () => {
    const userId = newUser();
    await topUp(service, userId);
    await topUp(service, newUser());
    await service.ledger.topUp({ userId, amount: { currency: "JPY", amount: "5" }, idempotencyKey: newKey() });
    const seen = await watch(service, { userId }, caughtUp);
    expect(ids(seen.transactions)).toEqual(await idsInLog(userId));
    expect(seen.transactions.map(({ amount }) => amount?.currency)).toEqual(["RUB", "JPY"]);
  });

  test("of some types sees rows of those alone, from the past and live", async () => {
    const userId = newUser();
    const spend = () => service.ledger.deduct({ userId, amount: rub("0.10"), idempotencyKey: newKey() });
    await topUp(service, userId);
    await spend();
    const seen = await watch(
      service,
      { userId, types: [TransactionType.DEDUCTION] },
      ({ transactions }) => transactions.length === 2,
      ({ event }) => {
        if (event.case === "caughtUp") void topUp(service, userId).then(spend);
      },
    );
    expect(seen.transactions.map(({ type, sequence }) => [type, sequence])).toEqual([
      [TransactionType.DEDUCTION, 2n],
      [TransactionType.DEDUCTION, 4n],
    ]);
  });

  test("of a user without rows is caught up at once", async () => {
    const seen = await watch(service, { userId: newUser() }, caughtUp);
    expect(seen.transactions).toEqual([]);
  });

  test("sees what another instance writes", async () => {
    await using other = await serve(database.url);
    const userId = newUser();
    const seen = await watch(
      service,
      { userId },
      ({ transactions }) => transactions.length === 1,
      ({ event }) => {
        if (event.case === "caughtUp") void topUp(other, userId);
      },
    );
    expect(seen.transactions[0]?.userId).toBe(userId);
  });

  test("that stops reading is fed as it reads on: nothing is lost, nothing is told twice", async () => {
    const userId = newUser();
    const gone = new AbortController();
    const stream = service.ledger.watchTransactions({ userId }, { signal: gone.signal })[Symbol.asyncIterator]();
    const mark = await stream.next();
    expect(mark.value?.event.case).toBe("caughtUp");
    const writes = Array.from({ length: 3000 }, () => ({ write: { case: "topUp" as const, value: { userId, amount: rub("1"), idempotencyKey: newKey(), description: "x".repeat(200) } } }));
    for (let from = 0; from < writes.length; from += 1000) await service.ledger.batchWrite({ writes: writes.slice(from, from + 1000) });
    const sequences: bigint[] = [];
    while (sequences.length < writes.length) {
      const { value } = await stream.next();
      if (value?.event.case === "transaction") sequences.push(value.event.value.sequence);
    }
    gone.abort();
    expect(sequences).toEqual(writes.map((_, index) => BigInt(index + 1)));
  });
});

describe("a log that goes back under a watcher ends its stream with FEED_POSITION_LOST", () => {
  /**
   * Watches a ledger of its own that has a row, and does something to it once that is told; answers how the stream
   * ended, and what it told.
   */
  async function watchWhile(goesBack: (ledger: TestDatabase, clients: Clients) => Promise<void>) {
    await using ledger = await createDatabase();
    await using clients = await serve(ledger.url);
    const userId = newUser();
    await topUp(clients, userId);
    const told: bigint[] = [];
    let going: Promise<void> | undefined;
    const stream = watch(
      clients,
      { types: [TransactionType.TOPUP] },
      () => false,
      ({ event }) => {
        if (event.case === "transaction") told.push(event.value.sequence);
        if (event.case === "caughtUp") going = goesBack(ledger, clients);
      },
    );
    const failed = await failureOf(stream);
    await going;
    return { failed, told };
  }

  test("where its end is before what was read, though no row is lost", async () => {
    const { failed, told } = await watchWhile(async ({ query }, { admin }) => {
      // Ids that were drawn for nothing: the watcher has gone past them.
      await query("SELECT nextval('ledgerd.transactions_id_seq') FROM generate_series(1, 5)");
      await until(async () => (await admin.getServiceStatus({})).feedLag === 0n);
      await query("SELECT setval('ledgerd.transactions_id_seq', last_value - 5) FROM ledgerd.transactions_id_seq");
    });
    expect(failed).toMatchObject({ code: Code.OutOfRange, reason: "FEED_POSITION_LOST" });
    expect(failed.metadata["position"]).toMatch(/^1\./);
    expect(told).toEqual([1n]);
  });

  test("where another row is in the place of the last one, though its end is further", async () => {
    const { failed, told } = await watchWhile(async (ledger, clients) => {
      await past(ledger, "UPDATE ledgerd.transactions SET hash = sha256('another')");
      await topUp(clients, newUser());
    });
    expect(failed).toMatchObject({ code: Code.OutOfRange, reason: "FEED_POSITION_LOST" });
    expect(told).toEqual([1n]);
  });
});

describe("a position", () => {
  test("of another log is refused: the id may be there, but the row isn't the same", async () => {
    const userId = newUser();
    await topUp(service, userId);
    const position = (await watch(service, { userId }, caughtUp)).positions[0] ?? "";
    const altered = position.replace(/.$/, (digit) => (digit === "0" ? "1" : "0"));
    const failed = await failureOf(watch(service, { position: altered }, caughtUp));
    expect(failed).toMatchObject({ code: Code.OutOfRange, reason: "FEED_POSITION_LOST", metadata: { position: altered } });
  });

  test("behind the end of the log is refused, as after a restore to an earlier moment", async () => {
    const failed = await failureOf(watch(service, { position: "999999999.0123456789abcdef" }, caughtUp));
    expect(failed).toMatchObject({ code: Code.OutOfRange, reason: "FEED_POSITION_LOST" });
  });

  test("that nobody gave out is malformed", async () => {
    const failed = await failureOf(watch(service, { position: "yesterday" }, caughtUp));
    expect(failed).toMatchObject({ code: Code.InvalidArgument, reason: "INVALID_REQUEST", fields: ["position"] });
  });
});
