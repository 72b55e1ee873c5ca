// The clients of docs/clients.md, made and run as they are printed, where their tools are; without the network: what
// they import must lie in the tools' own caches, where it does once somebody has made such a client on this machine.

import { execFile, execFileSync, spawnSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, test } from "vitest";
import { createDatabase, type TestDatabase } from "./harness/database.ts";
import { isInstalled } from "./harness/programs.ts";
import { serve, type TestService } from "./harness/service.ts";

const root = path.resolve(import.meta.dirname, "..");
const docs = readFileSync(path.join(root, "docs/clients.md"), "utf8");
const run = promisify(execFile);

let database: TestDatabase;
let service: TestService;

beforeAll(async () => {
  database = await createDatabase();
  service = await serve(database.url);
  // As after the README's first calls.
  const [userId, currency] = [42n, "RUB"];
  await service.ledger.topUp({ userId, amount: { currency, amount: "87.50" }, idempotencyKey: "order-1001" });
  const deduct = { userId, amount: { currency, amount: "1000" }, idempotencyKey: "render-8" };
  await expect(service.ledger.deduct(deduct)).rejects.toThrow("87.50 RUB is available");
});

afterAll(async () => {
  await service.close();
  await database[Symbol.asyncDispose]();
});

interface Language {
  readonly name: string;
  /** The files that it prints, by the languages of their blocks. */
  readonly files: Readonly<Record<string, string>>;
  readonly programs: readonly string[];
  /** What Python must be able to import. */
  readonly modules?: readonly string[];
  /** Said where something would have to be downloaded. */
  readonly offline: RegExp;
}

const languages: readonly Language[] = [
  {
    name: "Go",
    files: { go: "main.go" },
    programs: ["go", "protoc", "protoc-gen-go", "protoc-gen-go-grpc"],
    offline: /reading file:(?!\S*ledgerd\.dev)\S+ no such file/,
  },
  {
    name: "Python",
    files: { python: "shop.py" },
    programs: ["python3"],
    modules: ["grpc_tools", "grpc_status"],
    offline: /^never$/,
  },
  {
    name: "Java",
    files: { xml: "pom.xml", java: "src/main/java/Shop.java" },
    programs: ["mvn", "java"],
    offline: /in offline mode and the artifact|No plugin found for prefix/,
  },
];

/** Go takes its own cache for the place to download from. */
const fromCache = () => ({
  GOPROXY: `file://${execFileSync("go", ["env", "GOMODCACHE"], { encoding: "utf8" }).trim()}/cache/download`,
  GOSUMDB: "off",
  GOTOOLCHAIN: "local",
});

test.for(languages)("a client in $name reads why it was refused", async (language, context) => {
  const missing = missingFor(language);
  if (missing !== undefined) return context.skip(`${missing} is not on this machine`);
  const section = new RegExp(`^## ${language.name}\\n([\\s\\S]*?)(?=^## |$(?![\\s\\S]))`, "m").exec(docs)?.[1] ?? "";
  const blocks = [...section.matchAll(/```(\w+)\n([\s\S]*?)```/g)].map(([, kind = "", text = ""]) => ({ kind, text }));
  const folder = mkdtempSync(path.join(tmpdir(), "ledgerd-client-"));
  context.onTestFinished(() => rmSync(folder, { recursive: true }));
  cpSync(path.join(root, "proto/ledger"), path.join(folder, "proto/ledger"), { recursive: true });
  for (const [kind, file] of Object.entries(language.files)) {
    mkdirSync(path.dirname(path.join(folder, file)), { recursive: true });
    writeFileSync(path.join(folder, file), blocks.find((block) => block.kind === kind)?.text ?? "");
  }
  const commands = blocks
    .filter(({ kind, text }) => kind === "sh" && !/^(go|pip) install/.test(text))
    .map(({ text }) => text);
  const script = commands.join("").replace("127.0.0.1:50051", service.grpcAddress).replace("mvn ", "mvn -o -B ");
  const env = { ...process.env, ...(language.name === "Go" ? fromCache() : {}) };
  const said = await run("sh", ["-e", "-c", script], { cwd: folder, env }).catch(
    (error: unknown) => error as { readonly stdout: string; readonly stderr: string },
  );
  if (language.offline.test(said.stdout + said.stderr))
    return context.skip("what it imports was never downloaded here");
  expect(said.stdout + said.stderr).toContain("INSUFFICIENT_FUNDS, 0.00 is available\n");
});

function missingFor({ programs, modules = [] }: Language): string | undefined {
  const program = programs.find((one) => !isInstalled(one));
  if (program !== undefined) return program;
  return modules.find((module) => spawnSync("python3", ["-c", `import ${module}`]).status !== 0);
}
