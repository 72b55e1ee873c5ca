// The first process of a command that serves with several: it owns the database, the ports and the workers, and takes no calls itself.

import type { Logger } from "pino";
import { environmentWith, type Config } from "../config.ts";
import { bringUpToDate, openDatabase } from "../service/database.ts";
import type { Service } from "../service/service.ts";
import { callersOf, placed } from "../service/ports.ts";
import { compiledForChildren } from "./compile-cache.ts";
import { Crew } from "./supervisor.ts";
import { Gate, type Tell } from "./balancer.ts";
import type { DoorName } from "./channel.ts";
import { WorkerProcess, type Listener } from "./worker-process.ts";
import { connectionsOf } from "../service/connections.ts";

/** While its group is committed, the other workers prepare theirs; with two each, groups were half as large and each write took a quarter more CPU. */
const LANES_OF_A_WORKER = 1;

/** Starts a service of so many processes, ready to take calls when this returns. Throws `WorkerProblem` where one of them doesn't start. */
export async function startWorkers(count: number, config: Config, log: Logger): Promise<Service> {
  await using opened = new AsyncDisposableStack();
  const lanes = config.LEDGERD_LANES ?? LANES_OF_A_WORKER;
  const most = callersOf({ ...config, LEDGERD_LANES: lanes });
  const take = async (setting: "LEDGERD_GRPC_ADDR" | "LEDGERD_HTTP_ADDR", door: DoorName) => {
    const tell: Tell<WorkerProcess> = (worker, ceiling, handle) => worker.allow(door, ceiling, handle);
    const gate = opened.adopt(await placed(setting, Gate.take(config[setting], most, tell)), (one) => one.close());
    return { gate, open: () => placed(setting, gate.open()) };
  };
  // Before the database is touched: a start on a port that is taken changes nothing.
  const doors = { grpc: await take("LEDGERD_GRPC_ADDR", "grpc"), http: await take("LEDGERD_HTTP_ADDR", "http") };
  const gates = Object.values(doors).map(({ gate }) => gate);
  const connections = count * connectionsOf({ ...config, LEDGERD_LANES: lanes });
  const database = opened.adopt(await openDatabase(config, log, connections, "serve"), ({ close }) => close());
  await bringUpToDate(database, config, log);
  const crew = opened.adopt(new Crew(log), (workers) => workers.stop());
  // In the end nobody comes any more while the workers finish what they have.
  opened.defer(() => gates.forEach((gate) => gate.close()));
  const env = environmentWith(database.url, {
    ...compiledForChildren(),
    LEDGERD_MIGRATE: "never",
    LEDGERD_LANES: `${lanes}`,
    LEDGERD_GRPC_ADDR: doors.grpc.gate.address,
    LEDGERD_HTTP_ADDR: doors.http.gate.address,
  });
  const listener: Listener = {
    serving: (worker) => gates.forEach((gate) => gate.add(worker)),
    draining: (worker) => gates.forEach((gate) => gate.remove(worker)),
    stands: (worker, door, state) => doors[door].gate.heard(worker, state),
    silent: (worker) => gates.forEach((gate) => gate.missed(worker)),
    deaf: (door, errno) => doors[door].gate.failed(errno),
    news: (worker, news) => crew.others(worker).forEach((other) => news.forEach((one) => other.tell(one))),
  };
  await crew.start(count, () => new WorkerProcess(env, config.LEDGERD_STALL_LIMIT, listener));
  await Promise.all(Object.values(doors).map(({ open }) => open()));
  const running = opened.move();
  const { grpc, http } = doors;
  return { grpcAddress: grpc.gate.address, httpAddress: http.gate.address, close: () => running.disposeAsync() };
}
