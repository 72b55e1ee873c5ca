// The handlers of all services, guarded.

import type { Logger } from "pino";
import type { Config } from "../config.ts";
import { AdminService } from "../gen/ledger/v1/admin_service_pb.ts";
import { JobService } from "../gen/ledger/v1/job_service_pb.ts";
import { LedgerService } from "../gen/ledger/v1/ledger_service_pb.ts";
import { LockService } from "../gen/ledger/v1/lock_service_pb.ts";
import { failureOf } from "../postgres/connection/errors.ts";
import { adminHandlers } from "../rpc/admin/admin-service.ts";
import { answersFor } from "../rpc/answers.ts";
import type { Entries } from "../rpc/call.ts";
import { createTranslate, type Translate } from "../rpc/errors.ts";
import { createGuard } from "../rpc/guard.ts";
import { jobSchemas } from "../rpc/jobs/job-requests.ts";
import { jobHandlers } from "../rpc/jobs/job-service.ts";
import { ledgerHandlers } from "../rpc/ledger/ledger-service.ts";
import { readSchemas } from "../rpc/ledger/read-requests.ts";
import { writeSchemas } from "../rpc/ledger/write-requests.ts";
import { lockHandlers } from "../rpc/locks/lock-service.ts";
import { version } from "../version.ts";
import type { Storage } from "./storage.ts";

/** The guarded handlers, and the place of each call among the others. */
export interface Calls extends Omit<ReturnType<typeof createGuard>, "guard"> {
  readonly entries: readonly Entries[];
  readonly translate: Translate;
}

/** Puts them together. */
export function callsOf(config: Config, storage: Storage, shutdown: AbortSignal, log: Logger): Calls {
  const noted: typeof failureOf = (error) => {
    storage.status.note(error);
    return failureOf(error);
  };
  const translate = createTranslate(noted, ({ error, ...incident }) =>
    log.error({ ...incident, err: error }, "internal error"),
  );
  const { guard, ...places } = createGuard({
    defaultDeadlineMs: config.calls.defaultDeadlineMs,
    maxDeadlineMs: config.calls.maxDeadlineMs,
    streamMaxAgeMs: config.calls.streamMaxAgeMs,
    streamLimit: config.calls.streamLimit,
    shutdown,
    translate,
  });
  const parts = { ...storage, ...contractParts(config), translate, version: version() };
  const entries = [
    guard(LedgerService, ledgerHandlers(parts)),
    guard(JobService, jobHandlers(parts)),
    guard(LockService, lockHandlers(parts)),
    guard(AdminService, adminHandlers(parts)),
  ];
  return { ...places, entries, translate };
}

function contractParts({ money: { currencies, defaultCurrency: fallback } }: Config) {
  return {
    currencies,
    writes: writeSchemas(currencies, fallback),
    reads: readSchemas(currencies, fallback),
    jobRequests: jobSchemas(currencies, fallback),
    answers: answersFor(currencies),
  };
}
