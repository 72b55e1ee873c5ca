// A file that only its owner may read.

import { readFileSync, statSync } from "node:fs";

/** Its text. Throws if others could have read it as well, as libpq does; a key of root's may be its group's. */
export function readSecret(file: string, what: "key" | "passwords"): string {
  const { mode, uid } = statSync(file);
  const others = what === "key" && uid === 0 ? 0o037 : 0o077;
  if ((mode & others) !== 0) {
    throw new Error(`${file} can be read by others: chmod 600 it`);
  }
  return readFileSync(file, "utf8");
}
