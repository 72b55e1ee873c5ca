// Whether a SELECT answers a list whose length nobody limits. It doesn't if, in this order, it
//
//   has a LIMIT, or
//   reads no table, or answers one row of aggregates, or
//   groups by columns that are given, or
//   reads only what is bounded by itself: unnest or generate_series of what the caller gave, a bounded subselect or CTE, a sequence, or a
//   table of which a unique key is given.
//
// A column is given by `=` or `= ANY` with a value, or with a column of something else in the same FROM that is bounded itself.

import type { ColumnRef, FuncCall, Node, SelectStmt } from "libpg-query";

/** What a SELECT can refer to beside its own tables. */
export interface Scope {
  /** What is named outside of it: its columns are values here. */
  readonly outside: ReadonlySet<string>;
  /** The variables of the function that it stands in. */
  readonly variables: ReadonlySet<string>;
  readonly withQueries: ReadonlyMap<string, Node>;
}

/** A table, a function or a subselect in FROM. */
interface Item {
  readonly name: string;
  readonly node: Node;
}

/** All of FROM, with the conditions on it. */
interface From {
  readonly items: readonly Item[];
  readonly conditions: readonly Node[];
  /** The items that are known to be bounded, and what is named outside. */
  readonly known: Set<string>;
  readonly scope: Scope;
}

/** What identifies a row. An id is drawn from one sequence, so it does by itself, though a partition's key must contain more. */
const keys: Readonly<Record<string, readonly (readonly string[])[]>> = {
  transactions: [["id"], ["user_id", "currency", "sequence"]],
  user_balances: [["user_id", "currency"]],
  holds: [["id"]],
  idempotency_keys: [["user_id", "key"]],
  unique_references: [["user_id", "type", "reference"]],
  jobs: [["id"]],
  lock_heartbeat: [["lock_key"]],
  pg_database: [["datname"]],
  pg_roles: [["rolname"]],
  pg_tables: [["schemaname", "tablename"]],
};

const boundedFunctions = new Set(["unnest", "generate_series"]);
const aggregates = new Set(["count", "sum", "min", "max", "array_agg", "string_agg", "bool_or", "bool_and"]);

/** Whether something other than the size of the tables limits how many rows a SELECT answers. */
export function isBounded(select: SelectStmt, scope: Scope): boolean {
  const { limitCount, fromClause = [], valuesLists, larg, rarg, targetList = [], groupClause = [] } = select;
  if (limitCount !== undefined && !("A_Const" in limitCount && limitCount.A_Const.isnull === true)) return true;
  if (larg !== undefined && rarg !== undefined) return isBounded(larg, scope) && isBounded(rarg, scope);
  if (valuesLists !== undefined || fromClause.length === 0) return true;
  if (groupClause.length === 0 && targetList.some(hasAggregate)) return true;

  const items = fromClause.flatMap(itemsOf);
  const from: From = {
    items,
    conditions: [...conjuncts(select.whereClause), ...fromClause.flatMap(joinConditions)],
    known: new Set([...scope.outside].filter((name) => items.every((item) => item.name !== name))),
    scope: { ...scope, withQueries: new Map([...scope.withQueries, ...withQueriesOf(select)]) },
  };
  const groups = groupClause.map((node) => ("ColumnRef" in node ? columnOf(node.ColumnRef) : undefined));
  if (groups.length > 0 && groups.every((column) => column?.table !== undefined && isGiven(column.table, column.name, from))) return true;
  // One item can give a column of the next, so until nothing changes.
  for (let before = -1; before !== from.known.size; ) {
    before = from.known.size;
    for (const item of items) if (isItemBounded(item, from)) from.known.add(item.name);
  }
  return items.every(({ name }) => from.known.has(name));
}

/** All that is named in FROM anywhere in a tree. */
export function namesInFrom(tree: unknown): readonly string[] {
  const names: string[] = [];
  walk(tree, (kind, value) => {
    if (["RangeVar", "RangeSubselect", "RangeFunction"].includes(kind)) names.push(...itemsOf({ [kind]: value } as unknown as Node).map(({ name }) => name));
  });
  return names;
}

/** Visits each node of a tree with its kind, the outer ones first; goes no deeper where `visit` answers false. */
export function walk(tree: unknown, visit: (kind: string, value: Readonly<Record<string, unknown>>) => boolean | void): void {
  if (typeof tree !== "object" || tree === null) return;
  for (const [kind, value] of Object.entries(tree)) {
    const isNode = /^[A-Z]/.test(kind) && typeof value === "object" && value !== null;
    if (!isNode || visit(kind, value as Readonly<Record<string, unknown>>) !== false) walk(value, visit);
  }
}

