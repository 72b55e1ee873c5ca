// Bad input: refused before anything is done, with the reason, and every wrong field by its name.

import { connect } from "node:http2";
import { Code } from "@connectrpc/connect";
import { fromBinary } from "@bufbuild/protobuf";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { ErrorInfoSchema } from "../../src/gen/google/rpc/error_details_pb.ts";
import { StatusSchema } from "../../src/gen/google/rpc/status_pb.ts";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { patient } from "../harness/patience.ts";
import { failureOf, newKey, serve, type TestService } from "../harness/service.ts";

let database: TestDatabase;
let service: TestService;

beforeAll(async () => {
  database = await createDatabase();
  service = await serve(database.url);
});

afterAll(async () => {
  const written = await database.query("SELECT FROM ledgerd.transactions LIMIT 1");
  expect(written, "nothing malformed wrote anything").toEqual([]);
  await service.close();
  await database[Symbol.asyncDispose]();
});

const good = () => ({ userId: 1n, amount: { currency: "RUB", amount: "1.00" }, idempotencyKey: newKey() });

describe("a top-up is refused for", () => {
  test.each([
    ["more fraction digits than the currency has", { amount: { currency: "RUB", amount: "0.001" } }, "amount.amount"],
    ["a fraction of a currency that has none", { amount: { currency: "JPY", amount: "0.5" } }, "amount.amount"],
    ["a negative amount", { amount: { amount: "-5" } }, "amount.amount"],
    ["a zero amount", { amount: { amount: "0.00" } }, "amount.amount"],
    ["an exponent", { amount: { amount: "1e3" } }, "amount.amount"],
    ["an amount beyond the bound", { amount: { amount: "99999999999999999999.99" } }, "amount.amount"],
    ["an amount of 200,000 digits", { amount: { amount: "9".repeat(200_000) } }, "amount.amount"],
    ["an empty amount", { amount: { amount: "" } }, "amount.amount"],
    ["no amount", { amount: undefined }, "amount"],
    ["a currency in lower case", { amount: { currency: "rub", amount: "1" } }, "amount.currency"],
    ["a currency that nobody knows", { amount: { currency: "XYZ", amount: "1" } }, "amount.currency"],
    ["user 0", { userId: 0n }, "user_id"],
    ["a negative user", { userId: -1n }, "user_id"],
    ["no key", { idempotencyKey: "" }, "idempotency_key"],
    ["a key of 5,000 characters", { idempotencyKey: "k".repeat(5000) }, "idempotency_key"],
    ["a key with a line break", { idempotencyKey: "a\nb" }, "idempotency_key"],
    ["a key with U+0000", { idempotencyKey: "a\0b" }, "idempotency_key"],
    ["a description of 200 KiB", { description: "d".repeat(200 * 1024) }, "description"],
    ["a description with U+0000", { description: "a\0b" }, "description"],
    ["metadata with too many entries", { metadata: Object.fromEntries(Array.from({ length: 33 }, (_, n) => [`k${n}`, ""])) }, "metadata"],
    ["a metadata key with a space", { metadata: { "a b": "" } }, 'metadata["a b"]'],
    ["a metadata key of 65 letters", { metadata: { ["k".repeat(65)]: "" } }, `metadata["${"k".repeat(64)}"]`],
    ["a metadata value that is too long", { metadata: { a: "v".repeat(513) } }, 'metadata["a"]'],
    ["a negative expected sequence", { expectedSequence: -1n }, "expected_sequence"],
    ["a unique reference without a reference", { uniqueReference: true }, "reference"],
  ])("%s", async (_name, change, field) => {
    const failure = await failureOf(service.ledger.topUp({ ...good(), ...change }));
    expect(failure).toMatchObject({ code: Code.InvalidArgument, reason: "INVALID_REQUEST", fields: [field] });
    expect(failure.message).toContain(field);
  });

  test("all of it at once", async () => {
    const failure = await failureOf(service.ledger.topUp({ userId: 0n, amount: { currency: "rub", amount: "x" }, description: "\0", expectedSequence: -1n }));
    expect(failure.fields.toSorted()).toEqual(["amount.currency", "description", "expected_sequence", "idempotency_key", "user_id"]);
  });
});

