// Every field of every method, by its descriptor: whatever a client puts there, in whatever format, is answered,
// stored as it was sent, or refused by name. A method or a field that is added to the contract is in here by itself.
//
// Two instances on two databases are told the same, one by gRPC, the other in JSON, so that all that they answer must
// be the same. What was accepted under a key is then sent again in the other format: it is the same request only if
// both formats have read the same.
//
// Each run draws some of the cases. EVERY_VALUE=1 runs all of them, which takes minutes; SEED=… those of a run that
// has failed.

import { inspect, isDeepStrictEqual } from "node:util";
import {
  ScalarType,
  toJson,
  type DescField,
  type DescMessage,
  type DescMethod,
  type JsonObject,
  type Message,
} from "@bufbuild/protobuf";
import { TimestampSchema } from "@bufbuild/protobuf/wkt";
import { Code } from "@connectrpc/connect";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { AdminService } from "../../src/gen/ledger/v1/admin_service_pb.ts";
import { ErrorReasonSchema } from "../../src/gen/ledger/v1/errors_pb.ts";
import { JobService } from "../../src/gen/ledger/v1/job_service_pb.ts";
import { BatchWriteResponseSchema, LedgerService } from "../../src/gen/ledger/v1/ledger_service_pb.ts";
import { LockService } from "../../src/gen/ledger/v1/lock_service_pb.ts";
import { jsonTexts, protobufValues, sharedValues } from "../harness/boundary-values.ts";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { checkDatabase } from "../harness/inspect.ts";
import { styles, type Style } from "../harness/json.ts";
import { serve, type TestService } from "../harness/service.ts";
import { stock } from "../harness/stock.ts";
import { messageOf, TwoDoors, type Answered } from "../harness/two-doors.ts";
import { placesOf, usualRequest, type Init, type Place, type Usual } from "../harness/usual-requests.ts";

const services = [LedgerService, JobService, LockService, AdminService];
const everyValue = process.env["EVERY_VALUE"] === "1";
const seed = process.env["SEED"] === undefined ? {} : { seed: Number(process.env["SEED"]) };
/** Of the values of each field, as many are drawn. */
const DRAWN = 2;
const MOST_DRAWN = 60;

/** A case: what is put where. */
interface Case {
  readonly kind: "both" | "protobuf" | "json";
  readonly place: number;
  readonly path: string;
  readonly value: unknown;
}

/** One of the two ledgers that are told the same. */
interface World {
  readonly database: TestDatabase;
  readonly service: TestService;
  readonly doors: TwoDoors;
}

let worlds: readonly [World, World];
let nextUser = 1_000n;

async function openWorld(): Promise<World> {
  const database = await createDatabase();
  // As if tokens had been drawn already: both draw the same then, rather than behind the time of their first one.
  await database.query("INSERT INTO ledgerd.token_timeline (timeline, began_at) VALUES (ledgerd.timeline(), now())");
  // Nothing happens by itself; and one lane, so that ids are drawn in the order of the calls.
  const service = await serve(database.url, {
    LEDGERD_LANES: "1",
    LEDGERD_SWEEP_INTERVAL: "1h",
    LEDGERD_JOB_SWEEP_INTERVAL: "1h",
    LEDGERD_VERIFY_RATE: "0",
  });
  return { database, service, doors: new TwoDoors(service) };
}

beforeAll(async () => {
  worlds = await Promise.all([openWorld(), openWorld()]);
});

afterAll(async () => {
  for (const { service, database } of worlds) {
    await service.close();
    await checkDatabase(database);
    await database[Symbol.asyncDispose]();
  }
});

describe.each(services.map((service) => [service.name, service] as const))("%s", (_name, { methods }) => {
  test.each(methods.map((method) => [method.name, method] as const))(
    "%s",
    async (_method, method) => {
      const cases = casesOf(method.input);
      const numRuns = everyValue
        ? cases.length
        : Math.min(cases.length, 2 + DRAWN * placesOf(method.input, {}).length, MOST_DRAWN);
      const first = nextUser;
      nextUser += BigInt(numRuns + 1);
      const [usual, same] = await Promise.all(worlds.map(({ service }) => stock(service, method, first, numRuns + 1)));
      expect(same, "both begin alike").toEqual(usual);
      let run = 0;
      await fc.assert(
        fc.asyncProperty(fc.constantFrom(...cases), fc.constantFrom(...styles), async (one, style) => {
          await tryOut(method, one, placeOf(method.input, usual?.[run++] ?? {}, one), style);
        }),
        {
          numRuns,
          endOnFailure: true,
          ...seed,
          ...(everyValue
            ? {
                examples: cases.map(
                  (one, index) => [one, styles[index % styles.length] ?? expect.unreachable()] as [Case, Style],
                ),
              }
            : {}),
        },
      );
    },
  );
});

