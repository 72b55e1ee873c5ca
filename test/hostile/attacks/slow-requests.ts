// Requests that begin and don't end, at both ports.

import { once } from "node:events";
import { connect, type Socket } from "node:net";
import type { Attack } from "../attack.ts";
import { begin, closeSessions, openSession, statusOf, type Session } from "../calls.ts";

const CONNECTIONS = 5;
const CALLS = 200;
const WEB = 50;
/** Of a batch: its prefix announces 2 MB, and 250 kB of it come. */
const ANNOUNCED = 2_000_000;
const SENT = 250_000;

const HEAD = [
  "POST /ledger.v1.LedgerService/BatchWrite HTTP/1.1",
  "host: localhost",
  "content-type: application/proto",
  `content-length: ${ANNOUNCED}`,
];

export const attack: Attack = {
  title: "sends requests of 2 MB that don't end, on several connections",
  run: async ({ grpcAddress, httpAddress }) => {
    const sessions = await Promise.all(Array.from({ length: CONNECTIONS }, () => openSession(grpcAddress)));
    const body = Buffer.alloc(5 + SENT);
    body.writeUInt32BE(ANNOUNCED, 1);
    const web = await Promise.all(Array.from({ length: WEB }, () => beginAtWeb(httpAddress, body)));
    await Promise.all(sessions.map((session) => firstRefusal(session, body)));
    for (const connection of web) connection.destroy();
    closeSessions(sessions);
  },
};

async function beginAtWeb(address: string, body: Buffer): Promise<Socket> {
  const { hostname, port } = new URL(`http://${address}`);
  const connection = connect(Number(port), hostname);
  connection.on("error", () => undefined).resume();
  await once(connection, "connect");
  connection.write(`${HEAD.join("\r\n")}\r\n\r\n`);
  connection.write(body);
  return connection;
}

/** Begins so many that some must be refused, by us or by Node; the others wait for their end, for a minute. */
function firstRefusal(session: Session, body: Buffer): Promise<void> {
  return new Promise((resolve) => {
    session.http2.once("close", resolve);
    const send = async (): Promise<void> => {
      const call = begin(session, "/ledger.v1.LedgerService/BatchWrite");
      const status = statusOf(call);
      call?.write(body);
      await status;
      resolve();
    };
    for (let count = 0; count < CALLS; count++) void send();
  });
}
