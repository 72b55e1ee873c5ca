// Asks for large answers, and reads none of them.

import { JobService } from "../../../src/gen/ledger/v1/job_service_pb.ts";
import type { Attack } from "../attack.ts";
import { begin, bytesOf, closeSessions, openSession, pathOf, RESOURCE_EXHAUSTED, statusOf, type Session } from "../calls.ts";

const { createJob, listJobs } = JobService.method;
const JOBS = 40;
const PROMPT = "x".repeat(100_000);
const CALLS = 60;
const CONNECTIONS = 3;

export const attack: Attack = {
  title: "asks for answers of 3.5 MB, and reads none",
  run: async ({ grpcAddress }) => {
    const maker = await openSession(grpcAddress);
    for (let count = 0; count < JOBS; count++) await make(maker, `job ${count}`);
    const sessions: Session[] = [maker];
    for (let count = 0; count < CONNECTIONS; count++) {
      const session = await openSession(grpcAddress, { initialWindowSize: 0 });
      sessions.push(session);
      let refused = 0;
      // What is answered at once stays unread; what is refused is so by headers, for which no window is needed.
      const request = bytesOf(listJobs, { userId: 1n, pageSize: 1000 });
      for (let call = 0; call < CALLS && !session.isOver(); call++) {
        const stream = begin(session, pathOf(listJobs));
        stream?.end(request);
        if ((await answerOrSilence(stream)) === RESOURCE_EXHAUSTED) refused += 1;
      }
      if (refused < CALLS / 2 && !session.isOver()) throw new Error(`${refused} of ${CALLS} calls were refused`);
    }
    closeSessions(sessions);
  },
};

async function make(session: Session, idempotencyKey: string): Promise<void> {
  const call = begin(session, pathOf(createJob));
  call?.end(bytesOf(createJob, { userId: 1n, modelId: "m", prompt: PROMPT, cost: { amount: "0" }, idempotencyKey }));
  const status = await statusOf(call);
  if (status !== 0) throw new Error(`a job was answered ${status}`);
}

/** The status of a call whose headers come; what is answered by bytes says 200, and no more. */
function answerOrSilence(call: ReturnType<typeof begin>): Promise<number> {
  return new Promise((resolve) => {
    if (call === undefined) return resolve(-1);
    call.once("response", (headers) => resolve(Number(headers["grpc-status"] ?? 0)));
    call.once("close", () => resolve(-1));
  });
}
