// A port that is taken, and not listened on yet. Whoever is given its handle may listen on it, and accept for himself.
//
// By what node:cluster takes ports with, `net._createServerHandle`, which isn't documented. A `net.Server` accepts as
// soon as it listens: the first process, which has nothing else to do, would be given every connection. The documented
// `net.BoundSocket` can't be sent to a child process by Node 24, and gives its socket away when it is used.

import { lookup } from "node:dns/promises";
import net, { type Server } from "node:net";
import { getSystemErrorMessage, getSystemErrorName } from "node:util";
import { writeAddress } from "../servers/listener.ts";
import type { Address } from "../settings/environment.ts";

/** As much of Node's handles as we use. A `net.Server` listens on one that it is told to, and closes it then. */
export interface PortHandle {
  /** Fills in where it is; answers 0, or a number of an error: that of taking the port as well. */
  getsockname(into: { port?: number }): number;
  close(): void;
}

/** A port that is taken. */
export interface Port {
  readonly handle: PortHandle;
  /** Where it is: the port that was taken, if 0 was asked for. */
  readonly address: string;
}

type CreateHandle = (ip: string, port: number, family: number) => PortHandle | number;

/** Takes a port. Throws what `net.Server` would if it can't be had. */
export async function takePort({ host, port }: Address): Promise<Port> {
  const { address: ip, family } = await lookup(host);
  const { _createServerHandle: create } = net as unknown as { readonly _createServerHandle: CreateHandle };
  const handle = create(ip, port, family);
  if (typeof handle === "number") throw listenError(handle, writeAddress({ host, port }));
  const bound = { port };
  const errno = handle.getsockname(bound);
  if (errno === 0) return { handle, address: writeAddress({ host, port: bound.port }) };
  handle.close();
  throw listenError(errno, writeAddress({ host, port }));
}

/** A handle as Node's types let one be sent to another process. */
export function sendable(handle: PortHandle): Server {
  return handle as unknown as Server;
}

/** What `net.Server` says where it can't listen. */
export function listenError(errno: number, address: string): Error {
  const code = getSystemErrorName(errno);
  const error = new Error(`listen ${code}: ${getSystemErrorMessage(errno)} ${address}`);
  return Object.assign(error, { errno, code, syscall: "listen" });
}
