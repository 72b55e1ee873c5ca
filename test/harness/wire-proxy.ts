// Between an instance and PostgreSQL: passes on what they say to each other, and lets a test change a message of the journal's sessions,
// hold it up, or cut the connection in its place.

import { once } from "node:events";
import { connect, createServer, type AddressInfo, type Socket } from "node:net";
import path from "node:path";

/** A message of PostgreSQL's protocol. */
export interface Message {
  /** Its letter: P is Parse, C the server's CommandComplete. A client's first message has none. */
  readonly type: string;
  readonly body: Buffer;
}

/** What is passed on in place of a message; `cut` ends the connection without it. */
export type Verdict = Message | "cut";

/** What a test does to the messages of each side. */
export interface Tampering {
  readonly client?: (message: Message) => Verdict | Promise<Verdict>;
  readonly server?: (message: Message) => Verdict | Promise<Verdict>;
}

/** A proxy that runs. */
export interface WireProxy {
  /** Of the database behind it. */
  readonly url: string;
  /** Replaces what is done to messages of these sessions from now on. */
  readonly tamper: (tampering: Tampering) => void;
  /** Cuts their connections. */
  readonly cut: () => void;
  readonly [Symbol.asyncDispose]: () => Promise<void>;
}

/** What the journal's sessions call themselves when they begin. */
const JOURNAL = "ledgerd journal";

/** Starts one before a database whose server listens on a unix socket; for the journal's sessions, or for all. */
export async function startWireProxy(databaseUrl: string, sessions: "journal" | "all" = "journal"): Promise<WireProxy> {
  const { hostname, port, pathname } = new URL(databaseUrl);
  const socketFile = path.join(decodeURIComponent(hostname), `.s.PGSQL.${port}`);
  const open = new Set<Socket>();
  const journals = new Set<Socket>();
  let tampering: Tampering = {};
  const listener = createServer((client) => {
    const server = connect(socketFile);
    const end = (): void => {
      for (const socket of [client, server]) {
        socket.destroy();
        open.delete(socket);
      }
      journals.delete(client);
    };
    for (const socket of [client, server]) {
      open.add(socket.setNoDelay());
      socket.on("error", end);
    }
    const ofClient = (message: Message) => {
      if (message.type === "" && (sessions === "all" || message.body.includes(JOURNAL))) journals.add(client);
      return journals.has(client) && tampering.client !== undefined ? tampering.client(message) : message;
    };
    const ofServer = (message: Message) => (journals.has(client) && tampering.server !== undefined ? tampering.server(message) : message);
    const passing = [pass(messagesOf(client, 0), server, ofClient), pass(messagesOf(server, 1), client, ofServer)];
    // Whichever side is gone, and however it went: the other one is told in the same way.
    for (const side of passing) side.then(end, end);
  });
  listener.listen(0, "127.0.0.1");
  await once(listener, "listening");
  const cut = (sockets: ReadonlySet<Socket>): void => {
    for (const socket of sockets) socket.destroy();
  };
  return {
    url: `postgres://postgres@127.0.0.1:${(listener.address() as AddressInfo).port}${pathname}?sslmode=disable`,
    tamper: (next) => (tampering = next),
    cut: () => cut(journals),
    [Symbol.asyncDispose]: async () => {
      listener.close();
      cut(open);
      await once(listener, "close");
    },
  };
}

/** Changes the text of a Parse; all other messages stay as they are. */
export function withText(message: Message, change: (text: string) => string): Message {
  const text = textOf(message);
  if (text === undefined) return message;
  const { type, body } = message;
  const from = body.indexOf(0) + 1;
  const to = body.indexOf(0, from);
  return { type, body: Buffer.concat([body.subarray(0, from), Buffer.from(change(text)), body.subarray(to)]) };
}

/** The statement that a Parse is about. */
export function textOf({ type, body }: Message): string | undefined {
  if (type !== "P") return undefined;
  const from = body.indexOf(0) + 1;
  return body.toString("utf8", from, body.indexOf(0, from));
}

/** What a CommandComplete says that was done. */
export function tagOf({ type, body }: Message): string | undefined {
  return type === "C" ? body.toString("utf8", 0, body.indexOf(0)) : undefined;
}

async function pass(from: AsyncIterable<Message>, to: Socket, decide: (message: Message) => Verdict | Promise<Verdict>): Promise<void> {
  for await (const message of from) {
    const verdict = await decide(message);
    if (verdict === "cut") return;
    to.write(encode(verdict));
  }
}

/** The messages that arrive; `letters` is how many bytes the first one's type takes. */
export async function* messagesOf(socket: Socket, letters: 0 | 1): AsyncGenerator<Message> {
  let bytes = Buffer.alloc(0);
  let header: number = letters;
  for await (const chunk of socket as AsyncIterable<Buffer>) {
    bytes = Buffer.concat([bytes, chunk]);
    while (bytes.length >= header + 4) {
      const end = header + bytes.readInt32BE(header);
      if (bytes.length < end) break;
      yield { type: bytes.toString("latin1", 0, header), body: bytes.subarray(header + 4, end) };
      bytes = bytes.subarray(end);
      header = 1;
    }
  }
}

/** A message as it is sent. */
export function encode({ type, body }: Message): Buffer {
  const length = Buffer.alloc(4);
  length.writeInt32BE(body.length + 4);
  return Buffer.concat([Buffer.from(type, "latin1"), length, body]);
}
