// Finds the statements of migrations: those of the file, and those in the bodies of its functions and DO blocks, the dynamic ones too.

import { loadModule, parsePlPgSQLSync, parseSync, type Node } from "libpg-query";
import type { Context } from "./sql-rules.ts";
import { functionName, walk } from "./sql-bounds.ts";

/** A statement, and where it stands. */
export interface MigrationStatement extends Required<Context> {
  readonly where: string;
  readonly text: string;
}

type Tree = Readonly<Record<string, unknown>>;

/** How the parser tells an expression of PL/pgSQL from a statement, and from an assignment. */
const STATEMENT = 0;
const EXPRESSION = 2;

await loadModule();

/** All statements of a file. */
export function statementsOfMigration(file: string, sql: string): readonly MigrationStatement[] {
  const bytes = Buffer.from(sql);
  return (parseSync(sql).stmts ?? []).flatMap(({ stmt, stmt_location: from = 0, stmt_len: length }) => {
    const text = bytes.subarray(from, length === undefined ? undefined : from + length).toString();
    const where = `${file}:${bytes.subarray(0, from).toString().trimEnd().split("\n").length + 1}`;
    return [{ where, text, guarded: false, variables: new Set<string>() }, ...(stmt === undefined ? [] : statementsOfBody(stmt, text, where))];
  });
}

function statementsOfBody(stmt: Node, text: string, where: string): readonly MigrationStatement[] {
  if ("DoStmt" in stmt) return statementsOfBlock(text, where);
  if (!("CreateFunctionStmt" in stmt)) return [];
  const { options = [], parameters = [] } = stmt.CreateFunctionStmt;
  const option = (name: string): Node | undefined => options.flatMap((node) => ("DefElem" in node && node.DefElem.defname === name ? [node.DefElem.arg] : []))[0];
  const language = option("language");
  if (language === undefined || !("String" in language) || language.String.sval === "plpgsql") return statementsOfBlock(text, where);
  const body = option("as");
  const [code] = body !== undefined && "List" in body ? (body.List.items ?? []) : [];
  if (language.String.sval !== "sql" || code === undefined || !("String" in code)) throw new Error(`${where}: a function of a kind that isn't known here`);
  const names = parameters.flatMap((node) => ("FunctionParameter" in node ? [node.FunctionParameter.name ?? ""] : []));
  return [{ where, text: code.String.sval ?? "", guarded: false, variables: new Set(names) }];
}

/** The statements of PL/pgSQL code. */
function statementsOfBlock(code: string, where: string): readonly MigrationStatement[] {
  const tree: unknown = parsePlPgSQLSync(code);
  const variables = new Set<string>();
  walk(tree, (kind, { refname }) => {
    if (/^PLpgSQL_(var|rec)$/.test(kind) && typeof refname === "string") variables.add(refname);
  });
  const found: MigrationStatement[] = [];
  const visit = (part: unknown, guarded: boolean): void =>
    walk(part, (kind, value) => {
      if (kind === "PLpgSQL_stmt_block" && value["exceptions"] !== undefined) {
        visit(value["body"], guarded || goesOnIfThere(value["exceptions"]));
        visit(value["exceptions"], guarded);
        return false;
      }
      if (kind === "PLpgSQL_stmt_dynexecute") found.push({ where, text: dynamicText(value["query"], where), guarded, variables });
      if (kind === "PLpgSQL_expr") found.push({ where, text: textOf(value), guarded, variables });
      return true;
    });
  visit(tree, false);
  return found;
}

/** Whether the handlers of a block take care of what is there already. */
function goesOnIfThere(exceptions: unknown): boolean {
  let found = false;
  walk(exceptions, (kind, { condname }) => {
    if (kind === "PLpgSQL_condition" && (condname === "duplicate_object" || condname === "duplicate_column")) found = true;
  });
  return found;
}

function textOf({ query, parseMode }: Tree): string {
  const text = String(query);
  if (parseMode === STATEMENT) return text;
  return `SELECT ${parseMode === EXPRESSION ? text : text.slice(text.indexOf(":=") + 2)}`;
}

/** The statement that EXECUTE gets: a constant, or what `format` makes of one, with stand-ins for names and values. */
function dynamicText(query: unknown, where: string): string {
  const { PLpgSQL_expr: expression } = query as { PLpgSQL_expr: { query: string } };
  const [parsed] = parseSync(`SELECT ${expression.query}`).stmts ?? [];
  const [target] = parsed?.stmt !== undefined && "SelectStmt" in parsed.stmt ? (parsed.stmt.SelectStmt.targetList ?? []) : [];
  const text = target !== undefined && "ResTarget" in target ? constantOf(target.ResTarget.val) : undefined;
  if (text === undefined) throw new Error(`${where}: EXECUTE ${expression.query} is neither a constant nor format() of one`);
  return text.replaceAll(/%(\d+\$)?I/g, "x").replaceAll(/%(\d+\$)?L/g, "'x'").replaceAll(/%(\d+\$)?s/g, "1");
}

function constantOf(node: Node | undefined): string | undefined {
  if (node !== undefined && "A_Const" in node) return node.A_Const.sval?.sval;
  return node !== undefined && "FuncCall" in node && functionName(node.FuncCall) === "format" ? constantOf(node.FuncCall.args?.[0]) : undefined;
}
