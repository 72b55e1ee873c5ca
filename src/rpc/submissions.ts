// From checked requests to submissions for the journal, each with its key.

import { randomUUID } from "node:crypto";
import type { Command } from "../domain/journal/command.ts";
import type { Lease } from "../domain/jobs/job.ts";
import type { Call } from "./call.ts";
import { fingerprintOf } from "../domain/journal/fingerprint.ts";
import type { Submission } from "../domain/journal/submission.ts";

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
    commands: traceId === "" ? commands : commands.map((command) => ({ ...command, note: { ...command.note, traceId } })),
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
