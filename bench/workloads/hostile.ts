// hostile: unary calls beside each attack of the hostile suite, against the same calls without one. Two cores are shared
// by the caller, the attacker, ledgerd and PostgreSQL: a third of the rate is a fair share.

import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import path from "node:path";
import { attackCalled, attackNames } from "../../test/hostile/attack.ts";
import type { Ledger } from "../ledger.ts";
import type { Load, Window } from "../load/meter.ts";
import { rateRatio, type Contender, type Workload } from "../workload.ts";

const IN_FLIGHT = 32;
const ATTACKER = path.resolve(import.meta.dirname, "../../test/hostile/attacker.ts");

export const hostile: Workload = {
  id: "hostile",
  what: `${IN_FLIGHT} concurrent GetBalances beside a hostile peer, and without one`,
  unit: "calls",
  family: "hostile",
  prepare: async (stage) => {
    const { users } = stage.options;
    const attacks = await Promise.all(attackNames.map(async (name) => ({ name, ...(await attackCalled(name)) })));
    const settings: Readonly<Record<string, string>> = Object.assign({}, ...attacks.map((attack) => attack.settings ?? {}));
    const ledger = await stage.openLedger(await stage.ledgerDatabase("hostile"), settings);
    const task = { address: ledger.address, method: "GetBalance" as const, inFlight: IN_FLIGHT, users };
    const calls = (window: Window): Promise<Load> => stage.caller.perform("unary", task, window);
    await calls({ warmUpMs: 0, measuredMs: 3000 });
    const beside = ({ name, title }: { readonly name: string; readonly title: string }): Contender => ({
      title: `beside a peer that ${title}`,
      ledger,
      measure: (window) => besideAttack(ledger, name, () => calls(window)),
    });
    return {
      contenders: {
        alone: { title: "alone", ledger, measure: calls },
        ...Object.fromEntries(attacks.map((attack) => [attack.name, beside(attack)])),
      },
      ratios: Object.fromEntries(
        attacks.map(({ name }, index) => [index === 0 ? "ratio" : `ratio_${name}`, rateRatio(name, "alone")]),
      ),
      notes: [`ratio is that of ${attackNames[0]}; an attack is begun again whenever it is over`],
    };
  },
};

/** Measures while one attack follows the other. */
async function besideAttack(ledger: Ledger, name: string, measure: () => Promise<Load>): Promise<Load> {
  const over = new AbortController();
  let attacker: ChildProcess | undefined;
  const attacking = async (): Promise<number> => {
    let attacks = 0;
    for (; !over.signal.aborted; attacks++) {
      attacker = spawn(process.execPath, [ATTACKER, name, ledger.address, ledger.httpAddress], { stdio: "ignore" });
      await once(attacker, "exit");
    }
    return attacks;
  };
  const attacked = attacking();
  try {
    const load = await measure();
    over.abort();
    attacker?.kill("SIGKILL");
    return { ...load, further: { ...load.further, attacks: await attacked } };
  } finally {
    over.abort();
    attacker?.kill("SIGKILL");
  }
}
