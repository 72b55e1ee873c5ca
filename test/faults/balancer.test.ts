// The port that workers share: how it is taken, and how many callers each worker is let have.

import { once } from "node:events";
import { connect, createServer } from "node:net";
import { constants, networkInterfaces } from "node:os";
import { afterEach, describe, expect, test } from "vitest";
import { Balancer } from "../../src/processes/balancer.ts";
import { takePort, type Port } from "../../src/processes/port.ts";

const hasIPv6 = Object.values(networkInterfaces()).some((list) => list?.some(({ address }) => address === "::1"));

const place = (port: Pick<Port, "address">) => {
  const { hostname, port: number } = new URL(`http://${port.address}`);
  return { host: hostname.replace(/^\[|\]$/g, ""), port: Number(number) };
};

async function connectTo(port: Port): Promise<void> {
  const { host, port: number } = place(port);
  const connection = connect(number, host);
  await once(connection, "connect");
  connection.destroy();
}

describe("a port that is taken by Node's inner means", () => {
  const hosts = ["127.0.0.1", "localhost", "0.0.0.0", ...(hasIPv6 ? ["::1", "::"] : [])];

  test.each(hosts)("at %s lets nobody in until a server listens on it, and is not had twice then", async (host) => {
    const port = await takePort({ host, port: 0 });
    expect(place(port).host).toBe(host);
    await expect(connectTo(port)).rejects.toMatchObject({ code: "ECONNREFUSED" });
    const server = createServer((connection) => connection.destroy()).listen(port.handle);
    await once(server, "listening");
    await connectTo(port);
    const said = { code: "EADDRINUSE", syscall: "listen", message: expect.stringContaining(port.address) as string };
    await expect(takePort(place(port))).rejects.toMatchObject(said);
    server.close();
    await once(server, "close");
    (await takePort(place(port))).handle.close();
  });

  test.each([
    ["192.0.2.1", "EADDRNOTAVAIL"],
    ["no-such-host.invalid", /^(ENOTFOUND|EAI_AGAIN)$/],
  ])("can't be had at %s", async (host, code) => {
    await expect(takePort({ host, port: 0 })).rejects.toMatchObject({
      code: expect.stringMatching(code) as string,
      syscall: expect.any(String) as string,
    });
  });
});

describe("a gate", () => {
  const MOST = 1000;
  let gate: Balancer<string>;
  let told: { worker: string; ceiling: number; handle: boolean }[] = [];

  /** Opens one for workers that have just begun to serve. */
  async function open(...workers: string[]): Promise<void> {
    told = [];
    gate = await Balancer.take({ host: "127.0.0.1", port: 0 }, MOST, (worker: string, ceiling, handle) => {
      told.push({ worker, ceiling, handle: handle !== undefined });
    });
    for (const worker of workers) gate.add(worker);
    const opened = gate.open();
    for (const worker of workers) stands(worker, 0);
    await opened;
    told = [];
  }

  afterEach(() => gate.close());

  const stands = (worker: string, connections: number, handles = 2): void =>
    gate.heard(worker, { connections, handles, listens: true });
  const ceilings = (): Readonly<Record<string, number>> =>
    Object.fromEntries(told.splice(0).map(({ worker, ceiling }) => [worker, ceiling]));

  test("lets each worker have one caller more than the one with the fewest, and of many one more for each 64", async () => {
    await open("a", "b", "c");
    stands("a", 1);
    expect(ceilings(), "it has asked").toEqual({ a: 1 });
    stands("b", 1);
    expect(ceilings(), "c is the only one that may have a second one").toEqual({ b: 1, c: 2 });
    stands("c", 1);
    expect(ceilings()).toEqual({ a: 2, b: 2, c: 2 });
    stands("a", 150);
    stands("b", 128);
    stands("c", 140);
    expect(ceilings()).toEqual({ a: 131, b: 143, c: 131 });
    stands("a", 0);
    expect(ceilings(), "they have left").toEqual({ a: 131, b: 1, c: 1 });
  });

  test("gives no more than there are places, unless all are full: then callers are turned away", async () => {
    await open("a", "b");
    const none = Number.MAX_SAFE_INTEGER;
    stands("a", MOST);
    stands("b", MOST - 1);
    expect(ceilings()).toEqual({ a: MOST, b: none });
    stands("b", MOST);
    expect(ceilings()).toEqual({ a: none, b: none });
  });

  test("waits for none that is silent, ends, or has ended, and tells it nothing", async () => {
    await open("a", "b", "c");
    for (const worker of ["a", "b"]) stands(worker, 5);
    expect(ceilings()).toMatchObject({ a: 1, b: 1 });
    gate.missed("c");
    expect(ceilings()).toEqual({ a: 6, b: 6 });
    stands("c", 0);
    expect(ceilings(), "it is back").toEqual({ a: 1, b: 1, c: 6 });
    gate.remove("c");
    expect(ceilings()).toEqual({ a: 6, b: 6 });
    stands("c", 0);
    expect(ceilings()).toEqual({});
  });

  test("answers each that tells how it stands, with the handles that it lacks", async () => {
    await open("a", "b");
    for (const handles of [2, 1, 0]) {
      stands("a", 0, handles);
      const given = told.splice(0);
      expect(given.filter(({ handle }) => handle)).toHaveLength(2 - handles);
      expect(given.every(({ worker, ceiling }) => worker === "a" && ceiling === 1)).toBe(true);
      expect(given.length).toBeGreaterThan(0);
    }
  });

  test("is not opened where no worker can listen, and says why", async () => {
    gate = await Balancer.take({ host: "127.0.0.1", port: 0 }, MOST, () => undefined);
    const opening = gate.open();
    gate.failed(-constants.errno.EADDRINUSE);
    const message = expect.stringContaining(gate.address) as string;
    await expect(opening).rejects.toMatchObject({ code: "EADDRINUSE", syscall: "listen", message });
  });
});
