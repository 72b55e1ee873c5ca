// The two ports of a service, and how many callers it lets in at each.

import type { Logger } from "pino";
import type { Config } from "../config.ts";
import { StartupProblem } from "../domain/problem.ts";
import { descriptorLimit } from "../servers/descriptors.ts";
import type { Listen, Listener } from "../servers/listener.ts";
import type { Excess } from "../servers/peers.ts";
import type { Address } from "../settings/environment.ts";
import type { Host } from "./host.ts";
import { connectionsOf } from "./connections.ts";

/** Of a process: some 30 that are always open, and a backup, files, connections that replace others. */
const OTHER_DESCRIPTORS = 64;
const TOO_MANY_CONNECTIONS =
  "connections refused: the limit is LEDGERD_CONNECTION_LIMIT, and at most half of what ulimit -n leaves";
const COUNTED_PAUSE_MS = 10_000;

/** By which a port is set. */
export type PortSetting = "LEDGERD_GRPC_ADDR" | "LEDGERD_HTTP_ADDR";

/**
 * Takes both ports before the database is touched: a start on a port that is taken changes nothing. Who comes while
 * the service starts waits, and is let in when it takes calls, or turned away if it never does.
 */
export async function takePorts(config: Config, { grpc, http }: Host, log: Logger, opened: AsyncDisposableStack) {
  const most = callersOf(config);
  const take = async (setting: PortSetting, address: Address, listen: Listen): Promise<Listener> => {
    const refused = counted((count) => log.warn({ setting, refused: count, limit: most }, TOO_MANY_CONNECTIONS));
    return opened.adopt(await placed(setting, listen(address, { most, refused })), async ({ cut, close }) => {
      cut();
      await close();
    });
  };
  return {
    grpc: await take("LEDGERD_GRPC_ADDR", config.servers.grpc, grpc),
    http: await take("LEDGERD_HTTP_ADDR", config.servers.http, http),
  };
}

/** Says how many connections were ended for which excess. */
export function connectionsEnded(log: Logger): (why: Excess) => void {
  const says = new Map<Excess, () => void>();
  return (why) => {
    const say = says.get(why) ?? counted((count) => log.warn({ why, ended: count }, "connections ended: they took too much"));
    says.set(why, say);
    say();
  };
}

/** Says how often something has happened: at once, and then no more often than each few seconds. */
function counted(say: (count: number) => void): () => void {
  let count = 0;
  let pause: NodeJS.Timeout | undefined;
  const sayIfAny = (): void => {
    pause = undefined;
    if (count === 0) return;
    say(count);
    count = 0;
    pause = setTimeout(sayIfAny, COUNTED_PAUSE_MS).unref();
  };
  return () => {
    count += 1;
    if (pause === undefined) sayIfAny();
  };
}

/** What opens where a setting says; if it can't listen there, the error names the setting. */
export async function placed<T>(setting: PortSetting, opening: Promise<T>): Promise<T> {
  try {
    return await opening;
  } catch (cause) {
    if (!(cause instanceof Error && "syscall" in cause)) throw cause;
    throw new StartupProblem(`${setting} must be a free address of this machine, such as 127.0.0.1:0 for any free port: ${cause.message}`, { cause });
  }
}

/**
 * How many callers a process takes at most at each of its two servers: each has one half of the descriptors that are
 * left, so that neither starves the other.
 */
export function callersOf(config: Config): number {
  const left = descriptorLimit() - connectionsOf(config) - OTHER_DESCRIPTORS;
  return Math.max(1, Math.min(config.servers.connectionLimit, Math.floor(left / 2)));
}
