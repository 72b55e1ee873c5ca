// More connections than a service has descriptors for: those that don't fit are closed at once, and when they have
// gone, everything is back, by the same processes.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { expect, test } from "vitest";
import { createDatabase } from "../harness/database.ts";
import { MAIN } from "../harness/instance.ts";
import { withLogins } from "../harness/logins.ts";
import { clientsOf } from "../harness/service.ts";
import { until } from "../harness/until.ts";
import { enter, leave, many } from "./crowd.ts";
import { descriptorsOf, processesOf } from "./siege.ts";

const DESCRIPTORS = 300;
const COMERS = 700;

/** Starts a service whose processes may have so many descriptors. */
async function startPoor(databaseUrl: string, workers: number, opened: AsyncDisposableStack) {
  const env = withLogins({
    PATH: process.env["PATH"] ?? "",
    DATABASE_URL: databaseUrl,
    LEDGERD_DURABILITY: "relaxed",
    LEDGERD_GRPC_ADDR: "127.0.0.1:0",
    LEDGERD_HTTP_ADDR: "127.0.0.1:0",
    LEDGERD_WORKERS: `${workers}`,
    LEDGERD_POOL_MIN: "4",
    LEDGERD_POOL_MAX: "4",
  });
  const script = `ulimit -n ${DESCRIPTORS}; exec "$0" "$1"`;
  const child = spawn("sh", ["-c", script, process.execPath, MAIN], { env, stdio: ["ignore", "pipe", "pipe"] });
  const ended = once(child, "exit");
  opened.defer(async () => {
    child.kill("SIGKILL");
    await ended;
  });
  const printed = { stdout: "", stderr: "" };
  child.stdout.setEncoding("utf8").on("data", (text: string) => (printed.stdout += text));
  child.stderr.setEncoding("utf8").on("data", (text: string) => (printed.stderr += text));
  await until(() => printed.stdout.includes("\n") || child.exitCode !== null);
  const [, grpc = "", http = ""] = /gRPC on (\S+) and HTTP on (\S+);/.exec(printed.stdout) ?? [];
  return { process: child, printed, grpc, http };
}

test.each([1, 2])("with 300 descriptors for each process, 700 connections harm nobody; with workers: %s", async (workers) => {
  await using database = await createDatabase();
  await using opened = new AsyncDisposableStack();
  const service = await startPoor(database.url, workers, opened);
  const good = clientsOf(service.grpc);
  const call = async (): Promise<unknown> => good.ledger.getBalance({ userId: 1n });
  for (let count = 0; count < 50; count++) await call();
  const processes = processesOf(service);
  const before = processes.map(descriptorsOf);

  const comers = await many(COMERS, 100, () => enter(service.grpc));
  const entered = comers.filter((connection) => connection !== undefined);
  expect(entered.length, "some are in").toBeGreaterThan(50 * workers);
  expect(entered.length, "and leave descriptors for others").toBeLessThan((DESCRIPTORS / 2) * workers);
  await call();
  expect((await fetch(`http://${service.http}/readyz`)).status, "the other door has places of its own").toBe(200);
  const refused = (): number =>
    service.printed.stderr
      .split("\n")
      .filter((line) => line.includes("connections refused"))
      .reduce((sum, line) => sum + (JSON.parse(line) as { refused: number }).refused, 0);
  expect(refused()).toBeGreaterThan(0);
  expect(service.printed.stderr).toContain('"setting":"LEDGERD_GRPC_ADDR"');

  leave(entered);
  const isLetIn = async (): Promise<boolean> => {
    const one = await enter(service.grpc);
    leave([one]);
    return one !== undefined;
  };
  await until(async () => !(await many(10, 10, isLetIn)).includes(false));
  await call();
  // /readyz was asked for by a connection that is kept.
  await until(() => processes.every((pid, index) => descriptorsOf(pid) <= (before[index] ?? 0) + 1));
  expect(processesOf(service)).toEqual(processes);
});
