// Connections as a URL says, to a real server with TLS, whose certificate comes from an authority of the test's own.

import { chmodSync, writeFileSync } from "node:fs";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { connect } from "../../src/postgres/connection/connect.ts";
import { freePort, missingForStock, startStock, type StockServer } from "../harness/stock-server.ts";

const missing = missingForStock("openssl");
const hba = [
  "hostnossl all clear all trust",
  "hostssl all clear all reject",
  "hostssl all encrypted all trust",
  "hostnossl all encrypted all reject",
  "hostssl all clerk all cert",
  "host all secret all scram-sha-256",
];
let server: StockServer;

beforeAll(async () => {
  if (missing !== undefined) return;
  server = await startStock(hba, { fsync: "off" });
  for (const login of ["clear", "encrypted", "clerk"]) await server.query(`CREATE ROLE ${login} LOGIN`);
  await server.query("CREATE ROLE secret LOGIN PASSWORD 'it''s: a \\ b'");
});

afterAll(async () => {
  await server?.[Symbol.asyncDispose]();
});

const fileOf = (name: string): string => encodeURIComponent(path.join(server.folder, name));

/** Whether a session of this URL is encrypted; throws if there is none. */
async function isEncrypted(url: string, timeoutMs = 10_000): Promise<boolean> {
  const client = await connect({ url, name: "ledgerd test", timeoutMs });
  try {
    const { rows } = await client.query<{ ssl: boolean }>("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()");
    return rows[0]?.ssl === true;
  } finally {
    await client.end();
  }
}

const because = missing === undefined ? "" : ` (${missing})`;

