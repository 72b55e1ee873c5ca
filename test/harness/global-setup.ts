// One PostgreSQL for all test files that don't break theirs, with a migrated database to clone.

import { chmodSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import pg from "pg";
import type { TestProject } from "vitest/node";
import { startEmbedded } from "../../src/postgres/embedded.ts";
import { migrate } from "../../src/postgres/migrate.ts";

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

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const folder = mkdtempSync(path.join(tmpdir(), "ledgerd-test-"));
  chmodSync(folder, 0o755);
  const server = await startEmbedded({ folder, settings, log: (message) => process.stderr.write(`${message}\n`) });
  const stop = async (): Promise<void> => {
    await server.stop();
    rmSync(folder, { recursive: true, force: true });
  };
  try {
    await migrate(server.url);
    const admin = new pg.Client({ connectionString: server.url.replace(/ledgerd$/, "postgres") });
    await admin.connect();
    // A template that takes no connections is never "being accessed by other users" when it is copied.
    await admin.query("ALTER DATABASE ledgerd IS_TEMPLATE true ALLOW_CONNECTIONS false");
    await admin.end();
    project.provide("templateUrl", server.url);
    return stop;
  } catch (error) {
    await stop();
    throw error;
  }
}
