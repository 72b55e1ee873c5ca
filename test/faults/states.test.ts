// What PostgreSQL says that keeps it from working: callers are told so, the instance isn't ready where it lasts, and goes
// on by itself when it is over.

import { rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { Code } from "@connectrpc/connect";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { runLedgerd } from "../harness/command.ts";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { startPostgres, type OwnPostgres } from "../harness/postgres.ts";
import { failureOf, newKey, serve, type TestService } from "../harness/service.ts";
import { until } from "../harness/until.ts";

const rub = (amount: string) => ({ currency: "RUB", amount });
const topUp = (service: TestService, userId = 1n) =>
  service.ledger.topUp({ userId, amount: rub("1"), idempotencyKey: newKey() });

/** Why the instance isn't ready; or `ready`. */
async function readinessOf({ httpAddress }: TestService): Promise<string> {
  const answer = await fetch(`http://${httpAddress}/healthz`);
  const { problem } = (await answer.json()) as { problem?: string };
  return answer.status === 200 ? "ready" : (problem ?? "no reason");
}

const unavailable = (why: string) => ({
  code: Code.Unavailable,
  reason: "DATABASE_UNAVAILABLE",
  message: expect.stringContaining(why) as string,
});

describe("an error of the class", () => {
  let database: TestDatabase;
  let service: TestService;

  beforeAll(async () => {
    database = await createDatabase();
    service = await serve(database.url, { LEDGERD_SWEEP_INTERVAL: "1h", LEDGERD_JOB_SWEEP_INTERVAL: "1h", LEDGERD_LANES: "1" });
    await topUp(service);
    // Whoever reads an account, to lock it or to show it, is answered by the state that is written here.
    for (const statement of [
      "CREATE TABLE public.trouble (state TEXT)",
      "CREATE SEQUENCE public.trouble_told",
      "GRANT SELECT ON public.trouble TO ledgerd_runtime",
      "GRANT USAGE ON SEQUENCE public.trouble_told TO ledgerd_runtime",
      `CREATE FUNCTION public.trouble() RETURNS BOOLEAN LANGUAGE plpgsql AS $$
       BEGIN
         IF EXISTS (SELECT FROM public.trouble) THEN
           PERFORM nextval('public.trouble_told');
           RAISE EXCEPTION 'a trouble' USING ERRCODE = (SELECT state FROM public.trouble);
         END IF;
         RETURN TRUE;
       END $$`,
      "ALTER TABLE ledgerd.user_balances ENABLE ROW LEVEL SECURITY",
      "CREATE POLICY trouble ON ledgerd.user_balances USING (public.trouble())",
    ]) {
      await database.query(statement);
    }
  });

  afterAll(async () => {
    await service.close();
    await database[Symbol.asyncDispose]();
  });

  async function during(state: string, work: () => Promise<void>): Promise<void> {
    await database.query("INSERT INTO public.trouble VALUES ($1)", [state]);
    try {
      await work();
    } finally {
      await database.query("DELETE FROM public.trouble WHERE TRUE");
    }
  }

  test.each([
    ["25006", "it is read-only, or a standby"],
    ["25P03", "the session was idle in its transaction for too long"],
    ["08006", "the connection to it broke"],
    ["28000", "it refuses the login"],
    ["3D000", "it isn't there"],
    ["53000", "it lacks resources"],
    ["53100", "its disk is full"],
    ["53200", "it is out of memory"],
    ["53300", "it has too many connections"],
    ["53400", "it lacks resources"],
    ["55006", "what is asked for is in use by others"],
    ["57P01", "it is shutting down, or starting up"],
    ["57P02", "it is shutting down, or starting up"],
    ["57P03", "it is shutting down, or starting up"],
    ["57P04", "it was removed"],
    ["57P05", "the session was idle for too long"],
    ["58000", "it has trouble with its files"],
    ["58030", "it has trouble with its files"],
    ["58P01", "it has trouble with its files"],
  ])("%s is told to who reads and who writes, and nothing stays of it", async (state, why) => {
    await during(state, async () => {
      const told = await Promise.all([failureOf(service.ledger.getBalance({ userId: 1n })), failureOf(topUp(service))]);
      expect(told).toEqual([expect.objectContaining(unavailable(why)), expect.objectContaining(unavailable(why))]);
    });
    await topUp(service);
    expect((await service.ledger.getBalance({ userId: 1n })).balance?.balance?.currency).toBe("RUB");
    expect(await readinessOf(service)).toBe("ready");
  });

  test("55P03, of another session's doing, is none of these", async () => {
    await during("55P03", async () => {
      expect(await failureOf(topUp(service))).toMatchObject({ code: Code.Aborted, reason: "TRANSACTION_CONFLICT" });
    });
  });

  test("53100 fails a group at once and as a whole: no part of it is tried by itself", async () => {
    const [before] = await database.query<{ told: bigint }>("SELECT nextval('public.trouble_told') AS told");
    await during("53100", async () => {
      const writes = Array.from({ length: 40 }, () => ({
        write: { case: "topUp" as const, value: { userId: 1n, amount: rub("1"), idempotencyKey: newKey() } },
      }));
      expect(await failureOf(service.ledger.batchWrite({ writes }))).toMatchObject(unavailable("its disk is full"));
    });
    const [after] = await database.query<{ told: bigint }>("SELECT nextval('public.trouble_told') AS told");
    expect((after?.told ?? 0n) - (before?.told ?? 0n)).toBe(2n);
  });

  test.each(["XX001", "XX002"])("%s is told as well, and the instance isn't ready until it is started again", async (state) => {
    await using another = await serve(database.url);
    await during(state, async () => {
      expect(await failureOf(another.ledger.getBalance({ userId: 1n }))).toMatchObject(unavailable("its data is damaged"));
    });
    await until(async () => (await readinessOf(another)) !== "ready");
    expect(await readinessOf(another)).toBe("the database's data is damaged: a trouble; mend it, and start ledgerd again");
    await using anew = await serve(database.url);
    expect(await readinessOf(anew)).toBe("ready");
  });
});

describe("a database that turns read-only", () => {
  test("by its own setting, which sessions have that begin from then on, is not ready, says why, and comes back by itself", async () => {
    await using database = await createDatabase();
    await using service = await serve(database.url);
    const name = database.url.slice(database.url.lastIndexOf("/") + 1);
    await topUp(service);
    await database.query(`ALTER DATABASE ${name} SET default_transaction_read_only = on`);
    await until(async () => (await readinessOf(service)) !== "ready");
    expect(await readinessOf(service)).toBe("the database takes no writes: default_transaction_read_only is on");
    await database.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()");
    const why = "the database takes no writes: default_transaction_read_only is on; nothing was changed";
    await until(async () => (await failureOf(service.ledger.getBalance({ userId: 1n }))).message.includes(why));
    expect(await failureOf(topUp(service))).toMatchObject(unavailable(why));
    expect(await failureOf(service.locks.acquireLock({ lockKey: 1n, instanceId: "i", ttl: { seconds: 10n } }))).toMatchObject(unavailable(why));
    expect(await readinessOf(service)).not.toBe("ready");
    await database.query(`ALTER DATABASE ${name} RESET default_transaction_read_only`);
    await until(async () => (await readinessOf(service)) === "ready");
    await Promise.all(Array.from({ length: 30 }, async (_, index) => {
      await topUp(service, BigInt(index + 1));
      await service.locks.acquireLock({ lockKey: BigInt(index + 1), instanceId: "i", ttl: { seconds: 10n } });
    }));
  });

  test("by its login's setting, or that of the login in the database, which come before the database's, is seen", async () => {
    await using database = await createDatabase();
    const name = database.url.slice(database.url.lastIndexOf("/") + 1);
    const login = `login_${name}`;
    await database.query(`CREATE ROLE ${login} LOGIN IN ROLE ledgerd_runtime`);
    await using service = await serve(database.url.replace("postgres@", `${login}@`));
    const becomes = async (isReady: boolean) => until(async () => ((await readinessOf(service)) === "ready") === isReady);
    await database.query(`ALTER ROLE ${login} SET default_transaction_read_only = on`);
    await becomes(false);
    await database.query(`ALTER ROLE ${login} IN DATABASE ${name} SET default_transaction_read_only = off`);
    await becomes(true);
    await database.query(`ALTER ROLE ${login} RESET default_transaction_read_only`);
    await database.query(`ALTER DATABASE ${name} SET default_transaction_read_only = on`);
    expect(await readinessOf(service)).toBe("ready");
    await database.query(`ALTER ROLE ${login} IN DATABASE ${name} RESET default_transaction_read_only`);
    await becomes(false);
  });
});

describe("a server", () => {
  let server: OwnPostgres;

  beforeAll(async () => {
    server = await startPostgres({ fsync: "off" });
  });

  afterAll(async () => {
    await server[Symbol.asyncDispose]();
  });

  test("that turns read-only under open sessions is told as such, and they write again when it is over", async () => {
    await using service = await serve(server.url);
    await topUp(service);
    const set = async (command: string) => {
      await server.query(command);
      await server.query("SELECT pg_reload_conf()");
    };
    await set("ALTER SYSTEM SET default_transaction_read_only = on");
    await until(async () => (await readinessOf(service)) !== "ready");
    const failures = await Promise.all([
      failureOf(topUp(service)),
      failureOf(service.locks.acquireLock({ lockKey: 1n, instanceId: "i", ttl: { seconds: 10n } })),
    ]);
    for (const failure of failures) expect(failure).toMatchObject(unavailable("the database"));
    await set("ALTER SYSTEM RESET default_transaction_read_only");
    await until(async () => (await readinessOf(service)) === "ready");
    await Promise.all(Array.from({ length: 30 }, (_, index) => topUp(service, BigInt(index + 1))));
  });

  test("that is a standby is refused at start in one line, and by commands that write", async () => {
    const [found] = await server.query<{ data: string }>("SELECT current_setting('data_directory') AS data");
    writeFileSync(path.join(found?.data ?? "", "standby.signal"), "");
    await server.restart("fast");
    for (const args of [["serve"], ["serve", "--workers", "2"], ["migrate"], ["rebuild"]]) {
      const { code, stdout, stderr } = await runLedgerd(args, { DATABASE_URL: server.url, LEDGERD_DURABILITY: "relaxed", LEDGERD_LOG_LEVEL: "error" });
      expect([code === 0, stdout, stderr.split("\n")]).toEqual([
        false,
        "",
        [expect.stringMatching(/^ledgerd: postgres:.* can't be used: the database is a standby, which takes no writes$/), ""],
      ]);
    }
    rmSync(path.join(found?.data ?? "", "standby.signal"), { force: true });
  });
});
