// The service as its callers know it: started from configuration, called over gRPC by Connect's own client.

import { randomUUID } from "node:crypto";
import { ConnectError, createClient, type Client, type Transport } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { pino } from "pino";
import { readConfig } from "../../src/config.ts";
import { ErrorInfoSchema, BadRequestSchema } from "../../src/gen/google/rpc/error_details_pb.ts";
import { AdminService } from "../../src/gen/ledger/v1/admin_service_pb.ts";
import { JobService } from "../../src/gen/ledger/v1/job_service_pb.ts";
import { LockService } from "../../src/gen/ledger/v1/lock_service_pb.ts";
import { LedgerService } from "../../src/gen/ledger/v1/ledger_service_pb.ts";
import { startService, type Service } from "../../src/service/service.ts";
import { withLogins } from "./logins.ts";
import { CALL_DEADLINE } from "./patience.ts";

/** Clients of one instance. */
export interface Clients {
  readonly ledger: Client<typeof LedgerService>;
  readonly admin: Client<typeof AdminService>;
  readonly jobs: Client<typeof JobService>;
  readonly locks: Client<typeof LockService>;
}

/** An instance in this process, with its clients. */
export interface TestService extends Clients, Service {
  readonly [Symbol.asyncDispose]: () => Promise<void>;
}

/** Starts an instance on a database; further settings by their names. */
export async function serve(databaseUrl: string, settings: Readonly<Record<string, string>> = {}): Promise<TestService> {
  const given = withLogins({
    DATABASE_URL: databaseUrl,
    LEDGERD_GRPC_ADDR: "127.0.0.1:0",
    LEDGERD_HTTP_ADDR: "127.0.0.1:0",
    LEDGERD_DURABILITY: "relaxed",
    LEDGERD_DEFAULT_DEADLINE: CALL_DEADLINE,
    LEDGERD_MAX_DEADLINE: CALL_DEADLINE,
    LEDGERD_SWEEP_INTERVAL: "50ms",
    LEDGERD_FEED_POLL: "20ms",
    ...settings,
  });
  const read = readConfig(given);
  if ("problems" in read) throw new Error(read.problems.join("; "));
  const service = await startService(read.config, pino({ level: "silent" }));
  return { ...service, ...clientsOf(service.grpcAddress), [Symbol.asyncDispose]: service.close };
}

/** Clients of the instance at an address. */
export function clientsOf(grpcAddress: string): Clients {
  return clientsOver(createGrpcTransport({ baseUrl: `http://${grpcAddress}` }));
}

/** Clients over any transport. */
export function clientsOver(transport: Transport): Clients {
  return {
    ledger: createClient(LedgerService, transport),
    admin: createClient(AdminService, transport),
    jobs: createClient(JobService, transport),
    locks: createClient(LockService, transport),
  };
}

/** A key that was never used. */
export function newKey(): string {
  return randomUUID();
}

/** How a call failed. */
export interface Failed {
  readonly code: number;
  readonly reason: string;
  readonly metadata: Readonly<Record<string, string>>;
  readonly fields: readonly string[];
  readonly message: string;
}

/** The failure of a call that must fail. Every error has exactly one ErrorInfo. */
export async function failureOf(call: Promise<unknown>): Promise<Failed> {
  const error: unknown = await call.then(
    () => new Error("the call succeeded"),
    (cause: unknown) => cause,
  );
  return describeFailure(error);
}

/** What an error says to a client. */
export function describeFailure(error: unknown): Failed {
  if (!(error instanceof ConnectError)) throw error;
  const infos = error.findDetails(ErrorInfoSchema);
  const [info] = infos;
  if (info === undefined || infos.length > 1) throw new Error(`an error with ${infos.length} ErrorInfos: ${error.message}`);
  const fields = error.findDetails(BadRequestSchema).flatMap(({ fieldViolations }) => fieldViolations.map(({ field }) => field));
  return { code: error.code, reason: info.reason, metadata: info.metadata, fields, message: error.rawMessage };
}
