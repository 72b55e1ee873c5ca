// The handler of the live feed.

import { WatchTransactionsRequestSchema, type WatchTransactionsRequest, type WatchTransactionsResponse } from "../../gen/ledger/v1/ledger_service_pb.ts";
import type { Feed, Position } from "../../postgres/feed/feed.ts";
import type { Answers } from "../answers.ts";
import type { ReadSchemas } from "./read-requests.ts";
import { errorOf } from "../errors.ts";
import { validate } from "../validation.ts";
import type { StreamCall } from "../call.ts";

/** What the handler works with. */
export interface WatchParts {
  readonly reads: ReadSchemas;
  readonly answers: Answers;
  readonly feed: Feed;
}

const LOST =
  "the log lacks the position, or may: it is another database's, was restored to before it, or failed over under the stream";

type Step = Pick<WatchTransactionsResponse, "event" | "position">;

/** The handler of `WatchTransactions`. */
export function watchHandlers({ reads, answers, feed }: WatchParts) {
  return {
    watchTransactions: async function* (request: WatchTransactionsRequest, { signal }: StreamCall): AsyncGenerator<Step> {
      const { position: from, userId, types } = validate(reads.watchTransactions, WatchTransactionsRequestSchema, request);
      let told = request.position;
      const filter = { userId: userId === 0n ? undefined : userId, types };
      for await (const step of feed.watch(from, filter, signal)) {
        if (step.kind === "lost") throw errorOf("FEED_POSITION_LOST", LOST, { position: told });
        if (step.kind === "caught_up") {
          told = textOf(step.position);
          yield { event: { case: "caughtUp", value: { $typeName: "ledger.v1.CaughtUp" } }, position: told };
          continue;
        }
        for (const { transaction, position } of step.rows) {
          told = textOf(position);
          yield { event: { case: "transaction", value: answers.transaction(transaction) }, position: told };
        }
      }
    },
  };
}

function textOf(position: Position | undefined): string {
  return position === undefined ? "" : `${position.id}.${position.hash}`;
}
