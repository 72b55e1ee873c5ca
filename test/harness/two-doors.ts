// Any method by its descriptor, at the gRPC door and as JSON at the web port: its answer (of a watch, the first
// message; of another stream, the last one), or why it failed.

import {
  create,
  fromJson,
  toJson,
  type DescMessage,
  type DescMethod,
  type JsonObject,
  type JsonValue,
  type Message,
} from "@bufbuild/protobuf";
import { DurationSchema, TimestampSchema } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createContextValues, type Transport } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { endStreamFlag, endStreamFromJson, errorFromJson } from "@connectrpc/connect/protocol-connect";
import { RefusalSchema } from "../../src/gen/ledger/v1/errors_pb.ts";
import { jsonTextOf, type Style } from "./json.ts";
import { describeFailure } from "./service.ts";

/** What a call came to. */
export interface Answered {
  /** Undefined: it failed, or it is a stream that has said nothing. */
  readonly message: Message | undefined;
  /**
   * What must be the same at both doors: all of the answer that doesn't come from clocks or chance, or the failure.
   */
  readonly told: unknown;
}

/** Where an instance listens. */
interface Addresses {
  readonly grpcAddress: string;
  readonly httpAddress: string;
}

/** Calls at both doors of an instance. */
export class TwoDoors {
  readonly #transport: Transport;
  readonly #httpAddress: string;

  constructor({ grpcAddress, httpAddress }: Addresses) {
    this.#transport = createGrpcTransport({ baseUrl: `http://${grpcAddress}` });
    this.#httpAddress = httpAddress;
  }

  /** Calls by gRPC. */
  async byGrpc(method: DescMethod, message: Message): Promise<Answered> {
    try {
      return answered(method.output, await this.#message(method, message));
    } catch (error) {
      return failed(error);
    }
  }

  /** Calls with a message, as JSON written in a style. */
  byJson(method: DescMethod, message: Message, style: Style): Promise<Answered> {
    return this.byText(method, jsonTextOf(method.input, message, style));
  }

  /** Calls with a text as the body. */
  async byText(method: DescMethod, text: string): Promise<Answered> {
    const url = `http://${this.#httpAddress}/${method.parent.typeName}/${method.name}`;
    try {
      if (method.methodKind !== "unary")
        return answered(method.output, await tellingOne(method, streamFrom(url, method, text)));
      const response = await fetch(url, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: text,
      });
      const json = (await response.json()) as JsonValue;
      if (response.status !== 200)
        throw errorFromJson(json, undefined, new ConnectError("there is no error", Code.Unknown));
      return answered(method.output, fromJson(method.output, json));
    } catch (error) {
      return failed(error);
    }
  }

  async #message(method: DescMethod, message: Message): Promise<Message | undefined> {
    if (method.methodKind === "unary")
      return (await this.#transport.unary(method as never, undefined, undefined, undefined, message)).message;
    const gone = new AbortController();
    const requests = (async function* () {
      yield await Promise.resolve(message);
    })();
    const headers = isWatch(method) ? { "grpc-timeout": `${DEADLINE_MS}m` } : {};
    const values = createContextValues();
    const stream = await this.#transport.stream(method as never, gone.signal, undefined, headers, requests, values);
    const told = await tellingOne(method, stream.message);
    gone.abort();
    return told;
  }
}

function isWatch({ name }: DescMethod): boolean {
  return name.startsWith("Watch");
}

/** The first message of a stream that goes on and on, the last one of another. */
async function tellingOne(method: DescMethod, messages: AsyncIterable<Message>): Promise<Message | undefined> {
  let last: Message | undefined;
  for await (const message of messages) {
    last = message;
    if (isWatch(method)) break;
  }
  return last;
}

/** A stream in Connect's envelopes. */
async function* streamFrom(url: string, method: DescMethod, text: string): AsyncGenerator<Message> {
  const timeout = isWatch(method) ? { "connect-timeout-ms": `${DEADLINE_MS}` } : undefined;
  const headers = { "content-type": "application/connect+json", ...timeout };
  const body = Buffer.from(text);
  const prefix = Buffer.alloc(PREFIX);
  prefix.writeUInt32BE(body.length, 1);
  const response = await fetch(url, { method: "POST", headers, body: Buffer.concat([prefix, body]) });
  let bytes = Buffer.alloc(0);
  for await (const chunk of response.body ?? []) {
    bytes = Buffer.concat([bytes, chunk]);
    while (bytes.length >= PREFIX && bytes.length >= PREFIX + bytes.readUInt32BE(1)) {
      const end = PREFIX + bytes.readUInt32BE(1);
      const message = bytes.subarray(PREFIX, end);
      if (bytes[0] !== endStreamFlag) {
        yield fromJson(method.output, JSON.parse(message.toString()) as JsonValue);
      } else {
        const { error } = endStreamFromJson(message);
        if (error !== undefined) throw error;
        return;
      }
      bytes = bytes.subarray(end);
    }
  }
  throw new Error(`the stream was cut off: ${response.status}`);
}

function answered(desc: DescMessage, message: Message | undefined): Answered {
  return { message, told: message === undefined ? "nothing" : { ok: steady(desc, toJson(desc, message as never)) } };
}

function failed(error: unknown): Answered {
  const { code, reason, metadata, fields } = describeFailure(error);
  return {
    message: undefined,
    told: {
      failed: reason,
      code,
      fields,
      metadata: Object.fromEntries(Object.entries(metadata).filter(([name]) => !name.endsWith("_time"))),
    },
  };
}

/** Drawn by chance, or made of what was. */
const drawn = new Set(["group_id", "position"]);
/** A stream that says nothing is ended by its caller's deadline. */
const DEADLINE_MS = 1000;
/** Before each message of a stream. */
const PREFIX = 5;

/** An answer without times and what is drawn by chance. */
function steady(desc: DescMessage, json: JsonValue): JsonValue {
  if (desc.typeName.startsWith("google.protobuf.")) return json;
  const entries = Object.entries(json as JsonObject).flatMap(([name, value]): [string, JsonValue][] => {
    const field = desc.fields.find((one) => one.jsonName === name);
    if (field === undefined || drawn.has(field.name)) return [];
    const { message } = field;
    if (message === TimestampSchema || message === DurationSchema) return [];
    // What a refusal tells has times among it.
    if (desc === RefusalSchema && (name === "message" || name === "metadata")) return [];
    if (message === undefined || field.fieldKind === "map") return [[name, value]];
    return [[name, Array.isArray(value) ? value.map((one) => steady(message, one)) : steady(message, value)]];
  });
  return Object.fromEntries(entries);
}

/** A message of a type that is known by its descriptor alone. */
export function messageOf(desc: DescMessage, init: Readonly<Record<string, unknown>>): Message {
  return create(desc, init as never);
}
