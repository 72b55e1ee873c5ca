// Balances that many ask for at the same moment: each is that of the account that was asked for, and as new as if it had been asked for alone.

import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from "vitest";
import { gathered } from "../../src/postgres/sharing/gather.ts";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { newKey, type Clients } from "../harness/service.ts";
import { connectToTwo } from "./instances.ts";

const CONNECTIONS = 4;
const USERS = 20;
const ROUNDS = 15;

const opened = new AsyncDisposableStack();
let database: TestDatabase;
let connections: readonly Clients[];

beforeAll(async () => {
  database = opened.use(await createDatabase());
  connections = await connectToTwo(database.url, opened, CONNECTIONS);
});

afterAll(() => opened.disposeAsync());

const clients = (index: number): Clients => connections[index % CONNECTIONS] as Clients;

describe("balances that are read at the same moment", () => {
  test("show each what was written before, through either instance, while others read and write", async () => {
    const goOn = async (user: number): Promise<void> => {
      for (let round = 1; round <= ROUNDS; round++) {
        const currency = user % 2 === 0 ? "RUB" : "USD";
        const userId = BigInt(user + 1);
        await clients(user + round).ledger.topUp({ userId, amount: { currency, amount: "1" }, idempotencyKey: newKey() });
        const { balance } = await clients(user).ledger.getBalance({ userId, currency });
        expect(balance).toMatchObject({ userId, sequence: BigInt(round), balance: { currency, amount: `${round}.00` } });
        const stranger = await clients(round).ledger.getBalance({ userId: userId + 1000n, currency });
        expect(stranger.balance).toMatchObject({ userId: userId + 1000n, sequence: 0n });
      }
    };
    await Promise.all(Array.from({ length: USERS }, (_, user) => goOn(user)));
  });
});

describe("a balance row that can't be understood", () => {
  test("is an error for who asks for it, and for nobody else", async () => {
    const userIds = Array.from({ length: 30 }, (_, index) => BigInt(5000 + index));
    for (const userId of userIds) await clients(0).ledger.topUp({ userId, amount: { currency: "RUB", amount: "1" }, idempotencyKey: newKey() });
    await database.query("UPDATE ledgerd.user_balances SET balance = 1.001 WHERE user_id = 5007");
    const settled = await Promise.allSettled(userIds.map((userId) => clients(0).ledger.getBalance({ userId })));
    expect(settled.flatMap(({ status }, index) => (status === "rejected" ? [index] : []))).toEqual([7]);
  });
});

describe("reads that are gathered", () => {
  beforeEach(() => void vi.useFakeTimers());
  afterEach(() => void vi.useRealTimers());

  test("begin after they came, two statements at a time, each with all that came meanwhile", async () => {
    const statements: { readonly asks: readonly number[]; readonly answer: () => void }[] = [];
    const read = gathered((asks: readonly number[]) => new Promise<readonly string[]>((resolve) => statements.push({ asks, answer: () => resolve(asks.map((ask) => `answer ${ask}`)) })));
    const answers = Array.from({ length: 600 }, (_, index) => read(index));
    expect(statements.map(({ asks }) => asks.length)).toEqual([1, 1]);
    statements[1]?.answer();
    expect(await answers[1]).toBe("answer 1");
    await vi.advanceTimersByTimeAsync(0);
    expect(statements.map(({ asks }) => asks.length)).toEqual([1, 1, 500]);
    statements[0]?.answer();
    await vi.advanceTimersByTimeAsync(0);
    expect(statements.map(({ asks }) => asks.length)).toEqual([1, 1, 500, 98]);
    for (const { answer } of statements) answer();
    expect(await Promise.all(answers)).toEqual(Array.from({ length: 600 }, (_, index) => `answer ${index}`));
  });

  test("don't wait for statements that hang", async () => {
    let hanging = 2;
    const read = gathered((asks: readonly number[]) => (hanging-- > 0 ? new Promise<readonly number[]>(() => undefined) : Promise.resolve(asks)));
    for (const lost of [1, 2]) void read(lost);
    const waiting = read(3);
    await vi.advanceTimersByTimeAsync(100);
    expect(await waiting).toBe(3);
    expect(await read(4)).toBe(4);
  });

  test("fail together where their statement fails, and go on after it", async () => {
    let broken = true;
    const read = gathered((asks: readonly number[]) => (broken ? Promise.reject(new Error("the connection was lost")) : Promise.resolve(asks)));
    const settled = await Promise.allSettled([1, 2, 3, 4].map(read));
    expect(settled.map(({ status }) => status)).toEqual(["rejected", "rejected", "rejected", "rejected"]);
    broken = false;
    expect(await read(5)).toBe(5);
  });

  test("are refused where too many wait", async () => {
    const read = gathered(() => new Promise<readonly number[]>(() => undefined));
    for (let count = 0; count < 20_002; count++) void read(count);
    const refused = await read(0).catch((error: unknown) => error);
    expect(refused).toMatchObject({ reason: "OVERLOADED" });
  });
});
