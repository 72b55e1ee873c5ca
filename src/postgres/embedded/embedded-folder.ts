// The folder of an embedded PostgreSQL: where it is, who the server runs as, and which process owns it.

import { createHash } from "node:crypto";
import { existsSync, linkSync, mkdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import path from "node:path";
import { Problem } from "../../domain/problem.ts";

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

/** The folder can't be served from. */
export class FolderProblem extends Problem {}

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

/**
 * Makes this process the owner of the folder, or throws `FolderProblem`: it may belong to a process that lives, or be closed to the server's
 * user. Answers the dead owner that it takes over from.
 */
export function takeFolder(folder: string, user: RunAs, socketFolder: string): Owner | undefined {
  mkdirSync(folder, { recursive: true, mode: 0o755 });
  if (!canEnter(folder, user)) {
    throw new FolderProblem(
      `PostgreSQL runs as user ${user.uid} here, who can't enter ${folder}: open it and the folders above it, or set LEDGERD_DATA_DIR to one such as /var/lib/ledgerd`,
    );
  }
  const file = ownerFile(folder);
  const mine: Owner = { pid: process.pid, started: startOf(process.pid), socketFolder };
  const turn = takeTurn(folder, mine);
  try {
    const last = readOwner(file);
    if (last !== undefined && isAlive(last)) throw inUse(folder, last);
    const whole = writeWhole(file, mine);
    renameSync(whole, file);
    return last;
  } finally {
    rmSync(turn);
  }
}

/** Only one process at a time looks at the owner's file and replaces it: a slow one would otherwise replace that of a faster one. */
function takeTurn(folder: string, mine: Owner): string {
  const turn = `${ownerFile(folder)}.turn`;
  const whole = writeWhole(turn, mine);
  try {
    while (!tryLink(whole, turn)) {
      const other = readOwner(turn);
      // Its turn has just ended.
      if (other === undefined) continue;
      if (isAlive(other)) throw inUse(folder, other);
      // It was killed in its turn.
      rmSync(turn, { force: true });
    }
    return turn;
  } finally {
    rmSync(whole);
  }
}

function inUse(folder: string, owner: Owner): FolderProblem {
  return new FolderProblem(`process ${owner.pid} serves the data in ${folder}; stop it first, or set LEDGERD_DATA_DIR to another folder`);
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
    const { pid = 0, started = "", socketFolder = "" } = JSON.parse(readFileSync(file, "utf8")) as Partial<Owner>;
    return { pid, started, socketFolder };
  } catch (error) {
    if (isCode(error, "ENOENT")) return undefined;
    // A machine that lost its power may leave an empty file: nobody's.
    if (error instanceof SyntaxError) return { pid: 0, started: "", socketFolder: "" };
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
    // The second field, a name in parentheses, may contain anything; the third is the state, the 22nd the start.
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    // A zombie is dead, and only not yet mourned: in a container nobody may ever do it.
    return fields[0] === "Z" ? "gone" : (fields[19] ?? "unknown");
  } catch (error) {
    if (isCode(error, "ENOENT") || isCode(error, "ESRCH")) return "gone";
    throw error;
  }
}

/** Writes the text for a file beside it, so that the file can appear with all of it at once. */
function writeWhole(file: string, owner: Owner): string {
  const whole = `${file}.${process.pid}.new`;
  writeFileSync(whole, JSON.stringify(owner));
  return whole;
}

/** Gives a file this name too, unless there is one of that name already. */
function tryLink(from: string, to: string): boolean {
  try {
    linkSync(from, to);
    return true;
  } catch (error) {
    if (isCode(error, "EEXIST")) return false;
    throw error;
  }
}

function isCode(error: unknown, code: string): boolean {
  return error instanceof Error && "code" in error && error.code === code;
}
