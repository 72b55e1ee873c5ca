// Which errors of PostgreSQL, and of the way to it, mean that it can't work now, rather than that something is wrong with
// what was asked: by their SQLSTATE, for statements that read and for the journal alike.

import pg from "pg";
import { ConnectionError, BackendTerminatedUnexpectedlyError } from "slonik";
import { Failure } from "../../domain/failure.ts";
import { TakesNoWrites } from "./connect.ts";

/** What pg's client says, by its text alone, of a connection that broke or never came to be. */
const PG_IS_AWAY = /^(Connection terminated|timeout expired|Client (has encountered a connection error|was closed))/;

/** A state of the database in which calls fail. */
interface Trouble {
  readonly states: RegExp;
  /** What callers are told of it. */
  readonly why: string;
  /** Of the session that was told so: it is over, or it stays as it was when it began. Neither is used again. */
  readonly session?: "over" | "stale";
}

/** By https://www.postgresql.org/docs/18/errcodes-appendix.html; the first one that fits. */
const troubles: readonly Trouble[] = [
  { states: /^25006$/, why: "it is read-only, or a standby", session: "stale" },
  { states: /^25P0[34]$/, why: "the session was idle in its transaction for too long", session: "over" },
  { states: /^08/, why: "the connection to it broke", session: "over" },
  { states: /^28/, why: "it refuses the login" },
  { states: /^3D000$/, why: "it isn't there" },
  { states: /^53100$/, why: "its disk is full" },
  { states: /^53200$/, why: "it is out of memory" },
  { states: /^53300$/, why: "it has too many connections" },
  { states: /^53/, why: "it lacks resources" },
  { states: /^55006$/, why: "what is asked for is in use by others" },
  { states: /^57P0[123]$/, why: "it is shutting down, or starting up", session: "over" },
  { states: /^57P04$/, why: "it was removed", session: "over" },
  { states: /^57P05$/, why: "the session was idle for too long", session: "over" },
  { states: /^58/, why: "it has trouble with its files" },
  { states: /^XX00[12]$/, why: "its data is damaged" },
];

const QUERY_CANCELED = "57014";
const DAMAGED = /^XX00[12]$/;

/** What an error of PostgreSQL says of the database's state; undefined: nothing, it is about the statement. */
export function troubleOf(error: unknown): Trouble | undefined {
  const state = error instanceof pg.DatabaseError ? (error.code ?? "") : "";
  return troubles.find(({ states }) => states.test(state));
}

/** The failure that an error of the database stands for, if it isn't a bug; with why, where the database said so. */
export function failureOf(error: unknown): Failure | undefined {
  const causes = causesOf(error);
  const told = causes.find((cause) => cause instanceof Failure);
  if (told !== undefined && told.reason !== "DATABASE_UNAVAILABLE") return told;
  if (told === undefined && causes.some((cause) => cause instanceof pg.DatabaseError && cause.code === QUERY_CANCELED)) {
    return new Failure("DEADLINE_PASSED", { cause: error });
  }
  const why = causes.map(whyOf).find((text) => text !== undefined);
  if (told === undefined && why === undefined && !causes.some(isAway)) return undefined;
  return new Failure("DATABASE_UNAVAILABLE", { cause: error, why });
}

/** Whether PostgreSQL found that what it has stored is damaged. */
export function tellsOfDamage(error: unknown): boolean {
  return causesOf(error).some((cause) => cause instanceof pg.DatabaseError && DAMAGED.test(cause.code ?? ""));
}

function causesOf(error: unknown): readonly Error[] {
  const causes: Error[] = [];
  for (let cause = error; cause instanceof Error && !causes.includes(cause); cause = cause.cause) {
    causes.push(cause, ...(cause instanceof AggregateError ? cause.errors.flatMap(causesOf) : []));
  }
  return causes;
}

function whyOf(error: Error): string | undefined {
  return error instanceof TakesNoWrites ? error.message : troubleOf(error)?.why;
}

/** Of errors that pg and Node have for a connection that isn't there, or not any more. */
function isAway(error: Error): boolean {
  if (error instanceof ConnectionError || error instanceof BackendTerminatedUnexpectedlyError) return true;
  if (PG_IS_AWAY.test(error.message)) return true;
  return "code" in error && typeof error.code === "string" && /^(ECONN|ENOENT|EPIPE|ETIMEDOUT)/.test(error.code);
}