function isItemBounded({ name, node }: Item, from: From): boolean {
  const { scope, items } = from;
  if ("RangeFunction" in node) {
    const called: boolean[] = [];
    walk(node.RangeFunction.functions, (kind, value) => {
      if (kind !== "FuncCall") return true;
      called.push(boundedFunctions.has(functionName(value)));
      return false;
    });
    return called.length > 0 && called.every(Boolean);
  }
  if ("RangeSubselect" in node) {
    const { lateral, subquery } = node.RangeSubselect;
    const outside = lateral === true ? new Set([...scope.outside, ...items.map((item) => item.name)]) : scope.outside;
    return subquery !== undefined && "SelectStmt" in subquery && isBounded(subquery.SelectStmt, { ...scope, outside });
  }
  if (!("RangeVar" in node)) return false;
  const { relname: table = "" } = node.RangeVar;
  const query = scope.withQueries.get(table);
  // What a data-modifying CTE answers is what it wrote, row by row.
  if (query !== undefined) return !("SelectStmt" in query) || isBounded(query.SelectStmt, scope);
  if (table.endsWith("_id_seq")) return true;
  return (keys[table] ?? []).some((key) => key.every((column) => isGiven(name, column, from)));
}

/** Whether a condition sets a column to something that is known before the table is read. */
function isGiven(table: string, name: string, { conditions, items, known, scope }: From): boolean {
  const isColumn = (node: Node | undefined): boolean => {
    if (node === undefined || !("ColumnRef" in node)) return false;
    const column = columnOf(node.ColumnRef);
    return column.name === name && (column.table ?? (items.length === 1 ? table : "")) === table;
  };
  const isKnown = (node: Node | undefined): boolean =>
    referencesOf(node).every((reference) => (reference.table === undefined ? scope.variables.has(reference.name) : known.has(reference.table)));
  return conditions.some((condition) => {
    if (!("A_Expr" in condition)) return false;
    const { kind, name: operator, lexpr, rexpr } = condition.A_Expr;
    if (operator?.some((part) => "String" in part && part.String.sval === "=") !== true) return false;
    if (kind === "AEXPR_OP_ANY") return isColumn(lexpr) && isKnown(rexpr);
    return kind === "AEXPR_OP" && ((isColumn(lexpr) && isKnown(rexpr)) || (isColumn(rexpr) && isKnown(lexpr)));
  });
}

interface Column {
  readonly table: string | undefined;
  readonly name: string;
}

function columnOf({ fields = [] }: ColumnRef): Column {
  const names = fields.map((field) => ("String" in field ? (field.String.sval ?? "") : "*"));
  return { table: names.at(-2), name: names.at(-1) ?? "" };
}

/** The columns that an expression reads of what is outside of it. */
function referencesOf(expression: unknown): readonly Column[] {
  const own = new Set(namesInFrom(expression));
  const columns: Column[] = [];
  walk(expression, (kind, value) => {
    if (kind === "ColumnRef") columns.push(columnOf(value));
  });
  return columns.filter(({ table }) => table === undefined || !own.has(table));
}

function itemsOf(node: Node): readonly Item[] {
  if ("JoinExpr" in node) return [node.JoinExpr.larg, node.JoinExpr.rarg].flatMap((side) => (side === undefined ? [] : itemsOf(side)));
  if ("RangeVar" in node) return [{ name: node.RangeVar.alias?.aliasname ?? node.RangeVar.relname ?? "", node }];
  if ("RangeSubselect" in node) return [{ name: node.RangeSubselect.alias?.aliasname ?? "", node }];
  if ("RangeFunction" in node) return [{ name: node.RangeFunction.alias?.aliasname ?? "", node }];
  return [{ name: "", node }];
}

/** What joins say of their tables: an outer join nothing that would hold for each row. */
function joinConditions(node: Node): readonly Node[] {
  if (!("JoinExpr" in node)) return [];
  const { jointype, quals, larg, rarg } = node.JoinExpr;
  const deeper = [larg, rarg].flatMap((side) => (side === undefined ? [] : joinConditions(side)));
  return jointype === "JOIN_INNER" ? [...conjuncts(quals), ...deeper] : deeper;
}

function conjuncts(condition: Node | undefined): readonly Node[] {
  if (condition === undefined) return [];
  if ("BoolExpr" in condition && condition.BoolExpr.boolop === "AND_EXPR") return (condition.BoolExpr.args ?? []).flatMap(conjuncts);
  return [condition];
}

function withQueriesOf({ withClause }: SelectStmt): readonly (readonly [string, Node])[] {
  return (withClause?.ctes ?? []).flatMap((node) => {
    if (!("CommonTableExpr" in node)) return [];
    const { ctename, ctequery } = node.CommonTableExpr;
    return ctename === undefined || ctequery === undefined ? [] : [[ctename, ctequery] as const];
  });
}

function hasAggregate(target: Node): boolean {
  let found = false;
  walk(target, (kind, value) => {
    if (kind === "FuncCall" && value["over"] === undefined && aggregates.has(functionName(value))) found = true;
    return kind !== "SubLink";
  });
  return found;
}

/** The name of the function that is called, without its schema. */
export function functionName({ funcname }: FuncCall): string {
  const last = funcname?.at(-1);
  return last !== undefined && "String" in last ? (last.String.sval ?? "") : "";
}
