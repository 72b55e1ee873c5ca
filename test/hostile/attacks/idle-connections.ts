// Opens connections and says nothing, at both doors.

import { connect } from "node:net";
import { once } from "node:events";
import type { Attack } from "../attack.ts";
import { enter, leave, many } from "../crowd.ts";

const GRPC = 1500;
const WEB = 500;
const AT_ONCE = 100;

export const attack: Attack = {
  title: "opens two thousand connections and says nothing on them",
  run: async ({ grpcAddress, httpAddress }) => {
    const web = await many(WEB, AT_ONCE, async () => {
      const { hostname, port } = new URL(`http://${httpAddress}`);
      const connection = connect(Number(port), hostname);
      await once(connection, "connect");
      return connection;
    });
    const grpc = await many(GRPC, AT_ONCE, () => enter(grpcAddress));
    const status = (await fetch(`http://${httpAddress}/readyz`, { headers: { connection: "close" } })).status;
    leave([...web, ...grpc]);
    const refused = grpc.filter((connection) => connection === undefined).length;
    if (refused > 0) throw new Error(`${refused} of ${GRPC} were not let in`);
    if (status !== 200) throw new Error(`/readyz answered ${status}`);
  },
};
