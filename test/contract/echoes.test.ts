// Nothing of what a caller sent comes back in an error beyond 200 characters: each field of each method, by its
// descriptor, in each protocol; and all else that a request has.

import { ScalarType, toBinary, type DescField, type DescMethod } from "@bufbuild/protobuf";
import { StructSchema } from "@bufbuild/protobuf/wkt";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Health } from "../../src/gen/grpc/health/v1/health_pb.ts";
import { AdminService } from "../../src/gen/ledger/v1/admin_service_pb.ts";
import { JobService } from "../../src/gen/ledger/v1/job_service_pb.ts";
import { LedgerService } from "../../src/gen/ledger/v1/ledger_service_pb.ts";
import { LockService } from "../../src/gen/ledger/v1/lock_service_pb.ts";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { jsonTextOf, type Style } from "../harness/json.ts";
import { protocolsAt, type Sent, type Told } from "../harness/protocols.ts";
import { postOf, sendBytes } from "../harness/raw-http.ts";
import { describeFailure, serve, type TestService } from "../harness/service.ts";
import { stock } from "../harness/stock.ts";
import { messageOf } from "../harness/two-doors.ts";
import { placesOf } from "../harness/usual-requests.ts";

const BYTES = 56_000;
/** Longer than what any field takes, and not than what is taken of a header. */
const HEADER_BYTES = 12_000;
const MOST_ECHOED = 200;
const STYLE: Style = { names: "proto", integers: "strings" };
/** What is sent many times: a letter; in the place of numbers, a digit. */
const characterOf = ({ name }: Pick<DescField, "name">): string => (name === "amount" ? "9" : "Q");

const services = [LedgerService, JobService, LockService, AdminService];
const methods = services.flatMap((service) => service.methods);

let database: TestDatabase;
let service: TestService;
let protocols: ReturnType<typeof protocolsAt>;
let nextUser = 1_000n;

beforeAll(async () => {
  database = await createDatabase();
  service = await serve(database.url);
  protocols = protocolsAt(service);
});

afterAll(async () => {
  protocols.close();
  await service.close();
  await database[Symbol.asyncDispose]();
});

/** A row of one character that is too long, as text or in base64, wherever that begins. */
function echoOf(character: string): RegExp {
  const [a = "", b = "", c = "", d = ""] = Buffer.from(character.repeat(3)).toString("base64");
  const turns = [a + b + c + d, b + c + d + a, c + d + a + b, d + a + b + c];
  const escaped = encodeURIComponent(character);
  return new RegExp(`(?:${escaped}){${MOST_ECHOED + 1}}|(?:${turns.join("|")}){${Math.ceil(MOST_ECHOED / 3)}}`);
}

/** What is too much in an error; nothing is, of an answer. */
function echoIn({ whole, error }: Told, character: string): string | undefined {
  const found = error === undefined ? null : echoOf(character).exec(whole);
  return found === null ? undefined : `${whole.slice(Math.max(0, found.index - 100), found.index + 20)}…`;
}

function longValues(field: DescField, character: string): readonly unknown[] {
  const long = character.repeat(BYTES);
  if (field.fieldKind === "map") return [{ [long]: "" }, { a: long }, { [long]: long }];
  if (field.message === StructSchema) return [{ [long]: long }, { a: [{ [long]: null }] }];
  if (field.message !== undefined || field.scalar !== ScalarType.STRING) return [];
  return field.fieldKind === "list" ? [[long]] : [long];
}

const pathOf = (method: DescMethod): string => `/${method.parent.typeName}/${method.name}`;
const headers = { "grpc-timeout": "10S", "connect-timeout-ms": "10000" };

/** Sends a call by each protocol, and answers what comes back of it, by the protocol. */
async function echoesOf(sent: Sent, character: string, only = Object.keys(protocols.by)): Promise<readonly string[]> {
  const found = only.map(async (name) => {
    const told = await (protocols.by[name] ?? expect.unreachable())(sent);
    if (told.error !== undefined) describeFailure(told.error);
    const echo = echoIn(told, character);
    return echo === undefined ? [] : [`${name}: ${echo}`];
  });
  return (await Promise.all(found)).flat();
}

describe("no error shows more of a field than 200 characters", () => {
  test.each(methods.map((method) => [method.name, method] as const))("%s", async (_name, method) => {
    const first = nextUser;
    nextUser += 10n;
    const [usual = {}] = await stock(service, method, first, 1);
    const isStream = method.methodKind !== "unary";
    const common = { path: pathOf(method), isStream, headers };
    for (const { path, field, put } of placesOf(method.input, usual)) {
      const character = characterOf(field);
      for (const value of longValues(field, character)) {
        const message = messageOf(method.input, put(value));
        const binary = toBinary(method.input, message);
        const json = jsonTextOf(method.input, message, STYLE);
        expect(await echoesOf({ ...common, binary, json }, character), path).toEqual([]);
      }
    }
  });
});

