// The folder of an embedded PostgreSQL: where it is, who the server runs as, and which process owns it.

import { createHash } from "node:crypto";
import { existsSync, linkSync, mkdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import path from "node:path";

/** The user that the server runs as: postgres refuses to run as root. Empty: as the one that we are. */
export interface RunAs {
  readonly uid?: number;
  readonly gid?: number;
}

/** Who owns a folder, and how to reach its server. */
export interface Owner {
  readonly pid: number;
  /** When that process started, in clock ticks since boot where the system tells: another process may get its pid later. */
  readonly started: string;
  /** The folder of the server's unix socket. */
  readonly socketFolder: string;
}

/** The folder belongs to a process that lives. */
export class FolderInUse extends Error {
  readonly owner: Owner;

  constructor(folder: string, owner: Owner) {
    super(`process ${owner.pid} serves the data in ${folder}; stop it first, or set LEDGERD_DATA_DIR to another folder`);
    this.owner = owner;
  }
}

/** The user for the server: root's stand-in is `postgres` where there is one, else `nobody`. */
export function runAs(): RunAs {
  if (process.getuid?.() !== 0) return {};
  const users = readFileSync("/etc/passwd", "utf8").split("\n").map((line) => line.split(":"));
  const user = users.find(([name]) => name === "postgres") ?? users.find(([name]) => name === "nobody");
  if (user === undefined) throw new Error("PostgreSQL can't run as root, and there is neither a user postgres nor nobody: create one");
  return { uid: Number(user[2]), gid: Number(user[3]) };
}

/** The folder to use: `.ledgerd` here, unless the server's user can't get there (as below a closed /root). */
export function defaultFolder(here: string, user: RunAs): string {
  if (canEnter(here, user)) return path.join(here, ".ledgerd");
  const clone = createHash("sha256").update(here).digest("hex").slice(0, 8);
  return path.join("/var/lib/ledgerd", `${path.basename(here)}-${clone}`);
}

/** Whether this user may enter the folder, which needs every folder above it too. */
export function canEnter(folder: string, { uid, gid }: RunAs): boolean {
  if (uid === undefined) return true;
  for (let at = folder; ; at = path.dirname(at)) {
    const { mode, uid: owner, gid: group } = statSync(at);
    const bit = owner === uid ? 0o100 : group === gid ? 0o010 : 0o001;
    if ((mode & bit) === 0) return false;
    if (at === path.dirname(at)) return true;
  }
}

/** The live owner of a folder, if there is one. */
export function liveOwner(folder: string): Owner | undefined {
  const owner = readOwner(ownerFile(folder));
  return owner !== undefined && isAlive(owner) ? owner : undefined;
}

/** Makes this process the owner of the folder, or throws `FolderInUse`. Answers the dead owner that it takes over from. */
export function takeFolder(folder: string, socketFolder: string): Owner | undefined {
  mkdirSync(folder, { recursive: true, mode: 0o755 });
  const file = ownerFile(folder);
  const mine: Owner = { pid: process.pid, started: startOf(process.pid), socketFolder };
  let dead: Owner | undefined;
  while (!writeNew(file, JSON.stringify(mine))) {
    const owner = liveOwner(folder);
    if (owner !== undefined) throw new FolderInUse(folder, owner);
    // Whoever moves the dead one's file away takes over; it may have been replaced by a live one's since it was read.
    const aside = `${file}.${process.pid}.old`;
    if (!tryRename(file, aside)) continue;
    dead = readOwner(aside);
    if (dead !== undefined && isAlive(dead)) {
      renameSync(aside, file);
      throw new FolderInUse(folder, dead);
    }
    rmSync(aside);
  }
  return dead;
}

/** Gives the folder up. */
export function leaveFolder(folder: string): void {
  rmSync(ownerFile(folder), { force: true });
}

function ownerFile(folder: string): string {
  return path.join(folder, "owner.json");
}

function readOwner(file: string): Owner | undefined {
  try {
    const { pid, started, socketFolder } = JSON.parse(readFileSync(file, "utf8")) as Partial<Owner>;
    return pid === undefined || started === undefined || socketFolder === undefined ? undefined : { pid, started, socketFolder };
  } catch (error) {
    // No file: no owner. Half a file: its writer died while writing it.
    if (error instanceof SyntaxError || isCode(error, "ENOENT")) return undefined;
    throw error;
  }
}

function isAlive({ pid, started }: Owner): boolean {
  try {
    process.kill(pid, 0);
  } catch (error) {
    if (isCode(error, "ESRCH")) return false;
    if (!isCode(error, "EPERM")) throw error;
  }
  return startOf(pid) === started;
}

/** When a process started, by Linux; the same text for all processes where there is no /proc. */
function startOf(pid: number): string {
  if (!existsSync("/proc/self/stat")) return "unknown";
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    // The second field, a name in parentheses, may contain anything; the start is the 22nd.
    return stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19] ?? "unknown";
  } catch (error) {
    if (isCode(error, "ENOENT") || isCode(error, "ESRCH")) return "gone";
    throw error;
  }
}

/** Writes a file that isn't there yet; it appears with all of its text at once. */
function writeNew(file: string, text: string): boolean {
  const whole = `${file}.${process.pid}.new`;
  writeFileSync(whole, text);
  try {
    linkSync(whole, file);
    return true;
  } catch (error) {
    if (isCode(error, "EEXIST")) return false;
    throw error;
  } finally {
    rmSync(whole);
  }
}

function tryRename(from: string, to: string): boolean {
  try {
    renameSync(from, to);
    return true;
  } catch (error) {
    if (isCode(error, "ENOENT")) return false;
    throw error;
  }
}

function isCode(error: unknown, code: string): boolean {
  return error instanceof Error && "code" in error && error.code === code;
}
