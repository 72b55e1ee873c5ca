// Several statements in one round trip, on pg's own client: it takes anything that can write messages and listen to the answers
// (its `Submittable`, as its cursors are).
//
// pg's pipeline mode was tried first. It ends each statement with a Sync, so the server flushes, and wakes us, once for each; with one
// Sync for all a lone write takes a sixth less time. Also here: a statement's columns are asked for only once for each session.

import type { Connection, FieldDef, Submittable } from "pg";

/** A statement on its way. */
export interface Step {
  /** Under this name the server keeps it, so its text must never change. */
  readonly name: string;
  readonly text: string;
  readonly values: readonly unknown[];
  /** Takes the rows, as objects, and the tag of the command: `INSERT 0 5`, `COMMIT`. */
  readonly resolve: (rows: readonly object[], tag: string) => void;
  readonly reject: (error: Error) => void;
}

/** What a session knows of the statements that the server keeps for it: their columns. */
export type Prepared = Map<string, readonly FieldDef[]>;

/** How a value of a type is read from its text. */
export type ParserOf = (typeId: number) => (text: string) => unknown;

/** Statements that are sent together, and answered together. If one fails, the server skips those behind it. */
export class Pipeline implements Submittable {
  readonly #steps: readonly Step[];
  readonly #prepared: Prepared;
  readonly #parserOf: ParserOf;
  readonly #columns: (readonly FieldDef[])[] = [];
  readonly #tags: string[] = [];
  #rows: object[][] = [[]];

  constructor(steps: readonly Step[], prepared: Prepared, parserOf: ParserOf) {
    this.#steps = steps;
    this.#prepared = prepared;
    this.#parserOf = parserOf;
  }

  submit(connection: Connection): void {
    connection.stream.cork();
    for (const { name, text, values } of this.#steps) {
      const known = this.#prepared.has(name);
      if (!known) {
        // An attempt that failed may have left it behind; closing what isn't there is no error.
        connection.close({ type: "S", name }, true);
        connection.parse({ name, text, types: [] }, true);
      }
      // Empty: the unnamed portal; results as text; all rows.
      connection.bind({ portal: "", statement: name, binary: "", values: values.map(parameter) }, true);
      if (!known) connection.describe({ type: "P", name: "" }, true);
      connection.execute({ portal: "", rows: "" }, true);
    }
    connection.sync();
    connection.stream.uncork();
  }

  handleRowDescription({ fields }: { fields: FieldDef[] }): void {
    this.#columns[this.#tags.length] = fields;
  }

  handleDataRow({ fields }: { fields: (string | null)[] }): void {
    const columns = this.#columnsNow();
    const row: Record<string, unknown> = {};
    columns.forEach(({ name, dataTypeID }, index) => {
      const text = fields[index];
      row[name] = text === null || text === undefined ? null : this.#parserOf(dataTypeID)(text);
    });
    this.#rows.at(-1)?.push(row);
  }

  handleCommandComplete({ text }: { text: string }): void {
    this.#tags.push(text);
    this.#rows.push([]);
  }

  handleReadyForQuery(): void {
    this.#steps.forEach(({ name, resolve }, index) => {
      if (!this.#prepared.has(name)) this.#prepared.set(name, this.#columns[index] ?? []);
      resolve(this.#rows[index] ?? [], this.#tags[index] ?? "");
    });
  }

  handleError(error: Error): void {
    for (const { reject } of this.#steps) reject(error);
  }

  #columnsNow(): readonly FieldDef[] {
    const index = this.#tags.length;
    return this.#columns[index] ?? this.#prepared.get(this.#steps[index]?.name ?? "") ?? [];
  }
}

/** The journal's parameters are arrays in binary, texts, whole numbers and NULL. */
function parameter(value: unknown): string | Buffer | null {
  if (value === null || Buffer.isBuffer(value)) return value;
  if (typeof value === "string" || typeof value === "number" || typeof value === "bigint") return value.toString();
  throw new TypeError(`a parameter of type ${typeof value}`);
}
