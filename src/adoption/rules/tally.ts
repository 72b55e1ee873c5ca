// What was found of each kind: how often, with a few examples. It can be stored, and counted on from there.

/** How often something was found, and the first ones. */
export interface Count {
  readonly count: number;
  readonly examples: readonly string[];
}

const EXAMPLES = 5;

/** Counts by kind. */
export class Tally<Kind extends string> {
  readonly #counts: Map<string, { count: number; examples: string[] }>;

  constructor(counted: Readonly<Record<string, Count>> = {}) {
    this.#counts = new Map(Object.entries(counted).map(([kind, { count, examples }]) => [kind, { count, examples: [...examples] }]));
  }

  add(kind: Kind, example: bigint | string): void {
    const found = this.#counts.get(kind);
    if (found === undefined) {
      this.#counts.set(kind, { count: 1, examples: [example.toString()] });
      return;
    }
    found.count += 1;
    if (found.examples.length < EXAMPLES) found.examples.push(example.toString());
  }

  of(kind: Kind): number {
    return this.#counts.get(kind)?.count ?? 0;
  }

  /** All counts, by kind. */
  counts(): Readonly<Record<string, Count>> {
    return Object.fromEntries([...this.#counts].map(([kind, { count, examples }]) => [kind, { count, examples: [...examples] }]));
  }
}
