// The seed's way from Node: its five statements, one by one, by plain pg, prepared.

import pg from "pg";
import { Meter, type Load, type Window } from "./meter.ts";

/** Where the seed's tables are. */
export interface SeedDeductsTask {
  readonly url: string;
  readonly users: number;
}

/** Keeps deducting 0.01 from a random user, one after the other. */
export async function run({ url, users }: SeedDeductsTask, window: Window): Promise<Load> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  const meter = new Meter(window);
  for (let from = performance.now(); !meter.isOver(from); from = performance.now()) {
    await deduct(client, 1 + Math.floor(Math.random() * users));
    meter.add(from);
  }
  await client.end();
  return meter.load();
}

async function deduct(client: pg.Client, userId: number): Promise<void> {
  await client.query("BEGIN");
  await client.query({ name: "check", text: "SELECT balance FROM user_balances WHERE user_id = $1 FOR UPDATE", values: [userId] });
  const text = "UPDATE user_balances SET balance = balance - $1, updated_at = NOW() WHERE user_id = $2";
  await client.query({ name: "deduct", text, values: ["0.01", userId] });
  const log = "INSERT INTO transactions (user_id, amount, type, description) VALUES ($1, $2, 'deduction', $3)";
  await client.query({ name: "log", text: log, values: [userId, "-0.01", "a deduction"] });
  await client.query("COMMIT");
}
