// Bytes as the body of a call, by each protocol at its door; and how the call was answered, whatever comes back.

import { connect, constants, type ClientHttp2Session, type IncomingHttpHeaders } from "node:http2";
import { fromBinary, type DescMethod } from "@bufbuild/protobuf";
import { Code } from "@connectrpc/connect";
import { ErrorInfoSchema } from "../../src/gen/google/rpc/error_details_pb.ts";
import { StatusSchema } from "../../src/gen/google/rpc/status_pb.ts";

const { NGHTTP2_CANCEL } = constants;

/** How a call was answered. */
export interface Answer {
  /** As Connect writes it, such as `invalid_argument`; `ok`. */
  readonly code: string;
  /** Of each ErrorInfo that it has. */
  readonly reasons: readonly string[];
  /** All bytes of the answer, in which an INTERNAL in a result would be found. */
  readonly body: Buffer;
}

/** The protocols, and what their bodies are made of. */
export const protocols = ["grpc", "grpc-web", "connect", "connect-json"] as const;
export type Protocol = (typeof protocols)[number];

/** After so long a call counts as one that isn't answered: no deadline is nearly as long. */
const ANSWER_LIMIT_MS = 60_000;

const codes = new Map(
  Object.entries(Code).flatMap(([name, number]): [number, string][] =>
    typeof number === "number" ? [[number, name.replaceAll(/(?<=[a-z])(?=[A-Z])/g, "_").toLowerCase()]] : [],
  ),
);

/** Calls at both doors of an instance. */
export class Doors {
  readonly #session: ClientHttp2Session;
  readonly #httpAddress: string;

  constructor({ grpcAddress, httpAddress }: { readonly grpcAddress: string; readonly httpAddress: string }) {
    this.#session = connect(`http://${grpcAddress}`);
    this.#session.on("error", () => undefined);
    this.#httpAddress = httpAddress;
  }

  close(): void {
    this.#session.close();
  }

  /** Calls a method with these messages; rejects where it isn't answered as the protocol has it. */
  call(protocol: Protocol, method: DescMethod, messages: readonly Buffer[], timeoutMs: number): Promise<Answer> {
    const path = `/${method.parent.typeName}/${method.name}`;
    const isUnary = method.methodKind === "unary";
    switch (protocol) {
      case "grpc":
        return this.#grpc(path, enveloped(messages), timeoutMs, path === "/grpc.health.v1.Health/Watch");
      case "grpc-web":
        return this.#grpcWeb(path, enveloped(messages), timeoutMs);
      default:
        return isUnary
          ? this.#connect(path, `application/${protocol === "connect" ? "proto" : "json"}`, messages[0] ?? Buffer.alloc(0), timeoutMs)
          : this.#connectStream(path, `application/connect+${protocol === "connect" ? "proto" : "json"}`, enveloped(messages), timeoutMs);
    }
  }

