// The handlers of AdminService that verify and rebuild: the work's events as messages.

import type { MessageInitShape } from "@bufbuild/protobuf";
import { VerificationKind, type DifferenceSchema, type RebuildBalancesRequest, type RebuildBalancesResponseSchema, type VerificationStatusSchema, type VerifyLedgerRequest, type VerifyLedgerResponseSchema } from "../../gen/ledger/v1/admin_service_pb.ts";
import type { Finding } from "../../verification/finding.ts";
import type { Proofs } from "../../verification/requested.ts";
import type { RebuildEvent } from "../../verification/rebuild.ts";
import type { VerifyEvent } from "../../verification/events.ts";
import type { Verification } from "../../verification/sql/verifications.ts";
import { cut, time } from "../answers.ts";
import { errorOf } from "../errors.ts";
import type { StreamCall } from "../call.ts";

/** The handlers of `VerifyLedger` and `RebuildBalances`. */
export function proofHandlers(proofs: Proofs) {
  return {
    verifyLedger: async function* (_request: VerifyLedgerRequest, { signal }: StreamCall): AsyncGenerator<MessageInitShape<typeof VerifyLedgerResponseSchema>> {
      for await (const event of begun(proofs.verify(signal))) yield { event: verifyEvent(event) };
    },

    rebuildBalances: async function* ({ trustLog }: RebuildBalancesRequest, { signal }: StreamCall): AsyncGenerator<MessageInitShape<typeof RebuildBalancesResponseSchema>> {
      for await (const event of begun(proofs.rebuild(trustLog, signal))) yield { event: rebuildEvent(event) };
    },
  };
}

function begun<T>(work: AsyncGenerator<T, void> | undefined): AsyncGenerator<T, void> {
  if (work === undefined) throw errorOf("OVERLOADED", "this process verifies or rebuilds already; it does one of these at a time");
  return work;
}

/** The last verification of a kind, as its message. */
export function verificationStatus({ kind, finishedAt, rows, accounts, differences, lastId }: Verification): MessageInitShape<typeof VerificationStatusSchema> {
  return {
    kind: kind === "background" ? VerificationKind.BACKGROUND : VerificationKind.REQUESTED,
    ...(finishedAt === undefined ? {} : { finishTime: time(finishedAt) }),
    transactions: rows,
    accounts,
    differences,
    lastTransactionId: lastId,
  };
}

function verifyEvent(event: VerifyEvent): NonNullable<MessageInitShape<typeof VerifyLedgerResponseSchema>["event"]> {
  switch (event.kind) {
    case "progress":
      return { case: "progress", value: progress(event) };
    case "finding":
      return { case: "difference", value: difference(event.finding) };
    case "summary": {
      const { rows, accounts, holds, jobs, keys, differences, lastId, seconds } = event.summary;
      const counts = { transactions: BigInt(rows), accounts: BigInt(accounts), holds: BigInt(holds), jobs: BigInt(jobs), keys: BigInt(keys), differences: BigInt(differences) };
      return { case: "summary", value: { ...counts, lastTransactionId: lastId, duration: durationOf(seconds) } };
    }
  }
}

function rebuildEvent(event: RebuildEvent): NonNullable<MessageInitShape<typeof RebuildBalancesResponseSchema>["event"]> {
  switch (event.kind) {
    case "progress":
      return { case: "progress", value: progress(event) };
    case "left":
      return { case: "left", value: difference(event.finding) };
    case "repaired": {
      const { columns, ...about } = event.repair;
      const told = columns.map(({ what: name, before, after }) => ({ name, before: cut(before), after: cut(after) }));
      return { case: "repaired", value: { ...about, columns: told } };
    }
    case "summary": {
      const { rows, accounts, repairedBalances, repairedHolds, left, seconds } = event.summary;
      const counts = { transactions: BigInt(rows), accounts: BigInt(accounts), repairedBalances: BigInt(repairedBalances), repairedHolds: BigInt(repairedHolds), left: BigInt(left) };
      return { case: "summary", value: { ...counts, duration: durationOf(seconds) } };
    }
  }
}

function progress({ phase, done, total }: { readonly phase: string; readonly done: number; readonly total: number | undefined }) {
  return { phase, done: BigInt(done), ...(total === undefined ? {} : { total: BigInt(total) }) };
}

/** What is wrong may be that a text is endless. */
function difference({ key, ...finding }: Finding): MessageInitShape<typeof DifferenceSchema> {
  const { expected, actual } = finding;
  return { ...finding, expected: cut(expected), actual: cut(actual), ...(key === undefined ? {} : { key: cut(key) }) };
}

function durationOf(seconds: number) {
  const millis = Math.round(seconds * 1000);
  return { seconds: BigInt(Math.floor(millis / 1000)), nanos: (millis % 1000) * 1_000_000 };
}