describe("no error shows more than 200 characters of what no field is", () => {
  const long = "Q".repeat(BYTES);
  const inJson = ["Connect with JSON", "gRPC-Web with JSON"];
  test.each([
    ["a name that nobody knows", `{"${long}":1}`],
    ["names within names", `{"amount":{"${long}":{"${long}":1}}}`],
    ["an escaped name", `{"\\u0051${long}":1}`],
    ["a text for a number", `{"user_id":"${long}"}`],
    ["a number of many digits", `{"user_id":${"9".repeat(BYTES)}}`],
    ["a text for a message", `{"amount":"${long}"}`],
    ["a text for a time", `{"expires_in":"${long}"}`],
    ["a word that is no JSON", long],
    ["a word behind JSON", `{}${long}`],
    ["a text without its end", `{"${long}`],
    ["an escape that nobody knows", `{"${long}\\q":1}`],
  ])("%s in JSON", async (_what, json) => {
    const sent = { path: "/ledger.v1.LedgerService/PlaceHold", isStream: false, json, binary: Buffer.alloc(0) };
    for (const character of ["Q", "9"]) expect(await echoesOf(sent, character, inJson)).toEqual([]);
    const list = { ...sent, path: "/ledger.v1.JobService/ListJobs", json: `{"statuses":["${long}"]}` };
    expect(await echoesOf(list, "Q", inJson)).toEqual([]);
  });

  const unreadable = [Buffer.from(long), Buffer.from([0x0a, ...Buffer.from(long)]), Buffer.from(`\x12\x05${long}`)];
  test("bytes that are no message", async () => {
    for (const binary of unreadable)
      expect(
        await echoesOf({ path: "/ledger.v1.LedgerService/TopUp", isStream: false, json: "{}", binary }, "Q"),
      ).toEqual([]);
  });

  // A stream that isn't refused ends by its deadline.
  const soon = { "grpc-timeout": "20m", "connect-timeout-ms": "20" };
  const long12 = "Q".repeat(HEADER_BYTES);
  test.each([
    ["grpc-timeout"],
    ["connect-timeout-ms"],
    ["connect-protocol-version"],
    ["content-encoding"],
    ["connect-content-encoding"],
    ["grpc-encoding"],
    ["grpc-accept-encoding"],
    ["accept-encoding"],
    ["traceparent"],
    ["origin"],
    ["sec-fetch-site"],
    ["content-type"],
    ["user-agent"],
    ["x-anything"],
  ])("the header %s", async (name) => {
    const sent = { isStream: false, json: "{}", binary: Buffer.alloc(0), headers: { ...soon, [name]: long12 } };
    expect(await echoesOf({ ...sent, path: "/ledger.v1.LedgerService/GetBalance" }, "Q")).toEqual([]);
    expect(
      await echoesOf({ ...sent, isStream: true, path: "/ledger.v1.LedgerService/WatchTransactions" }, "Q"),
    ).toEqual([]);
  });

  test("the path, and the names in it", async () => {
    const sent = { isStream: false, json: "{}", binary: Buffer.alloc(0) };
    for (const path of [`/${long12}`, `/ledger.v1.LedgerService/${long12}`, `/${long12}/GetBalance`, `/?${long12}`])
      expect(await echoesOf({ ...sent, path }, "Q")).toEqual([]);
  });

  test("the host, and the address of a GET", async () => {
    const call = postOf("/ledger.v1.LedgerService/GetBalance", "{}", `host: ${long12}`);
    const get = (query: string) =>
      `GET /ledger.v1.LedgerService/GetBalance?${query} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n`;
    const gets = ["connect", "encoding", "compression", "message", "base64", "encoding=json&message"].map((name) =>
      get(`${name}=${long12}`),
    );
    for (const request of [call, ...gets, get(long12), long, `GET / HTTP/1.1\r\n${long}`]) {
      const { status, headers: told, body } = await sendBytes(service.httpAddress, request);
      expect(status).toBeGreaterThanOrEqual(400);
      expect(`${[...told].join()}${body.toString("latin1")}`).not.toMatch(echoOf("Q"));
    }
  });

  test("a service that health is asked for, and a symbol that reflection is", async () => {
    const check = toBinary(Health.method.check.input, messageOf(Health.method.check.input, { service: long }) as never);
    const sent = { isStream: false, json: "", binary: check };
    for (const path of [
      "/grpc.health.v1.Health/Check",
      "/grpc.health.v1.Health/Watch",
      "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    ])
      expect(await echoesOf({ ...sent, path }, "Q", ["gRPC"])).toEqual([]);
  });
});