  /** `leaves` at the first message: the health protocol's watch goes on beyond its deadline, until its caller is gone. */
  async #grpc(path: string, body: Buffer, timeoutMs: number, leaves: boolean): Promise<Answer> {
    const headers = { ":method": "POST", ":path": path, "content-type": "application/grpc", te: "trailers" };
    const stream = this.#session.request({ ...headers, "grpc-timeout": `${timeoutMs}m` });
    let status: IncomingHttpHeaders = {};
    const chunks: Buffer[] = [];
    stream.on("response", (found) => (status = found));
    stream.on("trailers", (found) => (status = { ...status, ...found }));
    stream.on("data", (chunk: Buffer) => chunks.push(chunk));
    if (leaves) stream.once("data", () => ((status = { "grpc-status": "0" }), stream.close(NGHTTP2_CANCEL)));
    stream.end(body);
    await new Promise<void>((resolve, reject) => {
      stream.once("end", resolve).once("close", resolve).once("error", reject);
      stream.setTimeout(ANSWER_LIMIT_MS, () => stream.destroy(new Error("there is no answer")));
    });
    return statusOf(status["grpc-status"], String(status["grpc-status-details-bin"] ?? ""), Buffer.concat(chunks));
  }

  async #grpcWeb(path: string, body: Buffer, timeoutMs: number): Promise<Answer> {
    const headers = { "content-type": "application/grpc-web+proto", "grpc-timeout": `${timeoutMs}m` };
    const response = await this.#post(path, headers, body);
    const bytes = Buffer.from(await response.arrayBuffer());
    const status = response.headers.get("grpc-status");
    if (status !== null) return statusOf(status, response.headers.get("grpc-status-details-bin") ?? "", bytes);
    const last = envelopesOf(bytes).find(({ flags }) => (flags & 128) !== 0);
    if (last === undefined) throw new Error(`HTTP ${response.status} without trailers`);
    const lines = last.content.toString().split("\r\n").map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 1).trim()] as const);
    const trailers = new Map(lines);
    return statusOf(trailers.get("grpc-status"), trailers.get("grpc-status-details-bin") ?? "", bytes);
  }

  async #connect(path: string, type: string, body: Buffer, timeoutMs: number): Promise<Answer> {
    const response = await this.#post(path, { "content-type": type, "connect-timeout-ms": String(timeoutMs) }, body);
    const bytes = Buffer.from(await response.arrayBuffer());
    if (response.status === 200) return { code: "ok", reasons: [], body: bytes };
    return errorOf(JSON.parse(bytes.toString()), bytes);
  }

  async #connectStream(path: string, type: string, body: Buffer, timeoutMs: number): Promise<Answer> {
    const response = await this.#post(path, { "content-type": type, "connect-timeout-ms": String(timeoutMs) }, body);
    const bytes = Buffer.from(await response.arrayBuffer());
    const last = envelopesOf(bytes).find(({ flags }) => (flags & 2) !== 0);
    if (last === undefined) throw new Error(`HTTP ${response.status}, and the stream has no end`);
    const { error } = JSON.parse(last.content.toString()) as { readonly error?: unknown };
    return error === undefined ? { code: "ok", reasons: [], body: bytes } : errorOf(error, bytes);
  }

  #post(path: string, headers: Readonly<Record<string, string>>, body: Buffer): Promise<Response> {
    const signal = AbortSignal.timeout(ANSWER_LIMIT_MS);
    return fetch(`http://${this.#httpAddress}${path}`, { method: "POST", headers, body: new Uint8Array(body), signal });
  }
}

function enveloped(messages: readonly Buffer[]): Buffer {
  return Buffer.concat(
    messages.flatMap((message) => {
      const prefix = Buffer.alloc(5);
      prefix.writeUInt32BE(message.length, 1);
      return [prefix, message];
    }),
  );
}

function envelopesOf(bytes: Buffer): readonly { readonly flags: number; readonly content: Buffer }[] {
  const found = [];
  for (let at = 0; at + 5 <= bytes.length; ) {
    const end = at + 5 + bytes.readUInt32BE(at + 1);
    found.push({ flags: bytes[at] ?? 0, content: bytes.subarray(at + 5, end) });
    at = end;
  }
  return found;
}

function statusOf(status: unknown, details: string, body: Buffer): Answer {
  const number = Number(status ?? Number.NaN);
  if (number === 0) return { code: "ok", reasons: [], body };
  const code = codes.get(number);
  if (code === undefined) throw new Error(`the status is ${String(status)}`);
  const infos = fromBinary(StatusSchema, Buffer.from(details, "base64")).details.filter(({ typeUrl }) => typeUrl.endsWith(ErrorInfoSchema.typeName));
  return { code, reasons: infos.map(({ value }) => fromBinary(ErrorInfoSchema, value).reason), body };
}

function errorOf(error: unknown, body: Buffer): Answer {
  const { code, details = [] } = error as { readonly code: string; readonly details?: readonly { readonly type: string; readonly value: string }[] };
  const infos = details.filter(({ type }) => type === ErrorInfoSchema.typeName);
  return { code, reasons: infos.map(({ value }) => fromBinary(ErrorInfoSchema, Buffer.from(value, "base64")).reason), body };
}
