// From why a call fails to what is sent: the one table of codes, the texts, and the details of errors.

import { randomUUID } from "node:crypto";
import { create } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { currencyOf, type Currencies } from "../domain/money/currency.ts";
import type { Failure, FailureReason } from "../domain/failure.ts";
import { isoTime } from "../domain/moment.ts";
import { formatAmount, type Money } from "../domain/money/money.ts";
import type { Refusal } from "../domain/journal/refusal.ts";
import { firstOf } from "../domain/text.ts";
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from "../gen/google/rpc/error_details_pb.ts";
import { ErrorReason, RefusalSchema, type Refusal as RefusalMessage } from "../gen/ledger/v1/errors_pb.ts";

/** Every reason that a caller can be given: those of the proto's enum. */
export type Reason =
  | Refusal["reason"]
  | FailureReason
  | "NOT_ADMITTED"
  | "UNSUPPORTED"
  | "INVALID_REQUEST"
  | "MESSAGE_TOO_LARGE"
  | "OUTCOME_NOT_FOUND"
  | "SERVICE_NOT_FOUND"
  | "FEED_POSITION_LOST"
  | "INTERNAL";

/** The gRPC code of each reason, in order of precedence: where several apply, the first one is answered. */
export const codes: Readonly<Record<Reason, Code>> = {
  NOT_ADMITTED: Code.PermissionDenied,
  UNSUPPORTED: Code.Unimplemented,
  INVALID_REQUEST: Code.InvalidArgument,
  MESSAGE_TOO_LARGE: Code.ResourceExhausted,
  CALL_CANCELLED: Code.Canceled,
  DEADLINE_PASSED: Code.DeadlineExceeded,
  SHUTTING_DOWN: Code.Unavailable,
  OVERLOADED: Code.ResourceExhausted,
  DATABASE_UNAVAILABLE: Code.Unavailable,
  COMMIT_OUTCOME_UNKNOWN: Code.Unavailable,
  TRANSACTION_CONFLICT: Code.Aborted,
  IDEMPOTENCY_KEY_REUSED: Code.AlreadyExists,
  OUTCOME_NOT_FOUND: Code.NotFound,
  ACCOUNT_NOT_FOUND: Code.NotFound,
  SEQUENCE_MISMATCH: Code.FailedPrecondition,
  REFERENCE_ALREADY_USED: Code.FailedPrecondition,
  CURRENCY_MISMATCH: Code.FailedPrecondition,
  SAME_ACCOUNT: Code.FailedPrecondition,
  TRANSACTION_NOT_FOUND: Code.NotFound,
  TRANSACTION_NOT_REFUNDABLE: Code.FailedPrecondition,
  REFUND_EXCEEDS_ORIGINAL: Code.FailedPrecondition,
  JOB_NOT_FOUND: Code.NotFound,
  JOB_STATE_CONFLICT: Code.FailedPrecondition,
  LEASE_LOST: Code.FailedPrecondition,
  LOCK_HELD: Code.FailedPrecondition,
  LOCK_LOST: Code.FailedPrecondition,
  HOLD_NOT_FOUND: Code.NotFound,
  HOLD_OWNED_BY_JOB: Code.FailedPrecondition,
  HOLD_ALREADY_CAPTURED: Code.FailedPrecondition,
  HOLD_ALREADY_RELEASED: Code.FailedPrecondition,
  HOLD_EXPIRED: Code.FailedPrecondition,
  CAPTURE_EXCEEDS_HOLD: Code.FailedPrecondition,
  INSUFFICIENT_FUNDS: Code.FailedPrecondition,
  AMOUNT_OUT_OF_RANGE: Code.OutOfRange,
  NOT_TRIED: Code.Aborted,
  SERVICE_NOT_FOUND: Code.NotFound,
  FEED_POSITION_LOST: Code.OutOfRange,
  INTERNAL: Code.Internal,
};

/** What is wrong with one field of a request, by its name in the proto. */
export interface Violation {
  readonly field: string;
  readonly description: string;
}

type Metadata = Readonly<Record<string, string>>;

