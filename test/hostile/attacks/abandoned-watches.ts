// Opens 2,200 watches and long polls of every kind, and disconnects.

import { setTimeout as delay } from "node:timers/promises";
import { JobService } from "../../../src/gen/ledger/v1/job_service_pb.ts";
import { LedgerService } from "../../../src/gen/ledger/v1/ledger_service_pb.ts";
import { LockService } from "../../../src/gen/ledger/v1/lock_service_pb.ts";
import type { Attack } from "../attack.ts";
import { begin, bytesOf, closeSessions, openSession, pathOf } from "../calls.ts";

const CONNECTIONS = 11;
const EACH = 200;

const wait = { seconds: 25n };
const { watchTransactions } = LedgerService.method;
const { watchJobs, claimJobs } = JobService.method;
const { watchLock } = LockService.method;
const watches = (user: bigint): readonly (readonly [path: string, request: Buffer])[] => [
  [pathOf(watchTransactions), bytesOf(watchTransactions, {})],
  [pathOf(watchTransactions), bytesOf(watchTransactions, { userId: user })],
  [pathOf(watchJobs), bytesOf(watchJobs, { userId: user })],
  [pathOf(watchLock), bytesOf(watchLock, { lockKey: user })],
  [pathOf(claimJobs), bytesOf(claimJobs, { workerId: `w${user}`, wait })],
  ["/grpc.health.v1.Health/Watch", Buffer.alloc(5)],
];

export const attack: Attack = {
  title: "opens 2,200 watches of every kind, and disconnects",
  run: async ({ grpcAddress }) => {
    const sessions = await Promise.all(Array.from({ length: CONNECTIONS }, () => openSession(grpcAddress)));
    for (const session of sessions) {
      for (let count = 0; count < EACH; count++) {
        const kinds = watches(BigInt(count + 1));
        const [path, request] = kinds[count % kinds.length] ?? kinds[0] ?? [];
        if (path !== undefined) begin(session, path)?.resume().end(request);
      }
    }
    await delay(1000);
    closeSessions(sessions);
  },
};
