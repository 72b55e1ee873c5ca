// Callers who cancel thousands of calls: the other calls on their connection go on, those that were there before and
// those that come.

import { once } from "node:events";
import { connect, constants } from "node:http2";
import {
  fromBinary,
  toBinary,
  create,
  type DescMessage,
  type MessageInitShape,
  type MessageShape,
} from "@bufbuild/protobuf";
import * as grpc from "@grpc/grpc-js";
import { afterAll, beforeAll, expect, test } from "vitest";
import { ClaimJobsRequestSchema, ClaimJobsResponseSchema, JobService } from "../../src/gen/ledger/v1/job_service_pb.ts";
import { LedgerService } from "../../src/gen/ledger/v1/ledger_service_pb.ts";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { patient } from "../harness/patience.ts";
import { newKey, serve, type TestService } from "../harness/service.ts";

let database: TestDatabase;
let service: TestService;

beforeAll(async () => {
  database = await createDatabase();
  service = await serve(database.url, { LEDGERD_WAIT_POLL: "20ms" });
});

afterAll(async () => {
  await service.close();
  await database[Symbol.asyncDispose]();
});

/** At most 200 exchanges of a connection are let in. */
const ROUNDS = 14;
const CALLS = 180;
const pathOf = (method: { readonly parent: { readonly typeName: string }; readonly name: string }): string =>
  `/${method.parent.typeName}/${method.name}`;
const claim = (modelId: string) => ({ workerId: "w", modelIds: [modelId], wait: { seconds: 25n } });

/** Ends the wait of the claim that was there from the beginning. */
async function createJob(modelId: string): Promise<void> {
  await service.jobs.createJob({ userId: 1n, modelId, cost: { amount: "0" }, idempotencyKey: newKey() });
}

test("by grpc-js: 2,520 calls are cancelled, in 14 goes", async () => {
  const client = new grpc.Client(service.grpcAddress, grpc.credentials.createInsecure());
  const bytes = (value: Uint8Array): Buffer => Buffer.from(value);
  const options = { deadline: Date.now() + patient.timeoutMs };
  const call = <I extends DescMessage, O extends DescMessage>(
    path: string,
    input: I,
    output: O,
    request: MessageInitShape<I>,
  ): Promise<MessageShape<O>> =>
    new Promise((resolve, reject) => {
      const answered = (error: Error | null, answer?: Buffer): void =>
        answer === undefined ? reject(error ?? new Error("no answer")) : resolve(fromBinary(output, answer));
      client.makeUnaryRequest(
        path,
        bytes,
        (answer) => answer,
        bytes(toBinary(input, create(input, request))),
        new grpc.Metadata(),
        options,
        answered,
      );
    });
  const { getBalance } = LedgerService.method;
  const balance = () => call(pathOf(getBalance), getBalance.input, getBalance.output, { userId: 1n });
  const modelId = newKey();
  const claimed = call(
    pathOf(JobService.method.claimJobs),
    ClaimJobsRequestSchema,
    ClaimJobsResponseSchema,
    claim(modelId),
  );
  for (let round = 0; round < ROUNDS; round++) {
    const streams = Array.from({ length: CALLS }, () =>
      client
        .makeBidiStreamRequest(pathOf(LedgerService.method.streamWrites), bytes, bytes)
        .on("error", () => undefined),
    );
    // Behind them on the connection: when it is answered, they have begun.
    await balance();
    for (const stream of streams) stream.cancel();
    expect((await balance()).balance?.userId).toBe(1n);
  }
  await createJob(modelId);
  expect((await claimed).jobs).toHaveLength(1);
  client.close();
});

test("by Node's own HTTP/2: 2,520 calls are cancelled, in 14 goes", async () => {
  const session = connect(`http://${service.grpcAddress}`);
  const begin = (path: string) =>
    session.request({ ":method": "POST", ":path": path, "content-type": "application/grpc", te: "trailers" });
  const unary = async (path: string, request: Uint8Array): Promise<unknown> => {
    const prefix = Buffer.alloc(5);
    prefix.writeUInt32BE(request.length, 1);
    const stream = begin(path);
    stream.end(Buffer.concat([prefix, request])).resume();
    const [trailers] = (await once(stream, "trailers")) as [Readonly<Record<string, unknown>>];
    return trailers["grpc-status"];
  };
  const { getBalance } = LedgerService.method;
  const balance = () => unary(pathOf(getBalance), toBinary(getBalance.input, create(getBalance.input, { userId: 1n })));
  const modelId = newKey();
  const claimed = unary(
    pathOf(JobService.method.claimJobs),
    toBinary(ClaimJobsRequestSchema, create(ClaimJobsRequestSchema, claim(modelId))),
  );
  for (let round = 0; round < ROUNDS; round++) {
    const streams = Array.from({ length: CALLS }, () => begin(pathOf(getBalance)).on("error", () => undefined));
    await balance();
    for (const stream of streams) stream.close(constants.NGHTTP2_CANCEL);
    expect(await balance()).toBe("0");
  }
  await createJob(modelId);
  expect(await claimed).toBe("0");
  expect(session.destroyed).toBe(false);
  session.close();
});
