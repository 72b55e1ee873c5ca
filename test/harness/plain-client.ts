// A client as anybody would make one: grpc-js with its defaults, which take 4 MiB for an answer.

import { create, fromBinary, toBinary, type DescMethod, type MessageInitShape, type MessageShape } from "@bufbuild/protobuf";
import * as grpc from "@grpc/grpc-js";

/** An answer, and how many bytes it had. */
export interface Answered<M extends DescMethod> {
  readonly message: MessageShape<M["output"]>;
  readonly bytes: number;
}

/** A client of one address. */
export interface PlainClient {
  readonly call: <M extends DescMethod>(method: M, request: MessageInitShape<M["input"]>) => Promise<Answered<M>>;
  /** The answers of a stream, as far as they are taken. */
  readonly stream: <M extends DescMethod>(
    method: M,
    requests: readonly MessageInitShape<M["input"]>[],
  ) => AsyncGenerator<Answered<M>>;
  readonly close: () => void;
}

const same = (bytes: Buffer): Buffer => bytes;
const pathOf = (method: DescMethod): string => `/${method.parent.typeName}/${method.name}`;

function encoded<M extends DescMethod>(method: M, request: MessageInitShape<M["input"]>): Buffer {
  return Buffer.from(toBinary(method.input, create<M["input"]>(method.input, request)));
}

function answered<M extends DescMethod>(method: M, bytes: Buffer): Answered<M> {
  return { message: fromBinary(method.output, bytes) as MessageShape<M["output"]>, bytes: bytes.length };
}

/** Connects. */
export function plainClient(address: string): PlainClient {
  const client = new grpc.Client(address, grpc.credentials.createInsecure());
  return {
    call: (method, request) =>
      new Promise((resolve, reject) => {
        client.makeUnaryRequest(pathOf(method), same, same, encoded(method, request), (error, answer) => {
          if (error !== null || answer === undefined) reject(error ?? new Error("no answer"));
          else resolve(answered(method, answer));
        });
      }),

    stream: async function* (method, requests) {
      const call = client.makeBidiStreamRequest(pathOf(method), same, same);
      call.on("error", () => undefined);
      for (const request of requests) call.write(encoded(method, request));
      call.end();
      try {
        for await (const answer of call as AsyncIterable<Buffer>) yield answered(method, answer);
      } finally {
        call.cancel();
      }
    },

    close: () => client.close(),
  };
}
