// A first process whose two workers die at once, the second one while the first one's end is heard of: run as a process of its own, it says how
// they ended.

import type { ChildProcess } from "node:child_process";
import { subscribe } from "node:diagnostics_channel";
import { once } from "node:events";
import { connect } from "node:net";
import { HANDLES, type PortName, type PortState } from "../../src/processes/channel.ts";
import { takePort } from "../../src/processes/port.ts";
import { WorkerProcess } from "../../src/processes/worker-process.ts";

const children: ChildProcess[] = [];
subscribe("child_process", (message) => children.push((message as { process: ChildProcess }).process));

const nothing = (): void => undefined;
const listening = Promise.withResolvers<void>();
const listener = {
  serving: nothing,
  draining: nothing,
  stands: (_worker: WorkerProcess, _door: PortName, { listens }: PortState) => listens && listening.resolve(),
  silent: nothing,
  deaf: nothing,
  news: nothing,
};
const STALL_LIMIT_MS = 60_000;
const start = (): WorkerProcess => new WorkerProcess(process.env, STALL_LIMIT_MS, listener);
const workers = [start(), start()] as const;
await Promise.all(workers.map(({ served }) => served));

const port = await takePort({ host: "127.0.0.1", port: 0 });
for (let given = 0; given < HANDLES; given++) workers[1].allow("grpc", 1, port.handle);
await listening.promise;
const { hostname, port: number } = new URL(`http://${port.address}`);
const caller = connect(Number(number), hostname);
// The worker's settings, as HTTP/2 begins: it has accepted.
await once(caller, "data");
caller.destroy();
port.handle.close();

/** Has it end while this process looks away. */
function kill(child: ChildProcess | undefined): void {
  process.kill(child?.pid ?? Number.NaN, "SIGKILL");
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 500);
}

children[0]?.once("disconnect", () => kill(children[1]));
kill(children[0]);
process.stdout.write(JSON.stringify(await Promise.all(workers.map(({ ended }) => ended))));