/** After how long a retry makes sense, in milliseconds. */
const retryAfterMs: Partial<Record<Reason, number>> = {
  SHUTTING_DOWN: 100,
  OVERLOADED: 100,
  DATABASE_UNAVAILABLE: 500,
  COMMIT_OUTCOME_UNKNOWN: 100,
  TRANSACTION_CONFLICT: 50,
};

const failureTexts: Readonly<Record<FailureReason, string>> = {
  CALL_CANCELLED: "the caller cancelled the call; a write may still be applied",
  DEADLINE_PASSED: "the deadline passed; if the call writes, it may still be applied: retry it with the same key",
  SHUTTING_DOWN: "this instance is shutting down",
  OVERLOADED: "too many calls are waiting; nothing was tried, retry with the same key",
  DATABASE_UNAVAILABLE: "the database can't be reached; nothing was changed",
  COMMIT_OUTCOME_UNKNOWN: "the connection broke during the commit; retry with the same key to find out what happened",
  TRANSACTION_CONFLICT: "other sessions were in the way for too long; nothing was changed, retry with the same key",
  NOT_TRIED: "an earlier write of this batch or stream that shares a user with it has no outcome; nothing was changed, retry both in their order, with the same keys",
};

/** Of a value in an error's metadata, in characters: all that callers may choose is shorter. */
const MOST_VALUE = 150;

/** The error of a call, with its ErrorInfo. */
export function errorOf(reason: Reason, message: string, metadata: Metadata = {}, cause?: unknown): ConnectError {
  const shown = (value: string): string => firstOf(value, MOST_VALUE).toWellFormed();
  const told = Object.fromEntries(Object.entries(metadata).map(([name, value]) => [name, shown(value)] as const));
  const info = { desc: ErrorInfoSchema, value: { reason, domain: "ledgerd", metadata: told } };
  const retryMs = retryAfterMs[reason];
  const retry = retryMs === undefined ? [] : [{ desc: RetryInfoSchema, value: { retryDelay: { seconds: 0n, nanos: retryMs * 1_000_000 } } }];
  return new ConnectError(message, codes[reason], undefined, [info, ...retry], cause);
}

/** The error of a failure on our side. */
export function errorOfFailure(reason: FailureReason, cause: unknown, why?: string): ConnectError {
  const text = why === undefined ? failureTexts[reason] : `the database can't be used now: ${why}; nothing was changed`;
  return errorOf(reason, text, {}, cause);
}

/** Turns whatever a handler threw into the error that its caller gets. `where` is for the log. */
export type Translate = (error: unknown, where: string) => ConnectError;

/**
 * Translates errors: those that are meant for callers as they are, failures by their reason, and all else as INTERNAL, with an
 * incident's id under which the log has the cause.
 */
export function createTranslate(
  failureOf: (error: unknown) => Failure | undefined,
  log: (incident: { readonly incident: string; readonly where: string; readonly error: unknown }) => void,
): Translate {
  return (error, where) => {
    if (error instanceof ConnectError) return error;
    const failure = failureOf(error);
    if (failure !== undefined) return errorOfFailure(failure.reason, error, failure.why);
    const incident = randomUUID();
    log({ incident, where, error });
    return errorOf("INTERNAL", `internal error; the server's log has it as incident ${incident}`, { incident }, error);
  };
}

/** An error as an item of a batch or a stream. */
export function refusalOfError(error: ConnectError): RefusalMessage {
  const [info] = error.findDetails(ErrorInfoSchema);
  const reason = ErrorReason[(info?.reason ?? "INTERNAL") as Reason];
  return create(RefusalSchema, { reason, message: error.rawMessage, stored: false, metadata: info?.metadata ?? {} });
}

/**
 * An error travels in headers, of which many clients take 8 KiB: a batch of a thousand malformed writes would have the
 * connection ended instead. After so many nothing more is looked for: whoever sends nonsense doesn't have it read to its end.
 */
export const MOST_VIOLATIONS = 16;
const MOST_VIOLATION_BYTES = 2200;
const MOST_FIELD_BYTES = 300;
const MOST_DESCRIPTION_BYTES = 500;
/** Of the tags and lengths of one. */
const AROUND_VIOLATION = 9;

