// What COMMIT means: nobody is told of success before the server has said so, and whoever can't know is told that.

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Code } from "@connectrpc/connect";
import { journalsWaiting } from "../harness/blocker.ts";
import { past } from "../harness/damage.ts";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { checkDatabase } from "../harness/inspect.ts";
import { patient } from "../harness/patience.ts";
import { startPostgres, type OwnPostgres } from "../harness/postgres.ts";
import { failureOf, newKey, serve, type TestService } from "../harness/service.ts";
import { until } from "../harness/until.ts";
import { startWireProxy, tagOf, textOf, withText, type Message, type Verdict, type WireProxy } from "../harness/wire-proxy.ts";

const rub = (amount: string) => ({ currency: "RUB", amount });
let lastUser = 0n;

/** A top-up that was never sent, of a user that nobody knows. */
function newTopUp() {
  return { userId: (lastUser += 1n), amount: rub("1"), idempotencyKey: newKey() };
}

describe("an instance whose connection to the database is tampered with", () => {
  let database: TestDatabase;
  let proxy: WireProxy;
  let service: TestService;

  beforeAll(async () => {
    database = await createDatabase();
    proxy = await startWireProxy(database.url);
    service = await serve(proxy.url, { LEDGERD_LANES: "1" });
  });

  afterAll(async () => {
    await service.close();
    await proxy[Symbol.asyncDispose]();
    await checkDatabase(database);
    await database[Symbol.asyncDispose]();
  });

  /** Tampers with the messages of a new session of the journal, which prepares its statements anew. */
  async function tamperAnew(tampering: Parameters<WireProxy["tamper"]>[0]): Promise<void> {
    proxy.cut();
    const sessions = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'ledgerd journal'";
    await until(async () => (await database.query(sessions)).length === 0);
    proxy.tamper(tampering);
  }

  /** Checks that a top-up is in the log once, and nothing beside it. */
  async function expectOnce({ userId }: { userId: bigint }): Promise<void> {
    proxy.tamper({});
    expect((await service.ledger.getBalance({ userId })).balance).toMatchObject({ balance: rub("1.00"), sequence: 1n });
  }

  const commitAsRollback = (message: Message): Message => withText(message, (text) => (text === "COMMIT" ? "ROLLBACK" : text));

  test("never tells of success when the server answers ROLLBACK to COMMIT", async () => {
    await tamperAnew({ client: commitAsRollback });
    const request = newTopUp();
    expect(await failureOf(service.ledger.topUp(request, patient))).toMatchObject({ code: Code.Aborted, reason: "TRANSACTION_CONFLICT" });
    expect(await database.query(`SELECT FROM ledgerd.transactions WHERE user_id = ${request.userId}`)).toEqual([]);
    proxy.tamper({});
    expect((await service.ledger.topUp(request)).replayed, "on a session that does as it is told").toBe(false);
    await expectOnce(request);
  });

  test("tries again by itself, on a new session, after one that rolled back", async () => {
    let rewritten = 0;
    const once = (message: Message): Message => (textOf(message) === "COMMIT" && (rewritten += 1) > 1 ? message : commitAsRollback(message));
    await tamperAnew({ client: once });
    const request = newTopUp();
    expect((await service.ledger.topUp(request, patient)).replayed).toBe(false);
    expect(rewritten).toBe(2);
    await expectOnce(request);
  });

  test("says that the outcome is unknown when the answer to COMMIT is lost; a retry finds it", async () => {
    await tamperAnew({ server: (message) => (tagOf(message) === "COMMIT" ? "cut" : message) });
    const request = newTopUp();
    expect(await failureOf(service.ledger.topUp(request, patient))).toMatchObject({ code: Code.Unavailable, reason: "COMMIT_OUTCOME_UNKNOWN" });
    proxy.tamper({});
    expect((await service.ledger.topUp(request)).replayed).toBe(true);
    await expectOnce(request);
  });

  test("says so too when COMMIT is lost before the server has it; a retry applies it", async () => {
    await tamperAnew({ client: (message) => (textOf(message) === "COMMIT" ? "cut" : message) });
    const request = newTopUp();
    expect(await failureOf(service.ledger.topUp(request, patient))).toMatchObject({ code: Code.Unavailable, reason: "COMMIT_OUTCOME_UNKNOWN" });
    proxy.tamper({});
    expect((await service.ledger.topUp(request)).replayed).toBe(false);
    await expectOnce(request);
  });

  test.each([
    ["before the server has anything", "client", (message: Message) => textOf(message)?.startsWith("BEGIN") === true],
    ["while the server answers the lock", "server", (message: Message) => tagOf(message)?.startsWith("SELECT") === true],
  ] as const)("tries again by itself when the connection breaks %s", async (_when, side, breaks) => {
    let cuts = 0;
    await tamperAnew({ [side]: (message: Message) => (cuts === 0 && breaks(message) ? ((cuts += 1), "cut") : message) });
    const request = newTopUp();
    expect((await service.ledger.topUp(request, patient)).replayed).toBe(false);
    expect(cuts).toBe(1);
    await expectOnce(request);
  });

  test("replaces a connection that broke while it was idle, without anybody noticing", async () => {
    await service.ledger.topUp(newTopUp());
    await tamperAnew({});
    const request = newTopUp();
    expect((await service.ledger.topUp(request)).replayed).toBe(false);
    await expectOnce(request);
  });
});

