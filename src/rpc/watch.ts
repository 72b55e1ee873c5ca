// The handler of the live feed.

import { WatchTransactionsRequestSchema, type WatchTransactionsRequest, type WatchTransactionsResponse } from "../gen/ledger/v1/ledger_service_pb.ts";
import type { Feed, Position } from "../postgres/feed.ts";
import type { Answers } from "./answers.ts";
import type { StreamCall } from "./handlers.ts";
import type { ReadSchemas } from "./read-requests.ts";
import { errorOf } from "./status.ts";
import { validate } from "./validation.ts";

/** What the handler works with. */
export interface WatchParts {
  readonly reads: ReadSchemas;
  readonly answers: Answers;
  readonly feed: Feed;
}

type Step = Pick<WatchTransactionsResponse, "event" | "position">;

/** The handler of `WatchTransactions`. */
export function watchHandlers({ reads, answers, feed }: WatchParts) {
  return {
    watchTransactions: async function* (request: WatchTransactionsRequest, { signal }: StreamCall): AsyncGenerator<Step> {
      const { position: from, userId, types } = validate(reads.watchTransactions, WatchTransactionsRequestSchema, request);
      if (from !== undefined && !(await feed.knows(from))) {
        throw errorOf("FEED_POSITION_LOST", "this log doesn't have the position: it is another database, or one that was restored to before it", {
          position: request.position,
        });
      }
      const filter = { userId: userId === 0n ? undefined : userId, types };
      for await (const step of feed.watch(from, filter, signal)) {
        if (step.kind === "caught_up") {
          yield { event: { case: "caughtUp", value: { $typeName: "ledger.v1.CaughtUp" } }, position: textOf(step.position) };
          continue;
        }
        for (const { transaction, position } of step.rows) {
          yield { event: { case: "transaction", value: answers.transaction(transaction) }, position: textOf(position) };
        }
      }
    },
  };
}

function textOf(position: Position | undefined): string {
  return position === undefined ? "" : `${position.id}.${position.hash}`;
}
