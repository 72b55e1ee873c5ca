// What a process does: as the first one, as one of its workers, or as a command. Only process glue: what is done lies in the modules.

import { availableParallelism } from "node:os";
import { setFlagsFromString } from "node:v8";
import { pino, type Logger } from "pino";
import { administer } from "./administer.ts";
import { HELP, readCommandLine, type Line } from "./command-line.ts";
import { type Config, readConfig, unknownVariables } from "../config.ts";
import { MAX_WORKERS } from "../settings/environment.ts";
import { complain, FAILED, print, sentenceOf, toldToStop } from "./exit.ts";
import { startWorkers } from "../processes/primary.ts";
import { joinPrimary } from "../processes/worker.ts";
import { startService } from "../service/service.ts";
import { version } from "../version.ts";

async function main(args: readonly string[]): Promise<number> {
  const line = readCommandLine(args);
  if (typeof line === "string") return complain([line, "see `ledgerd help`"]);
  if (line.command === "help") return print(HELP);
  if (line.command === "version") return print(`${version()}\n`);
  const read = readConfig();
  if ("problems" in read) return complain(read.problems);
  const log = pino({ level: read.config.logLevel }, pino.destination(2));
  try {
    return await run(line, read.config, log);
  } catch (error) {
    const sentence = sentenceOf(error);
    if (sentence === undefined) throw error;
    return complain([sentence], FAILED);
  }
}

async function run(line: Line, config: Config, log: Logger): Promise<number> {
  if (line.command === "worker") return runWorker(config, log);
  for (const variable of unknownVariables()) log.warn({ variable }, "no such setting; is it misspelt?");
  return administer(line, config, log) ?? runServe(line.workers ?? config.processes.workers ?? Math.min(availableParallelism(), MAX_WORKERS), config, log);
}

async function runServe(workers: number, config: Config, log: Logger): Promise<number> {
  keepHeapSmall();
  const stopped = toldToStop();
  const service = workers === 1 ? await startService(config, log) : await startWorkers(workers, config, log);
  const call = `curl -s -H 'content-type: application/json' -d '{"user_id": 1}' http://${service.httpAddress}/ledger.v1.LedgerService/GetBalance`;
  process.stdout.write(`ledgerd serves gRPC on ${service.grpcAddress} and HTTP on ${service.httpAddress}; try: ${call}\n`);
  log.info({ signal: await stopped }, "shutting down");
  await service.close();
  return 0;
}

/** One of several processes that serve: the first one has the database and the ports, and says when all serve. */
async function runWorker(config: Config, log: Logger): Promise<number> {
  keepHeapSmall();
  const stopped = toldToStop();
  const primary = joinPrimary();
  try {
    const service = await startService(config, log, primary.host);
    await primary.tell({ kind: "serving" });
    const signal = await Promise.race([stopped, primary.gone.then(() => "none: the first process is gone")]);
    log.info({ signal }, "shutting down");
    await primary.tell({ kind: "draining" });
    await service.close();
    return 0;
  } catch (error) {
    const problem = sentenceOf(error);
    if (problem === undefined) throw error;
    await primary.tell({ kind: "problem", problem });
    return FAILED;
  } finally {
    primary.leave();
  }
}

/**
 * Has V8 collect the old generation when it is 2.2 times what was left of it the last time, not up to 4: under load, what calls under way allocate
 * comes to lie in it. Together with a small young one, a worker had 220 MB resident instead of 370, for 5 to 10 % of its CPU.
 */
function keepHeapSmall(): void {
  setFlagsFromString("--heap-growing-percent=120");
}

process.exitCode = await main(process.argv.slice(2));
