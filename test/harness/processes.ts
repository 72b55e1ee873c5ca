// Processes of the operating system, by their ids.

import { existsSync, readFileSync } from "node:fs";

/** Whether a process runs. A zombie doesn't: whoever inherited an orphan may be slow to bury it. */
export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return !existsSync("/proc/self/stat") || !isZombie(pid);
  } catch {
    return false;
  }
}

/** Whether a process has ended and is not yet buried, by Linux; who is gone altogether throws. */
function isZombie(pid: number): boolean {
  return /^\d+ \(.*\) Z /.test(readFileSync(`/proc/${pid}/stat`, "utf8"));
}
