// Whether a PostgreSQL will do for us, found out before anything else: what an operator can mend is then said in one line.

import type pg from "pg";
import { connect, reasonOf, TakesNoWrites, type SessionSettings } from "./connect.ts";
import { describePowers, powersOf, SEPARATION_ADVICE } from "./powers.ts";
import { withoutSecrets } from "./url.ts";
import { Problem } from "../../domain/problem.ts";

/** The database can't be connected to, or not be used. */
export class DatabaseUnreachable extends Problem {}

/** What it is to be used for: a ledger that is served, written, or read; or a look at what isn't ours. */
export type Use = "serve" | "write" | "read" | "look";

/** What to find out. */
export interface Check {
  readonly url: string;
  readonly use: Use;
  readonly timeoutMs: number;
  /** What to do where it can't be connected to. */
  readonly advice: string;
  /** Is told of a login that could do more than serve; absent: it is refused. */
  readonly onPowers?: ((problem: string) => void) | undefined;
}

/** So often two sessions are asked in turn who serves them; a pooler that is used by others as well mixes them sooner. */
const TURNS = 10;

/**
 * Connects, and answers how many connections the server takes from whoever isn't a superuser, others' and ours together.
 * Throws `DatabaseUnreachable`, with what to do about it and without the password.
 */
export async function checkReachable(check: Check): Promise<number> {
  const { url, advice } = check;
  const shown = withoutSecrets(url);
  const isWritten = check.use === "serve" || check.use === "write";
  const clients: pg.Client[] = [];
  try {
    // Behind a pooler that mixes sessions, what one sets would be another's: until that is known, none sets anything.
    const open = async (settings: SessionSettings | "none" = "none"): Promise<pg.Client> => {
      const client = await connect({ ...check, name: "ledgerd start", settings, mustTakeWrites: isWritten });
      clients.push(client);
      return client;
    };
    const client = await open();
    if (isWritten) await refuseEncoding(client);
    if (check.use !== "look") await refusePooling(client, await open());
    if (check.use === "serve") await refusePowers(await open({}), check.onPowers);
    return await roomOf(client);
  } catch (cause) {
    if (cause instanceof TakesNoWrites || cause instanceof Unfit) throw new DatabaseUnreachable(`${shown} can't be used: ${cause.message}`, { cause });
    const reason = reasonOf(cause);
    const remedy = reason.startsWith("unsupported startup parameter") ? OPTIONS_ADVICE : advice;
    throw new DatabaseUnreachable(`can't connect to ${shown}: ${reason}; ${remedy}`, { cause });
  } finally {
    await Promise.all(clients.map((client) => client.end()));
  }
}

const OPTIONS_ADVICE = "a pooler passes no options on: take them out of the URL, or connect to PostgreSQL directly";

/** What ledgerd relies on isn't so, and what to do about it. */
class Unfit extends Error {}

/** Texts in another encoding can't be all that callers may write. A ledger that is in one may be read, to move it. */
async function refuseEncoding(client: pg.Client): Promise<void> {
  const { rows } = await client.query<{ name: string; encoding: string }>(
    `SELECT pg_catalog.current_database() AS name, pg_catalog.current_setting('server_encoding') AS encoding`,
  );
  const [{ name, encoding } = { name: "", encoding: "" }] = rows;
  if (encoding === "UTF8") return;
  throw new Unfit(
    `its encoding is ${encoding}, and ledgerd needs UTF8: ` +
      `take one made by CREATE DATABASE ${name}_utf8 ENCODING 'UTF8' TEMPLATE template0`,
  );
}

/**
 * Whether a connection is a session: not behind a pooler that gives each transaction, or each statement, another one.
 * Prepared statements, locks and settings of a session would be somebody else's.
 */
async function refusePooling(one: pg.Client, other: pg.Client): Promise<void> {
  const sessions = new Set<string>();
  for (let turn = 0; turn < TURNS; turn += 1) {
    sessions.add(`one ${await servedBy(one)}`).add(`other ${await servedBy(other)}`);
  }
  const pids = new Set([...sessions].map((session) => session.split(" ")[1]));
  if (sessions.size === 2 && pids.size === 2) return;
  throw new Unfit(
    "a pooler there has connections share sessions: set its pool_mode to session, or connect to PostgreSQL directly",
  );
}

async function servedBy(client: pg.Client): Promise<number> {
  const { rows } = await client.query<{ pid: number }>("SELECT pg_catalog.pg_backend_pid() AS pid");
  return rows[0]?.pid ?? 0;
}

async function refusePowers(client: pg.Client, onPowers: Check["onPowers"]): Promise<void> {
  const powers = await powersOf(client);
  if (powers.beyond.length === 0) return;
  const problem = describePowers(powers);
  if (onPowers !== undefined) return onPowers(`${problem}: ${SEPARATION_ADVICE}`);
  throw new Unfit(
    `${problem}: ${SEPARATION_ADVICE}; or set LEDGERD_SEPARATION=relaxed to serve as this one nevertheless`,
  );
}

async function roomOf(client: pg.Client): Promise<number> {
  // PostgreSQL 15 has no reserved_connections yet.
  const { rows } = await client.query<{ room: number }>(
    `SELECT pg_catalog.current_setting('max_connections')::int
            - pg_catalog.current_setting('superuser_reserved_connections')::int
            - coalesce(pg_catalog.current_setting('reserved_connections', true)::int, 0) AS room`,
  );
  return rows[0]?.room ?? 0;
}
