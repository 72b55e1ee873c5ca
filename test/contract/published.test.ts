// What a generator for another language needs of the proto files: a package of its own kind, the same in all of them.

import { readdirSync } from "node:fs";
import path from "node:path";
import { expect, test } from "vitest";
import { file_ledger_v1_account as account } from "../../src/gen/ledger/v1/account_pb.ts";
import { file_ledger_v1_admin_service as adminService } from "../../src/gen/ledger/v1/admin_service_pb.ts";
import { file_ledger_v1_errors as errors } from "../../src/gen/ledger/v1/errors_pb.ts";
import { file_ledger_v1_job_service as jobService } from "../../src/gen/ledger/v1/job_service_pb.ts";
import { file_ledger_v1_ledger_service as ledgerService } from "../../src/gen/ledger/v1/ledger_service_pb.ts";
import { file_ledger_v1_lock_service as lockService } from "../../src/gen/ledger/v1/lock_service_pb.ts";
import { file_ledger_v1_money as money } from "../../src/gen/ledger/v1/money_pb.ts";

const files = [ledgerService, adminService, jobService, lockService, account, errors, money];

test("are all of the contract's", () => {
  const written = readdirSync(path.resolve(import.meta.dirname, "../../proto/ledger/v1"));
  expect(files.map(({ name }) => `${path.basename(name)}.proto`).toSorted()).toEqual(written.toSorted());
});

test.each(files.map((file) => [file.name, file] as const))(
  "%s names its package for each language",
  (name, { proto }) => {
    const words = name
      .replace("ledger/v1/", "")
      .split("_")
      .map((word) => `${word.charAt(0).toUpperCase()}${word.slice(1)}`);
    const { $typeName, uninterpretedOption, ...options } =
      proto.options ?? expect.unreachable("the file has no options");
    expect([$typeName, uninterpretedOption]).toEqual(["google.protobuf.FileOptions", []]);
    expect({ ...options }).toEqual({
      csharpNamespace: "Ledgerd.V1",
      goPackage: "ledgerd.dev/gen/go/ledger/v1;ledgerv1",
      javaMultipleFiles: true,
      // The one that is the file's own: without it, its name would depend on which messages the file has.
      javaOuterClassname: `${words.join("")}Proto`,
      javaPackage: "dev.ledgerd.v1",
      objcClassPrefix: "LDG",
      phpNamespace: "Ledgerd\\V1",
      rubyPackage: "Ledgerd::V1",
    });
  },
);
