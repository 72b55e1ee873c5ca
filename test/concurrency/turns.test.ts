// Turns: who waits gets a place in order, nobody keeps others waiting for long, and there is a rest between two parts.

import { setImmediate as immediate } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import { oneEachTurn, Turns, type Manners } from "../../src/postgres/sharing/turns.ts";

const never = new AbortController().signal;

/** Patience and rests that last until they are ended. */
interface Told extends Manners {
  readonly endPatience: () => void;
  readonly endRest: () => void;
  readonly rests: number[];
}

function told(): Told {
  let patience = Promise.withResolvers<void>();
  let rest = Promise.withResolvers<void>();
  const rests: number[] = [];
  return {
    patience: () => patience.promise,
    rest: (tookMs) => {
      rests.push(tookMs);
      return rest.promise;
    },
    isFree: () => false,
    rests,
    endPatience: () => {
      patience.resolve();
      patience = Promise.withResolvers();
    },
    endRest: () => {
      rest.resolve();
      rest = Promise.withResolvers();
    },
  };
}

describe("a turn", () => {
  test("comes in the order in which it was asked for, after a rest from the one before", async () => {
    const manners = told();
    const turns = new Turns(1, manners);
    const takers = [1, 2, 3].map(() => turns.taker(never));
    const seen: number[] = [];
    const taken = takers.map((taker, index) => taker.take(() => seen.push(index)));
    await immediate();
    expect([seen, turns.awaited]).toEqual([[0], true]);
    takers[0]?.leave();
    await immediate();
    expect([seen, manners.rests.length], "it rests").toEqual([[0], 1]);
    manners.endRest();
    await taken[1];
    // It asks for another one, and comes behind who waits.
    const again = takers[1]?.take(() => seen.push(1));
    manners.endRest();
    await taken[2];
    expect(seen).toEqual([0, 1, 2]);
    takers[2]?.leave();
    manners.endRest();
    await again;
    expect([seen, turns.awaited]).toEqual([[0, 1, 2, 1], false]);
  });

  test("passes on when patience with one who reads, or tells, is over", async () => {
    const manners = { ...told(), rest: () => Promise.resolve() };
    const turns = new Turns(1, manners);
    const [reader, teller, last] = [turns.taker(never), turns.taker(never), turns.taker(never)];
    const read = Promise.withResolvers<string>();
    const reading = reader.take(() => read.promise);
    const telling = teller.take(() => "told");
    await immediate();
    expect(turns.awaited).toBe(true);
    manners.endPatience();
    expect(await telling).toBe("told");
    const lastTaken = last.take(() => "last");
    await immediate();
    expect(turns.awaited).toBe(true);
    manners.endPatience();
    expect(await lastTaken).toBe("last");
    // What was read late is told without a place, and takes none away.
    read.resolve("late");
    expect(await reading).toBe("late");
    reader.leave();
    const other = turns.taker(never).take(() => "other");
    await immediate();
    expect(turns.awaited).toBe(true);
    last.leave();
    expect(await other).toBe("other");
  });

  test("isn't ended by the patience with an earlier one", async () => {
    const patience: (() => void)[] = [];
    const oneEach = () => new Promise<void>((over) => patience.push(over));
    const turns = new Turns(1, { ...told(), patience: oneEach, rest: () => Promise.resolve() });
    const [taker, other] = [turns.taker(never), turns.taker(never)];
    await taker.take(() => "first");
    const earlier = patience.splice(0);
    await taker.take(() => "second");
    const waiting = other.take(() => "other");
    for (const over of earlier) over();
    await immediate();
    expect(turns.awaited, "it has its place still").toBe(true);
    for (const over of patience) over();
    expect(await waiting).toBe("other");
  });

  test("that fails, and one that nobody waits for any more, are no loss to the others", async () => {
    const turns = new Turns(1, { ...told(), rest: () => Promise.resolve() });
    const failing = turns.taker(never);
    await expect(failing.take(() => Promise.reject(new Error("no such page")))).rejects.toThrow("no such page");
    const gone = new AbortController();
    const waiting = turns.taker(gone.signal).take(() => "nobody's");
    const last = turns.taker(never).take(() => "last");
    gone.abort(new Error("gone"));
    await expect(waiting).rejects.toThrow("gone");
    failing.leave();
    expect(await last).toBe("last");
    await expect(turns.taker(gone.signal).take(() => "nobody's")).rejects.toThrow("gone");
  });

  test("of those that keep up lasts no longer than one turn of the event loop", async () => {
    const turns = new Turns(1, oneEachTurn());
    let loops = 0;
    const seen: number[] = [];
    const all = Promise.all(Array.from({ length: 5 }, () => turns.taker(never).take(() => seen.push(loops))));
    for (; seen.length < 5; loops += 1) await immediate();
    await all;
    expect(new Set(seen).size, "each in one of its own").toBe(5);
  });
});
