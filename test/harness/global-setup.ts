// One PostgreSQL for all test files that don't break theirs, with a migrated database to clone: the embedded one, or that of
// the programs which LEDGERD_TEST_POSTGRES names, as its packager made it.

import { chmodSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import pg from "pg";
import type { TestProject } from "vitest/node";
import { startEmbedded } from "../../src/postgres/embedded/embedded.ts";
import { migrate } from "../../src/postgres/schema/migrate.ts";
import { isStock, startStock } from "./stock-server.ts";

declare module "vitest" {
  export interface ProvidedContext {
    /** Of the server's database `ledgerd`, which is migrated and takes no connections: a template. */
    templateUrl: string;
  }
}

/** Fast rather than durable: what is tested for durability starts a server of its own. */
const settings = {
  fsync: "off",
  synchronous_commit: "off",
  full_page_writes: "off",
  max_connections: "300",
  shared_preload_libraries: "pg_stat_statements",
  "pg_stat_statements.track_utility": "off",
};

interface Started {
  readonly url: string;
  readonly stop: () => Promise<void>;
}

async function startOurs(): Promise<Started> {
  const folder = mkdtempSync(path.join(tmpdir(), "ledgerd-test-"));
  chmodSync(folder, 0o755);
  const server = await startEmbedded({ folder, settings, log: (message) => process.stderr.write(`${message}\n`) });
  const stop = async (): Promise<void> => {
    await server.stop();
    rmSync(folder, { recursive: true, force: true });
  };
  return { url: server.url, stop };
}

async function startStockServer(): Promise<Started> {
  const server = await startStock([], settings);
  await server.query("CREATE DATABASE ledgerd");
  return { url: server.socketUrl("ledgerd"), stop: () => server[Symbol.asyncDispose]() };
}

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const { url, stop } = await (isStock ? startStockServer() : startOurs());
  try {
    await migrate(url);
    const admin = new pg.Client({ connectionString: url.replace(/ledgerd$/, "postgres") });
    await admin.connect();
    const { rows } = await admin.query<{ version: string }>("SELECT current_setting('server_version') AS version");
    process.stdout.write(`database: PostgreSQL ${rows[0]?.version}, ${isStock ? "as its package has it" : "embedded"}\n`);
    // A template that takes no connections is never "being accessed by other users" when it is copied.
    await admin.query("ALTER DATABASE ledgerd IS_TEMPLATE true ALLOW_CONNECTIONS false");
    await admin.end();
    project.provide("templateUrl", url);
    return stop;
  } catch (error) {
    await stop();
    throw error;
  }
}
