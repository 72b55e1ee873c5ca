// Each attack with a good client beside it, whose calls all succeed; afterwards everything is back.

import { describe, expect, test } from "vitest";
import { createDatabase } from "../harness/database.ts";
import { startInstance } from "../harness/instance.ts";
import { until } from "../harness/until.ts";
import { attackCalled, attackNames } from "./attack.ts";
import { attackOn, descriptorsOf, goodClientUntil, processesOf, residentMiB } from "./siege.ts";

/** What an attack may leave behind in a process: garbage that is not collected yet, and what is kept for the next calls. */
const MOST_MORE_MIB = 160;
/** Connections to PostgreSQL that watches share: the first of them opens them, and they are kept. */
const MOST_MORE_DESCRIPTORS = 8;

/** Of the good client, before the attack: what is opened once and kept is open then. */
const FIRST_ROUNDS = 20;

/** A pool that neither grows nor shrinks. */
const STEADY = { LEDGERD_WORKERS: "2", LEDGERD_POOL_MIN: "4", LEDGERD_POOL_MAX: "4" };

describe("a good client is served, and all is back afterwards, beside a peer that", async () => {
  for (const name of attackNames) {
    const { title, settings } = await attackCalled(name);
    test(title, async () => {
      await using database = await createDatabase();
      await using instance = await startInstance(database.url, { ...STEADY, ...settings });
      for (let round = 0; round < FIRST_ROUNDS; round++) await goodClientUntil(Promise.resolve(), instance);
      const processes = processesOf(instance);
      const before = processes.map((pid) => ({ pid, descriptors: descriptorsOf(pid), mib: residentMiB(pid) }));

      const seen = await goodClientUntil(attackOn(instance, name), instance);

      expect(seen.failures).toEqual([]);
      expect(seen.calls).toBeGreaterThan(0);
      expect(processesOf(instance), "no process was replaced").toEqual(processes);
      for (const { pid, descriptors, mib } of before) {
        await until(() => descriptorsOf(pid) <= descriptors + MOST_MORE_DESCRIPTORS);
        await until(() => residentMiB(pid) <= mib + MOST_MORE_MIB);
      }
    });
  }
});
