// Verifications, as tests run them: what one found, and a ledger that has something of everything to verify.

import { currenciesWith } from "../../src/domain/money/currency.ts";
import { JobStatus } from "../../src/gen/ledger/v1/job_service_pb.ts";
import type { Finding } from "../../src/verification/finding.ts";
import type { Summary } from "../../src/verification/events.ts";
import { verifyLedger, type VerifyOptions } from "../../src/verification/verify.ts";
import { openPool } from "../../src/postgres/connection/pool.ts";
import { newKey, type Clients } from "./service.ts";

/** What a verification found. */
export interface Verified {
  readonly findings: readonly Finding[];
  readonly summary: Summary;
}

/** Verifies a database. */
export async function verify(url: string, options: Partial<VerifyOptions> = {}): Promise<Verified> {
  const pool = await openPool({ url, min: 0, max: 2, connectTimeoutMs: 5000, queryTimeoutMs: 10_000, idleTimeoutMs: 10_000, onError: () => undefined });
  try {
    const findings: Finding[] = [];
    let summary: Summary | undefined;
    const signal = new AbortController().signal;
    for await (const event of verifyLedger({ url, pool, currencies: currenciesWith([{ code: "CRD", digits: 6 }]), connectTimeoutMs: 5000, signal, ...options })) {
      if (event.kind === "finding") findings.push(event.finding);
      if (event.kind === "summary") summary = event.summary;
    }
    if (summary === undefined) throw new Error("there was no summary");
    return { findings, summary };
  } finally {
    await pool.end();
  }
}

/** Writes something of each kind on the accounts of a few users from `first` on. */
export async function writeSome({ ledger, jobs, admin }: Clients, first: bigint): Promise<void> {
  const key = (): { idempotencyKey: string } => ({ idempotencyKey: newKey() });
  const rub = (amount: string) => ({ currency: "RUB", amount });
  const [userId, other] = [first, first + 1n];
  await ledger.topUp({ userId, amount: rub("1000"), metadata: { order: "17", note: "naïve — ünïcode" }, description: "a top-up", ...key() });
  await ledger.topUp({ userId, amount: { currency: "JPY", amount: "500" }, ...key() });
  const spent = await ledger.deduct({ userId, amount: rub("12.34"), reference: "r-1", uniqueReference: true, ...key() });
  await ledger.refund({ userId, transactionId: spent.transaction?.id ?? 0n, amount: rub("2.34"), ...key() });
  await ledger.transfer({ userId, toUserId: other, amount: rub("100"), ...key() });
  await ledger.adjust({ userId, amount: rub("-1"), reason: "a correction", ...key() });
  await admin.setCreditLimit({ userId, creditLimit: rub("50"), ...key() });
  const hold = await ledger.placeHold({ userId, amount: rub("30"), ...key() });
  await ledger.captureHold({ userId, holdId: hold.hold?.id ?? 0n, amount: rub("10"), ...key() });
  await ledger.captureHold({ userId, holdId: hold.hold?.id ?? 0n, amount: rub("5"), final: true, ...key() });
  const released = await ledger.placeHold({ userId, amount: rub("7"), ...key() });
  await ledger.releaseHold({ userId, holdId: released.hold?.id ?? 0n, ...key() });
  await ledger.placeHold({ userId, amount: rub("3"), ...key() });
  const inBatch = { userId, amount: rub("2") };
  await ledger.batchWrite({ writes: [{ write: { case: "topUp", value: inBatch } }, { write: { case: "transfer", value: { ...inBatch, toUserId: other } } }], atomic: true, ...key() });
  await ledger.deduct({ userId: other, amount: rub("1000000"), ...key() }).catch(() => undefined);
  await ledger.deduct({ userId: first + 2n, amount: rub("1"), ...key() }).catch(() => undefined);
  const job = (cost: string) => jobs.createJob({ userId, modelId: "m", cost: rub(cost), ...key() });
  await job("4");
  await job("0");
  const cancelled = await job("6");
  await jobs.cancelJob({ jobId: cancelled.job?.id ?? 0n });
  await jobs.retryJob({ jobId: cancelled.job?.id ?? 0n, ...key() });
  const done = await job("5");
  const jobId = done.job?.id ?? 0n;
  await jobs.updateJobStatus({ jobId, status: JobStatus.PROCESSING });
  await jobs.updateJobStatus({ jobId, status: JobStatus.COMPLETED, finalCost: rub("4.50") });
}
