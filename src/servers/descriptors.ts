// How many descriptors this process may have open.

import { readFileSync } from "node:fs";

/** Where nobody tells: what systems give at least, or nearly so. */
const USUAL = 1024;

/** The limit, which Node raises at its start as far as it is allowed to. Infinity: there is none. */
export function descriptorLimit(): number {
  const [, soft = `${USUAL}`] = /^Max open files +(\d+|unlimited)/m.exec(limits()) ?? [];
  return soft === "unlimited" ? Number.POSITIVE_INFINITY : Number(soft);
}

function limits(): string {
  try {
    return readFileSync("/proc/self/limits", "utf8");
  } catch {
    // Not Linux.
    return "";
  }
}
