// What is submitted to the journal: commands that are decided together, under one key.

import type { Lease } from "../jobs/job.ts";
import type { Command } from "./command.ts";

/** Commands under one idempotency key: applied together or not at all. */
export interface Submission {
  /** The scope of the key: who pays for the first command. */
  readonly userId: bigint;
  /** Absent only where a repetition is harmless. */
  readonly key: string | undefined;
  /** The lease under which it is sent. Its key is then made of it, which nobody can send, and a refusal is not kept: the caller may mend the request. */
  readonly lease: Lease | undefined;
  /** Digest of the request: under one key, requests that differ in it are refused. */
  readonly fingerprint: string;
  readonly commands: readonly Command[];
  /** Whether it is an atomic batch, even of one command: its rows then carry a group instead of the key. */
  readonly batch: boolean;
  /** A UUID for the rows, where there may be several: of a transfer, of an atomic batch. */
  readonly groupId: string;
}

/** The users whose accounts a submission's commands change; some may occur several times. */
export function usersOf({ commands }: Submission): readonly bigint[] {
  return commands.flatMap((command) => (command.kind === "transfer" ? [command.userId, command.toUserId] : [command.userId]));
}
