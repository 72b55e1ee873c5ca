// Connects as fast as it can, and leaves as soon as it is let in.

import type { Attack } from "../attack.ts";
import { enter, leave, many } from "../crowd.ts";

const CONNECTS = 3000;
const AT_ONCE = 200;

export const attack: Attack = {
  title: "connects three thousand times, and leaves at once",
  run: async ({ grpcAddress }) => {
    const entered = await many(CONNECTS, AT_ONCE, async () => {
      const connection = await enter(grpcAddress);
      leave([connection]);
      return connection !== undefined;
    });
    const refused = entered.filter((isIn) => !isIn).length;
    if (refused > 0) throw new Error(`${refused} of ${CONNECTS} were not let in`);
  },
};
