// Thousands of reads on one connection of the web port, none of whose answers is read.

import { once } from "node:events";
import { connect } from "node:net";
import type { Attack } from "../attack.ts";

const REQUESTS = 20_000;
const AT_ONCE = 500;
const READ =
  "POST /ledger.v1.LedgerService/GetBalance HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 15\r\n\r\n" +
  '{"user_id": 77}';

export const attack: Attack = {
  title: "sends 20,000 reads on one connection of the web port, and reads no answer",
  run: async ({ httpAddress }) => {
    const { hostname, port } = new URL(`http://${httpAddress}`);
    const connection = connect(Number(port), hostname);
    connection.on("error", () => undefined);
    await once(connection, "connect");
    for (let sent = 0; sent < REQUESTS && !connection.destroyed; sent += AT_ONCE) {
      const stuck = Promise.withResolvers<boolean>();
      const timer = setTimeout(() => stuck.resolve(false), 2000);
      connection.write(READ.repeat(AT_ONCE), (error) => stuck.resolve(!error));
      const goesOn = await stuck.promise;
      clearTimeout(timer);
      if (!goesOn) break;
    }
    connection.destroy();
  },
};
