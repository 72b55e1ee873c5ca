// A caller of StreamWrites, who sends when a test says so, and reads when a test says so.

import type { MessageInitShape } from "@bufbuild/protobuf";
import { ErrorReasonSchema } from "../../src/gen/ledger/v1/errors_pb.ts";
import type { StreamWritesRequestSchema, StreamWritesResponse, WriteResult, WriteSchema } from "../../src/gen/ledger/v1/ledger_service_pb.ts";
import type { Clients } from "./service.ts";

type Request = MessageInitShape<typeof StreamWritesRequestSchema>;

/** What is written: its kind, and the request of that. */
export type OneWrite = NonNullable<MessageInitShape<typeof WriteSchema>["write"]>;

/** A stream that is open, until it is ended in one of its ways. */
export class WriteStream {
  readonly #gone = new AbortController();
  readonly #responses: AsyncIterator<StreamWritesResponse>;
  readonly #unsent: Request[] = [];
  #isClosed = false;
  #wake = (): void => undefined;

  constructor({ ledger }: Pick<Clients, "ledger">, headers: Readonly<Record<string, string>> = {}) {
    this.#responses = ledger.streamWrites(this.#requests(), { headers, signal: this.#gone.signal, timeoutMs: 0 })[Symbol.asyncIterator]();
  }

  /** Sends these in one message. */
  send(...writes: readonly OneWrite[]): void {
    this.#unsent.push({ writes: writes.map((write) => ({ write })) });
    this.#wake();
  }

  /** Sends nothing more. */
  close(): void {
    this.#isClosed = true;
    this.#wake();
  }

  /** Leaves at once. */
  cancel(): void {
    this.close();
    this.#gone.abort();
  }

  /** Reads the next message, and answers its results; undefined at the stream's end. */
  async next(): Promise<readonly WriteResult[] | undefined> {
    const { done, value } = await this.#responses.next();
    if (done !== true) return value.results;
    this.close();
    return undefined;
  }

  /** Reads messages until they hold so many results, or to the stream's end. */
  async read(count = Infinity): Promise<readonly WriteResult[]> {
    const results: WriteResult[] = [];
    while (results.length < count) {
      const more = await this.next();
      if (more === undefined) break;
      results.push(...more);
    }
    return results;
  }

  async *#requests(): AsyncGenerator<Request> {
    for (;;) {
      yield* this.#unsent.splice(0);
      if (this.#unsent.length > 0) continue;
      if (this.#isClosed) return;
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
  }
}

/** Sends writes on a stream of their own, in messages of so many, and answers all results. */
export async function streamWrites(clients: Pick<Clients, "ledger">, writes: readonly OneWrite[], perMessage = writes.length): Promise<readonly WriteResult[]> {
  const stream = new WriteStream(clients);
  for (let from = 0; from < writes.length; from += perMessage) stream.send(...writes.slice(from, from + perMessage));
  stream.close();
  return stream.read();
}

/** What a result says in short: whose account is how after it, and of what was not applied the reason. */
export function inShort({ result }: WriteResult): string {
  if (result.case === "refusal") return ErrorReasonSchema.value[result.value.reason]?.localName ?? "";
  const { userId, balance, held, sequence } = result.value?.balance ?? {};
  return `${userId} has ${balance?.amount}, ${held?.amount} held, at ${sequence}${result.value?.replayed === true ? ", replayed" : ""}`;
}
