// A database of its own for a test file: a copy of the migrated template.

import { randomBytes } from "node:crypto";
import pg from "pg";
import { inject } from "vitest";
import { hexOf } from "../../src/postgres/rows/rows.ts";

/** A database, and a session in it as a superuser. */
export interface TestDatabase {
  readonly url: string;
  /** Runs a statement and answers its rows. */
  readonly query: <R extends pg.QueryResultRow>(text: string, values?: readonly unknown[]) => Promise<R[]>;
  /** Opens another session. */
  readonly connect: () => Promise<pg.Client>;
  readonly [Symbol.asyncDispose]: () => Promise<void>;
}

/** Makes a database; `empty` gives one that isn't migrated. */
export async function createDatabase(kind: "migrated" | "empty" = "migrated"): Promise<TestDatabase> {
  const templateUrl = inject("templateUrl");
  const name = `test_${randomBytes(6).toString("hex")}`;
  const admin = await connectTo(templateUrl.replace(/ledgerd$/, "postgres"));
  await admin.query(`CREATE DATABASE ${name} TEMPLATE ${kind === "migrated" ? "ledgerd" : "template0"}`);
  const url = templateUrl.replace(/ledgerd$/, name);
  const client = await connectTo(url);
  return {
    url,
    query: async <R extends pg.QueryResultRow>(text: string, values: readonly unknown[] = []) => (await client.query<R>(text, [...values])).rows,
    connect: () => connectTo(url),
    [Symbol.asyncDispose]: async () => {
      await client.end();
      await admin.query(`DROP DATABASE ${name} WITH (FORCE)`);
      await admin.end();
    },
  };
}

/** Opens a session. BIGINT comes as bigint, BYTEA as hexadecimal digits. */
export async function connectTo(url: string): Promise<pg.Client> {
  const { INT8, BYTEA } = pg.types.builtins;
  const parsers = new Map<number, (text: string) => unknown>([[INT8, BigInt], [BYTEA, hexOf]]);
  const types = { getTypeParser: (oid: number) => parsers.get(oid) ?? pg.types.getTypeParser(oid) };
  const client = new pg.Client({ connectionString: url, types });
  // A server that is stopped on purpose cuts sessions off: whoever uses one next is told.
  client.on("error", () => undefined);
  await client.connect();
  return client;
}
