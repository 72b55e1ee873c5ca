// Between an instance and its database, as a pooler before a pair of servers does it in a failover: it lets each
// connection wait once it is idle, and leads it to the other server then. Whoever is behind it sees no connection
// break.

import { once } from "node:events";
import { connect, createServer, type AddressInfo, type Socket } from "node:net";
import path from "node:path";
import { until } from "./until.ts";
import { encode, messagesOf, type Message } from "./wire-proxy.ts";

/** A proxy that runs. */
export interface SwitchProxy {
  /** Of the database behind it. */
  readonly url: string;
  /**
   * Lets go of the server, once no statement is under way, and without breaking a connection; what is sent from then
   * on waits.
   */
  readonly pause: () => Promise<void>;
  /** Breaks all connections; new ones wait. */
  readonly cut: () => void;
  /** Goes on with the database of another server. */
  readonly resume: (databaseUrl: string) => Promise<void>;
  readonly [Symbol.asyncDispose]: () => Promise<void>;
}

/** Sessions that have prepared statements, which another server doesn't know: these are cut. */
const PREPARING = /ledgerd (journal|wait)/;

/** A connection from an instance. */
interface Route {
  readonly client: Socket;
  startup: Message | undefined;
  server: Socket | undefined;
  /** From when something was sent until the server is ready for the next transaction. */
  busy: boolean;
  /** Whether a server that it was let go of has greeted it. */
  isGreeted: boolean;
}

/** Starts one before a database whose server listens on a unix socket. */
export async function startSwitchProxy(databaseUrl: string): Promise<SwitchProxy> {
  const { pathname } = new URL(databaseUrl);
  let target = socketOf(databaseUrl);
  const routes = new Set<Route>();
  let open = Promise.withResolvers<void>();
  open.resolve();

  const take = async (route: Route): Promise<void> => {
    for await (const message of messagesOf(route.client, 0)) {
      if (message.type === "") route.startup = message;
      if (!route.busy) await open.promise;
      route.busy = true;
      (route.server ?? lead(route, target)).write(encode(message));
    }
  };

  const listener = createServer((client) => {
    const route: Route = { client, startup: undefined, server: undefined, busy: false, isGreeted: false };
    routes.add(route);
    const end = (): void => {
      routes.delete(route);
      route.server?.destroy();
      client.destroy();
    };
    client.on("error", end);
    take(route).then(end, end);
  });
  listener.listen(0, "127.0.0.1");
  await once(listener, "listening");

  const pause = async (): Promise<void> => {
    open = Promise.withResolvers();
    for (const { client, startup } of routes) {
      if (PREPARING.test(startup?.body.toString("latin1") ?? "")) client.destroy();
    }
    await until(() => [...routes].every(({ busy, client }) => !busy || client.destroyed));
    for (const route of routes) {
      const { server } = route;
      route.isGreeted = server !== undefined;
      route.server = undefined;
      server?.destroy();
    }
  };
  const cut = (): void => {
    open = Promise.withResolvers();
    for (const { client } of routes) client.destroy();
  };
  const resume = async (nextUrl: string): Promise<void> => {
    target = socketOf(nextUrl);
    await Promise.all([...routes].map((route) => leadAgain(route, target)));
    open.resolve();
  };
  return {
    url: `postgres://postgres@127.0.0.1:${(listener.address() as AddressInfo).port}${pathname}?sslmode=disable`,
    pause,
    cut,
    resume,
    [Symbol.asyncDispose]: async () => {
      listener.close();
      for (const { client } of routes) client.destroy();
      await once(listener, "close");
    },
  };
}

/** Has a server greet a connection that another one was let go of; one that came meanwhile greets it by itself. */
async function leadAgain(route: Route, socketFile: string): Promise<void> {
  if (route.startup === undefined || !route.isGreeted) return;
  const ready = Promise.withResolvers<void>();
  const server = lead(route, socketFile, ready.resolve);
  server.write(encode(route.startup));
  server.once("close", () => ready.resolve());
  await ready.promise;
}

/**
 * Leads a connection to a server; `greeted` is told when it is ready, and the client isn't told, having been greeted by
 * another one.
 */
function lead(route: Route, socketFile: string, greeted?: () => void): Socket {
  const server = connect(socketFile);
  let greeting = greeted !== undefined;
  route.server = server;
  const pass = async (): Promise<void> => {
    for await (const message of messagesOf(server, 1)) {
      if (!greeting) route.client.write(encode(message));
      if (message.type !== "Z") continue;
      if (greeting) greeted?.();
      greeting = false;
      route.busy = message.body.toString("latin1") !== "I";
    }
  };
  // One that was let go of ends by our doing.
  const end = (): void => void (route.server === server && route.client.destroy());
  pass().then(end, end);
  return server.on("error", end);
}

function socketOf(databaseUrl: string): string {
  const { hostname, port } = new URL(databaseUrl);
  return path.join(decodeURIComponent(hostname), `.s.PGSQL.${port}`);
}
