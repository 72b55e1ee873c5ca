// The log by COPY, to a client that only counts the rows.

import pg from "pg";
import { timed, type Load } from "./meter.ts";

/** Where ledgerd's tables are. */
export interface CopyTask {
  readonly url: string;
}

/** Copies all of it once. (PostgreSQL copies a partitioned table by a query alone.) */
export async function run({ url }: CopyTask): Promise<Load> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  let rows = 0;
  // pg itself drops what is copied; its connection tells of each row.
  const { connection } = client as unknown as { connection: pg.Connection };
  connection.on("copyData", () => (rows += 1));
  const load = await timed(async () => {
    await client.query("COPY (TABLE ledgerd.transactions) TO STDOUT");
    return rows;
  });
  await client.end();
  return load;
}
