// stream, stream_hot: StreamWrites on four streams, against the seed's five statements under pgbench.

import type { Stage } from "../stage.ts";
import { rateRatio, type Contender, type Lineup, type Workload } from "../workload.ts";
import { seedUnderPgbench } from "./seed.ts";

const STREAMS = 4;
/** Writes that a stream has sent and not seen answered, at most: as many as the service takes before it answers. */
const UNANSWERED = 1000;
const MANY = 50;

export const stream: Workload = {
  id: "stream",
  what: `Deducts by StreamWrites on ${STREAMS} streams, beside the seed's five statements under pgbench`,
  unit: "deductions",
  family: "spread",
  prepare: (stage) => prepare(stage, stage.options.users),
};

export const streamHot: Workload = {
  id: "stream_hot",
  what: `Deducts on one user by StreamWrites on ${STREAMS} streams, beside the seed's statements on one user`,
  unit: "deductions",
  family: "hot",
  prepare: (stage) => prepare(stage, 1),
};

async function prepare(stage: Stage, users: number): Promise<Lineup> {
  const ledgerd = await deductsOnStreams(stage, users, 1);
  // Not in short rounds: it is a figure beside the ratio.
  const further: Readonly<Record<string, Contender>> = stage.options.quick ? {} : { stream_of_50: await deductsOnStreams(stage, users, MANY) };
  const { pgbench, notes } = await seedUnderPgbench(stage, "deduct", users);
  if (pgbench === undefined) return { contenders: { ledgerd, ...further }, ratios: {}, notes };
  return { contenders: { ledgerd, ...further, pgbench }, ratios: { ratio: rateRatio("ledgerd", "pgbench") }, notes };
}

/** Deducts on streams, so many in each message. */
export async function deductsOnStreams(stage: Stage, users: number, perMessage: number): Promise<Contender> {
  const ledger = await stage.ledger();
  const task = { address: ledger.address, streams: STREAMS, perMessage, unanswered: UNANSWERED, users };
  const title = `ledgerd, ${STREAMS} streams, ${perMessage === 1 ? "a write" : `${perMessage} writes`} per message`;
  return { title, ledger, measure: (window) => ledger.takeFrom(stage.caller, "stream", task, window) };
}
