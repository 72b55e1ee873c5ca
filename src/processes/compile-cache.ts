// What V8 has compiled of our modules, handed to child processes.

import { flushCompileCache, getCompileCacheDir } from "node:module";
import path from "node:path";

/** What a child's environment needs, so that it loads what this process has compiled, its first module included. Nothing where there is no cache. */
export function compiledForChildren(): Readonly<Record<string, string>> {
  const folder = getCompileCacheDir();
  if (folder === undefined) return {};
  flushCompileCache();
  // Node appends its version to the folder that it is told.
  return { NODE_COMPILE_CACHE: path.dirname(folder) };
}
