// The one place where the parts are put together: ports, database, handlers, servers, upkeep. Whoever starts a service, a
// test too, does it here.

import { setTimeout as delay } from "node:timers/promises";
import type { Logger } from "pino";
import type { Config } from "../config.ts";
import { openGrpcServer, type RunningServer } from "../servers/grpc/grpc-server.ts";
import { Peers } from "../servers/peers.ts";
import { createReadiness, type Readiness } from "../servers/readiness.ts";
import { metricsText } from "../servers/web/metrics.ts";
import { openWebServer } from "../servers/web/web-server.ts";
import { startUpkeep } from "../upkeep/duties.ts";
import { logged } from "../upkeep/repeat.ts";
import { callsOf, type Calls } from "./calls.ts";
import { keepLooking } from "./look.ts";
import { connectionsEnded, takePorts } from "./ports.ts";
import { openStorage, type Storage } from "./storage.ts";
import { alone } from "./host.ts";

/** A service that takes calls. */
export interface Service {
  readonly grpcAddress: string;
  readonly httpAddress: string;
  /** Drains and ends everything, the database last. */
  readonly close: () => Promise<void>;
}

/** Starts a service, ready to take calls when this returns. */
export async function startService(config: Config, log: Logger, host = alone): Promise<Service> {
  await using opened = new AsyncDisposableStack();
  const ports = await takePorts(config, host, log, opened);
  const storage = await openStorage(config, log, opened, host);
  const shutdown = new AbortController();
  const calls = callsOf(config, storage, shutdown.signal, log);
  const readiness = createReadiness(
    calls.entries.map(({ service }) => service.typeName),
    (problem) => (problem === undefined ? log.info("ready") : log.warn({ problem }, "not ready")),
  );
  await keepLooking(storage.status, readiness, log, opened);
  startUpkeep(upkeepOf(config, storage), log, opened);
  const servers = openServers(config, { ports, storage, calls, readiness, shutdown: shutdown.signal }, log);
  opened.defer(async () => {
    readiness.drain();
    shutdown.abort();
    const left = Promise.race([calls.empty(), delay(config.calls.drainTimeoutMs, undefined, { ref: false })]);
    await Promise.all([servers.grpc, servers.web].map((server) => server.close(left)));
  });
  const running = opened.move();
  return { grpcAddress: servers.grpc.address, httpAddress: servers.web.address, close: () => running.disposeAsync() };
}

function upkeepOf(config: Config, { upkeep, journal, partitions, backups, backgroundProof }: Storage) {
  return {
    ...upkeep,
    journal,
    partitions,
    backups,
    proof: config.upkeep.verifyRate > 0 ? backgroundProof : undefined,
    sweepPauseMs: config.upkeep.sweepPauseMs,
    rescuePauseMs: config.upkeep.rescuePauseMs,
  };
}

/** What the servers are made of. */
interface ServerParts {
  readonly ports: Awaited<ReturnType<typeof takePorts>>;
  readonly storage: Storage;
  readonly calls: Calls;
  readonly readiness: Readiness;
  readonly shutdown: AbortSignal;
}

function openServers(config: Config, parts: ServerParts, log: Logger): { readonly grpc: RunningServer; readonly web: RunningServer } {
  const { ports, storage, calls, readiness, shutdown } = parts;
  const { entries, translate, enterStream } = calls;
  const { health, problem } = readiness;
  const { verifications, backgroundProof, backups } = storage;
  const metrics = async (): Promise<string> => {
    const taken = backups === undefined ? undefined : { newest: await backups.newest(), failures: backups.failures };
    return metricsText(await verifications.last(), backgroundProof.rows, taken);
  };
  const peers = new Peers(config.calls.streamLimit, connectionsEnded(log));
  const both = { peers, entries, messageLimit: config.servers.messageLimit, translate };
  const ends = { shutdown, streamMaxAgeMs: config.calls.streamMaxAgeMs };
  return {
    grpc: openGrpcServer({ ...both, listener: ports.grpc, health, enterStream, ...ends }),
    web: openWebServer({
      ...both,
      listener: ports.http,
      access: { hosts: config.servers.webHosts, origins: config.servers.webOrigins },
      problem,
      metrics,
      log: logged("answering", log),
    }),
  };
}
