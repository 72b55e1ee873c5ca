// One key from many callers at the same moment, through two instances: one of the calls is executed, and all get its answer.

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Code } from "@connectrpc/connect";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { checkDatabase } from "../harness/inspect.ts";
import { describeFailure, newKey, type Clients } from "../harness/service.ts";
import { replayOf } from "../harness/told.ts";
import { connectToTwo } from "./instances.ts";

const CONNECTIONS = 8;
const ROUNDS = 6;

const opened = new AsyncDisposableStack();
let database: TestDatabase;
let connections: readonly Clients[];
let lastUser = 0n;

beforeAll(async () => {
  database = opened.use(await createDatabase());
  opened.defer(async () => void (await checkDatabase(database)));
  connections = await connectToTwo(database.url, opened, CONNECTIONS);
});

afterAll(() => opened.disposeAsync());

const rub = (amount: string) => ({ currency: "RUB", amount });
const usd = (amount: string) => ({ currency: "USD", amount });

async function userWith(amount: string): Promise<bigint> {
  const userId = (lastUser += 1n);
  await connections[0]?.ledger.topUp({ userId, amount: rub(amount), idempotencyKey: newKey() });
  return userId;
}

/** Calls over all connections at once, while the lanes of all instances are busy: some of the calls will meet in one group. */
async function atOnce<T>(call: (clients: Clients, index: number) => Promise<T>): Promise<PromiseSettledResult<T>[]> {
  const fill = (userId: bigint) => connections.map(({ ledger }) => ledger.topUp({ userId, amount: rub("1"), idempotencyKey: newKey() }));
  const busy = [...fill(2_000_000n), ...fill(2_000_001n)];
  const settled = await Promise.allSettled(connections.map(call));
  await Promise.all(busy);
  return settled;
}

function answersOf<T>(settled: readonly PromiseSettledResult<T>[]): readonly T[] {
  return settled.flatMap((result) => (result.status === "fulfilled" ? [result.value] : []));
}

function failuresOf(settled: readonly PromiseSettledResult<unknown>[]) {
  return settled.flatMap((result) => (result.status === "rejected" ? [describeFailure(result.reason)] : []));
}

/** How many rows of the log are a user's. */
async function rowsOf(userId: bigint): Promise<bigint | undefined> {
  const [found] = await database.query<{ count: bigint }>("SELECT count(*) FROM ledgerd.transactions WHERE user_id = $1", [userId]);
  return found?.count;
}

/** Writes of a user under one key; all but the last make one row of the user's. */
const writes = {
  TopUp: (userId: bigint, { ledger }: Clients) => ledger.topUp({ userId, amount: rub("5"), idempotencyKey: "key" }),
  Deduct: (userId: bigint, { ledger }: Clients) => ledger.deduct({ userId, amount: rub("5"), idempotencyKey: "key" }),
  Transfer: (userId: bigint, { ledger }: Clients) => ledger.transfer({ userId, toUserId: userId + 1_000_000n, amount: rub("5"), idempotencyKey: "key" }),
  PlaceHold: (userId: bigint, { ledger }: Clients) => ledger.placeHold({ userId, amount: rub("5"), idempotencyKey: "key" }),
  "an account's first TopUp": (userId: bigint, { ledger }: Clients) => ledger.topUp({ userId, amount: usd("5"), idempotencyKey: "key" }),
  "an atomic BatchWrite": (userId: bigint, { ledger }: Clients) =>
    ledger.batchWrite({
      atomic: true,
      idempotencyKey: "key",
      writes: [
        { write: { case: "deduct", value: { userId, amount: rub("5") } } },
        { write: { case: "transfer", value: { userId, toUserId: userId + 1_000_000n, amount: rub("5") } } },
        { write: { case: "placeHold", value: { userId, amount: rub("5") } } },
      ],
    }),
} as const;

type AnyAnswer = Awaited<ReturnType<(typeof writes)[keyof typeof writes]>>;

function isReplayed(answer: AnyAnswer): boolean {
  const items = "results" in answer ? answer.results.map(({ result }) => result.value) : [answer];
  return items.every((item) => item !== undefined && "replayed" in item && item.replayed);
}

describe("the same request under one key, from 8 connections to two instances", () => {
  test.each(Object.entries(writes))("of %s is executed once, and all callers get the same answer", async (_kind, call) => {
    for (let round = 0; round < ROUNDS; round++) {
      const userId = await userWith("100");
      const settled = await atOnce<AnyAnswer>((clients) => call(userId, clients));
      const answers = answersOf(settled);
      expect(failuresOf(settled)).toEqual([]);
      expect(answers.filter((answer) => !isReplayed(answer)), "one was executed").toHaveLength(1);
      for (const answer of answers) expect(replayOf(answer)).toEqual(replayOf(answers[0] as AnyAnswer));
      expect(await rowsOf(userId)).toBe(1n + ("results" in (answers[0] as AnyAnswer) ? 3n : 1n));
    }
  });

  test("is refused once, and all callers get the same refusal, which stays", async () => {
    for (let round = 0; round < ROUNDS; round++) {
      const userId = await userWith("1");
      const refused = await atOnce((clients) => writes.Deduct(userId, clients));
      await connections[0]?.ledger.topUp({ userId, amount: rub("100"), idempotencyKey: newKey() });
      const [first, ...others] = failuresOf([...refused, ...(await atOnce((clients) => writes.Deduct(userId, clients)))]);
      expect(first).toMatchObject({ reason: "INSUFFICIENT_FUNDS", metadata: { stored: "true", available: "1.00" } });
      expect(others).toEqual(Array.from({ length: 2 * CONNECTIONS - 1 }, () => first));
      expect(await rowsOf(userId)).toBe(2n);
    }
  });
});

const methods = ["topUp", "deduct", "placeHold"] as const;
const currencies = ["RUB", "USD", "EUR", "GBP"] as const;

/** Requests of a user under one key that differ. */
const collisions = {
  "amount": (userId: bigint, { ledger }: Clients, index: number) => ledger.deduct({ userId, amount: rub(`${index + 1}`), idempotencyKey: "key" }),
  "method": (userId: bigint, { ledger }: Clients, index: number) =>
    ledger[methods[index % 3] ?? "topUp"]({ userId, amount: rub("1"), idempotencyKey: "key", description: `${index}` }),
  "currency": (userId: bigint, { ledger }: Clients, index: number) =>
    ledger.topUp({ userId, amount: { currency: currencies[index % 4] ?? "", amount: "1" }, idempotencyKey: "key", description: `${index}` }),
};

describe("different requests under one key, from 8 connections to two instances", () => {
  test.each(Object.entries(collisions))("in their %s: one is executed, and the others are refused, with its transaction", async (_what, call) => {
    for (let round = 0; round < ROUNDS; round++) {
      const userId = await userWith("100");
      const settled = await atOnce<AnyAnswer & { transaction?: { id: bigint } | undefined }>((clients, index) => call(userId, clients, index));
      const executed = answersOf(settled);
      expect(executed).toHaveLength(1);
      const failures = failuresOf(settled);
      expect(failures).toHaveLength(CONNECTIONS - 1);
      for (const failure of failures) {
        expect(failure).toMatchObject({
          code: Code.AlreadyExists,
          reason: "IDEMPOTENCY_KEY_REUSED",
          metadata: { transaction_id: executed[0]?.transaction?.id.toString() },
        });
        expect(failure.metadata["stored"]).toBeUndefined();
      }
      expect(await rowsOf(userId)).toBe(2n);
    }
  });
});
