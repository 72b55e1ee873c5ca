// The shape of the source: who may know whom, and what must not be in it.

import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { parseSync, visitorKeys, type Node } from "oxc-parser";
import { describe, expect, test } from "vitest";
import { misfitOf, mutants } from "../scripts/mutants.ts";

const root = path.resolve(import.meta.dirname, "..");

interface Import {
  /** The file, from the root on; or a package. */
  readonly from: string;
  readonly typeOnly: boolean;
}

interface Source {
  /** From the root on. */
  readonly file: string;
  readonly text: string;
  readonly imports: readonly Import[];
  readonly nodes: readonly Node[];
}

const sources = ["src", "bench", "scripts", "test"].flatMap((folder) =>
  readdirSync(path.join(root, folder), { recursive: true, encoding: "utf8" })
    .map((file) => path.join(folder, file))
    .filter((file) => file.endsWith(".ts") && !file.startsWith("src/gen/"))
    .map(read),
);
const ours = sources.filter(({ file }) => file.startsWith("src/"));

function read(file: string): Source {
  const text = readFileSync(path.join(root, file), "utf8");
  const { program } = parseSync(file, text);
  const nodes: Node[] = [];
  collect(program, nodes);
  const placeOf = (from: string): string => (from.startsWith(".") ? path.join(path.dirname(file), from) : from);
  const imports = nodes.flatMap((node): Import[] => {
    if (node.type === "ImportExpression" && node.source.type === "Literal") return [{ from: placeOf(String(node.source.value)), typeOnly: false }];
    if (node.type !== "ImportDeclaration" && node.type !== "ExportNamedDeclaration" && node.type !== "ExportAllDeclaration") return [];
    if (node.source === null) return [];
    const typeOnly = (node.type === "ImportDeclaration" ? node.importKind : node.exportKind) === "type";
    return [{ from: placeOf(node.source.value), typeOnly }];
  });
  return { file, text, imports, nodes };
}

function collect(node: Node, into: Node[]): void {
  into.push(node);
  for (const key of visitorKeys[node.type] ?? []) {
    const child = (node as unknown as Readonly<Record<string, Node | readonly (Node | null)[] | null | undefined>>)[key];
    for (const one of Array.isArray(child) ? (child as readonly (Node | null)[]) : [child as Node | null | undefined]) {
      if (one !== null && one !== undefined) collect(one, into);
    }
  }
}

/** The room of the source that a file belongs to: the first folder within src/; or the file itself. */
function roomOf(file: string): string {
  const [, room = path.basename(file, ".ts")] = /^src\/(\w+)\//.exec(file) ?? [];
  return room;
}

/** What a room may import of others, and of which it may know the types alone; packages and Node's modules by their names. */
const table: Readonly<Record<string, { readonly values: RegExp; readonly types?: RegExp }>> = {
  domain: { values: /^(src\/domain\/|node:crypto$)/ },
  protobuf: { values: /^(src\/protobuf\/|@bufbuild\/)/ },
  postgres: { values: /^(src\/(domain|postgres)\/|slonik$|pg$|zod$|node:)/ },
  verification: { values: /^(src\/(domain|postgres|verification)\/|slonik$|zod$|node:)/, types: /^pg$/ },
  backup: { values: /^(src\/(domain|postgres|verification|backup)\/|slonik$|pg$|zod$|node:)/ },
  adoption: { values: /^(src\/(domain|postgres|adoption)\/|slonik$|pg$|zod$|node:)/ },
  rpc: {
    values: /^(src\/(domain|gen|protobuf|rpc)\/|@bufbuild\/|@connectrpc\/connect$|zod$|node:)/,
    types: /^src\/(postgres|verification|upkeep)\//,
  },
  servers: {
    values: /^(src\/(domain|gen|protobuf|rpc|servers)\/|@bufbuild\/|@connectrpc\/|@grpc\/|grpc-health-check$|node:)/,
    types: /^src\/(verification|upkeep|settings)\//,
  },
  upkeep: {
    values: /^(src\/(config.ts$|domain\/|postgres\/|backup\/|upkeep\/)|node:)/,
    types: /^(src\/verification\/|pino$)/,
  },
  settings: { values: /^(src\/domain\/|src\/postgres\/connection\/url\.ts$|zod$)/ },
  config: { values: /^(src\/(domain|settings)\/|src\/postgres\/connection\/url\.ts$|node:fs$)/, types: /^zod$/ },
  version: { values: /^node:/ },
  service: {
    values:
      /^(src\/(config|version)\.ts$|src\/(domain|gen|postgres|verification|backup|upkeep|rpc|servers|settings|service)\/|node:)/,
    types: /^(pino|slonik)$/,
  },
  processes: {
    values: /^(src\/(config.ts$|domain\/|service\/|processes\/|servers\/(listener|descriptors).ts$)|node:)/,
    types: /^(pino$|src\/settings\/)/,
  },
  cli: { values: /^(src\/|node:|pino$)/, types: /^slonik$/ },
  main: { values: /^(src\/cli\/run\.ts$|node:)/ },
};

