// Calls with more headers than the service said that it takes.

import type { OutgoingHttpHeaders } from "node:http2";
import type { Attack } from "../attack.ts";
import { begin, closeSessions, flood, openSession, statusOf } from "../calls.ts";

const CALLS = 20_000;
const AT_ONCE = 200;

const bombs: readonly OutgoingHttpHeaders[] = [
  { "x-large": "x".repeat(17_000) },
  Object.fromEntries(Array.from({ length: 200 }, (_, index) => [`x-${index}`, "1"])),
];

export const attack: Attack = {
  title: "sends calls with too many headers",
  run: async ({ grpcAddress }) => {
    for (const bomb of bombs) {
      const session = await openSession(grpcAddress);
      await flood(session, CALLS, AT_ONCE, () => statusOf(begin(session, "/ledger.v1.LedgerService/GetBalance", bomb)));
      if (!session.isOver()) throw new Error(`the connection took ${CALLS} of them`);
      closeSessions([session]);
    }
  },
};
