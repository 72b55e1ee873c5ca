// From checked requests to submissions for the journal: keys and fingerprints.

import { hash, randomUUID } from "node:crypto";
import type { Command } from "../domain/command.ts";
import type { Submission } from "../domain/group.ts";
import type { Lease } from "../domain/job.ts";
import type { Money } from "../domain/money.ts";
import type { Call } from "./handlers.ts";

/** What of a call is kept with what it writes. */
type Traced = Pick<Call, "traceId">;

/** The submission of one write under its key. */
export function submissionOf(command: Command, key: string, call: Traced): Submission {
  return submit([command], key, false, call);
}

/** The submission of an atomic batch under its key, whose scope is the user of the first write. */
export function batchSubmissionOf(commands: readonly Command[], key: string, call: Call): Submission {
  return submit(commands, key, true, call);
}

function submit(commands: readonly Command[], key: string, batch: boolean, { traceId }: Traced): Submission {
  const [first] = commands;
  if (first === undefined) throw new Error("a submission needs a command");
  return {
    userId: first.userId,
    key: key === "" ? undefined : key,
    lease: undefined,
    fingerprint: fingerprintOf(commands, batch),
    commands: commands.map((command) => ({ ...command, note: { ...command.note, traceId } })),
    batch,
    groupId: batch || first.kind === "transfer" ? randomUUID() : "",
  };
}

/**
 * The submission of a command under a lease: job, token and method are its key. No caller can send a key with a control character.
 */
export function leasedSubmissionOf(command: Command, { jobId, fencingToken }: Lease, call: Call): Submission {
  return { ...submissionOf(command, `\u001F${command.kind} ${jobId} ${fencingToken}`, call), lease: { jobId, fencingToken } };
}

/**
 * A digest of what is asked for. It is kept with the key for ever, so its text never changes for the same request: fields that later
 * versions add take part only where they are set.
 */
function fingerprintOf(commands: readonly Command[], batch: boolean): string {
  const request = commands.map(canonicalFields);
  return hash("sha256", JSON.stringify(batch ? ["batch", request] : request), "hex").slice(0, 32);
}

/** A command's fields, each with its name, in a fixed order, and the caller's note. */
function canonicalFields(command: Command): readonly string[] {
  const fields: string[] = ["kind", command.kind, "userId", `${command.userId}`, "currency", command.currency];
  for (const [name, value] of ownFields(command)) if (value !== undefined) fields.push(name, String(value));
  const { description, reference, uniqueReference, metadata: entries } = command.note;
  fields.push(description, reference, String(uniqueReference));
  for (const [key, value] of entries) fields.push(key, value);
  return fields;
}

function ownFields(command: Command): readonly (readonly [name: string, value: bigint | number | boolean | string | undefined])[] {
  const expected = ["expectedSequence", command.expectedSequence] as const;
  switch (command.kind) {
    case "top_up":
    case "deduct":
      return [expected, ["amount", command.amount]];
    case "refund":
      return [expected, ["amount", command.amount], ["transactionId", command.transactionId]];
    case "transfer":
      return [expected, ["amount", command.amount], ["toUserId", command.toUserId]];
    case "place_hold":
      return [expected, ["amount", command.amount], ["expiresIn", command.expiresIn]];
    case "capture_hold":
      return [expected, ["amount", command.amount], ["holdId", command.holdId], ["final", command.final]];
    case "release_hold":
      return [expected, ["holdId", command.holdId]];
    case "adjust":
      return [expected, ["amount", command.amount], ["allowNegative", command.allowNegative]];
    case "set_credit_limit":
      return [expected, ["limit", command.limit]];
    case "create_job": {
      const { amount, modelId, prompt, parameters, priority, runAt, maxAttempts } = command;
      return Object.entries({ amount, modelId, prompt, parameters, priority, runAt, maxAttempts });
    }
    case "complete_job":
      return Object.entries({ jobId: command.jobId, fencingToken: command.fencingToken, finalCost: textOf(command.finalCost), resultUrl: command.resultUrl });
    case "fail_job":
      return Object.entries({ jobId: command.jobId, fencingToken: command.fencingToken, errorMessage: command.errorMessage, final: command.final });
    case "cancel_job":
    case "retry_job":
    case "rescue_job":
      return [["jobId", command.jobId]];
    case "update_job": {
      const { jobId, status, resultUrl, errorMessage } = command;
      return Object.entries({ jobId, status, resultUrl, errorMessage, finalCost: textOf(command.finalCost) });
    }
    case "expire_holds":
      return [expected];
  }
}

function textOf(money: Money | undefined): string | undefined {
  return money === undefined ? undefined : `${money.minor} ${money.currency}`;
}
