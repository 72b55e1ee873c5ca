// Which of some settings is the fastest here: everybody gets their best.

import type { Load, Window } from "../load/meter.ts";
import type { Stage } from "../stage.ts";

/** Tries each for a moment, and answers the one with the highest rate. In short rounds the first, the least, isn't tried: it is hardly ever the best. */
export async function bestOf(stage: Stage, what: string, options: readonly number[], measure: (option: number, window: Window) => Promise<Load>): Promise<number> {
  stage.say(`looking for the best number of ${what}`);
  const window = { warmUpMs: stage.options.window.warmUpMs / 4, measuredMs: stage.options.window.measuredMs / 2 };
  let best = { option: options[0] ?? 1, rate: 0 };
  for (const option of stage.options.quick ? options.slice(1) : options) {
    const { rate } = await measure(option, window);
    if (rate > best.rate) best = { option, rate };
  }
  return best.option;
}
