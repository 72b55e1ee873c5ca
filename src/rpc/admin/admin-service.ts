// AdminService: what operators ask for.

import { z } from "zod";
import type { Account } from "../../domain/money/account.ts";
import { BalanceSchema } from "../../gen/ledger/v1/account_pb.ts";
import type { AdminService } from "../../gen/ledger/v1/admin_service_pb.ts";
import { ListBalancesRequestSchema, SetCreditLimitRequestSchema } from "../../gen/ledger/v1/admin_service_pb.ts";
import type { Proofs } from "../../verification/requested.ts";
import type { Status } from "../../postgres/status.ts";
import type { Verifications } from "../../verification/sql/verifications.ts";
import { sizeOf } from "../answer-size.ts";
import { cursorNumber, cursorOf, pageOf } from "../pages.ts";
import { proofHandlers, verificationStatus } from "./verification-calls.ts";
import type { ReadParts } from "../ledger/reads.ts";
import { validate } from "../validation.ts";
import { write, type WriteParts } from "../ledger/writes.ts";
import type { Handlers } from "../call.ts";

/** What the handlers work with. */
export interface AdminParts extends WriteParts, Pick<ReadParts, "reads" | "balances"> {
  readonly version: string;
  readonly status: Status;
  readonly proofs: Proofs;
  readonly verifications: Verifications;
}

const balanceSize = sizeOf(BalanceSchema);

/** The account that a page ends with. */
const accountCursor = z.tuple([cursorNumber, z.string().regex(/^[A-Z]{3}$/)]);

/** The handlers of AdminService. */
export function adminHandlers(parts: AdminParts): Handlers<typeof AdminService> {
  const { reads, writes, answers, balances, journal, status, version, proofs, verifications } = parts;
  return {
    listBalances: async (request) => {
      const { currency, pageSize, pageToken } = validate(reads.listBalances, ListBalancesRequestSchema, request);
      const args = ["balances", currency];
      const [userId, ofCurrency] = cursorOf(args, pageToken, accountCursor) ?? [0n, ""];
      const found = await balances.list(currency, { userId, currency: ofCurrency }, pageSize + 1);
      const cursor = (last: Account) => [last.userId, last.currency];
      const page = pageOf(args, { found, size: pageSize, message: answers.balance, sizeOf: balanceSize, cursor });
      return { balances: page.messages, nextPageToken: page.nextPageToken };
    },

    setCreditLimit: (request, call) => write(parts, validate(writes.setCreditLimit, SetCreditLimitRequestSchema, request), call),

    getServiceStatus: async () => {
      const [database, verified] = await Promise.all([status.read(), verifications.last()]);
      return {
        version,
        databaseVersion: database.databaseVersion,
        schemaVersion: database.schemaVersion,
        pool: database.pool,
        writeQueue: journal.status,
        partitions: database.partitions,
        feedLag: database.feedLag,
        processId: process.pid,
        verifications: verified.map(verificationStatus),
      };
    },

    ...proofHandlers(proofs),
  };
}
