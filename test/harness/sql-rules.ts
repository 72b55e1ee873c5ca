// The operations that are forbidden in SQL, told from its syntax tree by PostgreSQL's own grammar.

import { loadModule, parseSync, type ColumnRef, type SelectStmt } from "libpg-query";
import { isBounded, namesInFrom, walk, type Scope } from "./sql-bounds.ts";

/** Where a statement stands, as far as the rules ask. */
export interface Context {
  /** Whether it runs in a block that goes on if what it makes is there already. */
  readonly guarded?: boolean;
  /** The variables of the function that it stands in. */
  readonly variables?: ReadonlySet<string>;
}

await loadModule();

/** What is forbidden in these statements; empty if nothing is. */
export function problemsIn(text: string, { guarded = false, variables = new Set() }: Context = {}): readonly string[] {
  const problems: string[] = [];
  const { stmts = [] } = parseStatements(text, problems);
  for (const { stmt } of stmts) {
    if (stmt === undefined) continue;
    const scope = { outside: new Set<string>(), variables, withQueries: new Map() };
    if ("SelectStmt" in stmt && !isBounded(stmt.SelectStmt, scope)) problems.push("a list without LIMIT");
    walk(stmt, (kind, value) => {
      const problem = problemOf(kind, value, guarded) ?? unboundedArray(kind, value, { ...scope, outside: new Set(namesInFrom(stmt)) });
      if (problem !== undefined) problems.push(problem);
    });
  }
  return problems;
}

function parseStatements(text: string, problems: string[]): ReturnType<typeof parseSync> {
  try {
    return parseSync(text);
  } catch (error) {
    problems.push(`not SQL: ${error instanceof Error ? error.message : String(error)}`);
    return {};
  }
}

function problemOf(kind: string, value: Readonly<Record<string, unknown>>, guarded: boolean): string | undefined {
  if (kind === "ColumnRef" && (value as ColumnRef).fields?.some((field) => "A_Star" in field) === true) return "SELECT *";
  if (kind === "DeleteStmt" && value["whereClause"] === undefined) return "DELETE without WHERE";
  if (kind === "UpdateStmt" && value["whereClause"] === undefined) return "UPDATE without WHERE";
  if (kind === "TruncateStmt") return "TRUNCATE";
  if (/^Drop.*Stmt$/.test(kind)) return "DROP";
  if (kind === "AlterTableCmd") return problemOfAlter(value, guarded);
  // CREATE in all its forms; of types, roles, databases and others PostgreSQL has no IF NOT EXISTS.
  const creates = /^(Create|Createdb|CompositeType|Define|Index|Rule|View).*Stmt$/.test(kind);
  if (creates && value["if_not_exists"] !== true && value["replace"] !== true && !guarded) return "CREATE without IF NOT EXISTS";
  return undefined;
}

function problemOfAlter({ subtype, missing_ok: ifNotExists }: Readonly<Record<string, unknown>>, guarded: boolean): string | undefined {
  if (String(subtype).startsWith("AT_Drop")) return "DROP";
  const adds = subtype === "AT_AddColumn" || subtype === "AT_AddConstraint";
  return adds && ifNotExists !== true && !guarded ? "ADD without IF NOT EXISTS" : undefined;
}

function unboundedArray(kind: string, value: Readonly<Record<string, unknown>>, scope: Scope): string | undefined {
  if (kind !== "SubLink" || value["subLinkType"] !== "ARRAY_SUBLINK") return undefined;
  const { SelectStmt: select } = value["subselect"] as { SelectStmt: SelectStmt };
  return isBounded(select, scope) ? undefined : "an array of a list without LIMIT";
}