describe.skipIf(missing !== undefined)(`a connection${because}`, () => {
  test.each([
    ["postgres", "", true],
    ["postgres", "sslmode=prefer", true],
    ["clear", "sslmode=prefer", false],
    ["postgres", "sslmode=disable", false],
    ["clear", "sslmode=disable", false],
    ["postgres", "sslmode=require", true],
    ["encrypted", "sslmode=require", true],
    ["postgres", "sslmode=require&sslrootcert=ca.crt", true],
    ["postgres", "sslmode=verify-ca&sslrootcert=ca.crt", true],
    ["postgres", "sslmode=verify-full&sslrootcert=ca.crt", true],
    ["clerk", "sslmode=verify-full&sslrootcert=ca.crt&sslcert=client.crt&sslkey=client.key", true],
  ])("%s connects with %j, encrypted: %s", async (login, parameters, expected) => {
    const url = server.url(login, "postgres", parameters.replaceAll(/=([\w-]+)\.(crt|key)/g, (_all, name, kind) => `=${fileOf(`${name}.${kind}`)}`));
    expect(await isEncrypted(url)).toBe(expected);
  });

  test("verify-ca is content with another name, verify-full isn't", async () => {
    const url = (mode: string) => server.url("postgres", "postgres", `sslmode=${mode}&sslrootcert=${fileOf("ca.crt")}`, "127.0.0.1");
    expect(await isEncrypted(url("verify-ca"))).toBe(true);
    await expect(isEncrypted(url("verify-full"))).rejects.toThrow(/Hostname\/IP does not match certificate's altnames: .*127\.0\.0\.1/);
  });

  test.each(["require", "verify-ca", "verify-full"])("%s refuses a server of another authority", async (mode) => {
    const url = server.url("postgres", "postgres", `sslmode=${mode}&sslrootcert=${fileOf("other-ca.crt")}`);
    await expect(isEncrypted(url)).rejects.toThrow(/certificate/);
  });

  test("the authorities that everybody knows don't know it", async () => {
    const url = server.url("postgres", "postgres", "sslmode=verify-full&sslrootcert=system");
    await expect(isEncrypted(url)).rejects.toThrow(/certificate/);
  });

  test("a login by certificate needs one", async () => {
    await expect(isEncrypted(server.url("clerk", "postgres", "sslmode=require"))).rejects.toThrow(/certificate/);
  });

  test("require doesn't fall back, whether the login or the server has no encryption", async () => {
    await expect(isEncrypted(server.url("clear", "postgres", "sslmode=require"))).rejects.toThrow(/pg_hba\.conf/);
    await using plain = await startStock([], { fsync: "off", ssl: "off" });
    await expect(isEncrypted(plain.url("postgres", "postgres", "sslmode=require"))).rejects.toThrow("does not support SSL");
    expect(await isEncrypted(plain.url("postgres", "postgres"))).toBe(false);
  });

  test("a socket is never encrypted, whatever the URL says", async () => {
    expect(await isEncrypted(`${server.socketUrl("postgres")}?sslmode=verify-full&sslrootcert=${fileOf("ca.crt")}`)).toBe(false);
  });

  test("a file that isn't there is named, and a key that others can read is refused", async () => {
    const url = (key: string) => server.url("clerk", "postgres", `sslmode=require&sslcert=${fileOf("client.crt")}&sslkey=${fileOf(key)}`);
    await expect(isEncrypted(url("nowhere.key"))).rejects.toThrow("nowhere.key");
    chmodSync(path.join(server.folder, "client.key"), 0o644);
    await expect(isEncrypted(url("client.key"))).rejects.toThrow(/client\.key can be read by others: chmod 600 it/);
    chmodSync(path.join(server.folder, "client.key"), 0o600);
  });
});

describe.skipIf(missing !== undefined)(`settings${because}`, () => {
  test("the URL's options are the session's, and the environment's variables for PostgreSQL's clients nobody's", async () => {
    const names = { PGOPTIONS: "-c work_mem=9MB", PGAPPNAME: "theirs", PGSSLMODE: "disable", PGPASSWORD: "theirs", PGUSER: "clear" };
    Object.assign(process.env, names);
    try {
      const client = await connect({ url: server.url("postgres", "postgres", "options=-c%20maintenance_work_mem%3D9MB"), name: "ledgerd test", timeoutMs: 10_000 });
      const { rows } = await client.query(
        `SELECT current_setting('work_mem') AS theirs, current_setting('maintenance_work_mem') AS ours, ssl, current_setting('application_name') AS name, session_user AS login
         FROM pg_stat_ssl WHERE pid = pg_backend_pid()`,
      );
      await client.end();
      expect(rows).toEqual([{ theirs: "4MB", ours: "9MB", ssl: true, name: "ledgerd test", login: "postgres" }]);
      await expect(isEncrypted(server.url("secret", "postgres"))).rejects.toThrow("the server asks for a password");
    } finally {
      for (const name of Object.keys(names)) Reflect.deleteProperty(process.env, name);
    }
  });
});

describe.skipIf(missing !== undefined)(`a password${because}`, () => {
  test("comes from the URL", async () => {
    const url = (password: string) => server.url(`secret:${encodeURIComponent(password)}`, "postgres");
    expect(await isEncrypted(url("it's: a \\ b"))).toBe(true);
    await expect(isEncrypted(url("wrong"))).rejects.toThrow('password authentication failed for user "secret"');
  });

  test("comes from a file, by the first line that fits, where only its owner can read it", async () => {
    const file = path.join(server.folder, "passwords");
    const lines = ["# of the tests", "elsewhere:*:*:secret:wrong", "*:1:*:secret:wrong", `localhost:${server.port}:*:secret:it's\\: a \\\\ b`, "*:*:*:*:wrong"];
    writeFileSync(file, `${lines.join("\n")}\n`, { mode: 0o600 });
    const url = server.url("secret", "postgres", `passfile=${encodeURIComponent(file)}`);
    expect(await isEncrypted(url)).toBe(true);
    chmodSync(file, 0o640);
    await expect(isEncrypted(url)).rejects.toThrow(/passwords can be read by others: chmod 600 it/);
    expect(await isEncrypted(server.url("postgres", "postgres", `passfile=${encodeURIComponent(file)}`)), "not read where it isn't asked for").toBe(true);
  });

  test("that is nowhere is told", async () => {
    const file = path.join(server.folder, "no-passwords");
    writeFileSync(file, "", { mode: 0o600 });
    const url = server.url("secret", "postgres", `passfile=${encodeURIComponent(file)}`);
    await expect(isEncrypted(url)).rejects.toThrow("the server asks for a password of secret, and there is none for it");
  });
});

describe.skipIf(missing !== undefined)(`of several hosts${because}`, () => {
  test("the first one is taken that answers", async () => {
    const [dead, also] = [await freePort(), await freePort()];
    const several = `postgres://postgres@127.0.0.1:${dead},localhost:${server.port},127.0.0.1:${also}/postgres`;
    expect(await isEncrypted(several)).toBe(true);
    await expect(isEncrypted(`postgres://postgres@127.0.0.1:${dead},127.0.0.1:${also}/postgres`)).rejects.toThrow(
      `none of the hosts will do: connect ECONNREFUSED 127.0.0.1:${dead}, connect ECONNREFUSED 127.0.0.1:${also}`,
    );
  });

  test("the first one is taken that takes writes, unless any will do", async () => {
    const [writing, reading] = [await server.createDatabase(), await server.createDatabase()];
    await server.query(`ALTER DATABASE ${reading} SET default_transaction_read_only = on`);
    const url = (database: string, more = "") => `postgres://postgres@localhost:${server.port},127.0.0.1:${server.port}/${database}${more}`;
    expect(await isEncrypted(url(writing))).toBe(true);
    await expect(isEncrypted(url(reading))).rejects.toThrow(/takes no writes: default_transaction_read_only is on, .* is on$/);
    expect(await isEncrypted(url(reading, "?target_session_attrs=any"))).toBe(true);
    await expect(isEncrypted(server.url("postgres", reading, "target_session_attrs=read-write"))).rejects.toThrow("takes no writes");
  });
});
