// The ledger's own proofs, as `ledgerd verify` and `ledgerd rebuild` run them; and the sums that a rebuild comes down to, by one statement.

import { currenciesWith } from "../../src/domain/money/currency.ts";
import { rebuildLedger } from "../../src/verification/rebuild.ts";
import { verifyLedger } from "../../src/verification/verify.ts";
import { openPool } from "../../src/postgres/connection/pool.ts";
import { inSession } from "../database.ts";
import { timed, type Load } from "./meter.ts";

/** What to do, and how many rows the log has. */
export interface ProveTask {
  readonly url: string;
  readonly what: "verify" | "rebuild" | "rebuild --trust-log" | "sum";
  readonly rows: number;
}

const SUM = `
  INSERT INTO public.sums (user_id, currency, balance, held, sequence)
  SELECT user_id, currency, sum(amount), sum(held_change), count(*) FROM ledgerd.transactions GROUP BY user_id, currency`;

/** Does it once. Throws if anything differs afterwards that must not. */
export async function run({ url, what, rows }: ProveTask): Promise<Load> {
  if (what === "sum") {
    return inSession(url, (client) =>
      timed(async () => {
        await client.query(SUM);
        return rows;
      }),
    );
  }
  const pool = await openPool({ url, min: 1, max: 2, connectTimeoutMs: 10_000, queryTimeoutMs: 30_000, idleTimeoutMs: 60_000, onError: () => undefined });
  const options = { url, pool, currencies: currenciesWith([]), connectTimeoutMs: 10_000, signal: new AbortController().signal };
  try {
    return await timed(async () => {
      for await (const event of what === "verify" ? verifyLedger(options) : rebuildLedger({ ...options, trustLog: what !== "rebuild" })) {
        if (event.kind === "finding" || event.kind === "left") throw new Error(`a difference: ${JSON.stringify(event.finding, (_key, value: unknown) => (typeof value === "bigint" ? `${value}` : value))}`);
        if (event.kind === "summary" && event.summary.rows !== rows) throw new Error(`the log has ${rows} rows, ${event.summary.rows} were gone through`);
      }
      return rows;
    });
  } finally {
    await pool.end();
  }
}
