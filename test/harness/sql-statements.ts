// Finds the SQL in TypeScript without running it: every template under Slonik's `sql` tag, with all that its fragments may become, and
// every plain string that is a statement. What it can't account for it reports as misuse, so that nothing escapes the rules unseen.

import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { parseSync, visitorKeys, type Node } from "oxc-parser";

/** A statement of the source, in all its forms. */
export interface Statement {
  /** Where it stands: `src/postgres/reads/holds.ts:18`. */
  readonly where: string;
  /** Its texts, with `$1` and so on for values. More than one if parts of it depend on something. */
  readonly texts: readonly string[];
}

/** The SQL of some files. */
export interface Found {
  readonly statements: readonly Statement[];
  /** SQL that isn't a statement by the tag or a constant string, each with its place. */
  readonly misuses: readonly string[];
}

/** One file. */
interface Module {
  readonly file: string;
  readonly text: string;
  readonly nodes: readonly Node[];
  readonly parents: ReadonlyMap<Node, Node>;
}

/** A piece of syntax, and the file that it is in. */
interface Place {
  readonly node: Node;
  readonly module: Module;
}

type TaggedTemplate = Extract<Node, { type: "TaggedTemplateExpression" }>;

/** Stands for a value until the whole statement is known and its values can be numbered. */
const VALUE = "\u0000";

/** All files of src/ by their names from the root on, the generated ones left out. */
export function readSources(): ReadonlyMap<string, string> {
  const root = path.resolve(import.meta.dirname, "../..");
  const files = readdirSync(path.join(root, "src"), { recursive: true, encoding: "utf8" }).map((file) => path.join("src", file));
  const ours = files.filter((file) => file.endsWith(".ts") && !file.startsWith("src/gen/"));
  return new Map(ours.map((file) => [file, readFileSync(path.join(root, file), "utf8")]));
}

/** The SQL of these files. */
export function findSql(sources: ReadonlyMap<string, string>): Found {
  const modules = new Map([...sources].map(([file, text]) => [file, parseModule(file, text)]));
  const expander = new Expander(modules);
  const all = [...modules.values()].flatMap((module) => module.nodes.map((node): Place => ({ node, module })));
  const tagged = all.flatMap((place) => (isStatement(place.node) ? [{ where: whereIs(place), texts: expander.texts(place.node, place.module) }] : []));
  const plain = all.flatMap((place) => {
    const text = constantText(place.node);
    return text !== undefined && looksLikeSql(text) && !isTag(parentOf(place)) ? [{ where: whereIs(place), texts: [text] }] : [];
  });
  const strayFragments = all.filter(({ node }) => tagOf(node) === "fragment" && !expander.used.has(node)).map((place) => `${whereIs(place)}: a fragment of no statement`);
  return { statements: [...tagged, ...plain], misuses: [...strayFragments, ...all.flatMap(misuseOf)] };
}

/** Whether a text is SQL, as far as its beginning tells: keywords as we write them, or otherwise such as no sentence begins with. */
export function looksLikeSql(text: string): boolean {
  const written =
    /^\s*(SELECT|INSERT|UPDATE|DELETE|MERGE|WITH|VALUES|TABLE|CREATE|ALTER|DROP|TRUNCATE|GRANT|REVOKE|BEGIN|START|COMMIT|ROLLBACK|SAVEPOINT|SET|RESET|SHOW|LOCK|COPY|CALL|DO|EXPLAIN|ANALYZE|VACUUM|REINDEX|NOTIFY|LISTEN|PREPARE|EXECUTE|DECLARE|FETCH|COMMENT)\b/;
  const likely =
    /^\s*(select\s.*\sfrom\s|insert\s+into\s|update\s+\S+\s+set\s|delete\s+from\s|(create|alter|drop|truncate)\s+(table|index|role|database|schema|function|trigger)\s|set\s+(local|session|transaction)\s)/is;
  return written.test(text) || likely.test(text);
}

/** Turns templates into texts. */
class Expander {
  /** The fragments that became part of a statement. */
  readonly used = new Set<Node>();
  readonly #modules: ReadonlyMap<string, Module>;

  constructor(modules: ReadonlyMap<string, Module>) {
    this.#modules = modules;
  }

