// Generates src/gen out of proto/ and of the public definitions that npm packages bring, so that no copy of those is kept here.
//   node scripts/generate.ts            writes src/gen
//   node scripts/generate.ts --check    fails if src/gen is not what it would write
import { execFileSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";

const root = path.resolve(import.meta.dirname, "..");
const publicDefinitions = [
  { file: "google/rpc/error_details.proto", from: "google-proto-files/google/rpc/error_details.proto" },
  { file: "google/rpc/status.proto", from: "google-proto-files/google/rpc/status.proto" },
  { file: "grpc/health/v1/health.proto", from: "grpc-health-check/proto/health/v1/health.proto" },
  { file: "grpc/reflection/v1/reflection.proto", from: "@grpc/reflection/build/proto/grpc/reflection/v1/reflection.proto" },
];

function generate(outputRoot: string): void {
  const definitions = mkdtempSync(path.join(tmpdir(), "ledgerd-definitions-"));
  try {
    for (const { file, from } of publicDefinitions) {
      mkdirSync(path.dirname(path.join(definitions, file)), { recursive: true });
      cpSync(path.join(root, "node_modules", from), path.join(definitions, file));
    }
    for (const input of [path.join(root, "proto"), definitions]) {
      const template = path.join(root, "buf.gen.yaml");
      execFileSync("buf", ["generate", input, "--template", template, "--output", outputRoot], { cwd: root, stdio: "inherit" });
    }
  } finally {
    rmSync(definitions, { recursive: true });
  }
}

function contents(folder: string): Map<string, string> {
  const files = readdirSync(folder, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  const paths = files.map((entry) => path.join(entry.parentPath, entry.name));
  return new Map(paths.map((file) => [path.relative(folder, file), readFileSync(file, "utf8")]));
}

function check(): void {
  const fresh = mkdtempSync(path.join(tmpdir(), "ledgerd-gen-"));
  try {
    generate(fresh);
    const wanted = contents(path.join(fresh, "src/gen"));
    const found = contents(path.join(root, "src/gen"));
    const stale = [...new Set([...wanted.keys(), ...found.keys()])].filter((file) => wanted.get(file) !== found.get(file));
    if (stale.length > 0) {
      process.stderr.write(`src/gen is stale (${stale.join(", ")}): run \`npm run gen\` and commit what it writes\n`);
      process.exitCode = 1;
    }
  } finally {
    rmSync(fresh, { recursive: true });
  }
}

if (process.argv.includes("--check")) {
  check();
} else {
  rmSync(path.join(root, "src/gen"), { recursive: true, force: true });
  generate(root);
}