test("a refund of what was lost meanwhile is refused, though it was there when its account was looked up", async () => {
  await using database = await createDatabase();
  await using proxy = await startWireProxy(database.url);
  await using service = await serve(proxy.url);
  const userId = 1n;
  await service.ledger.topUp({ userId, amount: rub("5"), idempotencyKey: newKey() });
  const spent = await service.ledger.deduct({ userId, amount: rub("5"), idempotencyKey: newKey() });
  const transactionId = spent.transaction?.id ?? 0n;
  proxy.cut();
  let isLost = false;
  const client = async (message: Message): Promise<Message> => {
    if (textOf(message)?.startsWith("BEGIN") === true && !isLost) {
      isLost = true;
      await past(database, `DELETE FROM ledgerd.transactions WHERE id = ${transactionId}`);
    }
    return message;
  };
  proxy.tamper({ client });
  const refund = service.ledger.refund({ userId, transactionId, idempotencyKey: newKey() }, patient);
  expect(await failureOf(refund)).toMatchObject({ code: Code.NotFound, reason: "TRANSACTION_NOT_FOUND" });
  expect(isLost).toBe(true);
});

describe("GetOutcome, where its wait for durability", () => {
  const cut = (): Verdict => "cut";
  const spoil = (message: Message): Verdict => withText(message, () => "SELECT 1 / 0");
  const isWait = (message: Message): boolean =>
    textOf(message)?.includes("pg_logical_emit_message(true, 'ledgerd', 'read')") === true;

  /** Asks twice what became of a write that was applied, and does this to the first waits, so many. */
  async function askTwice(tamper: (wait: Message) => Verdict, times: number): Promise<readonly string[]> {
    await using database = await createDatabase();
    await using proxy = await startWireProxy(database.url, "all");
    await using service = await serve(proxy.url);
    const request = newTopUp();
    await service.ledger.topUp(request);
    let tampered = 0;
    const client = (message: Message): Verdict =>
      tampered < times && isWait(message) ? ((tampered += 1), tamper(message)) : message;
    proxy.tamper({ client });
    const ask = async (): Promise<string> => {
      const outcome = service.ledger.getOutcome(request, patient);
      return outcome.then(() => "told", async () => (await failureOf(outcome)).reason);
    };
    const answers = [await ask(), await ask()];
    expect(tampered).toBe(times);
    return answers;
  }

  test("breaks once, waits again on another connection, and answers", async () => {
    expect(await askTwice(cut, 1)).toEqual(["told", "told"]);
  });

  test("breaks again, says that the database is unavailable", async () => {
    expect(await askTwice(cut, 2)).toEqual(["DATABASE_UNAVAILABLE", "told"]);
  });

  test("fails in the database, leaves nothing of that to the next one", async () => {
    expect(await askTwice(spoil, 1)).toEqual(["INTERNAL", "told"]);
  });
});

describe("a server that waits for a standby at each commit, and has none", () => {
  let server: OwnPostgres;

  beforeAll(async () => {
    server = await startPostgres();
  });

  afterAll(async () => {
    await checkDatabase(server);
    await server[Symbol.asyncDispose]();
  });

  /** From its start on, the server confirms nothing before its standby has. */
  async function demandStandby(): Promise<void> {
    await server.query("ALTER SYSTEM SET synchronous_standby_names = 'nobody'");
    await server.restart("fast");
  }

  async function renounceStandby(): Promise<void> {
    await server.query("ALTER SYSTEM RESET synchronous_standby_names");
    await server.query("SELECT pg_reload_conf()");
  }

  test("answers neither a write nor its replay before the write is durable", async () => {
    await demandStandby();
    await using one = await serve(server.url);
    await using two = await serve(server.url);
    const request = newTopUp();
    const first = one.ledger.topUp(request, patient);
    await until(async () => (await journalsWaiting(server, "standby")) === 1);
    const replay = two.ledger.topUp(request, patient);
    await until(async () => (await journalsWaiting(server, "lock")) === 1);
    await renounceStandby();
    expect([(await first).replayed, (await replay).replayed]).toEqual([false, true]);
    expect((await one.ledger.getBalance({ userId: request.userId })).balance).toMatchObject({ balance: rub("1.00"), sequence: 1n });
  });

  test("makes the outcome unknown when its wait is cancelled, and replays wait as the write did", async () => {
    await demandStandby();
    await using one = await serve(server.url);
    await using two = await serve(server.url);
    const request = newTopUp();
    const first = failureOf(one.ledger.topUp(request, patient));
    await until(async () => (await journalsWaiting(server, "standby")) === 1);
    await server.query("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'");
    expect(await first).toMatchObject({ code: Code.Unavailable, reason: "COMMIT_OUTCOME_UNKNOWN" });
    // It is committed and can be seen, but a crash of this server would lose it.
    let answered = false;
    const replay = two.ledger.topUp(request, patient).finally(() => (answered = true));
    const reused = failureOf(two.ledger.deduct(request, patient)).finally(() => (answered = true));
    await until(async () => answered || (await journalsWaiting(server, "standby")) > 0);
    expect(answered).toBe(false);
    await renounceStandby();
    expect((await replay).replayed).toBe(true);
    const named = { transaction_id: `${(await replay).transaction?.id}` };
    expect(await reused, "it waits as well").toMatchObject({ reason: "IDEMPOTENCY_KEY_REUSED", metadata: named });
    expect((await one.ledger.getBalance({ userId: request.userId })).balance).toMatchObject({ balance: rub("1.00"), sequence: 1n });
  });
});
