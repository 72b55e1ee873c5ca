// Who may connect to an embedded PostgreSQL, and as whom.
//
// It asks the kernel whose process is at the other end of its socket (`peer`): the user that runs ledgerd and root may
// log in, as anyone, without a password; others not at all. ledgerd serves as a login of its own: a session that serves
// can't become the owner, nor a superuser.

import { chownSync, rmSync, writeFileSync } from "node:fs";
import { userInfo } from "node:os";
import path from "node:path";
import type pg from "pg";
import type { RunAs } from "./embedded-folder.ts";

/** Who may change everything, and migrates. */
export const OWNER_LOGIN = "postgres";
/** Who serves: a member of `ledgerd_runtime` alone. */
export const SERVING_LOGIN = "ledgerd_serve";

const WRITTEN = "# Written by ledgerd each time that it starts this PostgreSQL.\n";

/** For replication, too, which `all` doesn't mean: pg_basebackup is a replica. */
const RULES = `${WRITTEN}local all all peer map=ledgerd\nlocal replication all peer map=ledgerd\n`;

/** Writes the rules for the next start of the server on these data. Those of earlier versions let everybody in. */
export function writeAccess(data: string, user: RunAs): void {
  const names = new Set(["root", userName()]);
  const map = [...names].map((name) => `ledgerd "${name.replaceAll('"', '""')}" all\n`).join("");
  write(path.join(data, "pg_hba.conf"), RULES, user);
  write(path.join(data, "pg_ident.conf"), WRITTEN + map, user);
}

function userName(): string {
  try {
    return userInfo().username;
  } catch (cause) {
    const problem = `PostgreSQL knows its users by their names, and user ${process.getuid?.()} has none`;
    throw new Error(`${problem}: give it one in /etc/passwd, or set DATABASE_URL`, { cause });
  }
}

/** As a new file: what has its name may lead elsewhere, by the hand of the server's user. */
function write(file: string, text: string, { uid, gid }: RunAs): void {
  rmSync(file, { force: true });
  writeFileSync(file, text, { mode: 0o600, flag: "wx" });
  if (uid !== undefined && gid !== undefined) chownSync(file, uid, gid);
}

/** Makes the login that serves where it isn't there, as in a folder that an earlier version made. */
export async function makeServingLogin(client: pg.Client): Promise<void> {
  const { rows } = await client.query<{ name: string }>(
    "SELECT rolname AS name FROM pg_roles WHERE rolname IN ('ledgerd_runtime', 'ledgerd_serve') LIMIT 2",
  );
  const has = (name: string): boolean => rows.some((row) => row.name === name);
  // The first migration would make this one, too; the login is to be there before it.
  if (!has("ledgerd_runtime")) await client.query("CREATE ROLE ledgerd_runtime NOLOGIN");
  if (!has("ledgerd_serve")) await client.query("CREATE ROLE ledgerd_serve LOGIN IN ROLE ledgerd_runtime");
}
