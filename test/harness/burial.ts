// A first process whose two workers die at once, the second one while the first one's end is heard of: run as a process of its own, it says how
// they ended.

import type { ChildProcess } from "node:child_process";
import { subscribe } from "node:diagnostics_channel";
import { once } from "node:events";
import { connect, createServer, type AddressInfo, type Socket } from "node:net";
import { WorkerProcess } from "../../src/processes/worker-process.ts";

const children: ChildProcess[] = [];
subscribe("child_process", (message) => children.push((message as { process: ChildProcess }).process));

const nothing = (): void => undefined;
const listener = { serving: nothing, draining: nothing, left: nothing, declined: nothing, news: nothing };
const workers = [new WorkerProcess(process.env, listener), new WorkerProcess(process.env, listener)] as const;
await Promise.all(workers.map(({ served }) => served));

const server = createServer({ pauseOnConnect: true });
server.listen(0, "127.0.0.1");
await once(server, "listening");
const caller = connect((server.address() as AddressInfo).port, "127.0.0.1");
const [connection] = (await once(server, "connection")) as [Socket];
workers[1].give("grpc", connection);
// The worker's settings, as HTTP/2 begins: it has taken the connection.
await once(caller, "data");
caller.destroy();
server.close();

/** Has it end while this process looks away. */
function kill(child: ChildProcess | undefined): void {
  process.kill(child?.pid ?? Number.NaN, "SIGKILL");
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 500);
}

children[0]?.once("disconnect", () => kill(children[1]));
kill(children[0]);
process.stdout.write(JSON.stringify(await Promise.all(workers.map(({ ended }) => ended))));
