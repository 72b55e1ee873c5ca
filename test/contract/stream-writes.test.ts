// StreamWrites: writes on a stream in both directions, each by itself, answered in the order in which they were sent.

import { connect, type IncomingHttpHeaders } from "node:http2";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import fc from "fast-check";
import { StatusSchema } from "../../src/gen/google/rpc/status_pb.ts";
import { ErrorReason } from "../../src/gen/ledger/v1/errors_pb.ts";
import { StreamWritesRequestSchema, StreamWritesResponseSchema, WriteResultSchema, type WriteResult } from "../../src/gen/ledger/v1/ledger_service_pb.ts";
import { journalsWaiting, keepLaneBusy, lockUser } from "../harness/blocker.ts";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { checkDatabase } from "../harness/inspect.ts";
import { startInstance } from "../harness/instance.ts";
import { patient } from "../harness/patience.ts";
import { failureOf, newKey, serve, type Clients, type TestService } from "../harness/service.ts";
import { checkTold } from "../harness/told.ts";
import { until } from "../harness/until.ts";
import { inShort, streamWrites, WriteStream, type OneWrite } from "../harness/write-stream.ts";

let database: TestDatabase;
let service: TestService;
let lastUser = 0n;

beforeAll(async () => {
  database = await createDatabase();
  service = await serve(database.url, { LEDGERD_LANES: "4" });
});

afterAll(async () => {
  await service.close();
  await checkDatabase(database);
  await database[Symbol.asyncDispose]();
});

/** Of each message: a flag and its length. */
const PREFIX_BYTES = 5;

const rub = (amount: string) => ({ currency: "RUB", amount });
const newUser = (): bigint => (lastUser += 1n);
const topUp = (userId: bigint, amount = "1", idempotencyKey = newKey()): OneWrite => ({ case: "topUp", value: { userId, amount: rub(amount), idempotencyKey } });
const deduct = (userId: bigint, amount = "1", idempotencyKey = newKey()): OneWrite => ({ case: "deduct", value: { userId, amount: rub(amount), idempotencyKey } });
const transfer = (userId: bigint, toUserId: bigint, amount = "1"): OneWrite => ({ case: "transfer", value: { userId, toUserId, amount: rub(amount), idempotencyKey: newKey() } });
const times = <T>(count: number, make: (index: number) => T): T[] => Array.from({ length: count }, (_, index) => make(index));

/** What results say in short. */
const short = (results: readonly WriteResult[]): readonly string[] => results.map(inShort);

/** An instance with one lane, whose queue is every call's, and without a sweep that would use it too. */
function serveOneLane(settings: Readonly<Record<string, string>> = {}): Promise<TestService> {
  return serve(database.url, { LEDGERD_LANES: "1", LEDGERD_SWEEP_INTERVAL: "1h", ...settings });
}

/** Keeps one of its lanes busy with a write of a user of its own. */
async function keepBusy({ ledger, ...others }: TestService, waiting = 1) {
  const userId = newUser();
  await ledger.topUp({ userId, amount: rub("1"), idempotencyKey: newKey() }, patient);
  return keepLaneBusy(database, { ledger, ...others }, userId, waiting);
}

async function rowsOf(userId: bigint): Promise<number> {
  return (await database.query("SELECT FROM ledgerd.transactions WHERE user_id = $1", [userId])).length;
}

const keyOf = ({ value }: OneWrite): { userId: bigint; idempotencyKey: string } => ({ userId: 0n, idempotencyKey: "", ...value });
const isOver = async (ledger: Clients["ledger"], write: OneWrite): Promise<boolean> => ledger.getOutcome(keyOf(write)).then(() => true, () => false);