function casesOf(desc: DescMessage): readonly Case[] {
  const whole = ["usual", "empty"].map((value): Case => ({ kind: "both", place: WHOLE, path: "", value }));
  const ofFields = placesOf(desc, {}).flatMap(({ path, field }, place) => [
    ...sharedValues(field).map((value): Case => ({ kind: "both", place, path, value })),
    ...protobufValues(field).map((value): Case => ({ kind: "protobuf", place, path, value })),
    ...jsonTexts(field).map((value): Case => ({ kind: "json", place, path, value })),
  ]);
  return [...whole, ...ofFields];
}

/** In the place of the whole request. */
const WHOLE = -1;

/** Where the value of a case goes, in a request that is usual else. */
function placeOf(
  desc: DescMessage,
  usual: Usual,
  { place: index, path }: Case,
): Omit<Place, "field"> & { field?: DescField } {
  if (index === WHOLE) return { path, put: (value) => (value === "usual" ? usualRequest(desc, usual) : {}) };
  const place = placesOf(desc, usual)[index];
  if (place === undefined) throw new Error(`there is no ${path}`);
  return place;
}

async function tryOut(
  method: DescMethod,
  { kind, path, value }: Case,
  place: ReturnType<typeof placeOf>,
  style: Style,
): Promise<void> {
  const [{ doors: one }, { doors: other }] = worlds;
  if (method.methodKind === "bidi_streaming") return tryOutStream(method, kind, place, value);
  if (kind === "json") {
    const text = withText(method.input, place, String(value));
    const refused = await Promise.all(worlds.map(({ doors }) => doors.byText(method, text)));
    for (const answer of refused) expectRefusal(answer, path);
    return;
  }
  const message = messageOf(method.input, place.put(value));
  if (kind === "protobuf") {
    const refused = await Promise.all(worlds.map(({ doors }) => doors.byGrpc(method, message)));
    for (const answer of refused) expectRefusal(answer, path);
    return;
  }
  const [told, toldInJson] = await Promise.all([one.byGrpc(method, message), other.byJson(method, message, style)]);
  expectClassified(told);
  if (!tellsOfItself.has(method.name)) expect(toldInJson.told, "in JSON").toEqual(told.told);
  if (told.message === undefined) return;
  expectStored(initOf(message), initOf(told.message));
  if (!isRepeatable(method, initOf(message))) return;
  const [again, againByGrpc] = await Promise.all([one.byJson(method, message, style), other.byGrpc(method, message)]);
  expectReplay(again, told);
  expectReplay(againByGrpc, told);
}

/** Of an exchange there is one door alone; it answers a write that is malformed with a result. */
async function tryOutStream(
  method: DescMethod,
  kind: Case["kind"],
  { put }: Pick<Place, "put">,
  value: unknown,
): Promise<void> {
  if (kind === "json") return;
  const message = messageOf(method.input, put(value));
  for (const told of await Promise.all(worlds.map(({ doors }) => doors.byGrpc(method, message)))) {
    expectClassified(told);
    if (kind === "protobuf") expect(JSON.stringify(told.told)).toContain("ERROR_REASON_INVALID_REQUEST");
    if (told.message !== undefined) expectStored(initOf(message), initOf(told.message));
  }
}

/** Their answers tell of the instance rather than of the ledger. */
const tellsOfItself = new Set(["GetServiceStatus"]);

function initOf(message: Message): Init {
  return { ...message };
}

/** A request in JSON with a text where a value belongs. */
function withText(desc: DescMessage, { path, field, put }: ReturnType<typeof placeOf>, text: string): string {
  const json = toJson(desc, messageOf(desc, put(zeroOf(field))), { useProtoFieldName: true }) as JsonObject;
  const steps = path.split(/[.[\]]+/);
  const name = steps.pop() ?? "";
  const parent = steps.reduce((at, step) => at[step] as JsonObject, json);
  parent[name] = MARK;
  return JSON.stringify(json).replace(JSON.stringify(MARK), () => text);
}

const MARK = "here it comes";

