// The log's partitions. They are made ahead of the ids that will need them. Where ids jump past the last one (an
// operator's setval, a restored log with gaps), whoever writes makes what is missing, and writes again.

import pg from "pg";
import { sql } from "slonik";
import { z } from "zod";

const CHECK_VIOLATION = "23514";

const madeRow = z.object({ made: z.number() });

/**
 * Makes the partitions for the next id and 20 million behind it (ten minutes at 30,000 rows a second), where they are
 * missing; tells how many. The function works
 * with its owner's rights: whoever serves may make partitions of the log, and no other tables.
 */
export const addPartitions = sql.prepared("add_partitions", madeRow)`
  SELECT ledgerd.add_transaction_partitions(20000000) AS made`;

/** Whether a row of the log had no partition to lie in. PostgreSQL reports it as a CHECK that has no name. */
export function lacksPartition(error: unknown): error is pg.DatabaseError {
  return (
    error instanceof pg.DatabaseError &&
    error.code === CHECK_VIOLATION &&
    error.schema === "ledgerd" &&
    error.table === "transactions" &&
    error.constraint === undefined
  );
}

/** The id of the row that had none, as far as PostgreSQL tells it. Its words may be in any language, the key isn't. */
export function idWithoutPartition(error: unknown): bigint | undefined {
  if (!lacksPartition(error)) return undefined;
  const [, id] = /\(id\) = \((\d+)\)/.exec(error.detail ?? "") ?? [];
  return id === undefined ? undefined : BigInt(id);
}
