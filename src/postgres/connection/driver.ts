// How Slonik's pool connects: by our own connections. Slonik's own driver asks for the numbers of types when a pool is
// opened, on a connection to whose break nobody listens: it ended the process. (The types that we parse have the same
// numbers in every database.) And it reads URLs in its own way.

import type pg from "pg";
import { createDriverFactory, type DriverClientEventEmitter, type DriverCommand, type DriverFactory } from "slonik";
import { connect, type ConnectOptions } from "./connect.ts";
import { troubleOf } from "./errors.ts";
import { parserOf } from "./parsers.ts";

/** A driver for a pool, whose connections are opened with these options. Errors stay as pg has them. */
export function driverFor(options: Omit<ConnectOptions, "types">): DriverFactory {
  const open = () => connect({ ...options, types: { getTypeParser: parserOf } });
  return createDriverFactory(() =>
    Promise.resolve({
      createPoolClient: ({ clientEventEmitter }) => Promise.resolve(poolClient(open, clientEventEmitter)),
    }),
  );
}

/** A connection of a pool's, as Slonik wants it: made first, and opened then. It calls these as functions. */
function poolClient(open: () => Promise<pg.Client>, events: DriverClientEventEmitter) {
  let client: pg.Client | undefined;
  // A connection may break after it was given up, too, when Slonik listens no more.
  const broke = (error: Error): void => {
    if (events.listenerCount("error") > 0) events.emit("error", error);
  };
  return {
    connect: async () => {
      client = await open();
      client.on("error", broke);
    },
    end: async () => {
      await client?.end();
    },
    query: async (text: string, values: readonly unknown[] = [], { name }: { readonly name?: string } = {}) => {
      if (client === undefined) throw new Error("a statement before the connection");
      try {
        const statement = { text, values: [...values], ...(name === undefined ? {} : { name }) };
        const { command, fields, rowCount, rows } = await client.query<Record<string, unknown>>(statement);
        const columns = fields.map((field) => ({ name: field.name, dataTypeId: field.dataTypeID }));
        return { command: command as DriverCommand, fields: columns, rowCount, rows };
      } catch (error) {
        // It is not used again: what comes behind it would fail in the same way.
        if (error instanceof Error && troubleOf(error)?.session !== undefined) broke(error);
        throw error;
      }
    },
    stream: () => {
      throw new Error("the pool streams no rows: a session does, by COPY");
    },
  };
}
