// What a service has around it: where its callers come from, and other services beside it that work on the same database.

import { listenHere, type Listen } from "../servers/listener.ts";

/** What others may be waiting for in another process, and has changed. */
export type News = "transactions" | "jobs" | "locks";

/** What a service has from the process that started it: connections, and other services beside it that work on the same database. */
export interface Host {
  readonly grpc: Listen;
  readonly http: Listen;
  /** Tells the others what changed here. */
  readonly tell: (news: News) => void;
  /** Has this listener told what changed at the others. It may be told late, or not at all: they are polled as well. */
  readonly hear: (listener: (news: News) => void) => void;
}

/** A service by itself. */
export const alone: Host = { grpc: listenHere, http: listenHere, tell: () => undefined, hear: () => undefined };
