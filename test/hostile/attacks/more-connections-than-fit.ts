// Opens more connections than the service takes, until all places are taken.

import type { Attack } from "../attack.ts";
import { enter, leave, many } from "../crowd.ts";

const LIMIT = 50;
const WORKERS = 2;
const CONNECTS = 400;
const AT_ONCE = 100;

export const attack: Attack = {
  title: "opens more connections than there are places for",
  settings: { LEDGERD_CONNECTION_LIMIT: `${LIMIT}` },
  run: async ({ grpcAddress, httpAddress }) => {
    const answers = await many(CONNECTS, AT_ONCE, () => enter(grpcAddress));
    const entered = answers.filter((connection) => connection !== undefined);
    // Each door has places of its own.
    const status = (await fetch(`http://${httpAddress}/readyz`, { headers: { connection: "close" } })).status;
    leave(entered);
    // The good client has one of the places.
    const all = WORKERS * LIMIT;
    const wrong = entered.length >= all || entered.length < all / 2;
    if (wrong) throw new Error(`${entered.length} of ${all} places were taken`);
    if (status !== 200) throw new Error(`/readyz answered ${status}`);
  },
};
