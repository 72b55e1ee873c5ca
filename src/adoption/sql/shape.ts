// The shape that the old tables must have to be read: tables with columns of these names, of types that are read
// exactly, all rows in sight.
//
// What is of another shape is refused in one sentence before any row is read, with what to do about it: on a copy, as
// everything is rehearsed.

import { sql } from "slonik";
import { noColumns } from "../../postgres/rows/rows.ts";

/** What a column is read as: by the numbers that pg_type gives to types, alike in every database. */
interface Kind {
  /** Undefined: any type, as PostgreSQL writes it. */
  readonly types: readonly number[] | undefined;
  readonly are: string;
  readonly to: string;
}

const WHOLE = [21, 23, 20];
const id: Kind = { types: WHOLE, are: "SMALLINT, INTEGER or BIGINT", to: "BIGINT" };
const amount: Kind = {
  types: [...WHOLE, 1700, 700, 701],
  are: "a number (NUMERIC, an integer, REAL or DOUBLE PRECISION)",
  to: "NUMERIC",
};
const time: Kind = { types: [1114, 1184, 1082], are: "TIMESTAMP, TIMESTAMPTZ or DATE", to: "TIMESTAMPTZ" };
const text: Kind = { types: undefined, are: "a text", to: "TEXT" };

/** The old tables: their columns, and what each row of theirs has of its own. */
export const tables = {
  user_balances: { columns: { user_id: id, balance: amount, currency: text, created_at: time }, key: ["user_id"] },
  transactions: {
    columns: { id, user_id: id, amount, currency: text, type: text, description: text, created_at: time },
    key: ["user_id", "id"],
  },
  jobs: {
    columns: {
      id,
      user_id: id,
      model_id: text,
      prompt: text,
      parameters: text,
      status: text,
      result_url: text,
      error_message: text,
      cost: amount,
      created_at: time,
      completed_at: time,
    },
    key: ["id"],
  },
} as const;

/** One of the old tables. */
export type TableName = keyof typeof tables;

/** A column that is there, under a name that is one of ours in small letters. */
export interface Column {
  readonly table: string;
  readonly relation: string;
  readonly name: string;
  /** What a domain is made of, in the end. */
  readonly type: number;
  readonly typeName: string;
  readonly isReadable: boolean;
  /** Whether row security hides rows of its table from this login. */
  readonly isHidden: boolean;
}

/** Asks for the columns of a schema. */
export function columnsQuery(schema: string) {
  return sql.type(noColumns)`
    WITH RECURSIVE found (relation, relname, relkind, attnum, attname, type) AS (
      SELECT c.oid, c.relname, c.relkind, a.attnum, a.attname, a.atttypid
      FROM pg_class c
      JOIN pg_namespace n ON n.oid = c.relnamespace
      JOIN pg_attribute a ON a.attrelid = c.oid
      WHERE n.nspname = ${schema} AND lower(c.relname) = ANY(${sql.array(Object.keys(tables), "text")})
        AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND a.attnum > 0 AND NOT a.attisdropped
      UNION ALL
      SELECT f.relation, f.relname, f.relkind, f.attnum, f.attname, t.typbasetype
      FROM found f
      JOIN pg_type t ON t.oid = f.type
      WHERE t.typtype = 'd'
    )
    SELECT f.relname, f.relkind, f.attname, f.type, format_type(f.type, NULL),
           has_schema_privilege(${schema}, 'USAGE') AND has_column_privilege(f.relation, f.attnum, 'SELECT'),
           row_security_active(f.relation)
    FROM found f
    JOIN pg_type t ON t.oid = f.type
    WHERE t.typtype <> 'd'
    ORDER BY f.relname, f.attnum
    LIMIT 10000`;
}

/** Reads a row of `columnsQuery`. */
export function columnOf([table, relation, name, type, typeName, isReadable, isHidden]: readonly (
  string | null
)[]): Column {
  return {
    table: table ?? "",
    relation: relation ?? "",
    name: name ?? "",
    type: Number(type),
    typeName: typeName ?? "",
    isReadable: isReadable === "t",
    isHidden: isHidden === "t",
  };
}

/** Whether a table has a unique key that makes each row's place known: of no other columns than these. */
export function keyQuery(schema: string, table: TableName) {
  return sql.type(noColumns)`
    SELECT EXISTS (
      SELECT
      FROM pg_class c
      JOIN pg_namespace n ON n.oid = c.relnamespace
      JOIN pg_index i ON i.indrelid = c.oid
      WHERE n.nspname = ${schema} AND c.relname = ${table}
        AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
        AND (c.relkind = 'p' OR NOT EXISTS (SELECT FROM pg_inherits h WHERE h.inhparent = c.oid))
        AND NOT EXISTS (
          SELECT
          FROM pg_attribute a
          WHERE a.attrelid = c.oid AND a.attnum = ANY(i.indkey)
            AND a.attname <> ALL(${sql.array([...tables[table].key], "text")})
        )
    )`;
}

/** What keeps the tables from being read, each with its remedy. */
export function shapeProblems(schema: string, columns: readonly Column[]): readonly string[] {
  const names = tablesIn(columns);
  const missing: string[] = [];
  const closed: string[] = [];
  const problems: string[] = [];
  for (const table of names) {
    const own = columns.filter((column) => column.table === table);
    const [first] = own;
    if (first !== undefined && first.relation !== "r" && first.relation !== "p") {
      problems.push(
        `${table} is no table, but a view or a foreign table, whose rows can't be told from each other: make a table of it (CREATE TABLE … AS)`,
      );
      continue;
    }
    if (first?.isHidden === true)
      problems.push(
        `row security hides rows of ${table} from this login: use one that sees all (its owner, or BYPASSRLS)`,
      );
    for (const [name, kind] of Object.entries<Kind>(tables[table].columns)) {
      const column = own.find((one) => one.name === name);
      if (column === undefined) missing.push(`${table}.${name}${otherCase(columns, table, name)}`);
      else if (!column.isReadable) closed.push(`${table}.${name}`);
      else if (kind.types?.includes(column.type) === false) {
        problems.push(
          `${table}.${name} is of type ${column.typeName}, and must be ${kind.are}: ALTER TABLE ${table} ALTER COLUMN ${name} TYPE ${kind.to} USING …, in a copy`,
        );
      }
    }
  }
  if (closed.length > 0)
    problems.unshift(
      `this login may not read ${closed.join(", ")}: grant it SELECT of them, and USAGE of schema ${schema}`,
    );
  if (missing.length > 0)
    problems.unshift(
      `schema ${schema} of the old database lacks ${missing.join(", ")}: is it the right one (--from, --schema)?`,
    );
  return problems;
}

/** The tables that are to be read: a database without jobs is taken as well. */
export function tablesIn(columns: readonly Column[]): readonly TableName[] {
  return (Object.keys(tables) as TableName[]).filter(
    (name) => name !== "jobs" || columns.some(({ table }) => table.toLowerCase() === name),
  );
}

function otherCase(columns: readonly Column[], table: string, name: string): string {
  const other = columns.find((one) => one.table.toLowerCase() === table && one.name.toLowerCase() === name);
  return other === undefined ? "" : ` (it has "${other.table}"."${other.name}": rename it)`;
}
