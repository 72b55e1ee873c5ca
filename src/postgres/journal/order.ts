// The order that the writes of one batch or stream are promised: each sees the ones before it.
//
// A write can end without an outcome: another session keeps its account locked, its deadline passes, the connection breaks. A later one of the same
// batch or stream that was decided nevertheless might be refused, for ever, for money that the first one brings when it is sent again. So what
// shares a user with it isn't tried either, and the caller sends both again, in their order. By users rather than
// accounts: idempotency keys and unique references are the user's, so that a write in another currency may depend on
// it, too; and the account of a write that names a hold isn't known before that is read.

import { type Submission, usersOf } from "../../domain/journal/submission.ts";

/** Where writes come from that are to see the ones before them: a batch, or a stream. */
export interface Source {
  /** Whether all of them go in one lane, whichever user's they are. Else each user's do. */
  readonly inLine: boolean;
}

/** A write, and where it comes from; undefined: it is a call by itself. */
export interface Sourced {
  readonly submission: Submission;
  readonly source: Source | undefined;
}

/** The writes of batches and streams that ended without an outcome. */
export class Undecided {
  readonly #users = new Map<Source, Set<bigint>>();

  get any(): boolean {
    return this.#users.size > 0;
  }

  add({ submission, source }: Sourced): void {
    if (source === undefined) return;
    const users = this.#users.get(source) ?? new Set();
    for (const user of usersOf(submission)) users.add(user);
    this.#users.set(source, users);
  }

  copy(): Undecided {
    const copy = new Undecided();
    for (const [source, users] of this.#users) copy.#users.set(source, new Set(users));
    return copy;
  }

  /** Whether a write is behind one of these, of the same source and with a user in common. */
  precede({ submission, source }: Sourced): boolean {
    const users = source === undefined ? undefined : this.#users.get(source);
    return users !== undefined && usersOf(submission).some((user) => users.has(user));
  }
}
