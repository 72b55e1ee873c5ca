// What an attack is. Each has a file of its own in attacks/, and runs in a process of its own: attacker.ts.

import { readdirSync } from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";

/** Where the service under attack listens, as host:port. */
export interface Target {
  readonly grpcAddress: string;
  readonly httpAddress: string;
}

/** What a hostile or clumsy peer does to a service. */
export interface Attack {
  /** As a sentence goes on that begins with "a peer that": "sends messages of a million packed numbers". */
  readonly title: string;
  /** Further settings of the service, by their names: usually smaller limits, so that few peers reach them. */
  readonly settings?: Readonly<Record<string, string>>;
  /**
   * Does it, bounded in count and in time; resolves when it is over and all its connections are closed, whatever the
   * service answered. Throws where the service did not defend itself as it should, with what it did instead.
   */
  readonly run: (target: Target) => Promise<void>;
}

const folder = path.join(import.meta.dirname, "attacks");

/** The names of all attacks: those of their files. */
export const attackNames: readonly string[] = readdirSync(folder)
  .map((file) => path.basename(file, ".ts"))
  .toSorted();

/** An attack by its name. */
export async function attackCalled(name: string): Promise<Attack> {
  const file = pathToFileURL(path.join(folder, `${name}.ts`)).href;
  const { attack } = (await import(file)) as { readonly attack: Attack };
  return attack;
}
