// Holds the contract to its last accepted image: what clients were generated from must go on working.
//   node scripts/contract.ts             fails if proto/ breaks the image
//   node scripts/contract.ts --accept    makes the present proto/ the image, if it doesn't break the last one

import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import path from "node:path";

const root = path.resolve(import.meta.dirname, "..");
const IMAGE = "proto/accepted.binpb";

function buf(...args: string[]): boolean {
  try {
    execFileSync("buf", args, { cwd: root, stdio: "inherit" });
    return true;
  } catch {
    // It has said what is wrong.
    process.exitCode = 1;
    return false;
  }
}

const accepting = process.argv.includes("--accept");
const isFirst = !existsSync(path.join(root, IMAGE));
if ((accepting && isFirst) || buf("breaking", "--against", IMAGE)) {
  if (accepting) buf("build", "--exclude-source-info", "--output", IMAGE);
}
