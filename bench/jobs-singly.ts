// Jobs without money and without groups: the seed's table, and three statements one by one for each job, on many connections of plain pg.
//   node bench/jobs-singly.ts <database url> <seconds>

import pg from "pg";
import { report, WARM_UP_MS } from "./report.ts";

const [url = "", seconds = "5"] = process.argv.slice(2);
const CONNECTIONS = 16;

const counted = performance.now() + WARM_UP_MS;
const end = counted + Number(seconds) * 1000;
const latencies: number[] = [];
let completed = 0;

async function keepWorking(): Promise<void> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  for (let from = performance.now(); from < end; from = performance.now()) {
    const text = "INSERT INTO jobs (user_id, model_id, prompt, cost, status) VALUES ($1, 'm', 'p', 0.01, 'pending')";
    await client.query({ name: "create", text, values: [1 + Math.floor(Math.random() * 100_000)] });
    const claimed = await client.query<{ id: number }>({
      name: "claim",
      text: `UPDATE jobs SET status = 'processing'
             WHERE id = (SELECT id FROM jobs WHERE status = 'pending' ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING id`,
    });
    const done = "UPDATE jobs SET status = 'completed', result_url = 'https://result', completed_at = NOW() WHERE id = $1";
    await client.query({ name: "complete", text: done, values: [claimed.rows[0]?.id] });
    completed += claimed.rows.length;
    if (from > counted) latencies.push(performance.now() - from);
  }
  await client.end();
}

await Promise.all(Array.from({ length: CONNECTIONS }, keepWorking));
report(completed, latencies, Number(seconds));
