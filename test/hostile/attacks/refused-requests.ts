// Requests at the web port for what isn't there, one behind the other without waiting for answers.

import { once } from "node:events";
import { connect } from "node:net";
import type { Attack } from "../attack.ts";

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
      const connection = connect(Number(port), hostname);
      connection.on("error", () => undefined).resume();
      const cut = new Promise<true>((resolve) => connection.once("close", () => resolve(true)));
      await once(connection, "connect");
      for (let sent = 0; sent < REQUESTS && !connection.destroyed; sent += AT_ONCE) {
        await new Promise((resolve) => connection.write(wrong.repeat(AT_ONCE), resolve));
      }
      const isCut = connection.destroyed || (await Promise.race([cut, idle()]));
      connection.destroy();
      if (!isCut) throw new Error(`the connection took ${REQUESTS} of them`);
    }
  },
};

/** All was sent, and some seconds later the connection is still there. */
function idle(): Promise<false> {
  return new Promise((resolve) => setTimeout(() => resolve(false), 5000).unref());
}
