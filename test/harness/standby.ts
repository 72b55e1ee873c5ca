// Two servers as an operator runs them for failovers: a primary, and a standby that replays what the primary writes.

import { execFileSync } from "node:child_process";
import { chmodSync, chownSync, existsSync, mkdtempSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { startPostgres, type OwnPostgres } from "./postgres.ts";
import { until } from "./until.ts";

/** Both of them. */
export interface Pair {
  readonly primary: OwnPostgres;
  readonly standby: OwnPostgres;
  /** Returns once the standby has replayed all that the primary has written. */
  readonly caughtUp: () => Promise<void>;
  /** Stops the primary, and makes a primary of the standby, which may have been stopped before. */
  readonly failOver: () => Promise<void>;
  readonly [Symbol.asyncDispose]: () => Promise<void>;
}

/** As which the standby is known to its primary. */
export const STANDBY = "standby";

/** Starts both. */
export async function startPair(): Promise<Pair> {
  await using opened = new AsyncDisposableStack();
  const primary = opened.use(await startPostgres({ hba_file: rulesFor(opened) }));
  // A copy of a stopped cluster needs no backup.
  await primary.stop();
  const socket = path.join(primary.folder, "socket");
  const settings = {
    primary_conninfo: `host=${socket} user=postgres application_name=${STANDBY}`,
    wal_retrieve_retry_interval: "50ms",
  };
  const standby = opened.use(await startPostgres(settings, (folder) => copyCluster(primary.folder, folder)));
  await primary.start();

  const caughtUp = async (): Promise<void> => {
    const [end] = await primary.query<{ lsn: string }>("SELECT pg_current_wal_flush_lsn()::text AS lsn");
    const replayed = "SELECT pg_last_wal_replay_lsn() >= $1::pg_lsn AS all";
    await until(async () => (await standby.query<{ all: boolean }>(replayed, [end?.lsn]))[0]?.all === true);
  };
  const failOver = async (): Promise<void> => {
    await primary.stop();
    await standby.stop();
    await standby.start();
    await standby.query("SELECT pg_promote()");
  };
  await caughtUp();
  const running = opened.move();
  return { primary, standby, caughtUp, failOver, [Symbol.asyncDispose]: () => running.disposeAsync() };
}

/** A file of rules by which anybody may log in: the standby does, as the user that servers run as. */
function rulesFor(opened: AsyncDisposableStack): string {
  const folder = mkdtempSync(path.join(tmpdir(), "ledgerd-rules-"));
  opened.defer(() => rmSync(folder, { recursive: true }));
  chmodSync(folder, 0o755);
  const file = path.join(folder, "pg_hba.conf");
  writeFileSync(file, "local all all trust\nlocal replication all trust\n");
  return file;
}

/**
 * Copies a stopped server's cluster with its owner, to be run as a standby; the programs, too, where they lie beside
 * it.
 */
function copyCluster(from: string, to: string): void {
  const data = path.join(to, "data");
  execFileSync("cp", ["-a", path.join(from, "data"), data]);
  const signal = path.join(data, "standby.signal");
  writeFileSync(signal, "");
  const { uid, gid } = statSync(data);
  chownSync(signal, uid, gid);
  if (existsSync(path.join(from, "programs"))) symlinkSync(path.join(from, "programs"), path.join(to, "programs"));
}
