// The first process of a command that serves with several: it owns the database, the ports and the workers, and takes no calls itself.

import type { Socket } from "node:net";
import type { Logger } from "pino";
import { environmentWith, type Config } from "../config.ts";
import { bringUpToDate, openDatabase } from "../database.ts";
import { connectionsOf, placed, type Service } from "../service.ts";
import { compiledForChildren } from "./compile-cache.ts";
import { Crew } from "./crew.ts";
import { Gate } from "./gate.ts";
import type { DoorName } from "./messages.ts";
import { WorkerProcess, type Listener } from "./worker-process.ts";

/** While its group is committed, the other workers prepare theirs; with two each, groups were half as large and each write took a quarter more CPU. */
const LANES_OF_A_WORKER = 1;

/** Starts a service of so many processes, ready to take calls when this returns. Throws `WorkerProblem` where one of them doesn't start. */
export async function startWorkers(count: number, config: Config, log: Logger): Promise<Service> {
  await using opened = new AsyncDisposableStack();
  const lanes = config.LEDGERD_LANES ?? LANES_OF_A_WORKER;
  const give = (door: DoorName) => (worker: WorkerProcess, connection: Socket) => worker.give(door, connection);
  // Before the database is touched: a start on a port that is taken changes nothing.
  const gates = {
    grpc: opened.adopt(await placed("LEDGERD_GRPC_ADDR", Gate.open(config.LEDGERD_GRPC_ADDR, give("grpc"))), (gate) => gate.close()),
    http: opened.adopt(await placed("LEDGERD_HTTP_ADDR", Gate.open(config.LEDGERD_HTTP_ADDR, give("http"))), (gate) => gate.close()),
  };
  const connections = count * connectionsOf({ ...config, LEDGERD_LANES: lanes });
  const database = opened.adopt(await openDatabase(config, log, connections, "serve"), ({ close }) => close());
  await bringUpToDate(database, config, log);
  const crew = opened.adopt(new Crew(log), (workers) => workers.stop());
  const doors = Object.values(gates);
  // In the end nobody comes any more while the workers finish what they have.
  opened.defer(() => doors.forEach((gate) => gate.close()));
  const env = environmentWith(database.url, {
    ...compiledForChildren(),
    LEDGERD_MIGRATE: "never",
    LEDGERD_LANES: `${lanes}`,
    LEDGERD_GRPC_ADDR: gates.grpc.address,
    LEDGERD_HTTP_ADDR: gates.http.address,
  });
  const listener: Listener = {
    serving: (worker) => doors.forEach((gate) => gate.add(worker)),
    draining: (worker) => doors.forEach((gate) => gate.remove(worker)),
    left: (worker, door) => gates[door].left(worker),
    declined: (door, connection) => gates[door].deal(connection),
    news: (worker, news) => crew.others(worker).forEach((other) => news.forEach((one) => other.tell(one))),
  };
  await crew.start(count, () => new WorkerProcess(env, listener));
  doors.forEach((gate) => gate.open());
  const running = opened.move();
  return { grpcAddress: gates.grpc.address, httpAddress: gates.http.address, close: () => running.disposeAsync() };
}
