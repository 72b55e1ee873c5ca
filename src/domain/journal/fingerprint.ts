// What is asked for, as a digest: by it a key that comes again is told from one that is used for something else.

import { hash } from "node:crypto";
import type { Money } from "../money/money.ts";
import type { Command } from "./command.ts";

/**
 * A digest of what is asked for. It is kept with the key for ever, so its text never changes for the same request: fields that later
 * versions add take part only where they are set.
 *
 * The text is JSON: for each command the names and values of its fields, in a fixed order, all of them strings. (Put together here rather than made into
 * lists for `JSON.stringify`: 0.8 µs for a submission instead of 1.0. SHA-256 takes 0.3 of it.)
 */
export function fingerprintOf(commands: readonly Command[], batch: boolean): string {
  const request = `[${commands.map(canonicalText).join(",")}]`;
  return hash("sha256", batch ? `["batch",${request}]` : request, "hex").slice(0, 32);
}

/** A command's fields, each with its name, and the caller's note. */
function canonicalText(command: Command): string {
  const { description, reference, uniqueReference, metadata } = command.note;
  let text = `["kind","${command.kind}","userId","${command.userId}","currency","${command.currency}"${ownFields(command)}`;
  text += `,${quoted(description)},${quoted(reference)},"${uniqueReference}"`;
  for (const [key, value] of metadata) text += `,${quoted(key)},${quoted(value)}`;
  return `${text}]`;
}

function ownFields(command: Command): string {
  switch (command.kind) {
    case "top_up":
    case "deduct":
      return expected(command) + field("amount", command.amount);
    case "refund":
      return expected(command) + field("amount", command.amount) + field("transactionId", command.transactionId);
    case "transfer":
      return expected(command) + field("amount", command.amount) + field("toUserId", command.toUserId);
    case "place_hold":
      return expected(command) + field("amount", command.amount) + field("expiresIn", command.expiresIn);
    case "capture_hold":
      return expected(command) + field("amount", command.amount) + field("holdId", command.holdId) + field("final", command.final);
    case "release_hold":
      return expected(command) + field("holdId", command.holdId);
    case "adjust":
      return expected(command) + field("amount", command.amount) + field("allowNegative", command.allowNegative);
    case "set_credit_limit":
      return expected(command) + field("limit", command.limit);
    case "create_job": {
      const { amount, modelId, prompt, parameters, priority, runAt, maxAttempts } = command;
      return fields({ amount, modelId, prompt, parameters, priority, runAt, maxAttempts });
    }
    case "complete_job":
      return fields({ jobId: command.jobId, fencingToken: command.fencingToken, finalCost: textOf(command.finalCost), resultUrl: command.resultUrl });
    case "fail_job":
      return fields({ jobId: command.jobId, fencingToken: command.fencingToken, errorMessage: command.errorMessage, final: command.final });
    case "cancel_job":
    case "retry_job":
    case "rescue_job":
      return field("jobId", command.jobId);
    case "update_job": {
      const { jobId, status, resultUrl, errorMessage } = command;
      return fields({ jobId, status, resultUrl, errorMessage, finalCost: textOf(command.finalCost) });
    }
    case "expire_holds":
      return expected(command);
  }
}

type Value = bigint | number | boolean | string | undefined;

function expected({ expectedSequence }: Command): string {
  return field("expectedSequence", expectedSequence);
}

function fields(values: Readonly<Record<string, Value>>): string {
  return Object.entries(values).map(([name, value]) => field(name, value)).join("");
}

function field(name: string, value: Value): string {
  if (value === undefined) return "";
  return `,"${name}",${typeof value === "string" ? quoted(value) : `"${value}"`}`;
}

function quoted(text: string): string {
  return text === "" ? '""' : JSON.stringify(text);
}

function textOf(money: Money | undefined): string | undefined {
  return money === undefined ? undefined : `${money.minor} ${money.currency}`;
}
