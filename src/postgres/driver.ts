// How Slonik's pool connects: by pg, as Slonik's own driver does, but for two things. That one asks for the numbers of
// types when a pool is opened, on a connection to whose break nobody listens: it ended the process. (The types that we
// parse have the same numbers in every database.) And it reads URLs in its own way; here all sessions read them as pg
// does.

import pg from "pg";
import {
  BackendTerminatedError,
  BackendTerminatedUnexpectedlyError,
  createDriverFactory,
  StatementCancelledError,
  StatementTimeoutError,
  type DriverClientEventEmitter,
  type DriverCommand,
  type DriverConfiguration,
  type DriverFactory,
} from "slonik";
import { parserOf } from "./parsers.ts";

/** Opens connections, and runs statements on them. */
export const pgDriver: DriverFactory = createDriverFactory(({ driverConfiguration }) => {
  const createPoolClient = ({ clientEventEmitter }: { readonly clientEventEmitter: DriverClientEventEmitter }) => {
    const client = new pg.Client(settingsOf(driverConfiguration));
    // A connection may break after it was given up, too, when Slonik listens no more.
    client.on("error", (error) => {
      if (clientEventEmitter.listenerCount("error") > 0) clientEventEmitter.emit("error", asSlonik(error));
    });
    return Promise.resolve({
      connect: async () => void (await client.connect()),
      end: () => client.end(),
      query: (text: string, values: unknown[] = [], { name }: { readonly name?: string } = {}) =>
        ask(client, { text, values, name }),
      stream: () => {
        throw new Error("the pool streams no rows: a session does, by COPY");
      },
    });
  };
  return Promise.resolve({ createPoolClient });
});

function settingsOf(given: DriverConfiguration): pg.ClientConfig {
  const limit = (ms: number | string): number | undefined => (typeof ms === "number" ? ms : undefined);
  return {
    connectionString: given.connectionUri,
    connectionTimeoutMillis: limit(given.connectionTimeout),
    statement_timeout: limit(given.statementTimeout),
    idle_in_transaction_session_timeout: limit(given.idleInTransactionSessionTimeout),
    types: { getTypeParser: parserOf },
  };
}

async function ask(client: pg.Client, statement: pg.QueryConfig) {
  try {
    const { command, fields, rowCount, rows } = await client.query<Record<string, unknown>>(statement);
    return {
      command: command as DriverCommand,
      fields: fields.map(({ dataTypeID, name }) => ({ dataTypeId: dataTypeID, name })),
      rowCount,
      rows,
    };
  } catch (error) {
    throw error instanceof Error ? asSlonik(error) : error;
  }
}

/** The errors that Slonik acts on are its own. */
function asSlonik(error: Error): Error {
  const code = "code" in error ? error.code : undefined;
  if (code === "57P01") return new BackendTerminatedError(error);
  if (code === "57014")
    return error.message.includes("user request")
      ? new StatementCancelledError(error)
      : new StatementTimeoutError(error);
  return error.message.startsWith("Connection terminated") ? new BackendTerminatedUnexpectedlyError(error) : error;
}
