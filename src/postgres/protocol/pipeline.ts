// Several statements in one round trip, on pg's own client: it takes anything that can write messages and listen to the answers
// (its `Submittable`, as its cursors are).
//
// pg's pipeline mode was tried first. It ends each statement with a Sync, so the server flushes, and wakes us, once for each; with one
// Sync for all a lone write takes a sixth less time. Also here: a statement's columns are asked for only once for each session.

import type { Connection, FieldDef, Submittable } from "pg";
import type { Texts } from "../rows/rows.ts";

/** A statement on its way. */
export interface Step {
  /** Under this name the server keeps it, so its text must never change. */
  readonly name: string;
  readonly text: string;
  readonly values: readonly unknown[];
  readonly resolve: (answer: Answer) => void;
  readonly reject: (error: Error) => void;
}

/** What a statement is answered. */
export interface Answer {
  readonly columns: readonly FieldDef[];
  readonly rows: readonly Texts[];
  /** `INSERT 0 5`, `COMMIT`. */
  readonly tag: string;
}

/** What a session knows of the statements that the server keeps for it: their columns. */
export type Prepared = Map<string, readonly FieldDef[]>;

/** Statements that are sent together, and answered together. If one fails, the server skips those behind it. */
export class Pipeline implements Submittable {
  readonly #steps: readonly Step[];
  readonly #prepared: Prepared;
  readonly #columns: (readonly FieldDef[])[] = [];
  readonly #answers: { readonly rows: readonly Texts[]; readonly tag: string }[] = [];
  /** Of the statement that is being answered. */
  #rows: Texts[] = [];

  constructor(steps: readonly Step[], prepared: Prepared) {
    this.#steps = steps;
    this.#prepared = prepared;
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
    this.#columns[this.#answers.length] = fields;
  }

  handleDataRow({ fields }: { fields: Texts }): void {
    this.#rows.push(fields);
  }

  handleCommandComplete({ text: tag }: { text: string }): void {
    this.#answers.push({ rows: this.#rows, tag });
    this.#rows = [];
  }

  handleReadyForQuery(): void {
    this.#steps.forEach(({ name, resolve }, index) => {
      const columns = this.#columns[index] ?? this.#prepared.get(name) ?? [];
      this.#prepared.set(name, columns);
      resolve({ columns, ...(this.#answers[index] ?? { rows: [], tag: "" }) });
    });
  }

  handleError(error: Error): void {
    for (const { reject } of this.#steps) reject(error);
  }
}

/** The journal's parameters are arrays in binary, texts, whole numbers and NULL. */
function parameter(value: unknown): string | Buffer | null {
  if (value === null || Buffer.isBuffer(value)) return value;
  if (typeof value === "string" || typeof value === "number" || typeof value === "bigint") return value.toString();
  throw new TypeError(`a parameter of type ${typeof value}`);
}
