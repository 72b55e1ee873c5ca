// The password of a login: from its URL, or from a file with lines `host:port:database:user:password`, as libpq reads it.

import { existsSync } from "node:fs";
import { homedir } from "node:os";
import path from "node:path";
import { readSecret } from "./secret-file.ts";
import type { Target } from "./url.ts";

/** Called when a server asks for it. Throws if there is none. */
export function passwordOf({ password, passFile, user, database }: Target, host: string, port: number): string {
  if (password !== undefined) return password;
  const file = passFile ?? path.join(homedir(), ".pgpass");
  if (passFile !== undefined || existsSync(file)) {
    // libpq's name for the usual sockets.
    const names = host.startsWith("/") ? [host, "localhost"] : [host];
    const found = passwordIn(readSecret(file, "passwords"), [names, [String(port)], [database], [user]]);
    if (found !== undefined) return found;
  }
  throw new Error(
    `the server asks for a password of ${user}, and there is none for it in the URL or in a password file (PGPASSFILE)`,
  );
}

/** The first line's whose fields are what is looked for, or `*`; a backslash takes the character behind it as it is. */
function passwordIn(text: string, wanted: readonly (readonly string[])[]): string | undefined {
  for (const line of text.split(/\r?\n/)) {
    const fields = line.startsWith("#") ? [] : (line.match(/(?:^|:)((?:\\.|[^:\\])*)/g) ?? []).map(plain);
    const [host, port, database, user, ...password] = fields;
    const given = [host, port, database, user];
    const isIt = wanted.every((names, index) => given[index] === "*" || names.includes(given[index] ?? ""));
    if (isIt && password.length > 0) return password.join(":");
  }
  return undefined;
}

function plain(field: string, index: number): string {
  return (index === 0 ? field : field.slice(1)).replaceAll(/\\(.)/g, "$1");
}
