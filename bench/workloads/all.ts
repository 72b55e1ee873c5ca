// All workloads, in the order of the table. The first eight are the quick ones.

import type { Workload } from "../workload.ts";
import { batch, batchHot } from "./batch.ts";
import { connects } from "./connects.ts";
import { feed } from "./feed.ts";
import { history } from "./history.ts";
import { hostile } from "./hostile.ts";
import { jobs } from "./jobs.ts";
import { lone } from "./lone.ts";
import { memory } from "./memory.ts";
import { openLoop } from "./open-loop.ts";
import { read } from "./read.ts";
import { rebuild } from "./rebuild.ts";
import { stock } from "./stock.ts";
import { stream, streamHot } from "./stream.ts";
import { unary, unaryHot } from "./unary.ts";
import { watches } from "./watches.ts";

export const workloads: readonly Workload[] = [
  unary,
  unaryHot,
  lone,
  stream,
  streamHot,
  batch,
  batchHot,
  read,
  jobs,
  feed,
  history,
  openLoop,
  memory,
  rebuild,
  stock,
  watches,
  hostile,
  connects,
];

/** How many of them `--quick` measures. */
export const QUICK = 8;