  /** The texts of a statement. */
  texts(template: TaggedTemplate, module: Module): readonly string[] {
    return this.#expand(template, module).map((text) => {
      let count = 0;
      return text.replaceAll(VALUE, () => `$${++count}`);
    });
  }

  /** An expression that occurs twice is the same both times, so each different one is chosen once. */
  #expand({ quasi }: TaggedTemplate, module: Module): readonly string[] {
    const source = ({ start, end }: Node): string => module.text.slice(start, end);
    const different = new Map(quasi.expressions.map((expression) => [source(expression), expression]));
    let choices: ReadonlyMap<string, string>[] = [new Map()];
    for (const [name, expression] of different) {
      const forms = this.#formsOf(expression, module);
      choices = choices.flatMap((chosen) => forms.map((form) => new Map([...chosen, [name, form]])));
    }
    return choices.map((chosen) =>
      quasi.quasis.map(({ value }, index) => {
        const expression = quasi.expressions[index];
        return (value.cooked ?? "") + (expression === undefined ? "" : (chosen.get(source(expression)) ?? ""));
      }).join(""),
    );
  }

  /** What may stand in a statement for an expression of its template. */
  #formsOf(node: Node, module: Module): readonly string[] {
    const forms = (inner: Node): readonly string[] => this.#formsOf(inner, module);
    switch (node.type) {
      case "TaggedTemplateExpression":
        if (tagOf(node) !== "fragment") return [VALUE];
        this.used.add(node);
        return this.#expand(node, module);
      case "ConditionalExpression":
        return [...new Set([...forms(node.consequent), ...forms(node.alternate)])];
      case "MemberExpression":
        return node.object.type === "ObjectExpression" ? node.object.properties.flatMap((property) => (property.type === "Property" ? forms(property.value) : [VALUE])) : [VALUE];
      case "Identifier": {
        const found = this.#declarationOf(node.name, { node, module });
        return found === undefined || isFunction(found.node) ? [VALUE] : this.#formsOf(found.node, found.module);
      }
      case "CallExpression":
        return this.#formsOfCall(node, module);
      default:
        return [VALUE];
    }
  }

  #formsOfCall({ callee, arguments: [members, type] }: Extract<Node, { type: "CallExpression" }>, module: Module): readonly string[] {
    // A name, in quotes: any stands for it.
    if (slonikMethod(callee) === "identifier") return ["x"];
    // A list as long as it is then: one member stands for it. What stands between them is used, too.
    if (slonikMethod(callee) === "join" && members?.type === "CallExpression" && type !== undefined) {
      this.#formsOf(type, module);
      const [each] = members.arguments;
      if (each !== undefined && isFunction(each)) return resultsOf(each).flatMap((result) => this.#formsOf(result, module));
    }
    if (slonikMethod(callee) === "array" && type?.type === "Literal") return [`${VALUE}::"${String(type.value)}"[]`];
    const found = callee.type === "Identifier" ? this.#declarationOf(callee.name, { node: callee, module }) : undefined;
    if (found === undefined || !isFunction(found.node)) return [VALUE];
    const results = resultsOf(found.node).flatMap((result) => this.#formsOf(result, found.module));
    return [...new Set(results)];
  }

  /** What a name stands for: the function, or the expression that it was set to. Undefined if only running the program could tell. */
  #declarationOf(name: string, { node, module }: Place): Place | undefined {
    for (let scope = module.parents.get(node); scope !== undefined; scope = module.parents.get(scope)) {
      for (const declaration of declarationsIn(scope)) {
        if (declaration.type === "ImportDeclaration") {
          const imported = this.#imported(name, declaration, module);
          if (imported !== undefined) return imported;
        } else if (namesIn(declaration).includes(name)) {
          if (declaration.type === "FunctionDeclaration") return { node: declaration, module };
          if (declaration.type !== "VariableDeclarator" || declaration.id.type !== "Identifier" || declaration.init === null) return undefined;
          return { node: declaration.init, module };
        }
      }
    }
    return undefined;
  }

  #imported(name: string, { source, specifiers }: Extract<Node, { type: "ImportDeclaration" }>, module: Module): Place | undefined {
    const specifier = specifiers.find(({ local }) => local.name === name);
    const from = this.#modules.get(path.join(path.dirname(module.file), source.value));
    if (specifier?.type !== "ImportSpecifier" || specifier.imported.type !== "Identifier" || from === undefined) return undefined;
    const program = from.nodes[0];
    const anywhere = program !== undefined && "body" in program && Array.isArray(program.body) ? program.body[0] : undefined;
    return anywhere === undefined ? undefined : this.#declarationOf(specifier.imported.name, { node: anywhere, module: from });
  }
}

/** What is declared right in a scope; of a function, its parameters. */
function declarationsIn(scope: Node): readonly Node[] {
  if (isFunction(scope)) return scope.params;
  if (scope.type !== "Program" && scope.type !== "BlockStatement") return [];
  return scope.body.flatMap((statement): readonly Node[] => {
    const declaration = statement.type === "ExportNamedDeclaration" ? statement.declaration : statement;
    if (declaration?.type === "VariableDeclaration") return declaration.declarations;
    return declaration?.type === "FunctionDeclaration" || declaration?.type === "ImportDeclaration" ? [declaration] : [];
  });
}

