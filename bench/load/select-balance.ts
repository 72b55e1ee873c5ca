// Balances read from the seed's table by plain pg in Node: a prepared SELECT, on a number of connections at the same time.

import pg from "pg";
import { Meter, type Load, type Window } from "./meter.ts";

/** Where the seed's tables are, and on how many connections to read. */
export interface SelectBalanceTask {
  readonly url: string;
  readonly connections: number;
  readonly users: number;
}

/** Keeps every connection reading. Each read must find its row. */
export async function run({ url, connections, users }: SelectBalanceTask, window: Window): Promise<Load> {
  const clients = await Promise.all(
    Array.from({ length: connections }, async () => {
      const client = new pg.Client({ connectionString: url });
      await client.connect();
      return client;
    }),
  );
  const meter = new Meter(window);
  const keepReading = async (client: pg.Client): Promise<void> => {
    for (let from = performance.now(); !meter.isOver(from); from = performance.now()) {
      const values = [1 + Math.floor(Math.random() * users)];
      const { rows } = await client.query({ name: "balance", text: "SELECT balance FROM user_balances WHERE user_id = $1", values });
      if (rows.length !== 1) throw new Error(`user ${values[0]} has ${rows.length} balances`);
      meter.add(from);
    }
  };
  await Promise.all(clients.map(keepReading));
  await Promise.all(clients.map((client) => client.end()));
  return meter.load();
}
