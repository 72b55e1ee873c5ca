// Which errors of Slonik and pg mean that the database is away or too slow, rather than that something is wrong.

import pg from "pg";
import { BackendTerminatedError, BackendTerminatedUnexpectedlyError, ConnectionError, StatementCancelledError, StatementTimeoutError } from "slonik";
import { Failure } from "../domain/failure.ts";

/** What pg's client says, by its text alone, of a connection that broke or never came to be. */
const PG_IS_AWAY = /^(Connection terminated|timeout expired|Client (has encountered a connection error|was closed))/;

/** The failure that a reading statement's error stands for, if it isn't a bug. */
export function failureOf(error: unknown): Failure | undefined {
  for (let cause = error; cause instanceof Error; cause = cause.cause) {
    if (cause instanceof Failure) return cause;
    if (isAway(cause)) return new Failure("DATABASE_UNAVAILABLE", { cause: error });
    if (cause instanceof StatementTimeoutError || cause instanceof StatementCancelledError) {
      return new Failure("DEADLINE_PASSED", { cause: error });
    }
  }
  return undefined;
}

function isAway(error: Error): boolean {
  if (error instanceof ConnectionError || error instanceof BackendTerminatedError || error instanceof BackendTerminatedUnexpectedlyError) return true;
  if (PG_IS_AWAY.test(error.message)) return true;
  // Class 08: the connection's own errors. 57P01 to 57P03: the server is going down, or not up yet. 53300: too many
  // connections. 25006: it is a replica, which takes no writes.
  if (error instanceof pg.DatabaseError) return /^(08...|57P0[123]|53300|25006)$/.test(error.code ?? "");
  return "code" in error && typeof error.code === "string" && /^(ECONN|ENOENT|EPIPE|ETIMEDOUT)/.test(error.code);
}
