// Texts are as long as the proto's comments say, in characters, at both doors: the longest one in characters of any
// size is not refused for its length, one character more is, under the field's name.

import {
  fromJson,
  ScalarType,
  type DescField,
  type DescMessage,
  type DescMethod,
  type DescMethodStreaming,
  type DescMethodUnary,
  type JsonObject,
  type JsonValue,
} from "@bufbuild/protobuf";
import { ConnectError, type Transport } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport } from "@connectrpc/connect-node";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { BadRequestSchema } from "../../src/gen/google/rpc/error_details_pb.ts";
import { AdminService } from "../../src/gen/ledger/v1/admin_service_pb.ts";
import { JobService } from "../../src/gen/ledger/v1/job_service_pb.ts";
import { LedgerService, type StreamWritesResponse } from "../../src/gen/ledger/v1/ledger_service_pb.ts";
import { LockService } from "../../src/gen/ledger/v1/lock_service_pb.ts";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { commentsOnFields } from "../harness/proto-comments.ts";
import { failureOf, newKey, serve, type TestService } from "../harness/service.ts";

/** A place for a text in a request. */
interface Place {
  /** Of the fields on the way to it, as JSON has them. */
  readonly path: readonly (string | number)[];
  /** As errors name it. */
  readonly name: string;
  /** How many characters it may have. */
  readonly most: number;
  /** What is longer is cut rather than refused. */
  readonly isCut: boolean;
}

const comments = commentsOnFields();
const methods = [LedgerService, AdminService, JobService, LockService].flatMap(
  (service): readonly DescMethod[] => service.methods,
);
/**
 * What of a text's bound the form says, rather than a number: currencies, amounts, and what ledgerd itself has given.
 */
const boundByForm = ["currency", "amount", "page_token", "position"];
const unstated = new Set<string>();

/** The places of texts in a request, in groups: a group's places can be filled together. */
function groupsOf(message: DescMessage): readonly (readonly Place[])[] {
  const own = message.fields.flatMap((field): readonly Place[] =>
    placesOf(field, comments.get(`${message.name}.${field.name}`) ?? ""),
  );
  const inner = message.fields.flatMap((field) => {
    if (field.message?.file.proto.package !== "ledger.v1") return [];
    const [steps, name] =
      field.fieldKind === "list" ? [[field.name, 0], `${field.name}[0]`] : [[field.name], field.name];
    const within = (place: Place): Place => ({
      ...place,
      path: [...steps, ...place.path],
      name: `${name}.${place.name}`,
    });
    return groupsOf(field.message).map((group) => group.map(within));
  });
  return [own, ...inner].filter((group) => group.length > 0);
}

function placesOf(field: DescField, comment: string): readonly Place[] {
  const isText = (field.fieldKind === "scalar" || field.fieldKind === "list") && field.scalar === ScalarType.STRING;
  const isMap = field.fieldKind === "map";
  const isStruct = field.message?.typeName === "google.protobuf.Struct";
  if (!isText && !isMap && !isStruct) return [];
  const [, figures] =
    (isMap ? /values have up to ([\d,]+) characters/ : /([\d,]+) (?:printable )?characters/).exec(comment) ?? [];
  if (figures === undefined) {
    unstated.add(field.name);
    return [];
  }
  const most = Number(figures.replaceAll(",", ""));
  const place = { path: [field.name], name: field.name, most, isCut: comment.includes("is cut") };
  if (isMap) return [{ ...place, path: [field.name, "k"], name: `${field.name}["k"]` }];
  if (isStruct) return [{ ...place, path: [field.name, "k"], most: most - '{"k":""}'.length }];
  return [field.fieldKind === "list" ? { ...place, path: [field.name, 0], name: `${field.name}[0]` } : place];
}

/** A batch's own key must be empty unless the batch is atomic. */
const atomic = { atomic: true, writes: [{}] };
const cases = methods.flatMap((method) =>
  groupsOf(method.input).map((group) => {
    const base = method.name === "BatchWrite" && group.some(({ name }) => name === "idempotency_key") ? atomic : {};
    return { call: `${method.parent.name}.${method.name}`, method, group, base };
  }),
);

/** A request whose places are filled with texts of this many characters more than they may have. */
function requestOf(
  { group, base }: Pick<(typeof cases)[number], "group" | "base">,
  character: string,
  more: number,
): JsonObject {
  const request: JsonObject = { ...base };
  for (const { path, most } of group) {
    let at: Record<string, JsonValue> = request;
    for (const [index, step] of path.slice(0, -1).entries()) {
      at = (at[step] ??= typeof path[index + 1] === "number" ? [] : {}) as Record<string, JsonValue>;
    }
    at[path.at(-1) ?? ""] = character.repeat(most + more);
  }
  return request;
}

let database: TestDatabase;
let service: TestService;
let doors: Readonly<Record<string, Transport>>;

beforeAll(async () => {
  database = await createDatabase();
  service = await serve(database.url);
  doors = {
    gRPC: createGrpcTransport({ baseUrl: `http://${service.grpcAddress}` }),
    JSON: createConnectTransport({
      baseUrl: `http://${service.httpAddress}`,
      httpVersion: "1.1",
      useBinaryFormat: false,
    }),
  };
});

