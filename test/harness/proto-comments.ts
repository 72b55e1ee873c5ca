// What the proto files say of each field: they are the manual, and tests hold the code to it.

import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";

const folder = path.resolve(import.meta.dirname, "../../proto/ledger/v1");

/**
 * The comment on each field, on one line, under `Message.field`; where it refers to another message's field of the same
 * name, that one's follows.
 */
export function commentsOnFields(): ReadonlyMap<string, string> {
  const own = new Map(readdirSync(folder).flatMap((file) => commentsIn(readFileSync(path.join(folder, file), "utf8"))));
  const whole = (name: string, comment: string): string => {
    const [, other] = /\bAs in `(\w+)`/.exec(comment) ?? [];
    const told = other === undefined ? undefined : own.get(`${other}.${name.split(".").at(-1) ?? ""}`);
    return told === undefined ? comment : `${comment} ${told}`;
  };
  return new Map([...own].map(([name, comment]) => [name, whole(name, comment)]));
}

function commentsIn(text: string): [name: string, comment: string][] {
  const messages = [...text.matchAll(/^message (\w+) \{\n([\s\S]*?)^\}/gm)];
  return messages.flatMap(([, message = "", body = ""]) =>
    [...body.matchAll(/((?: *\/\/.*\n)+) *(?:optional |repeated )?[\w.<>, ]+ (\w+) = \d+;/g)].map(
      ([, comment = "", field = ""]): [string, string] => [
        `${message}.${field}`,
        comment
          .replaceAll(/^ *\/\/ ?/gm, "")
          .replaceAll("\n", " ")
          .trim(),
      ],
    ),
  );
}
