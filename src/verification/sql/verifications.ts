// What verifications found, kept for all processes to tell.

import { sql, type DatabasePool } from "slonik";
import { z } from "zod";
import { shared } from "../../postgres/sharing/gather.ts";
import { noColumns } from "../../postgres/rows/rows.ts";

/** Who asked for it. */
export type VerificationKind = "background" | "requested";

/** The last verification of a kind. */
export interface Verification {
  readonly kind: VerificationKind;
  /** When it came to its end, in microseconds since 1970; undefined: none has yet. */
  readonly finishedAt: bigint | undefined;
  readonly rows: bigint;
  readonly accounts: bigint;
  readonly differences: bigint;
  readonly lastId: bigint;
}

const verificationRow = z
  .object({
    kind: z.enum(["background", "requested"]),
    finished_at: z.bigint().nullable(),
    rows: z.bigint(),
    accounts: z.bigint(),
    differences: z.bigint(),
    last_id: z.bigint(),
  })
  .transform(({ kind, finished_at: finishedAt, rows, accounts, differences, last_id: lastId }): Verification => ({ kind, finishedAt: finishedAt ?? undefined, rows, accounts, differences, lastId }));

/** Keeps and reads them. */
export interface Verifications {
  /** Keeps what one found that came to its end. */
  readonly finished: (
    kind: VerificationKind,
    given: { readonly rows: number; readonly accounts: number; readonly differences: number; readonly lastId: bigint },
  ) => Promise<void>;
  /** Keeps how many differences one has found that is still under way, if they are more than the last one's. */
  readonly found: (kind: VerificationKind, differences: number) => Promise<void>;
  /** The last one of each kind that there was. */
  readonly last: () => Promise<readonly Verification[]>;
}

/** The record of verifications, over a pool. */
export function verificationsOf(pool: DatabasePool): Verifications {
  return { finished, found, last: shared(last) };

  async function finished(kind: VerificationKind, { rows, accounts, differences, lastId }: { readonly rows: number; readonly accounts: number; readonly differences: number; readonly lastId: bigint }): Promise<void> {
    await pool.query(sql.type(noColumns)`
      INSERT INTO ledgerd.verifications (kind, finished_at, rows, accounts, differences, last_id)
      VALUES (${kind}, clock_timestamp(), ${rows}, ${accounts}, ${differences}, ${lastId})
      ON CONFLICT (kind) DO UPDATE
      SET finished_at = EXCLUDED.finished_at, rows = EXCLUDED.rows, accounts = EXCLUDED.accounts, differences = EXCLUDED.differences,
          last_id = EXCLUDED.last_id`);
  }

  async function found(kind: VerificationKind, differences: number): Promise<void> {
    await pool.query(sql.type(noColumns)`
      INSERT INTO ledgerd.verifications (kind, differences)
      VALUES (${kind}, ${differences})
      ON CONFLICT (kind) DO UPDATE SET differences = greatest(verifications.differences, EXCLUDED.differences)`);
  }

  async function last(): Promise<readonly Verification[]> {
    return pool.any(sql.type(verificationRow)`
      SELECT v.kind, (extract(epoch FROM v.finished_at) * 1000000)::int8 AS finished_at, v.rows, v.accounts, v.differences, v.last_id
      FROM ledgerd.verifications v
      ORDER BY v.kind
      LIMIT 2`);
  }
}
