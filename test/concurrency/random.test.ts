// Whatever several callers ask for at the same moment, through two instances: the laws hold, and everybody was told the truth.

import { afterAll, beforeAll, expect, test } from "vitest";
import type { CallOptions } from "@connectrpc/connect";
import fc from "fast-check";
import type { BatchWriteResponse } from "../../src/gen/ledger/v1/ledger_service_pb.ts";
import { ErrorReason, ErrorReasonSchema, type Refusal } from "../../src/gen/ledger/v1/errors_pb.ts";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { checkDatabase, readLedger, type StoredLedger } from "../harness/inspect.ts";
import { patient } from "../harness/patience.ts";
import { describeFailure, type Clients, type Failed } from "../harness/service.ts";
import { balancesIn, checkTold, replayOf, type Answer } from "../harness/told.ts";
import { until } from "../harness/until.ts";
import { ask, Known, USERS, type Request } from "./asks.ts";
import { connectToTwo } from "./instances.ts";

const CALLERS = 6;
const RUNS = 25;

const opened = new AsyncDisposableStack();
let database: TestDatabase;
let connections: readonly Clients[];
let lastUser = 0n;

beforeAll(async () => {
  database = opened.use(await createDatabase());
  connections = await connectToTwo(database.url, opened, CALLERS, { LEDGERD_UNITS: "CRD:6", LEDGERD_SWEEP_INTERVAL: "50ms" });
});

afterAll(() => opened.disposeAsync());

/** What a caller was told. */
type Told = { readonly answer: Answer | BatchWriteResponse } | { readonly failed: Failed };

interface Exchange {
  readonly request: Request;
  readonly told: Told;
}

type Call = (request: unknown, options: CallOptions) => Promise<Answer | BatchWriteResponse>;

async function send({ ledger, admin }: Clients, request: Request): Promise<Told> {
  // The request's case is the name of its method, which TypeScript can't follow through the look-up.
  const call = (request.case === "setCreditLimit" ? admin.setCreditLimit : ledger[request.case]) as Call;
  try {
    return { answer: await call(request.value, patient) };
  } catch (error) {
    return { failed: describeFailure(error) };
  }
}

/** The answers to single writes, those in batches too. */
function answersIn(told: Told): readonly Answer[] {
  if ("failed" in told) return [];
  if (!("results" in told.answer)) return [told.answer];
  return told.answer.results.flatMap(({ result }) => (result.case === undefined || result.case === "refusal" ? [] : [result.value]));
}

function refusalsIn(told: Told): readonly Refusal[] {
  if ("failed" in told || !("results" in told.answer)) return [];
  return told.answer.results.flatMap(({ result }) => (result.case === "refusal" ? [result.value] : []));
}

function reasonsIn(told: Told): readonly string[] {
  return "failed" in told ? [told.failed.reason] : refusalsIn(told).map(({ reason }) => ErrorReasonSchema.value[reason]?.localName ?? "");
}

/** Has callers ask for all this at once, each for one thing after the other. */
async function converse(scripts: readonly (readonly Parameters<Known["request"]>[0][])[], known: Known): Promise<readonly Exchange[]> {
  const exchanges: Exchange[] = [];
  const exchange = async (clients: Clients, request: Request): Promise<void> => {
    known.sent.push(request);
    const told = await send(clients, request);
    exchanges.push({ request, told });
    for (const answer of answersIn(told)) known.learn(answer);
  };
  await Promise.all(known.gifts().map((gift, index) => exchange(connections[index % CALLERS] as Clients, gift)));
  await Promise.all(
    scripts.map(async (script, caller) => {
      for (const next of script) {
        const request = known.request(next);
        if (request !== undefined) await exchange(connections[caller] as Clients, request);
      }
    }),
  );
  return exchanges;
}

/** Every refusal is final for its key, or about the key. */
function checkRefusals(exchanges: readonly Exchange[]): void {
  for (const { request, told } of exchanges) {
    if ("failed" in told) {
      const { reason, metadata } = told.failed;
      expect(metadata["stored"], `${reason} of ${request.case}`).toBe(reason === "IDEMPOTENCY_KEY_REUSED" ? undefined : "true");
    }
    for (const { reason, stored } of refusalsIn(told)) expect(stored, `${reason} in a batch`).toBe(reason !== ErrorReason.IDEMPOTENCY_KEY_REUSED);
  }
}