/** The error of a malformed request: what is wrong with it, up to a bound. */
export function errorOfViolations(violations: readonly Violation[]): ConnectError {
  let bytes = 0;
  const told: Violation[] = [];
  for (const violation of violations.slice(0, MOST_VIOLATIONS)) {
    const field = cutTo(MOST_FIELD_BYTES, violation.field);
    const description = cutTo(MOST_DESCRIPTION_BYTES, violation.description);
    bytes += AROUND_VIOLATION + Buffer.byteLength(field) + Buffer.byteLength(description);
    if (bytes > MOST_VIOLATION_BYTES) break;
    told.push({ field, description });
  }
  const list = told.map(({ field, description }) => (field === "" ? description : `${field} ${description}`)).join("; ");
  const more = violations.length > told.length ? "; and more" : "";
  const error = errorOf("INVALID_REQUEST", `the request is malformed: ${list}${more}`);
  error.details.push({ desc: BadRequestSchema, value: { fieldViolations: told } });
  return error;
}

/** A text, or as much of it as has so many bytes. */
function cutTo(mostBytes: number, text: string): string {
  if (Buffer.byteLength(text) <= mostBytes) return text;
  // Cut within a character, it would end in U+FFFD.
  return `${Buffer.from(text).subarray(0, mostBytes - 3).toString().replace(/\uFFFD$/, "")}…`;
}

/** The error of a refused write. */
export function errorOfRefusal(refusal: Refusal, stored: boolean, currencies: Currencies): ConnectError {
  const { message, metadata } = describe(refusal, currencies);
  return errorOf(refusal.reason, message, stored ? { ...metadata, stored: "true" } : metadata);
}

/** A refusal as an item of a batch, or of a stored outcome. */
export function refusalMessage(refusal: Refusal, stored: boolean, currencies: Currencies): RefusalMessage {
  const { message, metadata } = describe(refusal, currencies);
  return create(RefusalSchema, { reason: ErrorReason[refusal.reason], message, stored, metadata });
}

type RefusalOf<R extends Refusal["reason"]> = Extract<Refusal, { reason: R }>;
type Amount = (money: Money) => string;

const refusalTexts: { readonly [R in Refusal["reason"]]: (refusal: RefusalOf<R>, amount: Amount) => string } = {
  IDEMPOTENCY_KEY_REUSED: () => "the idempotency key was used for another request; take a new key for each request",
  ACCOUNT_NOT_FOUND: ({ userId, currency }) => `user ${userId} has no account in ${currency}`,
  SEQUENCE_MISMATCH: ({ sequence, expectedSequence }) => `the account is at sequence ${sequence}, not ${expectedSequence}`,
  REFERENCE_ALREADY_USED: ({ reference }) => `another transaction of this user and type has the reference "${reference}"`,
  CURRENCY_MISMATCH: ({ currency, requested }) => `the amount is in ${requested}, what it refers to in ${currency}`,
  SAME_ACCOUNT: ({ userId }) => `user ${userId} is both sender and recipient`,
  TRANSACTION_NOT_FOUND: ({ transactionId }) => `the user has no transaction ${transactionId}`,
  TRANSACTION_NOT_REFUNDABLE: ({ type, transactionId }) => `transaction ${transactionId} is of type ${type}; only deductions and captures can be refunded`,
  REFUND_EXCEEDS_ORIGINAL: ({ refundable, transactionId }, amount) => `${amount(refundable)} of transaction ${transactionId} can still be refunded`,
  JOB_NOT_FOUND: ({ jobId }) => `there is no job ${jobId}`,
  JOB_STATE_CONFLICT: ({ jobId, status, leaseExpiresAt }) =>
    leaseExpiresAt === undefined ? `job ${jobId} is ${status}` : `job ${jobId} is leased to a worker until ${isoTime(leaseExpiresAt)}`,
  LEASE_LOST: ({ jobId, fencingToken }) => `the lease ${fencingToken} of job ${jobId} is over; stop working on it`,
  LOCK_HELD: ({ lockKey, instanceId, expiresAt }) => `${instanceId} holds lock ${lockKey} until ${isoTime(expiresAt)}`,
  LOCK_LOST: ({ lockKey, fencingToken }) => `the lease ${fencingToken} of lock ${lockKey} is over; stop what it protects`,
  HOLD_NOT_FOUND: ({ holdId }) => `the user has no hold ${holdId}`,
  HOLD_OWNED_BY_JOB: ({ holdId, jobId }) => `hold ${holdId} belongs to job ${jobId}`,
  HOLD_ALREADY_CAPTURED: ({ holdId }) => `hold ${holdId} was ended by its captures`,
  HOLD_ALREADY_RELEASED: ({ holdId }) => `hold ${holdId} was released`,
  HOLD_EXPIRED: ({ holdId, expiresAt }) => `hold ${holdId} expired at ${isoTime(expiresAt)}`,
  CAPTURE_EXCEEDS_HOLD: ({ holdId, remaining }, amount) => `${amount(remaining)} is left of hold ${holdId}`,
  INSUFFICIENT_FUNDS: ({ available, requested }, amount) => `${amount(available)} is available, ${amount(requested)} was asked for`,
  AMOUNT_OUT_OF_RANGE: ({ userId, currency }) => `the account of user ${userId} in ${currency} would pass the largest amount that the ledger holds`,
  NOT_TRIED: ({ culprit }) => `item ${culprit} of the atomic batch was refused`,
};

