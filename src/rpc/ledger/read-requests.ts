// The requests that only read: checked, and turned into what the reads take.

import { z } from "zod";
import type { HoldState, TransactionType } from "../../domain/money/account.ts";
import type { Currencies } from "../../domain/money/currency.ts";
import type { AccountSequence, GetBalanceRequest, GetTransactionRequest } from "../../gen/ledger/v1/ledger_service_pb.ts";
import { ListOrder } from "../../gen/ledger/v1/ledger_service_pb.ts";
import type { AsOf } from "../../postgres/reads/balances.ts";
import type { Position } from "../../postgres/feed/feed.ts";
import { stateMessages, typeMessages } from "../answers.ts";
import { pageTokenText } from "../pages.ts";
import { currency, id, idempotencyKey, ids, pageSize, printableText, sequence, timestamp } from "../validation.ts";

/** The schemas of all reads. */
export type ReadSchemas = ReturnType<typeof readSchemas>;

/** The schemas of all reads, for a ledger with these currencies. */
export function readSchemas(currencies: Currencies, defaultCurrency: string) {
  const account = { userId: id, currency: currency(currencies, defaultCurrency) };
  const anyCurrency = currency(currencies, "");
  const page = { pageSize, pageToken: pageTokenText };
  return {
    getBalance: z.object({ ...account, asOf }),
    batchGetBalances: z.object({ userIds: userIds, currency: account.currency, asOf }),
    getOutcome: z.object({ userId: id, idempotencyKey, pageToken: pageTokenText }),
    getHold: z.object({ holdId: id }),
    listHolds: z.object({ userId: id, state: holdState, ...page }),
    getTransaction: transactionName(z.object({ ...account, sequence: sequence.refine((value) => value > 0n, "must be 1 or more") })),
    listTransactions: z
      .object({
        userId: id,
        currency: anyCurrency,
        types: transactionTypes,
        startTime: timestamp.optional(),
        endTime: timestamp.optional(),
        reference: printableText,
        order: z.enum(ListOrder, "must be a known order").transform((order) => (order === ListOrder.OLDEST_FIRST ? ("oldest" as const) : ("newest" as const))),
        ...page,
      })
      .refine(inOrder, mustBeInOrder),
    watchTransactions: z.object({ position, userId: z.bigint().refine((value) => value >= 0n, "must not be negative"), types: transactionTypes }),
    getStatement: z.object({ ...account, startTime: timestamp.optional(), endTime: timestamp.optional(), ...page }).refine(inOrder, mustBeInOrder),
    listBalances: z.object({ currency: anyCurrency, ...page }),
  };
}

const userIds = ids("users");

/** The moment of a read; its violations under the name of the field that was given. */
const asOf = z.custom<GetBalanceRequest["asOf"]>().transform((choice, context): AsOf | undefined => {
  if (choice.case === undefined) return undefined;
  const checked =
    choice.case === "asOfTime"
      ? timestamp.transform((time) => ({ time })).safeParse(choice.value)
      : sequence.transform((count) => ({ sequence: count })).safeParse(choice.value);
  if (checked.success) return checked.data;
  for (const { message } of checked.error.issues) context.addIssue({ code: "custom", path: [choice.case], message });
  return z.NEVER;
});

const typesByMessage = new Map(Object.entries(typeMessages).map(([type, message]) => [message as number, type as TransactionType]));
const statesByMessage = new Map(Object.entries(stateMessages).map(([state, message]) => [message as number, state as HoldState]));

const MOST_TYPES = 100;
const transactionTypes = z.array(z.number()).transform((messages, context): readonly TransactionType[] => {
  const say = (path: PropertyKey[], message: string): void => context.addIssue({ code: "custom", path, message });
  if (messages.length > MOST_TYPES) {
    say([], `must name at most ${MOST_TYPES} types`);
    return z.NEVER;
  }
  return messages.flatMap((message, index) => {
    const type = typesByMessage.get(message);
    if (type === undefined) say([index], "must be a known type");
    return type ?? [];
  });
});

const holdState = z.number().transform((message, context): HoldState | undefined => {
  const state = statesByMessage.get(message);
  if (state === undefined && message !== 0) context.addIssue({ code: "custom", message: "must be a known state" });
  return state;
});

/** `<id>.<first bytes of its hash>`, as `WatchTransactions` sends it. */
const position = z.string().transform((text, context): Position | undefined => {
  if (text === "") return undefined;
  const match = /^(\d{1,18})\.([\da-f]{16})$/.exec(text);
  if (match?.[1] !== undefined && match[2] !== undefined) return { id: BigInt(match[1]), hash: match[2] };
  context.addIssue({ code: "custom", message: "must be a position that WatchTransactions sent, or empty" });
  return z.NEVER;
});

function transactionName(accountSequence: z.ZodType<Pick<AccountSequence, "userId" | "currency" | "sequence">>) {
  return z.custom<GetTransactionRequest>().transform(({ name }, context) => {
    const issue = (path: PropertyKey[], message: string): void => context.addIssue({ code: "custom", path, message });
    if (name.case === undefined) {
      issue(["name"], "must be a transaction_id or an account_sequence");
      return z.NEVER;
    }
    const checked =
      name.case === "transactionId"
        ? id.transform((transactionId) => ({ transactionId })).safeParse(name.value)
        : accountSequence.safeParse(name.value);
    if (checked.success) return checked.data;
    for (const { path, message } of checked.error.issues) issue([name.case, ...path], message);
    return z.NEVER;
  });
}

function inOrder({ startTime, endTime }: { startTime?: bigint | undefined; endTime?: bigint | undefined }): boolean {
  return startTime === undefined || endTime === undefined || startTime <= endTime;
}

const mustBeInOrder = { path: ["endTime"], error: "must not be before start_time" };
