// An instance of ledgerd as an operator runs it: an OS process of its own, with pools of its own.

import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import path from "node:path";
import { withLogins } from "./logins.ts";
import { CALL_DEADLINE } from "./patience.ts";
import { clientsOf, type Clients } from "./service.ts";

/** A process that serves. */
export interface Instance extends Clients {
  readonly grpcAddress: string;
  readonly httpAddress: string;
  readonly process: ChildProcess;
  /** Sends a signal, and returns the exit code when it has ended; null where the signal ended it. */
  readonly end: (signal: "SIGTERM" | "SIGINT" | "SIGKILL") => Promise<number | null>;
  readonly [Symbol.asyncDispose]: () => Promise<void>;
}

/** The command line of this package, for the present Node. */
export const MAIN = path.resolve(import.meta.dirname, "../../src/main.ts");

/** Starts `ledgerd serve` on a database; further settings by their names. Throws what it printed if it doesn't serve. */
export async function startInstance(databaseUrl: string, settings: Readonly<Record<string, string>> = {}): Promise<Instance> {
  const env = withLogins({
    PATH: process.env["PATH"] ?? "",
    DATABASE_URL: databaseUrl,
    LEDGERD_GRPC_ADDR: "127.0.0.1:0",
    LEDGERD_HTTP_ADDR: "127.0.0.1:0",
    LEDGERD_WORKERS: "1",
    LEDGERD_DURABILITY: "relaxed",
    LEDGERD_DEFAULT_DEADLINE: CALL_DEADLINE,
    LEDGERD_MAX_DEADLINE: CALL_DEADLINE,
    LEDGERD_LOG_LEVEL: "error",
    ...settings,
  });
  const child = spawn(process.execPath, [MAIN], { env, stdio: ["ignore", "pipe", "pipe"] });
  const ended = once(child, "exit");
  let printed = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => (printed += text));
  const addresses = await new Promise<{ grpc: string; http: string }>((resolve, reject) => {
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      printed += text;
      const [, grpc, http] = /gRPC on (\S+) and HTTP on (\S+);/.exec(printed) ?? [];
      if (grpc !== undefined && http !== undefined) resolve({ grpc, http });
    });
    child.once("exit", (code) => reject(new Error(`ledgerd ended with ${code}:\n${printed}`)));
  });
  const end = async (signal: "SIGTERM" | "SIGINT" | "SIGKILL"): Promise<number | null> => {
    child.kill(signal);
    await ended;
    return child.exitCode;
  };
  return {
    ...clientsOf(addresses.grpc),
    grpcAddress: addresses.grpc,
    httpAddress: addresses.http,
    process: child,
    end,
    [Symbol.asyncDispose]: async () => {
      await end("SIGKILL");
    },
  };
}
