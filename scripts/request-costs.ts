// What requests cost until they are admitted, the worst of each kind of field beside a lawful batch of the same size:
// to be decompressed, counted, built and checked. Prints the comparison.
//   npm run costs
//
// Its young generation is larger than all that a request makes, so that nothing is collected before it is counted.

import { gzipSync } from "node:zlib";
import { create, toBinary, toJsonString, type DescMessage } from "@bufbuild/protobuf";
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import type { z } from "zod";
import { currenciesWith } from "../src/domain/money/currency.ts";
import { CreateJobRequestSchema } from "../src/gen/ledger/v1/job_service_pb.ts";
import {
  BatchGetBalancesRequestSchema,
  BatchWriteRequestSchema,
  ListTransactionsRequestSchema,
  TopUpRequestSchema,
} from "../src/gen/ledger/v1/ledger_service_pb.ts";
import { decoderOf } from "../src/servers/wire/decoder.ts";
import { MessageReader } from "../src/servers/wire/grpc-framing.ts";
import { jsonReaderOf } from "../src/servers/web/json-requests.ts";
import { jobSchemas } from "../src/rpc/jobs/job-requests.ts";
import { readSchemas } from "../src/rpc/ledger/read-requests.ts";
import { mostBytes } from "../src/servers/wire/request-bounds.ts";
import { validate } from "../src/rpc/validation.ts";
import { writeSchemas } from "../src/rpc/ledger/write-requests.ts";

const LIMIT = 4_194_304;
const ROUNDS = 5;
const ROUND_MS = 60;
const MIB = 1024 * 1024;

const currencies = currenciesWith([]);
const schemas = { ...readSchemas(currencies, "RUB"), ...writeSchemas(currencies, "RUB"), ...jobSchemas(currencies, "RUB") };

interface Case {
  readonly title: string;
  readonly bytes: number;
  readonly encoding: "identity" | "gzip" | "json";
  /** Takes the request in, whatever comes of it. */
  readonly admit: () => void;
}

/** A request over gRPC. */
function byGrpc(title: string, desc: DescMessage, schema: z.ZodType, message: Uint8Array, encoding: "identity" | "gzip" = "identity"): Case {
  const body = encoding === "gzip" ? gzipSync(message, { level: 9 }) : message;
  const prefix = Buffer.from([encoding === "gzip" ? 1 : 0, 0, 0, 0, 0]);
  prefix.writeUInt32BE(body.length, 1);
  const sent = Buffer.concat([prefix, body]);
  const decode = decoderOf(desc);
  const admit = (): void => {
    const reader = new MessageReader(encoding, Math.min(LIMIT, mostBytes(desc)));
    reader.push(sent);
    const request = reader.next();
    if (request === undefined) throw new Error(`${title}: the message isn't whole`);
    validate(schema, desc, decode(request));
  };
  return { title, bytes: sent.length, encoding, admit };
}

/** A request in JSON. */
function byJson(title: string, desc: DescMessage, text: string): Case {
  const read = jsonReaderOf(desc);
  const bytes = Buffer.from(text);
  return { title, bytes: bytes.length, encoding: "json", admit: () => void read(bytes) };
}

const record = (number: number, bytes: Uint8Array): Uint8Array => new BinaryWriter().tag(number, WireType.LengthDelimited).bytes(bytes).finish();
const times = (count: number, bytes: Uint8Array): Uint8Array => Buffer.concat(Array.from({ length: count }, () => bytes));
const write = (index: number) => ({
  userId: BigInt(index + 1),
  amount: { currency: "RUB", amount: "12.50" },
  idempotencyKey: `0192f0c1-7a52-7d3e-9a44-${String(index).padStart(12, "0")}`,
});

/** A lawful batch of about so many bytes, in the same encoding. */
function lawful({ bytes, encoding }: Case): Case {
  const one = toBinary(BatchWriteRequestSchema, create(BatchWriteRequestSchema, { writes: [{ write: { case: "topUp", value: write(0) } }] })).length;
  const count = Math.max(1, Math.min(1000, Math.round(bytes / one)));
  const metadata = count < 1000 ? {} : Object.fromEntries(Array.from({ length: Math.min(32, Math.floor(bytes / 1000 / 520)) }, (_, key) => [`key${key}`, "v".repeat(500)]));
  const writes = Array.from({ length: count }, (_, index) => ({ write: { case: "topUp" as const, value: { ...write(index), metadata } } }));
  const batch = create(BatchWriteRequestSchema, { writes });
  const title = "a lawful batch";
  if (encoding === "json") return byJson(title, BatchWriteRequestSchema, toJsonString(BatchWriteRequestSchema, batch));
  return byGrpc(title, BatchWriteRequestSchema, schemas.batch, toBinary(BatchWriteRequestSchema, batch), encoding);
}

