// LedgerService: its handlers, put together. A method without one doesn't compile.

import type { LedgerService } from "../../gen/ledger/v1/ledger_service_pb.ts";
import { readHandlers, type ReadParts } from "./reads.ts";
import { streamHandlers } from "./stream-writes.ts";
import { watchHandlers, type WatchParts } from "./watch.ts";
import { writeHandlers, type WriteParts } from "./writes.ts";
import type { Handlers } from "../call.ts";

/** The handlers of LedgerService. */
export function ledgerHandlers(parts: WriteParts & ReadParts & WatchParts): Handlers<typeof LedgerService> {
  return { ...writeHandlers(parts), ...streamHandlers(parts), ...readHandlers(parts), ...watchHandlers(parts) };
}