describe("other calls are refused for", () => {
  test("what is wrong with them", async () => {
    const { ledger, admin } = service;
    const key = newKey();
    const cases: [Promise<unknown>, string[]][] = [
      [ledger.placeHold({ ...good(), expiresIn: { seconds: 0n } }), ["expires_in"]],
      [ledger.placeHold({ ...good(), expiresIn: { seconds: 91n * 86_400n } }), ["expires_in"]],
      [ledger.placeHold({ ...good(), expiresIn: { seconds: -5n } }), ["expires_in"]],
      [ledger.transfer({ ...good(), toUserId: 0n }), ["to_user_id"]],
      [ledger.captureHold({ userId: 1n, holdId: 0n, idempotencyKey: key }), ["hold_id"]],
      [ledger.refund({ userId: 1n, transactionId: -4n, idempotencyKey: key }), ["transaction_id"]],
      [ledger.adjust({ ...good(), reason: "" }), ["reason"]],
      [ledger.adjust({ ...good(), amount: { amount: "0" }, reason: "r" }), ["amount.amount"]],
      [admin.setCreditLimit({ userId: 1n, creditLimit: { amount: "-1" }, idempotencyKey: key }), ["credit_limit.amount"]],
      [ledger.getBalance({ userId: 1n, currency: "nope" }), ["currency"]],
      [ledger.getBalance({ userId: 1n, asOf: { case: "asOfSequence", value: -1n } }), ["as_of_sequence"]],
      [ledger.batchGetBalances({ userIds: [] }), ["user_ids"]],
      [ledger.batchGetBalances({ userIds: [1n, 0n] }), ["user_ids[1]"]],
      [ledger.getTransaction({}), ["name"]],
      [ledger.getTransaction({ name: { case: "accountSequence", value: { userId: 1n, sequence: 0n } } }), ["account_sequence.sequence"]],
      [ledger.listTransactions({ userId: 1n, types: [99 as never] }), ["types[0]"]],
      [ledger.listTransactions({ userId: 1n, order: 99 as never }), ["order"]],
      [ledger.listHolds({ userId: 1n, state: 99 as never }), ["state"]],
      [ledger.getOutcome({ userId: 1n, idempotencyKey: "" }), ["idempotency_key"]],
    ];
    for (const [call, fields] of cases) expect(await failureOf(call)).toMatchObject({ code: Code.InvalidArgument, reason: "INVALID_REQUEST", fields });
  });

  test("a position that no feed gave", async () => {
    const watch = async (position: string) => {
      for await (const _ of service.ledger.watchTransactions({ position }, patient)) break;
    };
    expect(await failureOf(watch("nonsense"))).toMatchObject({ code: Code.InvalidArgument, reason: "INVALID_REQUEST", fields: ["position"] });
    expect(await failureOf(watch("17.0123456789abcdef"))).toMatchObject({ code: Code.OutOfRange, reason: "FEED_POSITION_LOST" });
  });
});

describe("a batch is refused for", () => {
  test("what is wrong with any of its writes, and nothing of it is tried", async () => {
    const failure = await failureOf(
      service.ledger.batchWrite({
        writes: [
          { write: { case: "topUp", value: good() } },
          { write: { case: "deduct", value: { ...good(), userId: 0n } } },
          {},
          { write: { case: "transfer", value: { ...good(), toUserId: 2n, amount: { amount: "x" } } } },
          { write: { case: "topUp", value: { ...good(), validateOnly: true } } },
        ],
      }),
    );
    expect(failure).toMatchObject({ reason: "INVALID_REQUEST", fields: ["writes[1].deduct.user_id", "writes[2]", "writes[3].transfer.amount.amount", "writes[4].top_up.validate_only"] });
  });

  test("its size, and keys in the wrong place", async () => {
    const topUp = (idempotencyKey: string) => ({ write: { case: "topUp" as const, value: { ...good(), idempotencyKey } } });
    const refused = async (request: object) => (await failureOf(service.ledger.batchWrite(request))).fields;
    expect(await refused({ writes: [] })).toEqual(["writes"]);
    expect(await refused({ writes: Array.from({ length: 1001 }, (_, n) => topUp(`${n}`)) })).toEqual(["writes"]);
    expect(await refused({ writes: [topUp("a")], idempotencyKey: "b" })).toEqual(["idempotency_key"]);
    expect(await refused({ writes: [topUp("a")], idempotencyKey: "b", atomic: true })).toEqual(["writes[0].top_up.idempotency_key"]);
    expect(await refused({ writes: [topUp("")], atomic: true })).toEqual(["idempotency_key"]);
  });
});

describe("bytes that are no message", () => {
  /** Sends a body as a gRPC message to Deduct, and answers the status that it gets. */
  async function sendRaw(body: Buffer): Promise<{ code: number; reason: string | undefined }> {
    const session = connect(`http://${service.grpcAddress}`);
    const stream = session.request({ ":method": "POST", ":path": "/ledger.v1.LedgerService/Deduct", "content-type": "application/grpc", te: "trailers" });
    const prefix = Buffer.alloc(5);
    prefix.writeUInt32BE(body.length, 1);
    stream.end(Buffer.concat([prefix, body]));
    const headers = await new Promise<Record<string, unknown>>((resolve, reject) => {
      stream.on("error", reject);
      stream.on("response", (found) => found["grpc-status"] !== undefined && resolve(found));
      stream.on("trailers", resolve);
      stream.resume();
    });
    session.close();
    const status = fromBinary(StatusSchema, Buffer.from(String(headers["grpc-status-details-bin"]), "base64"));
    const info = status.details.find(({ typeUrl }) => typeUrl.endsWith("google.rpc.ErrorInfo"));
    return { code: Number(headers["grpc-status"]), reason: info === undefined ? undefined : fromBinary(ErrorInfoSchema, info.value).reason };
  }

  test.each([
    ["a tag of a wire type that doesn't exist", Buffer.from([0x0f, 0x01])],
    ["a field that ends too early", Buffer.from([0x12, 0x7f, 0x01])],
    ["a number that never ends", Buffer.alloc(20, 0xff)],
    ["text that isn't UTF-8", Buffer.from([0x1a, 0x02, 0xff, 0xfe])],
  ])("are an invalid request: %s", async (_name, body) => {
    expect(await sendRaw(body)).toEqual({ code: Code.InvalidArgument, reason: "INVALID_REQUEST" });
  });

  test("are refused unread beyond what the fields of their method may hold", async () => {
    // With more than 10 MB to send, Node's own client takes no answer.
    for (const mebibytes of [5, 9]) {
      expect(await failureOf(service.ledger.topUp({ ...good(), description: "d".repeat(mebibytes * 1024 * 1024) }))).toMatchObject({
        code: Code.ResourceExhausted,
        reason: "MESSAGE_TOO_LARGE",
        metadata: { limit_bytes: "262144" },
      });
    }
  });
});