describe("imports", () => {
  test("go only where the table lets them", () => {
    const strays = ours.flatMap(({ file, imports }) => {
      const allowed = table[roomOf(file)];
      const isAllowed = ({ from, typeOnly }: Import): boolean => allowed?.values.test(from) === true || (typeOnly && allowed?.types?.test(from) === true);
      return imports.filter((one) => !isAllowed(one)).map(({ from }) => `${file} imports ${from}`);
    });
    expect(strays).toEqual([]);
  });

  test("make no cycles", () => {
    const graph = new Map(sources.map(({ file, imports }) => [file, imports.map(({ from }) => from)]));
    const done = new Set<string>();
    const cycles: string[] = [];
    const visit = (file: string, trail: readonly string[]): void => {
      if (trail.includes(file)) cycles.push([...trail.slice(trail.indexOf(file)), file].join(" → "));
      if (done.has(file) || trail.includes(file)) return;
      for (const next of graph.get(file) ?? []) visit(next, [...trail, file]);
      done.add(file);
    };
    for (const file of graph.keys()) visit(file, []);
    expect(cycles).toEqual([]);
  });

  test("make no circles between folders", () => {
    const folderOf = (file: string): string => (path.dirname(file) === "src" ? file : path.dirname(file));
    const graph = Map.groupBy(
      ours.flatMap(({ file, imports }) => imports.map(({ from }) => [folderOf(file), folderOf(from)] as const)),
      ([folder]) => folder,
    );
    const reached = (from: string): ReadonlySet<string> => {
      const found = new Set<string>();
      const visit = (folder: string): void => {
        for (const [, next] of graph.get(folder) ?? []) {
          if (next === folder || found.has(next)) continue;
          found.add(next);
          visit(next);
        }
      };
      visit(from);
      return found;
    };
    expect([...graph.keys()].filter((folder) => reached(folder).has(folder))).toEqual([]);
  });

  test("reach every file of the service from its command line", () => {
    const reached = new Set<string>();
    const visit = (file: string): void => {
      if (reached.has(file)) return;
      reached.add(file);
      for (const { from } of ours.find((source) => source.file === file)?.imports ?? []) visit(from);
    };
    visit("src/main.ts");
    expect(ours.map(({ file }) => file).filter((file) => !reached.has(file))).toEqual([]);
  });

  test("take no package that package.json doesn't name, and it names none that nobody takes", () => {
    const { dependencies, devDependencies } = JSON.parse(readFileSync(path.join(root, "package.json"), "utf8")) as Record<string, Record<string, string>>;
    const packages = (files: readonly Source[]) =>
      new Set(files.flatMap(({ imports }) => imports.map(({ from }) => from)).filter((from) => !/^(node:|src\/|test\/|bench\/|scripts\/)/.test(from)).map((from) => from.split("/").slice(0, from.startsWith("@") ? 2 : 1).join("/")));
    expect([...packages(ours)].toSorted(), "of the service").toEqual(Object.keys(dependencies ?? {}).toSorted());
    const known = { ...dependencies, ...devDependencies };
    expect([...packages(sources)].filter((name) => !(name in known)), "of everything else").toEqual([]);
  });
});

describe("the rooms", () => {
  test("hold at most 16 files each", () => {
    const folders = Map.groupBy(ours, ({ file }) => path.dirname(file));
    const full = [...folders].filter(([, files]) => files.length > 16);
    expect(full.map(([folder, files]) => `${folder}: ${files.length} files`)).toEqual([]);
  });

  test("hold files of at most 400 lines", () => {
    const lines = ({ text }: Source): number => text.split("\n").length - 1;
    const long = ours.filter((source) => lines(source) > 400);
    expect(long.map((source) => `${source.file}: ${lines(source)} lines`)).toEqual([]);
  });
});

describe("every file", () => {
  test("says first what it is about", () => {
    const silent = sources.filter(({ text }) => !/^(#!.*\n)?\/\/ /.test(text));
    expect(silent.map(({ file }) => file)).toEqual([]);
  });

  test("has nothing unchecked, unfinished or silenced", () => {
    const forbidden = /\bTO[D]O\b|\bFIX[M]E\b|@ts-(ignore|expect-error|nocheck)|(eslint|oxlint)-[d]isable|\.only\(/;
    const found = sources.flatMap(({ file, text, nodes }) => [
      ...text.split("\n").flatMap((line, index) => (forbidden.test(line) ? [`${file}:${index + 1}: ${line.trim()}`] : [])),
      ...nodes.filter(({ type }) => type === "TSAnyKeyword").map(({ start }) => `${file}:${lineOf(text, start)}: any`),
    ]);
    expect(found).toEqual([]);
  });

  test("has functions of at most 70 lines", () => {
    const isFunction = ({ type }: Node): boolean => ["FunctionDeclaration", "FunctionExpression", "ArrowFunctionExpression"].includes(type);
    const long = sources.flatMap(({ file, text, nodes }) => {
      const functions = nodes.filter((node) => isFunction(node) && !isTestSuite(node, text));
      const lengths = functions.map(({ start, end }) => ({ line: lineOf(text, start), lines: lineOf(text, end) - lineOf(text, start) + 1 }));
      return lengths.filter(({ lines }) => lines > 70).map(({ line, lines }) => `${file}:${line}: a function of ${lines} lines`);
    });
    expect(long).toEqual([]);
  });
});

test("only config.ts reads the environment of the service", () => {
  expect(ours.filter(({ file, text }) => file !== "src/config.ts" && text.includes("process.env")).map(({ file }) => file)).toEqual([]);
});

test("every mutant can be put into the tree: the text it changes is there, once", () => {
  expect(mutants.flatMap(misfitOf)).toEqual([]);
});

/** The body of a `describe`: a heading rather than a function. */
function isTestSuite({ start }: Node, text: string): boolean {
  return /describe(\.concurrent|\.each\([^\n]*\))?\([^\n]*, $/.test(text.slice(0, start));
}

function lineOf(text: string, offset: number): number {
  return text.slice(0, offset).split("\n").length;
}
