// connects: a storm of new connections, alone and beside many that say nothing, against a bare server in one process
// that sends a few bytes to whoever comes.

import { once } from "node:events";
import { createServer, type AddressInfo } from "node:net";
import type { Window } from "../load/meter.ts";
import { rateRatio, type Workload } from "../workload.ts";

const CONNECTS = 20_000;
const IDLE = 10_000;
/** As long as what HTTP/2 begins with. */
const GREETING = Buffer.alloc(27);

export const connects: Workload = {
  id: "connects",
  what: `${CONNECTS} connects, 200 at a time, until the first bytes have come; and with ${IDLE} more that are idle`,
  unit: "connects",
  family: "connects",
  prepare: async (stage) => {
    const settings = { LEDGERD_CONNECTION_LIMIT: "20000" };
    const ledger = await stage.openLedger(await stage.ledgerDatabase("connects"), settings);
    const bare = createServer((connection) => connection.on("error", () => undefined).write(GREETING)).unref();
    bare.listen(0, "127.0.0.1", 4096);
    await once(bare, "listening");
    const bareAddress = `127.0.0.1:${(bare.address() as AddressInfo).port}`;
    const storm = (address: string, idle: number) => (window: Window) =>
      stage.caller.perform("connects", { address, connects: CONNECTS, idle }, window);
    return {
      contenders: {
        ledgerd: { title: "ledgerd", ledger, measure: storm(ledger.address, 0) },
        idle: { title: `ledgerd, beside ${IDLE} that are idle`, ledger, measure: storm(ledger.address, IDLE) },
        bare: { title: "a bare net.Server in Node", measure: storm(bareAddress, 0) },
      },
      ratios: { ratio: rateRatio("ledgerd", "bare"), ratio_idle: rateRatio("idle", "bare") },
      notes: [`all processes need ${IDLE} descriptors and some more: ulimit -n`],
    };
  },
};
