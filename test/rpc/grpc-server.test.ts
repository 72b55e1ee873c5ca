// The gRPC door by itself: what it does about connections that have died, about our own mistakes, and with the time that its callers have left.

import { once } from "node:events";
import { connect as connectRaw, type Socket } from "node:net";
import { createClient } from "@connectrpc/connect";
import { createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";
import { HealthImplementation } from "grpc-health-check";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { LedgerService } from "../../src/gen/ledger/v1/ledger_service_pb.ts";
import { Health, HealthCheckResponse_ServingStatus } from "../../src/gen/grpc/health/v1/health_pb.ts";
import { openGrpcServer, type RunningServer } from "../../src/servers/grpc/grpc-server.ts";
import { listenHere } from "../../src/servers/listener.ts";
import { Peers } from "../../src/servers/peers.ts";
import { createTranslate } from "../../src/rpc/errors.ts";
import { beginCall, endRequest, goaway, ping, PING, preface, typesOf } from "../harness/frames.ts";
import { failureOf } from "../harness/service.ts";
import type { Arrival, Entries } from "../../src/rpc/call.ts";

const KEEPALIVE_MS = 30_000;
const DEAD_MS = 20_000;

let door: RunningServer;
let health: HealthImplementation;
let arrivals: Arrival[];
let logged: { readonly incident: string; readonly where: string; readonly error: unknown }[];
/** The door's ends of its connections. */
let connections: Socket[];

/** Every method answers the same: a balance of this user. */
function entriesOf(userId: bigint): Entries {
  const named = <E>(kind: string, entry: E) => new Map(LedgerService.methods.filter(({ methodKind }) => methodKind === kind).map(({ localName }) => [localName, entry]));
  const answer = { balance: { userId } };
  const stream = async function* () {
    yield await Promise.resolve(answer);
  };
  const unary = (_request: unknown, arrival: Arrival) => {
    arrivals.push(arrival);
    return Promise.resolve(answer);
  };
  return { service: LedgerService, unary: named("unary", unary), streams: named("server_streaming", stream), exchanges: named("bidi_streaming", stream) };
}

async function open(userId = 1n): Promise<void> {
  const taken = await listenHere({ host: "127.0.0.1", port: 0 }, { most: 10, refused: () => undefined });
  const letIn = (welcome: (connection: Socket) => void): void =>
    taken.open((connection) => {
      connections.push(connection);
      welcome(connection);
    });
  const translate = createTranslate(() => undefined, (incident) => logged.push(incident));
  health = new HealthImplementation();
  const rest = { health, messageLimit: 1000, translate, shutdown: new AbortController().signal, streamMaxAgeMs: 60_000 };
  const peers = new Peers(1000, () => undefined);
  const enterStream = () => () => undefined;
  door = openGrpcServer({ listener: { ...taken, open: letIn }, peers, enterStream, entries: [entriesOf(userId)], ...rest });
}

function raw(): Socket {
  const { hostname, port } = new URL(`http://${door.address}`);
  const socket = connectRaw({ host: hostname, port: Number(port), allowHalfOpen: true });
  socket.on("error", () => undefined);
  return socket;
}

/** The next bytes in which there is a frame of a type. */
async function received(socket: Socket, type: number): Promise<void> {
  for (;;) {
    const [bytes] = (await once(socket, "data")) as [Buffer];
    if (typesOf(bytes).includes(type)) return;
  }
}

beforeEach(() => {
  [arrivals, logged, connections] = [[], [], []];
});

afterEach(async () => {
  vi.useRealTimers();
  await door.close(Promise.resolve());
});

test("a caller who doesn't answer a ping is cut off, and one who does stays", async () => {
  vi.useFakeTimers({ toFake: ["setInterval", "clearInterval", "setTimeout", "clearTimeout"] });
  await open();
  const dead = raw();
  dead.write(preface);
  await received(dead, 4);
  const [deadEnd] = connections;
  const sessionManager = new Http2SessionManager(`http://${door.address}`);
  const { getBalance } = createClient(LedgerService, createGrpcTransport({ baseUrl: `http://${door.address}`, sessionManager }));
  await getBalance({ userId: 1n });
  const [, liveEnd] = connections;

  const asked = received(dead, PING);
  vi.advanceTimersByTime(KEEPALIVE_MS);
  await asked;
  // It comes behind the answer to the ping.
  await getBalance({ userId: 1n });
  const cut = once(deadEnd ?? expect.unreachable(), "close");
  vi.advanceTimersByTime(DEAD_MS);
  await cut;
  expect(liveEnd?.destroyed).toBe(false);
  await getBalance({ userId: 1n });
  expect(connections.length, "on the same connection").toBe(2);
  sessionManager.abort();
  dead.destroy();
});

test("health keeps no place for each name that somebody watched, of services that aren't there", async () => {
  await open();
  const { watch } = createClient(Health, createGrpcTransport({ baseUrl: `http://${door.address}` }));
  for (let count = 0; count < 20; count++) {
    for await (const { status } of watch({ service: `nothing.${count}` })) {
      expect(status).toBe(HealthCheckResponse_ServingStatus.SERVICE_UNKNOWN);
      break;
    }
  }
  const places = Reflect.get(health, "watchers") as ReadonlyMap<string, unknown>;
  expect(places.size).toBe(1);
});

test("a caller who says goodbye and keeps the connection open is cut off", async () => {
  vi.useFakeTimers({ toFake: ["setInterval", "clearInterval", "setTimeout", "clearTimeout"] });
  await open();
  const leaving = raw();
  leaving.write(preface);
  await received(leaving, 4);
  const ended = once(leaving, "end");
  leaving.resume().write(goaway);
  await ended;
  const [connection] = connections;
  const cut = once(connection ?? expect.unreachable(), "close");
  expect(connection?.destroyed, "until somebody looks, it is open").toBe(false);
  vi.advanceTimersByTime(KEEPALIVE_MS);
  await cut;
  leaving.destroy();
});

test("an answer that can't be encoded is an internal error, and the log has why under its incident", async () => {
  await open(2n ** 70n);
  const { getBalance } = createClient(LedgerService, createGrpcTransport({ baseUrl: `http://${door.address}` }));
  const failed = await failureOf(getBalance({ userId: 1n }));
  expect(failed).toMatchObject({ reason: "INTERNAL", metadata: { incident: logged[0]?.incident } });
  expect(logged).toMatchObject([{ where: "/ledger.v1.LedgerService/GetBalance", error: new RangeError(`${2n ** 70n} is no int64`) }]);
});

test("what is left of a deadline is counted from when the call began, not from when its request was there", async () => {
  await open();
  const caller = raw();
  const call = beginCall("/ledger.v1.LedgerService/GetBalance", [["grpc-timeout", "60000m"]]);
  caller.write(Buffer.concat([preface, call, ping]));
  // Frames are taken in their order: with the answer to the ping, the door has the call.
  await received(caller, PING);
  const begun = performance.now();
  while (performance.now() - begun < 200);
  caller.write(endRequest(Buffer.alloc(5)));
  await received(caller, 1);
  expect(arrivals[0]?.timeoutMs).toBeLessThanOrEqual(59_800);
  caller.destroy();
});
