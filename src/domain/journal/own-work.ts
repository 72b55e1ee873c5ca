// What ledgerd itself writes: nobody's key stands for it, and its actor says so.

import type { Command, Note } from "./command.ts";
import type { Submission } from "./submission.ts";

/** What its rows are noted with. */
export const OWN_NOTE: Note = { description: "", metadata: [], reference: "", uniqueReference: false, actor: "ledgerd", traceId: "" };

/** The submission of a command of its own. */
export function ownWork(command: Command): Submission {
  const { userId } = command;
  return { userId, key: undefined, lease: undefined, fingerprint: "", commands: [command], batch: false, groupId: "" };
}
