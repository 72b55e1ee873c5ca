// Unary calls of ledgerd, a number of them in flight all the time. Every answer is checked.

import { Deducts } from "../wire/deducts.ts";
import { framed, GrpcConnection } from "../wire/http2.ts";
import { fieldAt, numberField } from "../wire/protobuf.ts";
import { Meter, type Load, type Window } from "./meter.ts";

/** What to call. */
export interface UnaryTask {
  readonly address: string;
  readonly method: "Deduct" | "GetBalance";
  readonly inFlight: number;
  readonly users: number;
}

/** Enough for the instance's processes to share them. */
const MOST_CONNECTIONS = 4;

/** Keeps calling. */
export async function run({ address, method, inFlight, users }: UnaryTask, window: Window): Promise<Load> {
  const connections = await openConnections(address, `/ledger.v1.LedgerService/${method}`, inFlight);
  const ask = method === "Deduct" ? deducting(users) : reading(users);
  const meter = new Meter(window);
  const keepCalling = async (connection: GrpcConnection): Promise<void> => {
    for (let from = performance.now(); !meter.isOver(from); from = performance.now()) {
      await ask(connection);
      meter.add(from);
    }
  };
  const callers = Array.from({ length: inFlight }, (_, index) => keepCalling(connections[index % connections.length] as GrpcConnection));
  await Promise.all(callers);
  for (const connection of connections) connection.close();
  return meter.load();
}

/** As many connections as that many callers are spread over. */
export function openConnections(address: string, method: string, callers: number): Promise<GrpcConnection[]> {
  return Promise.all(Array.from({ length: Math.min(MOST_CONNECTIONS, callers) }, () => GrpcConnection.open(address, method)));
}

/** Deducts 0.01 from a random user. The answer must hold a transaction with the key. */
function deducting(users: number): (connection: GrpcConnection) => Promise<void> {
  const deducts = new Deducts(users, "deduct");
  return async (connection) => {
    const request = deducts.next();
    const answer = await connection.call(request);
    if (!answer.includes(deducts.keyOf(request))) throw new Error(`a Deduct was not applied; its answer: ${answer.toString("hex")}`);
  };
}

/** Reads the balance of a random user. The answer must be about that user, and name an amount. */
function reading(users: number): (connection: GrpcConnection) => Promise<void> {
  const BALANCE = 1;
  const USER_ID = 1;
  const MONEY = 2;
  return async (connection) => {
    const user = 1 + Math.floor(Math.random() * users);
    const answer = await connection.call(framed(numberField(USER_ID, user)));
    const isRight = fieldAt(answer, BALANCE, USER_ID)?.value === user && fieldAt(answer, BALANCE, MONEY) !== undefined;
    if (!isRight) throw new Error(`GetBalance of user ${user} answered ${answer.toString("hex")}`);
  };
}
