// Streams and long polls that would fill the whole process, on one connection.

import { JobService } from "../../../src/gen/ledger/v1/job_service_pb.ts";
import { LedgerService } from "../../../src/gen/ledger/v1/ledger_service_pb.ts";
import type { Attack } from "../attack.ts";
import { begin, bytesOf, closeSessions, openSession, pathOf, RESOURCE_EXHAUSTED, statusOf } from "../calls.ts";

const CALLS = 900;
const LET_IN = 200;

const { watchTransactions } = LedgerService.method;
const { claimJobs } = JobService.method;
const kinds: readonly (readonly [path: string, request: Buffer])[] = [
  [pathOf(watchTransactions), bytesOf(watchTransactions, { userId: 5n })],
  ["/grpc.health.v1.Health/Watch", Buffer.alloc(5)],
  [pathOf(claimJobs), bytesOf(claimJobs, { workerId: "w", modelIds: ["none"], wait: { seconds: 25n } })],
];

export const attack: Attack = {
  title: "opens 900 watches and long polls on one connection",
  run: async ({ grpcAddress }) => {
    for (const [path, request] of kinds) {
      const session = await openSession(grpcAddress);
      let refused = 0;
      const all = Promise.withResolvers<undefined>();
      for (let count = 0; count < CALLS; count++) {
        const call = begin(session, path);
        call?.end(request);
        const note = async (): Promise<void> => {
          if ((await statusOf(call)) === RESOURCE_EXHAUSTED) refused += 1;
          if (refused === CALLS - LET_IN) all.resolve(undefined);
        };
        void note();
      }
      await all.promise;
      closeSessions([session]);
    }
  },
};
