// The README tells the truth: its commands run and answer what it shows, its tables are those of the code.
//
// Its grpcurl and curl lines are sent by our own clients, and by the programs themselves where they are installed; both must answer alike.

import { execFile, execFileSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { promisify } from "node:util";
import { fromJsonString, toJson, type DescMethodBiDiStreaming, type DescMethodUnary, type JsonValue } from "@bufbuild/protobuf";
import { createClient, type Transport } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Health } from "../src/gen/grpc/health/v1/health_pb.ts";
import { ServerReflection } from "../src/gen/grpc/reflection/v1/reflection_pb.ts";
import { LedgerService } from "../src/gen/ledger/v1/ledger_service_pb.ts";
import { createDatabase, type TestDatabase } from "./harness/database.ts";
import { isInstalled } from "./harness/programs.ts";
import { serve, type TestService } from "./harness/service.ts";
import { describeSettings } from "../src/settings/environment.ts";

const root = path.resolve(import.meta.dirname, "..");
const readme = readFileSync(path.join(root, "README.md"), "utf8");
const run = promisify(execFile);

/** A command of the README, and what it shows as its answer. */
interface Example {
  readonly command: string;
  readonly answer: object | undefined;
}

const blocks = [...readme.matchAll(/```(\w*)\n([\s\S]*?)```/g)].map(([, language = "", text = ""]) => ({ language, text }));
const examples = blocks.flatMap(({ language, text }, index): Example[] => {
  if (language !== "sh") return [];
  const next = blocks[index + 1];
  const answer = next?.language === "json" ? (JSON.parse(next.text) as object) : undefined;
  return text.trim().split("\n").map((command) => ({ command, answer }));
});
const calls = examples.filter(({ command }) => /^(printf .* \| )?(grpcurl|curl) /.test(command));

let database: TestDatabase;
let service: TestService;
let transport: Transport;

beforeAll(async () => {
  database = await createDatabase();
  service = await serve(database.url);
  transport = createGrpcTransport({ baseUrl: `http://${service.grpcAddress}` });
});

afterAll(async () => {
  await service.close();
  await database[Symbol.asyncDispose]();
});

describe("the README's calls", () => {
  test.each(calls)("answer what it shows: $command", async ({ command, answer }) => {
    const { words, input } = partsOf(command);
    const [program = ""] = words;
    const ours = program === "curl" ? await byFetch(words) : await byOurClient(words, input);
    if (answer !== undefined) expect(ours).toMatchObject(answer);
    if (!isInstalled(program)) return;
    const running = run(program, words.slice(1).map(atOurs));
    running.child.stdin?.end(input.join("\n"));
    const { stdout } = await running;
    const messages = (): readonly JsonValue[] => stdout.split(/^(?=\{)/m).map((text) => JSON.parse(text) as JsonValue);
    const theirs: unknown = words.at(-1) === "list" ? stdout.trim().split("\n") : together(messages());
    expect(theirs, `${program} itself`).toEqual(replayed(ours));
  });

  test("cover a top-up, a hold, a capture and a stream, by both doors", () => {
    const sent = calls.map(({ command }) => command).join("\n");
    for (const part of ["TopUp", "PlaceHold", "CaptureHold", "StreamWrites", "grpcurl", "curl -s", "Health/Check", " list"]) expect(sent).toContain(part);
  });
});

describe("the README's other commands", () => {
  const others = examples.filter((example) => !calls.includes(example)).map(({ command }) => command);

  test("are known here", () => {
    expect(others.map((command) => command.split(" ").slice(0, 2).join(" "))).toEqual(["npm ci", "npm start", "python3 -m", "protoc -I"]);
  });

  test.for(others.slice(2))("make a client: %s", async (command, context) => {
    const [program = "", ...args] = command.replace("proto/ledger/v1/*.proto", protoFiles().join(" ")).split(" ");
    const missing = missingFor(program);
    if (missing !== undefined) return context.skip(`${missing} is not on this machine`);
    const folder = mkdtempSync(path.join(tmpdir(), "ledgerd-client-"));
    await run(program, args.map((arg) => arg.replace("_out=.", `_out=${folder}`)), { cwd: root });
    expect(readdirSync(folder, { recursive: true }).length).toBeGreaterThan(0);
    rmSync(folder, { recursive: true });
  });

  test("that npm runs are in package.json", () => {
    const { scripts } = JSON.parse(readFileSync(path.join(root, "package.json"), "utf8")) as { scripts: Record<string, string> };
    const named = [...readme.matchAll(/\bnpm (?:run (?:-s )?(\w+)|(start|test)\b)/g)].map(([, script, own = ""]) => script ?? own);
    expect(named.filter((name) => !(name in scripts))).toEqual([]);
  });
});

test("the table of settings is that of the code", () => {
  const rows = describeSettings().map(({ name, default: fallback, description }) => `| \`${name}\` | ${fallback === "" ? "" : `\`${fallback}\``} | ${description} |`);
  expect(readme.split("\n").filter((line) => /^\| `(LEDGERD_|DATABASE_URL|PGPASSFILE)/.test(line))).toEqual(rows);
});

