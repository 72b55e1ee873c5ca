// Calls at the gRPC port of what isn't there, by the wrong method, of the wrong type.

import type { OutgoingHttpHeaders } from "node:http2";
import type { Attack } from "../attack.ts";
import { begin, closeSessions, flood, openSession, Refusals, statusOf } from "../calls.ts";

const CALLS = 20_000;
const AT_ONCE = 200;

const wrongs: readonly (readonly [path: string, headers: OutgoingHttpHeaders])[] = [
  ["/ledger.v1.LedgerService/Steal", {}],
  ["/ledger.v1.LedgerService/GetBalance", { ":method": "PUT" }],
  ["/ledger.v1.LedgerService/GetBalance", { "content-type": "text/plain" }],
];

export const attack: Attack = {
  title: "calls what isn't there, again and again",
  run: async ({ grpcAddress }) => {
    for (const [path, headers] of wrongs) {
      const session = await openSession(grpcAddress);
      const refusals = new Refusals();
      await flood(session, CALLS, AT_ONCE, async () => {
        const call = begin(session, path, headers);
        call?.end();
        await statusOf(call);
        refusals.add(1);
      });
      closeSessions([session]);
    }
  },
};
