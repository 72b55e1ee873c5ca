// Two instances on one database, each an OS process with pools of its own, and connections to both.

import { startInstance } from "../harness/instance.ts";
import { clientsOf, type Clients } from "../harness/service.ts";

/** Starts two instances, which end with the stack, and answers so many connections: to the one and the other in turn. */
export async function connectToTwo(
  databaseUrl: string,
  opened: AsyncDisposableStack,
  count: number,
  settings: Readonly<Record<string, string>> = {},
): Promise<readonly Clients[]> {
  const instances = await Promise.all([startInstance(databaseUrl, settings), startInstance(databaseUrl, settings)]);
  const [one, two] = instances.map((instance) => opened.use(instance).grpcAddress);
  return Array.from({ length: count }, (_, index) => clientsOf((index % 2 === 0 ? one : two) ?? ""));
}