const ids = record(1, new Uint8Array(200_000).fill(1));
const emptyWrites = times(1_000_000, Buffer.from([0x0a, 0]));
const types = record(3, new Uint8Array(200_000).fill(0x7f));
const entries = times(30_000, record(TopUpRequestSchema.field.metadata.number, Buffer.from("0a016b120176", "hex")));
const repeats = times(50_000, record(TopUpRequestSchema.field.amount.number, new Uint8Array()));
const unknown = times(60_000, new BinaryWriter().tag(77, WireType.Varint).uint32(1).finish());
const values = record(CreateJobRequestSchema.field.parameters.number, times(60_000, record(1, Buffer.from("0a016b12020801", "hex"))));
const text = record(TopUpRequestSchema.field.description.number, new Uint8Array(200_000).fill(0x61));
const wrongWrites = times(1000, record(1, record(1, new Uint8Array())));

const worst: readonly Case[] = [
  byGrpc("numbers of a list, packed", BatchGetBalancesRequestSchema, schemas.batchGetBalances, ids),
  byGrpc("numbers of a list, packed, gzip", BatchGetBalancesRequestSchema, schemas.batchGetBalances, record(1, new Uint8Array(100_000).fill(1)), "gzip"),
  byGrpc("messages of a list, empty", BatchWriteRequestSchema, schemas.batch, emptyWrites),
  byGrpc("messages of a list, empty, gzip", BatchWriteRequestSchema, schemas.batch, emptyWrites, "gzip"),
  byGrpc("messages of a list, each wrong", BatchWriteRequestSchema, schemas.batch, wrongWrites),
  byGrpc("enum values, unknown", ListTransactionsRequestSchema, schemas.listTransactions, types),
  byGrpc("entries of a map", TopUpRequestSchema, schemas.topUp, entries),
  byGrpc("a message, again and again", TopUpRequestSchema, schemas.topUp, repeats),
  byGrpc("fields that nobody knows", TopUpRequestSchema, schemas.topUp, unknown),
  byGrpc("values of a Struct", CreateJobRequestSchema, schemas.createJob, values),
  byGrpc("a text", TopUpRequestSchema, schemas.topUp, text),
  byJson("JSON: a number of digits", BatchWriteRequestSchema, `{"writes":${"9".repeat(1_000_000)}}`),
  byJson("JSON: empty messages", BatchWriteRequestSchema, `{"writes":[${"{},".repeat(300_000)}{}]}`),
  byJson("JSON: names that nobody knows", TopUpRequestSchema, `{${Array.from({ length: 20_000 }, (_, index) => `"x${index}":1`).join(",")}}`),
  byJson("JSON: a text of escapes", TopUpRequestSchema, `{"description":"${"\\u0061".repeat(100_000)}"}`),
  byJson("JSON: nested lists", BatchWriteRequestSchema, `{"writes":${"[".repeat(100_000)}`),
];

/** The CPU of a request, in microseconds: the least of some rounds. */
function cpuOf(admit: () => void): number {
  const rounds = Array.from({ length: ROUNDS }, () => {
    const began = process.cpuUsage();
    const end = performance.now() + ROUND_MS;
    let count = 0;
    do attempt(admit);
    while (((count += 1), performance.now() < end));
    const { user, system } = process.cpuUsage(began);
    return (user + system) / count;
  });
  return Math.min(...rounds);
}

/** The memory that a request takes, in MiB. */
function memoryOf(admit: () => void): number {
  globalThis.gc?.();
  const before = process.memoryUsage();
  attempt(admit);
  const after = process.memoryUsage();
  return Math.max(0, after.heapUsed + after.external - before.heapUsed - before.external) / MIB;
}

function attempt(admit: () => void): void {
  try {
    admit();
  } catch {
    // Nearly all of them are refused: what that costs is what is measured.
  }
}

const header = ["the worst of", "bytes", "µs", "µs, lawful", "times", "MiB", "MiB, lawful"];
const rows = worst.map((one) => {
  const fair = lawful(one);
  const [cpu, fairCpu] = [cpuOf(one.admit), cpuOf(fair.admit)];
  const [memory, fairMemory] = [memoryOf(one.admit), memoryOf(fair.admit)];
  return [one.title, `${one.bytes}`, cpu.toFixed(0), fairCpu.toFixed(0), (cpu / fairCpu).toFixed(2), memory.toFixed(2), fairMemory.toFixed(2)];
});
const all = [header, ...rows];
const widths = header.map((_, column) => Math.max(...all.map((row) => row[column]?.length ?? 0)));
const lineOf = (row: readonly string[]): string =>
  row.map((cell, column) => (column === 0 ? cell.padEnd(widths[0] ?? 0) : cell.padStart(widths[column] ?? 0))).join("  ");
process.stdout.write(`${all.map(lineOf).join("\n")}\n`);