afterAll(async () => {
  await service.close();
  await database[Symbol.asyncDispose]();
});

/** What is said to be wrong with a request: each field with what is wrong with it. */
async function problemsOf(door: Transport, method: DescMethod, request: JsonObject): Promise<string> {
  const message = fromJson(method.input, request);
  if (method.methodKind === "bidi_streaming") {
    const { message: answers } = await door.stream(
      method as DescMethodStreaming,
      undefined,
      undefined,
      undefined,
      listOf(message),
    );
    for await (const answer of answers) return problemsOfItem(answer as StreamWritesResponse);
  }
  try {
    await door.unary(method as DescMethodUnary, undefined, undefined, undefined, message);
    return "";
  } catch (error) {
    const details = ConnectError.from(error).findDetails(BadRequestSchema);
    return details
      .flatMap(({ fieldViolations }) => fieldViolations.map(({ field, description }) => `${field} ${description}`))
      .join("; ");
  }
}

/** Those of a stream's only write, whose fields are named within it. */
function problemsOfItem({ results: [item] }: StreamWritesResponse): string {
  const told =
    item?.result.case === "refusal" ? item.result.value.message.replace("the request is malformed: ", "") : "";
  return told
    .split("; ")
    .map((problem) => `writes[0].${problem}`)
    .join("; ");
}

async function* listOf<T>(message: T): AsyncGenerator<T> {
  yield await Promise.resolve(message);
}

test("the proto says how long each text of a request may be", () => {
  expect([...unstated].toSorted()).toEqual(boundByForm.toSorted());
  expect(cases.flatMap(({ group }) => group).length).toBeGreaterThan(100);
});

describe.each(["gRPC", "JSON"])("by %s", (door) => {
  // The web port has no streams in both directions.
  const here = cases.filter(({ method }) => door === "gRPC" || method.methodKind !== "bidi_streaming");

  test.each(here)(
    "$call takes $group.length texts of as many characters as the proto says, and not one more",
    async ({ group, method, base }) => {
      const transport = doors[door] ?? expect.unreachable();
      for (const character of ["a", "é", "猫", "😀"]) {
        expect(await problemsOf(transport, method, requestOf({ group, base }, character, 0))).not.toContain(
          "characters",
        );
        const problems = (await problemsOf(transport, method, requestOf({ group, base }, character, 1))).split("; ");
        const refused = problems
          .filter((problem) => /\d characters/.test(problem))
          .map((problem) => problem.split(" ", 1)[0]);
        expect(new Set(refused), `texts of ${character}`).toEqual(
          new Set(group.filter(({ isCut }) => !isCut).map(({ name }) => name)),
        );
      }
    },
  );
});

test("the longest texts are kept as they were sent", async () => {
  const cats = (count: number): string => "😀".repeat(count);
  const metadata = { ["k".repeat(64)]: cats(512) };
  const texts = { description: cats(2000), reference: cats(128), metadata, idempotencyKey: cats(128) };
  const { transaction } = await service.ledger.topUp({
    userId: 1n,
    amount: { amount: "1" },
    uniqueReference: true,
    ...texts,
  });
  const name = { case: "transactionId" as const, value: transaction?.id ?? 0n };
  expect((await service.ledger.getTransaction({ name })).transaction).toMatchObject(texts);
  const input = { modelId: cats(100), prompt: cats(100_000), parameters: { k: cats(99_992) } };
  const { job } = await service.jobs.createJob({
    userId: 1n,
    cost: { amount: "0" },
    idempotencyKey: newKey(),
    ...input,
  });
  const claim = { workerId: cats(100), modelIds: [cats(100)], requestId: cats(128) };
  const [claimed] = (await service.jobs.claimJobs(claim)).jobs;
  expect((await service.jobs.claimJobs(claim)).jobs, "and found again").toEqual([claimed]);
  expect(claimed?.job).toMatchObject({ id: job?.id, workerId: cats(100), ...input });
  await service.jobs.completeJob({
    jobId: job?.id ?? 0n,
    fencingToken: claimed?.fencingToken ?? 0n,
    resultUrl: cats(2000),
  });
  expect((await service.jobs.getJob({ jobId: job?.id ?? 0n })).job).toMatchObject({ resultUrl: cats(2000), ...input });
  await service.locks.acquireLock({ lockKey: 1n, instanceId: cats(100), requestId: cats(128) });
  expect((await service.locks.getLock({ lockKey: 1n })).lock).toMatchObject({ instanceId: cats(100) });
});

test("a list that is too long is refused by its own field, whatever its items are", async () => {
  const types = failureOf(service.ledger.listTransactions({ userId: 1n, types: Array<0>(101).fill(0) }));
  expect((await types).fields).toEqual(["types"]);
  const kinds = failureOf(service.jobs.claimJobs({ workerId: "w", modelIds: Array<string>(101).fill("") }));
  expect((await kinds).fields).toEqual(["model_ids"]);
});
