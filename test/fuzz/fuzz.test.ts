// Mutated messages, to every method by every protocol: whatever comes, each call is answered, nothing is INTERNAL or
// UNKNOWN, every failure has one reason that the contract tells of, and the ledger's laws hold.
//
// A run makes 2,000 calls of a seed that is new each time; `npm run fuzz` makes 100,000. FUZZ_CALLS and FUZZ_SEED say
// otherwise; what a call sends depends on the seed and the call's number alone.

import { fromBinary, fromJson, type DescMethod, type JsonValue } from "@bufbuild/protobuf";
import { afterAll, beforeAll, expect, test } from "vitest";
import { AdminService } from "../../src/gen/ledger/v1/admin_service_pb.ts";
import { ErrorReasonSchema } from "../../src/gen/ledger/v1/errors_pb.ts";
import { JobService } from "../../src/gen/ledger/v1/job_service_pb.ts";
import { LedgerService } from "../../src/gen/ledger/v1/ledger_service_pb.ts";
import { LockService } from "../../src/gen/ledger/v1/lock_service_pb.ts";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { Health } from "../../src/gen/grpc/health/v1/health_pb.ts";
import { ServerReflection } from "../../src/gen/grpc/reflection/v1/reflection_pb.ts";
import { checkDatabase } from "../harness/inspect.ts";
import { serve, type TestService } from "../harness/service.ts";
import { stock } from "../harness/stock.ts";
import type { Usual } from "../harness/usual-requests.ts";
import { Doors, protocols, type Answer, type Protocol } from "./doors.ts";
import { mutatedBytes, mutatedJson } from "./mutations.ts";
import { Random } from "./random.ts";

const CALLS = Number(process.env["FUZZ_CALLS"] ?? 2000);
const SEED = Number(process.env["FUZZ_SEED"] ?? Date.now() % 2 ** 31);
/** Calls under way at the same time. */
const AT_ONCE = 16;
/** How long a watch is listened to, and how long a call may wait for jobs or locks. */
const WATCH_MS = 30;
const WAIT_MS = 500;
/** What each method's requests may refer to. */
const STOCKED = 12;

const standard = [Health, ServerReflection];
const services = [LedgerService, JobService, LockService, AdminService, ...standard];
const methods = services.flatMap((service) => service.methods);
const reasons = new Set(ErrorReasonSchema.values.map(({ name }) => name.replace("ERROR_REASON_", "")));

/** One call. */
interface Sent {
  readonly call: number;
  readonly method: DescMethod;
  readonly protocol: Protocol;
  readonly messages: readonly Buffer[];
}

let database: TestDatabase;
let service: TestService;
let doors: Doors;
const stocked = new Map<DescMethod, readonly Usual[]>();

beforeAll(async () => {
  database = await createDatabase();
  service = await serve(database.url);
  doors = new Doors(service);
  for (const [index, method] of methods.entries()) stocked.set(method, await stock(service, method, BigInt(1 + index * 100), STOCKED));
});

afterAll(async () => {
  doors.close();
  await service.close();
  await database[Symbol.asyncDispose]();
});

function sentBy(call: number): Sent {
  const random = new Random(SEED, call);
  const method = methods[call % methods.length] ?? expect.unreachable();
  const isForGrpc = standard.some(({ typeName }) => typeName === method.parent.typeName);
  const isExchange = method.methodKind === "bidi_streaming";
  const protocol = isForGrpc || (isExchange && random.chance(0.8)) ? "grpc" : random.one(protocols);
  const usual = random.one(stocked.get(method) ?? []);
  // A key of its own, so that it is a new write; or the usual one, so that it may be a replay.
  const own = random.chance(0.7) && usual["idempotency_key"] !== undefined ? { ...usual, idempotency_key: `${call} of ${SEED}` } : usual;
  const count = isExchange ? 1 + random.below(5) : 1;
  const messages = Array.from({ length: count }, () =>
    protocol === "connect-json" ? Buffer.from(mutatedJson(method.input, own, random)) : mutatedBytes(method.input, own, random),
  );
  return { call, method, protocol, messages };
}

/** Whether all that was sent are messages of the method's type. */
function isDecodable({ method: { input }, protocol, messages }: Sent): boolean {
  try {
    for (const message of messages) {
      if (protocol === "connect-json") fromJson(input, JSON.parse(message.toString()) as JsonValue);
      else fromBinary(input, message);
    }
    return true;
  } catch {
    return false;
  }
}

/** What is wrong with how it was answered; undefined: nothing. */
function problemOf({ method }: Sent, { code, reasons: given, body }: Answer): string | undefined {
  if (code === "internal" || code === "unknown") return `it is answered ${code}`;
  if (body.includes("ERROR_REASON_INTERNAL")) return "a result of it is INTERNAL";
  if (code === "ok") return undefined;
  // The health protocol says itself what NOT_FOUND means there.
  if (given.length === 0 && code === "not_found" && method.parent.typeName === Health.typeName) return undefined;
  if (given.length !== 1) return `${code} has ${given.length} reasons`;
  return reasons.has(given[0] ?? "") ? undefined : `${code} has the reason ${given[0]}, which the contract doesn't know`;
}

/** As far as it helps to send it again. */
function describeSent({ call, method, protocol, messages }: Sent): string {
  const shown = messages.map((message) => message.toString("base64")).join(" ");
  return `call ${call} of seed ${SEED}, ${method.parent.name}.${method.name} by ${protocol}, base64: ${shown.slice(0, 2000)}`;
}

test(`${CALLS} mutated calls are answered, none by a bug, and the laws hold after them`, async () => {
  const problems: string[] = [];
  const counts = new Map<string, number>();
  const count = (what: string): unknown => counts.set(what, (counts.get(what) ?? 0) + 1);
  let next = 0;
  const work = async (): Promise<void> => {
    while (next < CALLS && problems.length < 10) {
      const sent = sentBy((next += 1) - 1);
      const { method, protocol, messages } = sent;
      const timeoutMs = method.methodKind === "server_streaming" ? WATCH_MS : WAIT_MS;
      try {
        const answer = await doors.call(protocol, method, messages, timeoutMs);
        const problem = problemOf(sent, answer);
        if (problem !== undefined) problems.push(`${problem}: ${describeSent(sent)}`);
        count(`code ${answer.code} ${answer.reasons.join(" ")}`);
      } catch (error) {
        problems.push(`it isn't answered (${String(error)}): ${describeSent(sent)}`);
      }
      count(`by ${protocol}`);
      count(`method ${method.parent.name}.${method.name}`);
      if (isDecodable(sent)) count("decoded");
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  if (process.env["FUZZ_CALLS"] !== undefined) {
    const lines = [...counts].map(([what, times]) => `${what}: ${times}`).toSorted();
    process.stdout.write(`${[`seed ${SEED}, ${next} calls`, ...lines].join("\n")}\n`);
  }
  expect(problems, `seed ${SEED}`).toEqual([]);
  expect(counts.get("decoded") ?? 0, `seed ${SEED}: at least half can be decoded`).toBeGreaterThanOrEqual(CALLS / 2);
  expect(methods.filter(({ name, parent }) => !counts.has(`method ${parent.name}.${name}`)), "every method was called").toEqual([]);
  await expect(checkDatabase(database), `seed ${SEED}`).resolves.toBeDefined();
}, 3_600_000);