function zeroOf(field: DescField | undefined): unknown {
  const { fieldKind, message, scalar } = field ?? {};
  if (fieldKind === "list") return [];
  if (fieldKind === "map" || message !== undefined) return {};
  return scalar === ScalarType.STRING ? "" : scalar === ScalarType.BOOL ? false : scalar === ScalarType.INT64 ? 0n : 0;
}

/** That a request is refused, for nothing but what is at that path. */
function expectRefusal({ told }: Answered, path: string): void {
  const refusal = { failed: "INVALID_REQUEST", code: Code.InvalidArgument, metadata: {} };
  expect(told).toEqual({
    ...refusal,
    fields: [expect.stringMatching(new RegExp(`^${path.replace(/[.[\]]/g, "\\$&")}($|[.[])`))],
  });
}

const reasons = new Set(ErrorReasonSchema.values.map(({ name }) => name.replace("ERROR_REASON_", "")));

/** That a failure is one that the contract tells of, and nobody's bug. */
function expectClassified({ told }: Answered): void {
  const { failed } = told as { readonly failed?: string };
  if (failed !== undefined) expect(reasons).toContain(failed);
  expect(JSON.stringify(told)).not.toMatch(/"(ERROR_REASON_)?INTERNAL"/);
}

/** Whether it may be sent again, and is then answered as before. */
function isRepeatable({ output, input }: DescMethod, message: Init): boolean {
  if (message["validateOnly"] === true) return false;
  const isWrite = output.field["replayed"] !== undefined || output === BatchWriteResponseSchema;
  return (
    isWrite &&
    (input.field["idempotencyKey"] === undefined ||
      output === BatchWriteResponseSchema ||
      message["idempotencyKey"] !== "")
  );
}

function expectReplay(again: Answered, { told }: Answered): void {
  const unmarked = (one: unknown): unknown =>
    JSON.parse(JSON.stringify(one), (name, value: unknown) => (name === "replayed" ? undefined : value));
  expect(unmarked(again.told)).toEqual(unmarked(told));
  if (!JSON.stringify(told).includes('"refusal"'))
    expect(JSON.stringify(again.told), "as a replay").toContain('"replayed":true');
}

/** That what is kept of a request is in the answer as it was sent. */
function expectStored(sent: Init, answer: Init): void {
  const writes = sent["writes"] as
    readonly { readonly write: { readonly case?: string; readonly value: Init } }[] | undefined;
  const results = answer["results"] as
    readonly { readonly result: { readonly case?: string; readonly value: Init } }[] | undefined;
  writes?.forEach(({ write }, index) => {
    const result = results?.[index]?.result;
    if (result?.case === write.case && result?.case !== undefined) expectStored(write.value, result.value);
  });
  const entity = (answer["job"] ?? answer["transaction"]) as Init | undefined;
  if (entity === undefined) return;
  for (const name of answer["job"] === undefined ? keptOfWrites : "modelId" in sent ? keptOfJobs : keptOfChanges) {
    if (name in sent)
      expect(
        isDeepStrictEqual(plain(entity[name]), name === "errorMessage" ? reported(sent[name]) : plain(sent[name])),
        `${name}: ${inspect(entity[name])} is ${inspect(sent[name])}`,
      ).toBe(true);
  }
  if ("reason" in sent) expect(entity["description"]).toBe(sent["reason"]);
}

const keptOfWrites = ["userId", "description", "metadata", "idempotencyKey", "reference"];
const keptOfJobs = ["userId", "modelId", "prompt", "parameters", "idempotencyKey", "priority", "runTime"];
const keptOfChanges = ["resultUrl", "errorMessage"];

/** A failure report as it is kept: whole, or its beginning with a mark; what can't be stored is replaced. */
function reported(value: unknown): unknown {
  const characters = Array.from(String(value), (character) => (character === "\0" ? "\uFFFD" : character));
  const mark = "… (cut at 2,000 characters)";
  return characters.length <= 2000 ? characters.join("") : characters.slice(0, 2000 - mark.length).join("") + mark;
}

/** A value as it is kept: times to the microsecond. */
function plain(value: unknown): unknown {
  const {
    $typeName: type,
    seconds,
    nanos,
  } = (value ?? {}) as { readonly $typeName?: string; readonly seconds: bigint; readonly nanos: number };
  return type === TimestampSchema.typeName ? { seconds, micros: Math.floor(nanos / 1000) } : value;
}
