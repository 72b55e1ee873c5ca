// A PostgreSQL that writes down how it carried out every statement, those inside of functions too: the plans that callers really got, from
// their own sessions with their own settings, rather than what EXPLAIN says elsewhere of a copy of the statement.

import type pg from "pg";
import { migrate } from "../../src/postgres/schema/migrate.ts";
import { connectTo } from "./database.ts";
import type { OwnPostgres } from "./postgres.ts";
import { startPostgres } from "./postgres.ts";
import { isStock, startStock } from "./stock-server.ts";
import { until } from "./until.ts";

/** A step of a plan, as PostgreSQL describes it. */
export interface PlanNode {
  readonly "Node Type": string;
  readonly "Relation Name"?: string;
  readonly "Index Name"?: string;
  readonly "Index Cond"?: string;
  readonly "TID Cond"?: string;
  readonly Filter?: string;
  readonly Plans?: readonly PlanNode[];
}

/** A statement that ledgerd sent, and how it was carried out. */
export interface Executed {
  /** By which of its sessions: `ledgerd journal`, `ledgerd wait`, or `ledgerd` for all others. */
  readonly sender: string;
  readonly text: string;
  readonly plan: PlanNode;
}

/** The server. */
export interface PlanningPostgres extends Pick<OwnPostgres, "url" | "query" | typeof Symbol.asyncDispose> {
  /** What ledgerd's sessions have executed since the last time that this was asked for. */
  readonly executed: () => Promise<readonly Executed[]>;
}

const settings = {
  fsync: "off",
  // Statistics are as the test makes them.
  autovacuum: "off",
  logging_collector: "on",
  log_destination: "jsonlog",
  log_directory: "log",
  log_filename: "all.log",
  log_rotation_size: "0",
  session_preload_libraries: "auto_explain",
  "auto_explain.log_min_duration": "0",
  "auto_explain.log_nested_statements": "on",
  "auto_explain.log_format": "json",
};

/** Starts one: the embedded one, or as its package has it. */
export async function startPlanningPostgres(): Promise<PlanningPostgres> {
  const server = await (isStock ? startStockLedger() : startPostgres(settings));
  let read = 0;
  let marks = 0;

  const executed = async (): Promise<readonly Executed[]> => {
    const mark = `everything before mark ${++marks} is written`;
    await server.query(`DO $$ BEGIN RAISE LOG '${mark}'; END $$`);
    let text = "";
    await until(async () => {
      const [file] = await server.query<{ text: string }>("SELECT pg_read_file('log/all.json', $1, 1000000000) AS text", [read]);
      text = file?.text ?? "";
      return text.includes(`"message":"${mark}"`);
    });
    read += Buffer.byteLength(text);
    return text.split("\n").flatMap(planIn);
  };
  return { ...server, executed };
}

async function startStockLedger(): Promise<Omit<PlanningPostgres, "executed">> {
  const server = await startStock([], settings);
  const name = await server.createDatabase();
  const url = server.socketUrl(name);
  await migrate(url);
  return {
    url,
    query: async <R extends pg.QueryResultRow>(text: string, values: readonly unknown[] = []) => {
      const client = await connectTo(url);
      try {
        return (await client.query<R>(text, [...values])).rows;
      } finally {
        await client.end();
      }
    },
    [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
  };
}

/** The plan in a line of the log, if it has one of ours. */
function planIn(line: string): readonly Executed[] {
  if (line === "") return [];
  const { message, application_name: sender = "" } = JSON.parse(line) as { message?: string; application_name?: string };
  const [, json] = /^duration: \S+ ms {2}plan:\n(.*)$/s.exec(message ?? "") ?? [];
  if (json === undefined || !/^ledgerd( journal| wait)?$/.test(sender)) return [];
  const { "Query Text": text, Plan: plan } = JSON.parse(json) as { "Query Text": string; Plan: PlanNode };
  return [{ sender, text, plan }];
}
