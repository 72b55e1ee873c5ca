#!/usr/bin/env node
// The entry of every command. All behind it is loaded by way of V8's compile cache: that spares a third of the time until a command runs, and the workers,
// which have this file behind them too, Node's compiler of TypeScript, which takes 20 MB. Where the folder can't be written, all works as it does without.

import { enableCompileCache } from "node:module";
import path from "node:path";

enableCompileCache(path.resolve(import.meta.dirname, "../node_modules/.cache/ledgerd"));
await import("./cli/run.ts");
