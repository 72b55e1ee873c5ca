// The first process of a command that serves with several: it owns the database, the ports and the workers, and takes no calls itself.

import type { Logger } from "pino";
import { environmentWith, type Config } from "../config.ts";
import { bringUpToDate, openDatabase } from "../service/database.ts";
import type { Service } from "../service/service.ts";
import { callersOf, placed, type PortSetting } from "../service/ports.ts";
import { compiledForChildren } from "./compile-cache.ts";
import { Supervisor } from "./supervisor.ts";
import { Balancer, type Tell } from "./balancer.ts";
import type { PortName } from "./channel.ts";
import { WorkerProcess, type Listener } from "./worker-process.ts";
import { connectionsOf } from "../service/connections.ts";

/** While its group is committed, the other workers prepare theirs; with two each, groups were half as large and each write took a quarter more CPU. */
const LANES_OF_A_WORKER = 1;

/** Starts a service of so many processes, ready to take calls when this returns. Throws `WorkerProblem` where one of them doesn't start. */
export async function startWorkers(count: number, config: Config, log: Logger): Promise<Service> {
  await using opened = new AsyncDisposableStack();
  const { lanes = LANES_OF_A_WORKER } = config.journal;
  const ofWorker = { ...config, journal: { ...config.journal, lanes } };
  const most = callersOf(ofWorker);
  const take = async (setting: PortSetting, port: PortName) => {
    const tell: Tell<WorkerProcess> = (worker, ceiling, handle) => worker.allow(port, ceiling, handle);
    const balancer = opened.adopt(await placed(setting, Balancer.take(config.servers[port], most, tell)), (one) => one.close());
    return { balancer, open: () => placed(setting, balancer.open()) };
  };
  // Before the database is touched: a start on a port that is taken changes nothing.
  const ports = { grpc: await take("LEDGERD_GRPC_ADDR", "grpc"), http: await take("LEDGERD_HTTP_ADDR", "http") };
  const balancers = Object.values(ports).map(({ balancer }) => balancer);
  const connections = count * connectionsOf(ofWorker);
  const database = opened.adopt(await openDatabase(config, log, connections, "serve"), ({ close }) => close());
  await bringUpToDate(database, config, log);
  const supervisor = opened.adopt(new Supervisor(log), (workers) => workers.stop());
  // In the end nobody comes any more while the workers finish what they have.
  opened.defer(() => balancers.forEach((balancer) => balancer.close()));
  const env = environmentWith(database.url, {
    ...compiledForChildren(),
    LEDGERD_MIGRATE: "never",
    LEDGERD_LANES: `${lanes}`,
    LEDGERD_GRPC_ADDR: ports.grpc.balancer.address,
    LEDGERD_HTTP_ADDR: ports.http.balancer.address,
  });
  const listener: Listener = {
    serving: (worker) => balancers.forEach((balancer) => balancer.add(worker)),
    draining: (worker) => balancers.forEach((balancer) => balancer.remove(worker)),
    stands: (worker, port, state) => ports[port].balancer.heard(worker, state),
    silent: (worker) => balancers.forEach((balancer) => balancer.missed(worker)),
    deaf: (port, errno) => ports[port].balancer.failed(errno),
    news: (worker, news) => supervisor.others(worker).forEach((other) => news.forEach((one) => other.tell(one))),
  };
  await supervisor.start(count, () => new WorkerProcess(env, config.processes.stallLimitMs, listener));
  await Promise.all(Object.values(ports).map(({ open }) => open()));
  const running = opened.move();
  const { grpc, http } = ports;
  return { grpcAddress: grpc.balancer.address, httpAddress: http.balancer.address, close: () => running.disposeAsync() };
}
