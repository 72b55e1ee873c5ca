// Programs that nobody here wrote, for tests that show how ledgerd goes with them.

import { accessSync, constants } from "node:fs";
import path from "node:path";

/** Whether this machine has a program. */
export function isInstalled(program: string): boolean {
  return (process.env["PATH"] ?? "").split(path.delimiter).some((folder) => {
    try {
      accessSync(path.join(folder, program), constants.X_OK);
      return true;
    } catch {
      // Not in this folder, then.
      return false;
    }
  });
}
