// Which databases ledgerd refuses to serve from: those whose log it could change, and those that can lose what was acknowledged.

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openPool, RUNTIME_ROLE } from "../../src/postgres/connection/pool.ts";
import { safetyProblems } from "../../src/postgres/schema/safety.ts";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { startPostgres, type OwnPostgres } from "../harness/postgres.ts";
import { serve } from "../harness/service.ts";

/** What is wrong with a database in a session with these settings. */
async function problemsOf(url: string, settings: Readonly<Record<string, string>>, durability: "required" | "relaxed"): Promise<readonly string[]> {
  const limits = { connectTimeoutMs: 10_000, queryTimeoutMs: 10_000, idleTimeoutMs: 10_000 };
  const pool = await openPool({ url, settings, min: 0, max: 1, ...limits, onError: () => undefined });
  try {
    return await safetyProblems(pool, durability);
  } finally {
    await pool.end();
  }
}

const remedy = "turn it on, or set LEDGERD_DURABILITY=relaxed if losing acknowledged writes is acceptable";

describe("on the server of the tests, whose settings are fast rather than durable", () => {
  let database: TestDatabase;

  beforeAll(async () => {
    database = await createDatabase();
  });

  afterAll(async () => {
    await database[Symbol.asyncDispose]();
  });

  test("all that can lose acknowledged writes is refused where durability is required, with what to do about it", async () => {
    expect(await problemsOf(database.url, { role: RUNTIME_ROLE }, "required")).toEqual([
      `fsync is off: a crash can lose or damage everything; ${remedy}`,
      `full_page_writes is off: a crash can damage pages; ${remedy}`,
      `synchronous_commit is off: a crash can lose acknowledged writes; ${remedy}`,
    ]);
    await expect(serve(database.url, { LEDGERD_DURABILITY: "required" })).rejects.toThrow(/can't be served from: fsync is off: .* full_page_writes is off: .* synchronous_commit is off: /);
  });

  test("all of that is taken where it is relaxed", async () => {
    expect(await problemsOf(database.url, { role: RUNTIME_ROLE }, "relaxed")).toEqual([]);
    await using service = await serve(database.url, { LEDGERD_DURABILITY: "relaxed" });
    expect((await service.ledger.getBalance({ userId: 1n })).balance?.sequence).toBe(0n);
  });

  test.each(["postgres", "ledgerd_migrator"])("a role that may change the log is refused in any case: %s", async (role) => {
    const [problem, ...others] = await problemsOf(database.url, { role }, "relaxed");
    expect(problem).toBe("the role of the connections may change the log; it must be ledgerd_runtime, or a member of nothing but that");
    expect(others).toEqual([]);
  });

  test.each(["UPDATE", "DELETE", "TRUNCATE", "UPDATE (amount)"])("so is the runtime role where somebody has given it %s on the log", async (right) => {
    await database.query(`GRANT ${right} ON ledgerd.transactions TO ledgerd_runtime`);
    await expect(serve(database.url)).rejects.toThrow(/can't be served from: the role of the connections may change the log/);
    await database.query(`REVOKE ${right} ON ledgerd.transactions FROM ledgerd_runtime`);
  });
});

describe("on a durable server", () => {
  let server: OwnPostgres;

  beforeAll(async () => {
    server = await startPostgres();
  });

  afterAll(async () => {
    await server[Symbol.asyncDispose]();
  });

  test("nothing is wrong", async () => {
    expect(await problemsOf(server.url, { role: RUNTIME_ROLE }, "required")).toEqual([]);
  });

  test.each(["off", "local", "remote_write"])("synchronous_commit = %s is refused", async (setting) => {
    const problems = await problemsOf(server.url, { role: RUNTIME_ROLE, synchronous_commit: setting }, "required");
    expect(problems).toEqual([`synchronous_commit is ${setting}: a crash can lose acknowledged writes; ${remedy}`]);
  });

  test("synchronous_commit = remote_apply is taken: it promises more than `on`", async () => {
    expect(await problemsOf(server.url, { role: RUNTIME_ROLE, synchronous_commit: "remote_apply" }, "required")).toEqual([]);
  });

  test("it is what a new session gets that counts: a database's own setting too", async () => {
    await server.query("ALTER DATABASE ledgerd SET synchronous_commit = 'off'");
    await expect(serve(server.url, { LEDGERD_DURABILITY: "required" })).rejects.toThrow(/synchronous_commit is off/);
  });
});
