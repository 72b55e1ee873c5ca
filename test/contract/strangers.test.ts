// What belongs to one user is as good as not there for another, also where both name it in one breath.

import { afterAll, beforeAll, expect, test } from "vitest";
import { ErrorReason } from "../../src/gen/ledger/v1/errors_pb.ts";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { checkDatabase } from "../harness/inspect.ts";
import { newKey, serve, type TestService } from "../harness/service.ts";

let database: TestDatabase;
let service: TestService;

beforeAll(async () => {
  database = await createDatabase();
  service = await serve(database.url);
});

afterAll(async () => {
  await service.close();
  await checkDatabase(database);
  await database[Symbol.asyncDispose]();
});

const usd = { currency: "USD", amount: "10" };
const OWNER = 1n;
const STRANGER = 2n;

test("a hold that its owner and a stranger name in one batch is found for the owner alone", async () => {
  await service.ledger.topUp({ userId: OWNER, amount: usd, idempotencyKey: newKey() });
  const { hold } = await service.ledger.placeHold({ userId: OWNER, amount: usd, idempotencyKey: newKey() });
  const holdId = hold?.id ?? 0n;
  const writes = [
    { write: { case: "captureHold" as const, value: { userId: OWNER, holdId, amount: { ...usd, amount: "1" } } } },
    { write: { case: "releaseHold" as const, value: { userId: STRANGER, holdId } } },
  ];
  const { results } = await service.ledger.batchWrite({ atomic: true, idempotencyKey: newKey(), writes });
  expect(results).toMatchObject([ErrorReason.NOT_TRIED, ErrorReason.HOLD_NOT_FOUND].map((reason) => ({ result: { value: { reason, stored: true } } })));
});

test("a transaction that its owner and a stranger name in one batch is found for the owner alone", async () => {
  await service.ledger.topUp({ userId: OWNER, amount: usd, idempotencyKey: newKey() });
  const { transaction } = await service.ledger.deduct({ userId: OWNER, amount: usd, idempotencyKey: newKey() });
  const transactionId = transaction?.id ?? 0n;
  const writes = [
    { write: { case: "refund" as const, value: { userId: OWNER, transactionId, amount: { ...usd, amount: "1" } } } },
    { write: { case: "refund" as const, value: { userId: STRANGER, transactionId } } },
  ];
  const { results } = await service.ledger.batchWrite({ atomic: true, idempotencyKey: newKey(), writes });
  expect(results).toMatchObject([ErrorReason.NOT_TRIED, ErrorReason.TRANSACTION_NOT_FOUND].map((reason) => ({ result: { value: { reason, stored: true } } })));
});
