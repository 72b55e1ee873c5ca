// What processes have used, all of a tree together: the CPU of a service with its workers, of PostgreSQL with its sessions. From /proc, where
// there is one; elsewhere nothing is known.

import { readdirSync, readFileSync } from "node:fs";

/** Linux counts CPU time in hundredths of a second, for all programs that ask it. */
const MS_PER_TICK = 10;

/** One process as /proc tells it. */
export interface ProcessStat {
  readonly pid: number;
  readonly parent: number;
  /** The CPU that it used itself, and that its children used that have ended. */
  readonly ownMs: number;
  readonly childrenMs: number;
}

/** Reads a line of /proc/<pid>/stat. The name in it may contain anything, so what follows is found from the last bracket on. */
export function parseStat(line: string): ProcessStat {
  const [, parent, ...rest] = line.slice(line.lastIndexOf(")") + 2).split(" ");
  // utime, stime, cutime and cstime are fields 14 to 17 of the line, as proc(5) counts.
  const [user = 0, system = 0, childrenUser = 0, childrenSystem = 0] = rest.slice(9, 13).map((ticks) => Number(ticks) * MS_PER_TICK);
  return { pid: Number.parseInt(line, 10), parent: Number(parent), ownMs: user + system, childrenMs: childrenUser + childrenSystem };
}

/** A process and all that descend from it; nothing where there is no /proc. */
export function treeOf(root: number): readonly ProcessStat[] {
  const all = allProcesses();
  const tree = all.filter(({ pid }) => pid === root);
  // It grows while it is walked through.
  for (const { pid } of tree) tree.push(...all.filter(({ parent }) => parent === pid));
  return tree;
}

/** The CPU of a tree so far. It only grows: a process that ends hands what it used over to its parent. Undefined where there is no /proc. */
export function cpuOf(root: number): number | undefined {
  const tree = treeOf(root);
  return tree.length === 0 ? undefined : tree.reduce((sum, { ownMs, childrenMs }) => sum + ownMs + childrenMs, 0);
}

/** The CPU of programs that this process has run, and that have ended. Undefined where there is no /proc. */
export function cpuOfEnded(): number | undefined {
  return treeOf(process.pid)[0]?.childrenMs;
}

/** How much memory a process has, in megabytes: what of it lies in RAM. Undefined where nobody tells. */
export function residentMb(pid: number): number | undefined {
  const kilobytes = /^VmRSS:\s+(\d+) kB/m.exec(readIfThere(`/proc/${pid}/status`))?.[1];
  return kilobytes === undefined ? undefined : Number(kilobytes) / 1024;
}

function allProcesses(): ProcessStat[] {
  let names: readonly string[] = [];
  try {
    names = readdirSync("/proc").filter((name) => /^\d+$/.test(name));
  } catch {
    // Not Linux.
  }
  return names.map((name) => readIfThere(`/proc/${name}/stat`)).filter((line) => line !== "").map(parseStat);
}

/** A process may end between being listed and being read. */
function readIfThere(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch {
    return "";
  }
}