/** The names that a declaration, or a parameter, declares. */
function namesIn(declaration: Node): readonly string[] {
  const nodes: Node[] = [];
  if (declaration.type === "FunctionDeclaration") return [declaration.id?.name ?? ""];
  collect(declaration.type === "VariableDeclarator" ? declaration.id : declaration, nodes, new Map());
  return nodes.flatMap((node) => (node.type === "Identifier" ? [node.name] : []));
}

type FunctionNode = Extract<Node, { type: "FunctionDeclaration" | "FunctionExpression" | "ArrowFunctionExpression" }>;

function isFunction(node: Node): node is FunctionNode {
  return node.type === "FunctionDeclaration" || node.type === "FunctionExpression" || node.type === "ArrowFunctionExpression";
}

/** The expressions that a function returns. */
function resultsOf({ body }: FunctionNode): readonly Node[] {
  if (body === null) return [];
  if (body.type !== "BlockStatement") return [body];
  const nodes: Node[] = [];
  collect(body, nodes, new Map());
  return nodes.flatMap((node) => (node.type === "ReturnStatement" && node.argument !== null ? [node.argument] : []));
}

/** `array` of `sql.array`, say. */
function slonikMethod(node: Node): string | undefined {
  const isMethod = node.type === "MemberExpression" && node.object.type === "Identifier" && node.object.name === "sql" && node.property.type === "Identifier";
  return isMethod ? (node.property as Extract<Node, { type: "Identifier" }>).name : undefined;
}

/** By which of Slonik's tags a template is SQL. */
function tagOf(node: Node): string | undefined {
  if (node.type !== "TaggedTemplateExpression") return undefined;
  return slonikMethod(node.tag.type === "CallExpression" ? node.tag.callee : node.tag);
}

function isStatement(node: Node): node is TaggedTemplate {
  return ["type", "prepared", "unsafe"].includes(tagOf(node) ?? "");
}

function isTag(node: Node | undefined): boolean {
  return node !== undefined && tagOf(node) !== undefined;
}

/** The text of a string, or of a template without values. */
function constantText(node: Node): string | undefined {
  if (node.type === "Literal" && typeof node.value === "string") return node.value;
  return node.type === "TemplateLiteral" && node.expressions.length === 0 ? (node.quasis[0]?.value.cooked ?? undefined) : undefined;
}

/** SQL that is put together otherwise than by the tag, or a query that is neither the tag's nor a constant text. */
function misuseOf(place: Place): readonly string[] {
  const { node, module } = place;
  const misuse = (what: string): readonly string[] => [`${whereIs(place)}: ${what}`];
  if (node.type === "TemplateLiteral" && node.expressions.length > 0 && !isTag(parentOf(place)) && looksLikeSql(node.quasis[0]?.value.cooked ?? "")) {
    return misuse("SQL with values in its text");
  }
  if (node.type === "BinaryExpression" && node.operator === "+" && looksLikeSql(constantText(node.left) ?? "")) return misuse("SQL put together with +");
  const method = slonikMethod(node);
  const parent = parentOf(place);
  if (method === "literalValue") return misuse("sql.literalValue, which puts a value into the text");
  const tagged = parent?.type === "TaggedTemplateExpression" && parent.tag === node;
  if ((method === "fragment" || method === "unsafe") && !tagged) return misuse(`sql.${method} used otherwise than as a tag`);
  if (node.type === "CallExpression" && node.callee.type === "MemberExpression" && node.callee.property.type === "Identifier" && node.callee.property.name === "query") {
    const [text] = node.arguments;
    if (text !== undefined && constantText(text) === undefined && !isStatement(text)) return misuse(`query(${module.text.slice(text.start, text.end)})`);
  }
  return [];
}

function parentOf({ node, module }: Place): Node | undefined {
  return module.parents.get(node);
}

function whereIs({ node, module }: Place): string {
  return `${module.file}:${module.text.slice(0, node.start).split("\n").length}`;
}

function parseModule(file: string, text: string): Module {
  const { program, errors } = parseSync(file, text);
  if (errors.length > 0) throw new Error(`${file}: ${errors[0]?.message}`);
  const nodes: Node[] = [];
  const parents = new Map<Node, Node>();
  collect(program, nodes, parents);
  return { file, text, nodes, parents };
}

function collect(node: Node, into: Node[], parents: Map<Node, Node>): void {
  into.push(node);
  for (const key of visitorKeys[node.type] ?? []) {
    const value = (node as unknown as Readonly<Record<string, Node | readonly (Node | null)[] | null | undefined>>)[key];
    for (const child of [value].flat()) {
      if (child === null || child === undefined) continue;
      parents.set(child, node);
      collect(child, into, parents);
    }
  }
}