test("the table of calls is that of the contract", () => {
  const proto = protoFiles().map((file) => readFileSync(path.join(root, file), "utf8")).join("\n");
  const declared = [...proto.matchAll(/^ {2}rpc (\w+)\(/gm)].map(([, name = ""]) => name);
  const table = readme.split("\n").filter((line) => /^\| `(Ledger|Job|Lock|Admin)Service`/.test(line)).join("\n");
  const listed = [...table.matchAll(/`([A-Z]\w+)`/g)].map(([, name = ""]) => name).filter((name) => !name.endsWith("Service"));
  expect(listed.toSorted()).toEqual(declared.toSorted());
});

function protoFiles(): readonly string[] {
  return readdirSync(path.join(root, "proto/ledger/v1")).map((file) => `proto/ledger/v1/${file}`);
}

/** A command, and what `printf` gives it to read, line by line. */
function partsOf(command: string): { readonly words: readonly string[]; readonly input: readonly string[] } {
  const [, printed = "", called = ""] = /^(?:printf '%s\\n' (.*) \| )?(.*)$/.exec(command) ?? [];
  return { words: wordsOf(called), input: wordsOf(printed) };
}

/** The messages of an answer as one: how results are cut into messages says nothing. */
function together(messages: readonly JsonValue[]): JsonValue {
  const [first = null] = messages;
  return messages.length < 2 ? first : { results: messages.flatMap((message) => (message as { results: JsonValue[] }).results) };
}

/** The answer to the same call, made again. */
function replayed(answer: unknown): unknown {
  if (Array.isArray(answer)) return answer.map(replayed);
  if (typeof answer !== "object" || answer === null) return answer;
  if ("transaction" in answer) return { ...answer, replayed: true };
  if (!("results" in answer)) return answer;
  const each = (result: object): object => Object.fromEntries(Object.entries(result).map(([name, value]) => [name, replayed(value)]));
  return { results: (answer.results as readonly object[]).map(each) };
}

/** A command's words, as a shell would split them. */
function wordsOf(command: string): readonly string[] {
  return [...command.matchAll(/'([^']*)'|(\S+)/g)].map(([, quoted, plain]) => quoted ?? plain ?? "");
}

function atOurs(word: string): string {
  return word.replace("127.0.0.1:50051", service.grpcAddress).replace("127.0.0.1:8080", service.httpAddress);
}

async function byFetch(words: readonly string[]): Promise<unknown> {
  const data = words.indexOf("-d");
  const url = atOurs(words.at(-1) ?? "");
  const response = await fetch(url, data < 0 ? {} : { method: "POST", headers: { "content-type": "application/json" }, body: words[data + 1] ?? "" });
  return response.json();
}

async function byOurClient(words: readonly string[], input: readonly string[]): Promise<JsonValue> {
  const name = words.at(-1) ?? "";
  if (name === "list") return listServices();
  const [typeName, method] = name.split("/");
  const desc = [LedgerService, Health].find((one) => one.typeName === typeName)?.methods.find((one) => one.name === method);
  if (desc === undefined) throw new Error(`the README calls ${name}, which isn't there`);
  if (desc.methodKind === "bidi_streaming") return byStream(desc as DescMethodBiDiStreaming, input);
  const data = words.indexOf("-d");
  const request = fromJsonString(desc.input, data < 0 ? "{}" : (words[data + 1] ?? ""));
  const { message } = await transport.unary(desc as DescMethodUnary, undefined, undefined, undefined, request);
  return toJson(desc.output, message);
}

async function byStream(desc: DescMethodBiDiStreaming, input: readonly string[]): Promise<JsonValue> {
  const requests = async function* () {
    yield* await Promise.resolve(input.map((line) => fromJsonString(desc.input, line)));
  };
  const { message: responses } = await transport.stream(desc, undefined, undefined, undefined, requests());
  const messages: JsonValue[] = [];
  for await (const response of responses) messages.push(toJson(desc.output, response));
  return together(messages);
}

async function listServices(): Promise<string[]> {
  async function* ask() {
    yield await Promise.resolve({ messageRequest: { case: "listServices" as const, value: "" } });
  }
  for await (const { messageResponse } of createClient(ServerReflection, transport).serverReflectionInfo(ask())) {
    if (messageResponse.case === "listServicesResponse") return messageResponse.value.service.map((one) => one.name).toSorted();
  }
  throw new Error("reflection listed nothing");
}

/** What a command that makes a client needs and this machine hasn't. */
function missingFor(program: string): string | undefined {
  if (program === "protoc") return ["protoc", "protoc-gen-go", "protoc-gen-go-grpc"].find((one) => !isInstalled(one));
  try {
    execFileSync(program, ["-c", "import grpc_tools"], { stdio: "ignore" });
    return undefined;
  } catch {
    return "grpcio-tools for Python";
  }
}