function describe(refusal: Refusal, currencies: Currencies): { message: string; metadata: Record<string, string> } {
  const decimal: Amount = ({ minor, currency }) => formatAmount(minor, currencyOf(currencies, currency).digits);
  const amount: Amount = (money) => `${decimal(money)} ${money.currency}`;
  // The table's type says that each text takes the refusal of its own reason, which TypeScript can't follow through the look-up.
  const text = refusalTexts[refusal.reason] as (refusal: Refusal, amount: Amount) => string;
  return { message: text(refusal, amount), metadata: metadataOf(refusal, decimal) };
}

/** The variable parts of a refusal as text, under the names of the proto's fields; amounts as decimals beside their currency. */
function metadataOf(refusal: Refusal, decimal: Amount): Record<string, string> {
  const { reason: _, ...parts } = refusal;
  const entries = Object.entries(parts as Readonly<Record<RefusalPart, bigint | number | string | Money | undefined>>);
  return Object.fromEntries(
    entries.flatMap(([part, value]): [string, string][] => {
      if (value === undefined) return [];
      const { name, isTime } = { isTime: false, ...refusalParts[part as RefusalPart] };
      if (typeof value === "object") return [[name, decimal(value)], ["currency", value.currency]];
      return [[name, isTime && typeof value === "bigint" ? isoTime(value) : value.toString()]];
    }),
  );
}

type PartOf<R> = R extends unknown ? Exclude<keyof R, "reason"> : never;
type RefusalPart = PartOf<Refusal>;

/** What a part is called on the wire, for ever, and whether it is a time. */
const refusalParts: { readonly [P in RefusalPart]: { readonly name: string; readonly isTime?: true } } = {
  available: { name: "available" },
  createdAt: { name: "create_time", isTime: true },
  culprit: { name: "culprit" },
  currency: { name: "currency" },
  expectedSequence: { name: "expected_sequence" },
  expiresAt: { name: "expire_time", isTime: true },
  fencingToken: { name: "fencing_token" },
  holdId: { name: "hold_id" },
  instanceId: { name: "instance_id" },
  jobId: { name: "job_id" },
  leaseExpiresAt: { name: "lease_expire_time", isTime: true },
  lockKey: { name: "lock_key" },
  reference: { name: "reference" },
  refundable: { name: "refundable" },
  remaining: { name: "remaining" },
  requested: { name: "requested" },
  sequence: { name: "sequence" },
  status: { name: "status" },
  transactionId: { name: "transaction_id" },
  type: { name: "type" },
  userId: { name: "user_id" },
};
