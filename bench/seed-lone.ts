// The seed's way from Node: its five statements, one by one, by plain pg, for a while; one line of JSON.
//   node bench/seed-lone.ts <database url> <seconds> <users>

import pg from "pg";
import { report, WARM_UP_MS } from "./report.ts";

const [url = "", seconds = "5", users = "1"] = process.argv.slice(2);
const client = new pg.Client({ connectionString: url });
await client.connect();

const latencies: number[] = [];
let calls = 0;
const counted = performance.now() + WARM_UP_MS;
const end = counted + Number(seconds) * 1000;
for (let from = performance.now(); from < end; from = performance.now()) {
  calls += 1;
  const userId = 1 + Math.floor(Math.random() * Number(users));
  await client.query("BEGIN");
  await client.query({ name: "check", text: "SELECT balance FROM user_balances WHERE user_id = $1 FOR UPDATE", values: [userId] });
  await client.query({
    name: "deduct",
    text: "UPDATE user_balances SET balance = balance - $1, updated_at = NOW() WHERE user_id = $2",
    values: ["0.01", userId],
  });
  await client.query({
    name: "log",
    text: "INSERT INTO transactions (user_id, amount, type, description) VALUES ($1, $2, 'deduction', $3)",
    values: [userId, "-0.01", "a deduction"],
  });
  await client.query("COMMIT");
  if (from > counted) latencies.push(performance.now() - from);
}
await client.end();
report(calls, latencies, Number(seconds));
