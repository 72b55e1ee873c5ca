// What is said of methods in tables holds of their descriptors.

import { DurationSchema } from "@bufbuild/protobuf/wkt";
import { expect, test } from "vitest";
import { AdminService } from "../../src/gen/ledger/v1/admin_service_pb.ts";
import { JobService } from "../../src/gen/ledger/v1/job_service_pb.ts";
import { LedgerService } from "../../src/gen/ledger/v1/ledger_service_pb.ts";
import { LockService } from "../../src/gen/ledger/v1/lock_service_pb.ts";
import { longPolls } from "../../src/rpc/call.ts";

test("a call may wait beyond its deadline exactly where its request can say for how long", () => {
  const methods = [LedgerService, JobService, LockService, AdminService].flatMap((service) => service.methods);
  const asksToWait = methods.filter(({ input }) =>
    input.fields.some(({ name, message }) => name === "wait" && message?.typeName === DurationSchema.typeName),
  );
  expect([...longPolls].map(String).toSorted()).toEqual(asksToWait.map(String).toSorted());
});
