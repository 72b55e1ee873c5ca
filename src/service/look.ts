// What a look at the database tells of readiness, again and again.

import { setImmediate as immediate, setTimeout as delay } from "node:timers/promises";
import type { Logger } from "pino";
import { reasonOf } from "../postgres/connection/connect.ts";
import { failureOf } from "../postgres/connection/errors.ts";
import { knownMigrations } from "../postgres/schema/migrate.ts";
import type { Status } from "../postgres/status.ts";
import type { Readiness } from "../servers/readiness.ts";
import { logged, repeat } from "../upkeep/repeat.ts";

const READINESS_PAUSE_MS = 500;
/** A database that takes longer to answer a look is as good as away. */
const READINESS_LIMIT_MS = 2000;

/** Looks once, and then again and again until what was opened is closed. */
export async function keepLooking(
  status: Status,
  readiness: Readiness,
  log: Logger,
  opened: AsyncDisposableStack,
): Promise<void> {
  await look(status, readiness);
  const looks = repeat(READINESS_PAUSE_MS, () => look(status, readiness), logged("looking at the database", log));
  opened.defer(() => looks.stop());
}

/** Takes a look at the database, and reports what it found. */
async function look(status: Status, readiness: Readiness): Promise<void> {
  try {
    readiness.report(await Promise.race([status.problem(knownMigrations().length), tooLate()]));
  } catch (error) {
    const why = failureOf(error)?.why;
    readiness.report(why === undefined ? `the database can't be reached: ${reasonOf(error)}` : `the database can't be used: ${why}`);
  }
}

async function tooLate(): Promise<string> {
  await delay(READINESS_LIMIT_MS, undefined, { ref: false });
  // An answer that came while this process was busy is there by then: it was not the database that took so long.
  await immediate();
  return `the database took longer than ${READINESS_LIMIT_MS} ms to answer`;
}
