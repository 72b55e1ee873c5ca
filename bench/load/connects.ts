// Connects again and again, each time until the server's first bytes have come, and leaves; beside connections that say
// nothing, if so wanted.

import { connect, type Socket } from "node:net";
import { timed, type Load } from "./meter.ts";

/** How often to connect, and what else is open meanwhile. */
export interface ConnectsTask {
  readonly address: string;
  readonly connects: number;
  readonly idle: number;
}

const AT_ONCE = 200;

/** Connects. An operation is a connect that was answered; beside the usual: `slowest_ms`. */
export async function run({ address, connects, idle }: ConnectsTask): Promise<Load> {
  const staying: Socket[] = [];
  await repeat(idle, async () => void staying.push(await enter(address)));
  let slowest = 0;
  const load = await timed(async () => {
    await repeat(connects, async () => {
      const since = performance.now();
      // A reset leaves nothing behind: a port that waits for late packets can't be used again for a minute.
      (await enter(address)).resetAndDestroy();
      slowest = Math.max(slowest, performance.now() - since);
    });
    return connects;
  });
  for (const connection of staying) connection.resetAndDestroy();
  return { ...load, further: { slowest_ms: slowest } };
}

async function repeat(count: number, once: () => Promise<void>): Promise<void> {
  let begun = 0;
  const next = async (): Promise<void> => {
    while (begun++ < count) await once();
  };
  await Promise.all(Array.from({ length: AT_ONCE }, next));
}

function enter(address: string): Promise<Socket> {
  const { hostname, port } = new URL(`http://${address}`);
  const connection = connect(Number(port), hostname);
  return new Promise((resolve, reject) => {
    connection.once("data", () => resolve(connection));
    connection.on("error", reject);
    connection.once("close", () => reject(new Error("a connection was closed before anything had come")));
  });
}
