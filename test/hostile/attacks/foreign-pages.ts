// A page in a browser that posts to whatever answers on this machine, by our address and by a name of its own.

import { Agent, request, type IncomingMessage } from "node:http";
import { text } from "node:stream/consumers";
import type { Attack } from "../attack.ts";

const TIMES = 10_000;
const CONNECTIONS = 50;
const WRITE = '{"user_id":1,"amount":{"amount":"1000000"},"idempotency_key":"stolen"}';

/** What a browser sends of such pages. */
const pages = [
  { origin: "https://evil.example", "sec-fetch-site": "cross-site" },
  { origin: "null" },
  { "sec-fetch-site": "cross-site" },
  { host: "evil.example", origin: "http://evil.example", "sec-fetch-site": "same-origin" },
];

export const attack: Attack = {
  title: "is a page on another site that posts 10,000 writes",
  run: async ({ httpAddress }) => {
    const agent = new Agent({ keepAlive: true, maxSockets: CONNECTIONS });
    let sent = 0;
    let refused = 0;
    const one = async (): Promise<void> => {
      while (sent < TIMES) {
        const page = pages[sent % pages.length];
        sent += 1;
        const answer = await post(agent, httpAddress, { ...page });
        // A connection that was cut has told its others enough.
        if (answer === undefined) continue;
        if (!answer.includes("NOT_ADMITTED")) throw new Error(`a foreign page was answered ${answer}`);
        refused += 1;
      }
    };
    await Promise.all(Array.from({ length: CONNECTIONS }, one));
    agent.destroy();
    if (refused === 0) throw new Error("nothing was refused");
  },
};

/** What a call is answered; undefined: nothing. */
function post(agent: Agent, address: string, headers: Readonly<Record<string, string>>): Promise<string | undefined> {
  const url = `http://${address}/ledger.v1.LedgerService/TopUp`;
  return new Promise((resolve, reject) => {
    const type = { "content-type": "application/json", "content-length": `${WRITE.length}` };
    const call = request(url, { agent, method: "POST", headers: { ...type, ...headers } });
    call.on("error", () => resolve(undefined));
    call.on("response", (response: IncomingMessage) => void text(response).then(resolve, reject));
    call.end(WRITE);
  });
}