/** What was told as new is what is in the log, each once. */
function checkNews(exchanges: readonly Exchange[], { log }: StoredLedger, users: readonly bigint[]): void {
  const news = exchanges.flatMap(({ told }) => answersIn(told)).filter(({ replayed }) => !replayed);
  const ids = news.flatMap(({ transaction, recipientTransaction }) => [transaction, recipientTransaction].flatMap((row) => row?.id ?? []));
  const written = log.filter(({ userId, type }) => users.includes(userId) && type !== "expiry").map(({ id }) => id);
  expect(ids.toSorted((a, b) => Number(a - b))).toEqual(written);
}

/** Asked again for everything, through whatever instance, all get the same, and nothing changes. */
async function checkReplays(exchanges: readonly Exchange[], before: StoredLedger): Promise<void> {
  const again = await Promise.all(exchanges.map(({ request }, index) => send(connections[index % CALLERS] as Clients, request)));
  const first = exchanges.map(({ told }): Told => ("failed" in told ? told : { answer: replayOf(told.answer) }));
  expect(again).toEqual(first);
  const after = await readLedger(database);
  expect(after.log.length).toBe(before.log.length);
  expect({ accounts: after.accounts, holds: after.holds }).toEqual({ accounts: before.accounts, holds: before.holds });
}

/** All instances tell the balances that are the fold of the log. */
async function checkBalances(ledger: StoredLedger, users: readonly bigint[]): Promise<void> {
  for (const balance of balancesIn(ledger, users)) {
    const name = { userId: balance.userId, currency: balance.balance?.currency ?? "" };
    const told = await Promise.all(connections.slice(0, 2).map((clients) => clients.ledger.getBalance(name)));
    expect(told.map((answer) => answer.balance)).toEqual([balance, balance]);
  }
}

/** Returns once what expires soon has expired: until then, rows of nobody's asking may come. */
async function expired(): Promise<void> {
  const soon = "SELECT FROM ledgerd.holds WHERE state = 'open' AND expires_at < now() + interval '1 minute'";
  await until(async () => (await database.query(soon)).length === 0);
}

test("random requests of several callers at once keep the laws, and all are told what is in the log, again and again", async () => {
  const seen = new Set<string>();
  const scripts = fc.array(fc.array(ask, { minLength: 8, maxLength: 16, size: "max" }), { minLength: CALLERS, maxLength: CALLERS });
  await fc.assert(
    fc.asyncProperty(scripts, async (script) => {
      const known = new Known((lastUser += BigInt(USERS)) + 1n);
      const exchanges = await converse(script, known);
      await expired();
      const ledger = await checkDatabase(database);
      checkTold(ledger, exchanges.flatMap(({ told }) => answersIn(told)));
      checkRefusals(exchanges);
      checkNews(exchanges, ledger, known.users);
      await checkReplays(exchanges, ledger);
      await checkBalances(ledger, known.users);
      for (const { type } of ledger.log) seen.add(type);
      for (const { told } of exchanges) for (const reason of reasonsIn(told)) seen.add(reason);
    }),
    // What is asked is the same in each try, what becomes of it isn't: there is nothing to shrink.
    { numRuns: RUNS, endOnFailure: true },
  );
  // A property that never met a case says nothing about it.
  expect([...seen].toSorted()).toEqual(EVERYTHING.split(" ").toSorted());
});

const EVERYTHING =
  "topup deduction refund transfer_out transfer_in hold capture release expiry adjustment credit_limit " +
  "IDEMPOTENCY_KEY_REUSED SEQUENCE_MISMATCH REFERENCE_ALREADY_USED CURRENCY_MISMATCH SAME_ACCOUNT TRANSACTION_NOT_FOUND REFUND_EXCEEDS_ORIGINAL " +
  "HOLD_NOT_FOUND HOLD_ALREADY_CAPTURED HOLD_ALREADY_RELEASED HOLD_EXPIRED CAPTURE_EXCEEDS_HOLD INSUFFICIENT_FUNDS NOT_TRIED";