describe("a stream", () => {
  test.each([1, 100])("answers its writes in the order in which they were sent, whatever becomes of each, %s to a message", async (perMessage) => {
    const [a, b] = [newUser(), newUser()];
    const writes: readonly OneWrite[] = [
      topUp(a, "10"),
      topUp(b, "5"),
      deduct(a, "20"),
      { case: undefined },
      deduct(0n, "-1"),
      { case: "topUp", value: { userId: b, amount: rub("1"), idempotencyKey: newKey(), validateOnly: true } },
      transfer(a, b, "4"),
      deduct(b, "9"),
      deduct(b, "1", ""),
      { case: "placeHold", value: { userId: a, amount: rub("2"), idempotencyKey: newKey() } },
      transfer(a, a),
      { case: "adjust", value: { userId: b, amount: rub("-3"), reason: "chargeback", allowNegative: true, idempotencyKey: newKey() } },
    ];
    const results = await streamWrites(service, writes, perMessage);
    expect(short(results)).toEqual([
      `${a} has 10.00, 0.00 held, at 1`,
      `${b} has 5.00, 0.00 held, at 1`,
      "INSUFFICIENT_FUNDS",
      "INVALID_REQUEST",
      "INVALID_REQUEST",
      "INVALID_REQUEST",
      `${a} has 6.00, 0.00 held, at 2`,
      `${b} has 0.00, 0.00 held, at 3`,
      "INVALID_REQUEST",
      `${a} has 6.00, 2.00 held, at 3`,
      "SAME_ACCOUNT",
      `${b} has -3.00, 0.00 held, at 4`,
    ]);
    const refusals = results.flatMap(({ result }) => (result.case === "refusal" ? [result.value] : []));
    expect(refusals.map(({ stored }) => stored), "which are final for their keys").toEqual([true, false, false, false, false, true]);
    const named = refusals.map(({ message }) => message.match(/\b[a-z_]+\.[a-z_.]+\b/g) ?? []);
    expect(named, "the fields that are wrong").toEqual([[], [], ["deduct.user_id", "deduct.amount.amount"], ["top_up.validate_only"], ["deduct.idempotency_key"], []]);
    checkTold(await checkDatabase(database), results.flatMap(({ result }) => (result.case === "refusal" || result.case === undefined ? [] : [result.value])));
  });

  test("executes its writes one behind the other: they are answered as in a batch", async () => {
    const USERS = 4;
    const user = fc.nat(USERS - 1);
    const move = fc.record({ kind: fc.constantFrom("topUp" as const, "deduct" as const, "transfer" as const, "placeHold" as const), user, other: user, amount: fc.integer({ min: 1, max: 9 }) });
    const scripts = fc.record({ moves: fc.array(move, { minLength: 30, maxLength: 60, size: "max" }), perMessage: fc.integer({ min: 1, max: 20 }) });
    const property = fc.asyncProperty(scripts, async ({ moves, perMessage }) => {
      const writesFrom = (first: bigint) =>
        moves.map(({ kind, user: payer, other, amount }): OneWrite => {
          const value = { userId: first + BigInt(payer), amount: rub(`${amount}`), idempotencyKey: newKey() };
          return kind === "transfer" ? { case: kind, value: { ...value, toUserId: first + BigInt(other) } } : { case: kind, value };
        });
      const [first, second] = [lastUser + 1n, lastUser + 1n + BigInt(USERS)];
      lastUser += 2n * BigInt(USERS);
      const streamed = await streamWrites(service, writesFrom(first), perMessage);
      const { results } = await service.ledger.batchWrite({ writes: writesFrom(second).map((write) => ({ write })) });
      const namesIn = (all: readonly WriteResult[], from: bigint) => short(all).map((text) => text.replace(/^\d+/, (name) => `user ${BigInt(name) - from}`));
      expect(namesIn(streamed, first)).toEqual(namesIn(results, second));
    });
    await fc.assert(property, { numRuns: 20, endOnFailure: true });
  });

  test("has a write wait for the transfer before it, whose money it spends", async () => {
    await using two = await serve(database.url, { LEDGERD_LANES: "2", LEDGERD_SWEEP_INTERVAL: "1h" });
    const [a, b] = [newUser(), newUser()];
    await two.ledger.topUp({ userId: a, amount: rub("10"), idempotencyKey: newKey() });
    const locked = await lockUser(database, a);
    const spending = deduct(b, "3");
    const answers = streamWrites(two, [transfer(a, b, "3"), spending], 1);
    await until(async () => (await journalsWaiting(database, "lock")) === 1);
    // Behind the transfer, though the other lane is idle; there, it would be over soon.
    await until(async () => (await two.admin.getServiceStatus({})).writeQueue?.queued === 1 || isOver(two.ledger, spending));
    await locked.release();
    expect(short(await answers)).toEqual([`${a} has 7.00, 0.00 held, at 2`, `${b} has 0.00, 0.00 held, at 2`]);
  });

  test("has a transfer wait for the writes before it, which could use its money", async () => {
    await using two = await serve(database.url, { LEDGERD_LANES: "2", LEDGERD_SWEEP_INTERVAL: "1h" });
    const [first, second] = [await keepBusy(two), await keepBusy(two, 2)];
    const even = newUser() + (lastUser % 2n);
    const odd = even + 1n;
    lastUser = odd;
    // In the queues of the two lanes: where both are busy, one is chosen by the user's number.
    const answers = streamWrites(two, [topUp(odd, "5"), deduct(even, "3"), transfer(odd, even, "3"), deduct(even, "2")]);
    await first.queued(2);
    await second.release();
    await until(() => two.ledger.getBalance({ userId: odd }).then(({ balance }) => balance?.sequence === 1n));
    await first.release();
    expect(short(await answers)).toEqual([`${odd} has 5.00, 0.00 held, at 1`, "INSUFFICIENT_FUNDS", `${odd} has 2.00, 0.00 held, at 2`, `${even} has 1.00, 0.00 held, at 2`]);
  });

  test("answers a key that it has twice as a retry, and another request under it as such", async () => {
    const [userId, key] = [newUser(), newKey()];
    const results = await streamWrites(service, [topUp(userId, "1", key), topUp(userId, "1", key), topUp(userId, "2", key), topUp(userId, "5")], 1);
    expect(short(results)).toEqual([
      `${userId} has 1.00, 0.00 held, at 1`,
      `${userId} has 1.00, 0.00 held, at 1, replayed`,
      "IDEMPOTENCY_KEY_REUSED",
      `${userId} has 6.00, 0.00 held, at 2`,
    ]);
  });

  test("has one effect for a key, whatever other streams and calls use it at the same time", async () => {
    const users = times(5, newUser);
    const requests = times(60, (index) => ({ userId: users[index % users.length] ?? 0n, amount: rub("1"), idempotencyKey: newKey() }));
    const writes = requests.map((value): OneWrite => ({ case: "topUp", value }));
    const [one, two, calls] = await Promise.all([streamWrites(service, writes, 7), streamWrites(service, writes, 1), Promise.all(requests.map((request) => service.ledger.topUp(request)))]);
    for (const [index, call] of calls.entries()) {
      const answers = [call, one[index]?.result.value, two[index]?.result.value].map((answer) => ({ ...answer, replayed: undefined }));
      expect(answers).toEqual([answers[0], answers[0], answers[0]]);
    }
    const { balances } = await service.ledger.batchGetBalances({ userIds: users });
    expect(balances.map(({ balance, sequence }) => [balance?.amount, sequence])).toEqual(users.map(() => ["12.00", 12n]));
  });

  test("can't overspend, nor lose a write, with others on one account through two instances", async () => {
    await using other = await serve(database.url, { LEDGERD_LANES: "2" });
    const [userId, friend] = [newUser(), newUser()];
    await service.ledger.topUp({ userId, amount: rub("500"), idempotencyKey: newKey() });
    const spend = () => times(200, (index) => (index % 3 === 0 ? transfer(userId, friend) : deduct(userId)));
    const results = await Promise.all([service, other, service, other].map((clients) => streamWrites(clients, spend(), 20)));
    const refused = results.flat().filter(({ result }) => result.case === "refusal");
    expect(short(refused)).toEqual(times(300, () => "INSUFFICIENT_FUNDS"));
    expect((await service.ledger.getBalance({ userId })).balance).toMatchObject({ balance: rub("0.00"), sequence: 501n });
  });

  test("that is closed by its caller answers all that was sent, and ends", async () => {
    const users = times(7, newUser);
    const writes = times(1500, (index) => topUp(users[index % users.length] ?? 0n));
    const results = await streamWrites(service, writes, 10);
    expect(short(results)).toEqual(times(1500, (index) => `${users[index % 7]} has ${Math.floor(index / 7) + 1}.00, 0.00 held, at ${Math.floor(index / 7) + 1}`));
  });

  test("has all that arrived at once in one group, and tells in one message what became durable in one", async () => {
    await using single = await serveOneLane();
    const together = newUser();
    await streamWrites(single, times(100, () => topUp(together)));
    const groups = await database.query("SELECT count(*) AS rows FROM ledgerd.transactions WHERE user_id = $1 GROUP BY xmin::text", [together]);
    expect(groups).toEqual([{ rows: 100n }]);
    const lane = await keepBusy(single);
    const stream = new WriteStream(single);
    const userId = newUser();
    for (let message = 0; message < 100; message++) stream.send(topUp(userId));
    const first = stream.next();
    await lane.queued(100);
    await lane.release();
    expect(await first).toHaveLength(100);
    stream.cancel();
  });

  test("goes on where a write of it fails in the database: only that one is answered so, and what is behind it on the same account isn't tried", async () => {
    await database.query("ALTER TABLE ledgerd.transactions ADD CONSTRAINT no_poison CHECK (description IS DISTINCT FROM 'poison')");
    const users = times(4, newUser);
    const ofUser = (index: number): bigint => users[index % users.length] ?? 0n;
    const stream = new WriteStream(service);
    stream.send(...times(20, (index): OneWrite => ({ case: "topUp", value: { userId: ofUser(index), amount: rub("1"), idempotencyKey: newKey(), description: index === 7 ? "poison" : "" } })));
    const results = await stream.read(20);
    const refused = results.flatMap(({ result }, index) => (result.case === "refusal" ? [[index, result.value.reason, result.value.stored]] : []));
    expect(refused).toEqual([[7, ErrorReason.INTERNAL, false], ...[11, 15, 19].map((behind) => [behind, ErrorReason.NOT_TRIED, false])]);
    await database.query("ALTER TABLE ledgerd.transactions DROP CONSTRAINT no_poison");
    stream.send(topUp(ofUser(7)), topUp(ofUser(6)));
    stream.close();
    expect(short(await stream.read())).toEqual([`${ofUser(7)} has 2.00, 0.00 held, at 2`, `${ofUser(6)} has 6.00, 0.00 held, at 6`]);
  });

  test("gives its trace to all of its writes", async () => {
    const userId = newUser();
    const stream = new WriteStream(service, { traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01" });
    stream.send(topUp(userId));
    stream.close();
    await stream.read();
    expect(await database.query("SELECT trace_id FROM ledgerd.transactions WHERE user_id = $1", [userId])).toEqual([{ trace_id: "0af7651916cd43dd8448eb211c80319c" }]);
  });
});

describe("the pace of a stream", () => {
  /** Several times what the server keeps of a stream, and HTTP/2 on the way. */
  const WRITES = 4000;

  /** How many rows a user has when no more are being written. */
  async function settledRowsOf(userId: bigint): Promise<number> {
    let rows = -1;
    let looks = 0;
    await until(async () => {
      const { writeQueue } = await service.admin.getServiceStatus({});
      const now = await rowsOf(userId);
      looks = now === rows && writeQueue?.queued === 0 ? looks + 1 : 0;
      rows = now;
      return looks === 20;
    });
    return rows;
  }

  test.each([1, 100])("is its reader's: while nothing is read, writing stops, %s to a message, and goes on when it is", async (perMessage) => {
    const userId = newUser();
    const stream = new WriteStream(service);
    for (let sent = 0; sent < WRITES; sent += perMessage) stream.send(...times(perMessage, () => topUp(userId)));
    stream.close();
    const first = (await stream.next()) ?? [];
    expect(await settledRowsOf(userId)).toBeLessThan(WRITES / 2);
    const results = [...first, ...(await stream.read())];
    expect(results.map(({ result }) => (result.case === "topUp" ? result.value.transaction?.sequence : undefined))).toEqual(times(WRITES, (index) => BigInt(index + 1)));
  });

  test("is that of the queue: writes wait for room in it rather than be refused, and leave half of it to calls", async () => {
    await using single = await serveOneLane({ LEDGERD_QUEUE_LIMIT: "10" });
    const lane = await keepBusy(single);
    const userId = newUser();
    const results = streamWrites(single, times(100, () => topUp(userId)));
    await lane.queued(5);
    const call = single.ledger.topUp({ userId, amount: rub("1"), idempotencyKey: newKey() }, patient);
    await lane.queued(6);
    await lane.release();
    await call;
    expect((await results).map(({ result }) => result.case)).toEqual(times(100, () => "topUp"));
    expect(await rowsOf(userId)).toBe(101);
  });

  test("waits for nothing longer than the server's deadline: what is then still in the queue is dropped, untried, and the stream goes on", async () => {
    await using single = await serveOneLane({ LEDGERD_DEFAULT_DEADLINE: "200ms" });
    const lane = await keepBusy(single);
    const userId = newUser();
    const stream = new WriteStream(single);
    const late = topUp(userId);
    stream.send(late);
    const answers = stream.read(1);
    await lane.queued(1);
    // Called later, it is late later.
    expect(await failureOf(single.ledger.topUp({ userId, amount: rub("1"), idempotencyKey: newKey() }))).toMatchObject({ reason: "DEADLINE_PASSED" });
    await lane.release();
    expect(short(await answers)).toEqual(["DEADLINE_PASSED"]);
    expect(await isOver(single.ledger, late)).toBe(false);
    stream.send(late);
    stream.close();
    expect(short(await stream.read())).toEqual([`${userId} has 1.00, 0.00 held, at 1`]);
  });

  test("with the longest texts keeps its answers below what clients take", async () => {
    const userId = newUser();
    const metadata = Object.fromEntries(times(32, (index) => [`${index}`, "€".repeat(512)]));
    const long = (): OneWrite => ({ case: "topUp", value: { userId, amount: rub("1"), idempotencyKey: newKey(), description: "€".repeat(2000), metadata } });
    const stream = new WriteStream(service);
    for (let message = 0; message < 3; message++) stream.send(...times(50, long));
    stream.close();
    let answered = 0;
    for (let results = await stream.next(); results !== undefined; results = await stream.next()) {
      answered += results.length;
      expect(results.reduce((bytes, result) => bytes + toBinary(WriteResultSchema, result).length, 0)).toBeLessThan(4 * 1024 * 1024 - 10_000);
    }
    expect(answered).toBe(150);
  });
});

describe("a stream ends", () => {
  /** Sends as many writes as are answered, and some more, to the stream's end. Then everything that was answered was applied, and nothing else. */
  async function writeToTheEnd(clients: Clients, onAnswer: () => void = () => undefined): Promise<void> {
    const users = times(3, newUser);
    const stream = new WriteStream(clients);
    const writes: OneWrite[] = [];
    const results: WriteResult[] = [];
    const send = (count: number): void => {
      const more = times(count, (index) => topUp(users[index % users.length] ?? 0n));
      writes.push(...more);
      stream.send(...more);
    };
    for (let message = 0; message < 10; message++) send(10);
    for (let more = await stream.next(); more !== undefined; more = await stream.next()) {
      results.push(...more);
      send(more.length);
      onAnswer();
    }
    const told = results.map(({ result }) => (result.case === "topUp" ? result.value.transaction?.idempotencyKey : "nothing"));
    expect(told, "answered in order").toEqual(writes.slice(0, results.length).map((write) => keyOf(write).idempotencyKey));
    const rows = await database.query<{ key: string }>("SELECT idempotency_key AS key FROM ledgerd.transactions WHERE user_id = ANY($1)", [users]);
    expect(new Set(rows.map(({ key }) => key)), "taken").toEqual(new Set(told));
    expect(writes.length, "there was more to take").toBeGreaterThan(results.length);
  }

  test("cleanly when it is too old, with all answered that was taken", async () => {
    await using brief = await serve(database.url, { LEDGERD_STREAM_MAX_AGE: "1s" });
    await writeToTheEnd(brief);
  });

  test("cleanly when the server shuts down, with all answered that was taken", async () => {
    await using instance = await startInstance(database.url);
    let ended: Promise<number | null> | undefined;
    await writeToTheEnd(instance, () => {
      ended ??= instance.end("SIGTERM");
    });
    expect(await ended).toBe(0);
  });

  test("when the server shuts down, without waiting for a reader who has stopped", async () => {
    const quick = await serve(database.url, { LEDGERD_DRAIN_TIMEOUT: "10m" });
    const userId = newUser();
    const stream = new WriteStream(quick);
    for (let message = 0; message < 100; message++) stream.send(...times(100, () => topUp(userId)));
    await stream.next();
    await until(async () => (await rowsOf(userId)) >= 1000);
    await quick.close();
    stream.cancel();
  });

  test("when its caller cancels: what was taken is executed, and there is room for the next stream", async () => {
    await using single = await serveOneLane({ LEDGERD_STREAM_LIMIT: "1" });
    const lane = await keepBusy(single);
    const userId = newUser();
    const stream = new WriteStream(single);
    stream.send(...times(50, () => topUp(userId)));
    const answer = failureOfCancelled(stream);
    await lane.queued(50);
    stream.cancel();
    expect(await answer).toBe(Code.Canceled);
    await lane.release();
    await until(async () => (await rowsOf(userId)) === 50);
    await until(() => streamWrites(single, [topUp(userId)]).then(() => true, () => false));
    expect(await rowsOf(userId)).toBe(51);
  });

  test("when its caller goes who had stopped reading: that makes room, too", async () => {
    await using narrow = await serve(database.url, { LEDGERD_STREAM_LIMIT: "1" });
    const userId = newUser();
    const stream = new WriteStream(narrow);
    for (let message = 0; message < 40; message++) stream.send(...times(100, () => topUp(userId)));
    await stream.next();
    await until(async () => (await rowsOf(userId)) >= 1000);
    stream.cancel();
    await until(() => streamWrites(narrow, [topUp(userId)]).then(() => true, () => false));
  });

  test.each([
    ["more than 1,000 writes", times(1001, () => topUp(1n)), Code.InvalidArgument, "INVALID_REQUEST"],
    ["no writes", [], Code.InvalidArgument, "INVALID_REQUEST"],
    ["more bytes than the limit", [{ case: "topUp" as const, value: { description: "x".repeat(110_000) } }], Code.ResourceExhausted, "MESSAGE_TOO_LARGE"],
  ])("with an error at a message of %s, when all before it is answered", async (_what, bad, code, reason) => {
    await using single = await serveOneLane({ LEDGERD_MESSAGE_LIMIT: "100000" });
    const lane = await keepBusy(single);
    const userId = newUser();
    const stream = new WriteStream(single);
    const behind = topUp(userId);
    stream.send(topUp(userId));
    stream.send(...bad);
    stream.send(behind);
    const first = stream.next();
    await lane.queued(1);
    await lane.release();
    expect(short((await first) ?? [])).toEqual([`${userId} has 1.00, 0.00 held, at 1`]);
    expect(await failureOf(stream.next())).toMatchObject({ code, reason });
    expect(await isOver(single.ledger, behind)).toBe(false);
  });

  test("with an error at bytes that are no message, when all before them is answered", async () => {
    const userId = newUser();
    const good = (): Uint8Array => toBinary(StreamWritesRequestSchema, create(StreamWritesRequestSchema, { writes: [{ write: topUp(userId) }] }));
    const { messages, trailers } = await sendTogether([good(), good(), Uint8Array.of(0x0f, 0x01), good()]);
    const { code, details } = fromBinary(StatusSchema, Buffer.from(String(trailers["grpc-status-details-bin"]), "base64"));
    expect([code, ...details.map(({ typeUrl }) => typeUrl.split("/").at(-1))]).toEqual([Code.InvalidArgument, "google.rpc.ErrorInfo", "google.rpc.BadRequest"]);
    const results = messages.flatMap((message) => fromBinary(StreamWritesResponseSchema, message).results);
    expect(short(results)).toEqual([`${userId} has 1.00, 0.00 held, at 1`, `${userId} has 2.00, 0.00 held, at 2`]);
  });

  /** Sends these as the messages of a stream, so that they arrive at once, and answers what comes back. */
  async function sendTogether(bodies: readonly Uint8Array[]): Promise<{ messages: readonly Buffer[]; trailers: IncomingHttpHeaders }> {
    const session = connect(`http://${service.grpcAddress}`);
    const stream = session.request({ ":method": "POST", ":path": "/ledger.v1.LedgerService/StreamWrites", "content-type": "application/grpc", te: "trailers" });
    const prefixOf = ({ length }: Uint8Array): Buffer => {
      const prefix = Buffer.alloc(PREFIX_BYTES);
      prefix.writeUInt32BE(length, 1);
      return prefix;
    };
    stream.write(Buffer.concat(bodies.flatMap((body) => [prefixOf(body), body])));
    let received = Buffer.alloc(0);
    stream.on("data", (chunk: Buffer) => (received = Buffer.concat([received, chunk])));
    const trailers = await new Promise<IncomingHttpHeaders>((resolve, reject) => stream.once("trailers", resolve).once("error", reject));
    session.destroy();
    const messages: Buffer[] = [];
    for (let at = 0; at < received.length; ) messages.push(received.subarray(at + PREFIX_BYTES, (at += PREFIX_BYTES + received.readUInt32BE(at + 1))));
    return { messages, trailers };
  }
});

test("streams of all kinds are limited together", async () => {
  await using narrow = await serve(database.url, { LEDGERD_STREAM_LIMIT: "8" });
  const gone = new AbortController();
  const watch = narrow.ledger.watchTransactions({ userId: newUser() }, { signal: gone.signal })[Symbol.asyncIterator]();
  await watch.next();
  const userId = newUser();
  const stream = new WriteStream(narrow);
  stream.send(topUp(userId));
  await stream.next();
  expect(await failureOf(streamWrites(narrow, [topUp(userId)]))).toMatchObject({ code: Code.ResourceExhausted, reason: "OVERLOADED" });
  stream.close();
  expect(await stream.next()).toBeUndefined();
  await until(() => streamWrites(narrow, [topUp(userId)]).then(() => true, () => false));
  gone.abort();
});

async function failureOfCancelled(stream: WriteStream): Promise<Code | undefined> {
  const error: unknown = await stream.next().catch((cause: unknown) => cause);
  return error instanceof ConnectError ? error.code : undefined;
}
