// A PostgreSQL of a test's own, to be stopped, restarted and broken: durable, unlike the one that the other tests share.

import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import type pg from "pg";
import { startEmbedded, type EmbeddedPostgres } from "../../src/postgres/embedded/embedded.ts";
import { migrate } from "../../src/postgres/schema/migrate.ts";
import { connectTo } from "./database.ts";
import { until } from "./until.ts";

/** A server that can be broken. */
export interface OwnPostgres {
  /** Of its migrated database, as a superuser; the same after each start. */
  readonly url: string;
  /** Where everything of it lies: its cluster in `data`, the way to its socket in `socket`. */
  readonly folder: string;
  /** Runs a statement in a session of its own, and answers its rows. */
  readonly query: <R extends pg.QueryResultRow>(text: string, values?: readonly unknown[]) => Promise<R[]>;
  /** Stops it, until `start`. */
  readonly stop: () => Promise<void>;
  readonly start: () => Promise<void>;
  /** Ends all sessions and the server as `pg_ctl restart` would, and returns when it is back. */
  readonly restart: (mode: "fast" | "immediate") => Promise<void>;
  readonly [Symbol.asyncDispose]: () => Promise<void>;
}

const signals = { fast: "SIGINT", immediate: "SIGQUIT" } as const;

/** Starts one, with these settings beside the defaults; `prepare` may put a cluster into its folder first. */
export async function startPostgres(
  settings: Readonly<Record<string, string>> = {},
  prepare: (folder: string) => void = () => undefined,
): Promise<OwnPostgres> {
  const folder = mkdtempSync(path.join(tmpdir(), "ledgerd-own-"));
  chmodSync(folder, 0o755);
  prepare(folder);
  // Each start has another folder for its socket; this link always leads to the present one.
  const link = path.join(folder, "socket");
  let server: EmbeddedPostgres | undefined;

  const start = async (): Promise<void> => {
    server = await startEmbedded({ folder, settings, log: () => undefined });
    rmSync(link, { force: true });
    symlinkSync(decodeURIComponent(new URL(server.url).hostname), link);
  };
  const stop = async (): Promise<void> => {
    await server?.stop();
    server = undefined;
  };
  await start();
  const url = `postgres://postgres@${encodeURIComponent(link)}:5432/ledgerd`;
  await migrate(url);

  const query = async <R extends pg.QueryResultRow>(text: string, values: readonly unknown[] = []): Promise<R[]> => {
    const client = await connectTo(url);
    try {
      return (await client.query<R>(text, [...values])).rows;
    } finally {
      await client.end();
    }
  };
  const restart = async (mode: "fast" | "immediate"): Promise<void> => {
    const file = path.join(folder, "data/postmaster.pid");
    const before = Number.parseInt(readFileSync(file, "utf8"), 10);
    process.kill(before, signals[mode]);
    // Nobody told the embedded server to stop, so it comes back by itself.
    await until(() => existsSync(file) && Number.parseInt(readFileSync(file, "utf8"), 10) !== before);
    await until(() => query("SELECT").then(() => true, () => false));
  };
  const dispose = async (): Promise<void> => {
    await stop();
    rmSync(folder, { recursive: true, force: true });
  };
  return { url, folder, query, stop, start, restart, [Symbol.asyncDispose]: dispose };
}
