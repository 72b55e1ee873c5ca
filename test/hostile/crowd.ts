// Many connections that say nothing.

import { connect, type Socket } from "node:net";

/** A connection that the gRPC door has let in: it has said what HTTP/2 begins with. Undefined: it was closed before. */
export async function enter(address: string): Promise<Socket | undefined> {
  const { hostname, port } = new URL(`http://${address}`);
  const connection = connect(Number(port), hostname);
  return new Promise((resolve) => {
    connection.on("error", () => undefined);
    connection.once("data", () => resolve(connection));
    connection.once("close", () => resolve(undefined));
    connection.once("end", () => connection.destroy());
  });
}

/** Does something so many times, some at a time; all that it answered. */
export async function many<T>(count: number, atOnce: number, once: () => Promise<T>): Promise<readonly T[]> {
  const answers: T[] = [];
  let begun = 0;
  const next = async (): Promise<void> => {
    while (begun++ < count) answers.push(await once());
  };
  await Promise.all(Array.from({ length: atOnce }, next));
  return answers;
}

/** Closes connections at once, as a process that is killed does. */
export function leave(connections: readonly (Socket | undefined)[]): void {
  for (const connection of connections) connection?.resetAndDestroy();
}
