// The rows of the old application: which columns are read of them, and what they become.

import { sql } from "slonik";
import { JOB_BYTES, type OldJob } from "../rules/adopted-job.ts";
import type { OldTransaction } from "../rules/adoption.ts";

/** A row, its columns as texts. */
export type Fields = readonly (string | null)[];

/** Times that no text stands for: before all that can be kept, and behind. */
const LONG_AGO = -1n;
const FAR_AHEAD = 253_402_300_800_000_000n;

/**
 * A column's time in microseconds since 1970; NULL where there is none, or an infinite one. A time far away isn't computed with: not all that
 * PostgreSQL has fit into another zone, or into a number of microseconds.
 */
export function micros(table: string, column: string) {
  const time = sql.identifier([table, column]);
  return sql.fragment`
    CASE WHEN NOT isfinite(${time}) THEN NULL
         WHEN ${time} > '9999-12-30' THEN ${FAR_AHEAD}::int8
         WHEN ${time} < '1969-12-30' THEN ${LONG_AGO}::int8
         ELSE (extract(epoch FROM ${time}::timestamptz) * 1000000)::int8 END`;
}

/** The columns of `transactions t`, with so many characters of the description. */
export function transactionColumns(characters: number) {
  return sql.fragment`
    t.user_id, t.id, t.amount, t.currency::text, t.type::text, left(t.description::text, ${characters}),
    ${micros("t", "created_at")}, t.created_at`;
}

/** A row of `transactionColumns`. */
export function oldTransaction([
  userId,
  id,
  amount = null,
  currency = null,
  type = null,
  description = null,
  time,
  timeText = null,
]: Fields): OldTransaction {
  return {
    userId: BigInt(userId ?? 0),
    id: BigInt(id ?? 0),
    amount,
    currency,
    type,
    description,
    time: optional(time),
    timeText,
  };
}

/** A row of a job, of which long texts are cut. */
export function oldJob(fields: Fields): OldJob {
  const [
    id,
    userId,
    currency = null,
    modelId,
    prompt,
    parameters,
    status = null,
    resultUrl,
    errorMessage,
    cost = null,
    createdAt,
    completedAt,
    bytes,
  ] = fields;
  return {
    id: BigInt(id ?? 0),
    userId: BigInt(userId ?? 0),
    currency,
    modelId: modelId ?? "",
    prompt: prompt ?? "",
    parameters: parameters ?? "",
    status,
    resultUrl: resultUrl ?? "",
    errorMessage: errorMessage ?? "",
    cost,
    createdAt: optional(createdAt),
    completedAt: optional(completedAt),
    bytes: Number(bytes ?? 0),
    isCut: Number(bytes ?? 0) > JOB_BYTES,
  };
}

/** A number that may be NULL. */
export function optional(text: string | null | undefined): bigint | null {
  return text === null || text === undefined ? null : BigInt(text);
}
