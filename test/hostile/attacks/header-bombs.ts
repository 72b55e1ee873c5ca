// Calls with more headers than the service said that it takes: frames by hand, since making them takes a client longer
// than refusing them takes a server.

import { once } from "node:events";
import { connect } from "node:net";
import { setTimeout as delay } from "node:timers/promises";
import type { Attack } from "../attack.ts";
import { frameOf, preface } from "../../harness/frames.ts";

const CALLS = 20_000;
const AT_ONCE = 100;
const [HEADERS, CONTINUATION] = [1, 9];
const [END_STREAM, END_HEADERS] = [1, 4];
/** Of a frame's payload. */
const LARGEST_FRAME = 16_384;
const RESET_BYTES = 13;
const [ALLOWED_AT_ONCE, ALLOWED_PER_MS, LOOK_MS] = [5000, 1, 2000];
const PATIENCE_MS = 10_000;

const many = Array.from({ length: 200 }, (_, index) => [`x-${index}`, "1"] as const);
const large = Array.from({ length: 10 }, (_, index) => [`x-${index}`, "x".repeat(2000)] as const);

export const attack: Attack = {
  title: "sends calls with too many headers",
  run: async ({ grpcAddress }) => {
    for (const bomb of [many, large]) await send(grpcAddress, blockOf(bomb));
  },
};

/**
 * Sends calls until the connection is ended, or all are reset. Node resets them by itself, and ledgerd looks each second
 * whether it did: so a connection on which all were reset faster than is allowed must end a little later.
 */
async function send(address: string, block: Buffer): Promise<void> {
  const { hostname, port } = new URL(`http://${address}`);
  const connection = connect(Number(port), hostname);
  const began = performance.now();
  const all = Promise.withResolvers<undefined>();
  const ended = new Promise<true>((resolve) => connection.once("close", () => resolve(true)));
  let received = 0;
  connection.on("error", () => undefined);
  connection.on("data", (bytes: Buffer) => {
    // Nearly all that is answered are resets.
    received += bytes.length;
    if (received >= RESET_BYTES * CALLS) all.resolve(undefined);
  });
  const sending = async (): Promise<void> => {
    await once(connection, "connect");
    connection.write(preface);
    for (let sent = 0; sent < CALLS && !connection.destroyed; sent += AT_ONCE) {
      const calls = Array.from({ length: AT_ONCE }, (_, index) => callOf(2 * (sent + index) + 1, block));
      await new Promise((resolve) => connection.write(Buffer.concat(calls), resolve));
    }
  };
  await Promise.race([ended, Promise.all([sending(), all.promise])]);
  const elapsedMs = performance.now() - began;
  const mustEnd = CALLS > ALLOWED_AT_ONCE + ALLOWED_PER_MS * (elapsedMs + LOOK_MS);
  if (mustEnd && !(await Promise.race([ended, delay(PATIENCE_MS, false, { ref: false })]))) {
    throw new Error(`${CALLS} calls were reset in ${elapsedMs} ms, and the connection goes on`);
  }
  connection.destroy();
}

/** Headers as they are written without tables. */
function blockOf(headers: readonly (readonly [name: string, value: string])[]): Buffer {
  const own = [[":method", "POST"], [":scheme", "http"], [":path", "/ledger.v1.LedgerService/GetBalance"]] as const;
  return Buffer.concat([...own, ...headers].flatMap(([name, value]) => [Buffer.of(0), textOf(name), textOf(value)]));
}

/** A text behind its length, of seven bits and then of as many as it takes. */
function textOf(text: string): Buffer {
  const most = 127;
  if (text.length < most) return Buffer.concat([Buffer.of(text.length), Buffer.from(text)]);
  const length = [most];
  let rest = text.length - most;
  for (; rest >= 128; rest >>= 7) length.push((rest & 127) | 128);
  return Buffer.concat([Buffer.from([...length, rest]), Buffer.from(text)]);
}

function callOf(stream: number, block: Buffer): Buffer {
  const frames: Buffer[] = [];
  for (let at = 0; at < block.length; at += LARGEST_FRAME) {
    const end = at + LARGEST_FRAME >= block.length ? END_HEADERS : 0;
    const part = block.subarray(at, at + LARGEST_FRAME);
    frames.push(at === 0 ? frameOf(HEADERS, END_STREAM | end, stream, part) : frameOf(CONTINUATION, end, stream, part));
  }
  return Buffer.concat(frames);
}
