// watches: unary calls beside 300 watchers that read a long log from its start, against the same calls without them, on
// an instance with two connections for calls. Whether it stays ready, and holds its leases, is told as well.

import { addHistory } from "../history.ts";
import { inSession } from "../database.ts";
import type { Load, Window } from "../load/meter.ts";
import type { UnaryTask } from "../load/unary.ts";
import type { Ledger } from "../ledger.ts";
import type { Stage } from "../stage.ts";
import { rateRatio, type Contender, type Workload } from "../workload.ts";

const WATCHERS = 300;
const IN_FLIGHT = 256;
/** Rows of the log: more than can be told to all watchers while it is measured. */
const ROWS = 200_000;
/** The watchers are there before the calls are measured, and stay until after that. */
const MARGIN_MS = 1000;

export const watches: Workload = {
  id: "watches",
  what: `${IN_FLIGHT} concurrent GetBalances, and Deducts, beside ${WATCHERS} watchers that catch up, and without them`,
  unit: "calls",
  family: "watches",
  prepare: async (stage) => {
    const { users } = stage.options;
    const url = await stage.ledgerDatabase("watches");
    await addHistory(url, { rows: ROWS, users, firstIds: [1] });
    const ledger = await stage.openLedger(url, { LEDGERD_POOL_MIN: "2", LEDGERD_POOL_MAX: "2" });
    const { address } = ledger;
    const task = (method: UnaryTask["method"]): UnaryTask => ({ address, method, inFlight: IN_FLIGHT, users });
    const calls = {
      reads: (window: Window): Promise<Load> => stage.caller.perform("unary", task("GetBalance"), window),
      writes: (window: Window): Promise<Load> => ledger.takeFrom(stage.caller, "unary", task("Deduct"), window),
    };
    for (const call of Object.values(calls)) await call({ warmUpMs: 0, measuredMs: 3000 });
    const alone = (what: string, measure: Contender["measure"]): Contender =>
      ({ title: `${what} alone`, ledger, measure });
    const beside = (what: string, measure: Contender["measure"]): Contender => ({
      title: `${what} beside ${WATCHERS} watchers`,
      ledger,
      measure: (window) => besideWatchers(stage, { ledger, url }, window, measure),
    });
    return {
      contenders: {
        reads: alone("GetBalance", calls.reads),
        reads_beside: beside("GetBalance", calls.reads),
        writes: alone("Deduct", calls.writes),
        writes_beside: beside("Deduct", calls.writes),
      },
      ratios: { ratio: rateRatio("writes_beside", "writes"), ratio_reads: rateRatio("reads_beside", "reads") },
      notes: ["two connections for calls in each process; leases_lost: of the work in the background"],
    };
  },
};

async function besideWatchers(
  stage: Stage,
  { ledger, url }: { readonly ledger: Ledger; readonly url: string },
  { warmUpMs, measuredMs }: Window,
  measure: Contender["measure"],
): Promise<Load> {
  const before = await leasesOf(url);
  const watching = { warmUpMs: warmUpMs + MARGIN_MS, measuredMs };
  const [load, watched] = await Promise.all([
    measure({ warmUpMs: warmUpMs + MARGIN_MS, measuredMs: measuredMs - MARGIN_MS / 2 }),
    stage.rival.perform("watches", { address: ledger.address, watchers: WATCHERS }, watching),
  ]);
  const after = await leasesOf(url);
  const lost = before.filter((lease) => !after.includes(lease));
  const notReady = watched.further?.["not_ready"] ?? Number.NaN;
  return { ...load, further: { rows_told: watched.rate, not_ready: notReady, leases_lost: lost.length } };
}

/** The leases of ledgerd's own work that are held: each by its lock and token. */
function leasesOf(url: string): Promise<readonly string[]> {
  return inSession(url, async (client) => {
    const { rows } = await client.query<{ lease: string }>(
      `SELECT format('%s %s', lock_key, fencing_token) AS lease FROM ledgerd.lock_heartbeat
       WHERE lock_key < -(2::numeric ^ 62) AND expires_at > clock_timestamp()`,
    );
    return rows.map(({ lease }) => lease);
  });
}
