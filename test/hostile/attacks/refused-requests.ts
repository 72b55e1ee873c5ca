// Requests at the web port for what isn't there, one behind the other without waiting for answers.

import { once } from "node:events";
import { connect, type Socket } from "node:net";
import type { Attack } from "../attack.ts";
import { Refusals } from "../calls.ts";

const REQUESTS = 20_000;
const AT_ONCE = 200;

const wrongs = [
  "GET /favicon.ico HTTP/1.1\r\nhost: localhost\r\n\r\n",
  "GET /readyz HTTP/1.1\r\nhost: evil.example\r\n\r\n",
  "PUT /ledger.v1.LedgerService/GetBalance HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n",
  "POST /ledger.v1.LedgerService/GetBalance HTTP/1.1\r\nhost: localhost\r\ncontent-type: text/plain\r\ncontent-length: 0\r\n\r\n",
];

export const attack: Attack = {
  title: "asks the web port for what isn't there, again and again",
  run: async ({ httpAddress }) => {
    const { hostname, port } = new URL(`http://${httpAddress}`);
    for (const wrong of wrongs) {
      await send(wrong, connect(Number(port), hostname));
    }
  },
};

/** Sends all, until the connection is ended or all are answered. */
async function send(wrong: string, connection: Socket): Promise<void> {
  const refusals = new Refusals();
  const over = Promise.withResolvers<undefined>();
  let answered = 0;
  connection.on("error", () => undefined).once("close", () => over.resolve(undefined));
  connection.setEncoding("latin1").on("data", (text: string) => {
    const more = text.split("HTTP/1.1 4").length - 1;
    answered += more;
    try {
      refusals.add(more);
    } catch (error) {
      over.reject(error);
    }
    if (answered >= REQUESTS) over.resolve(undefined);
  });
  const sending = async (): Promise<void> => {
    await once(connection, "connect");
    for (let sent = 0; sent < REQUESTS && !connection.destroyed; sent += AT_ONCE) {
      await new Promise((resolve) => connection.write(wrong.repeat(AT_ONCE), resolve));
    }
  };
  await Promise.all([sending(), over.promise]);
  connection.destroy();
}
