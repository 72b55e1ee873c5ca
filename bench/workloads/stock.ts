// stock: Deducts, one by one and in batches, on PostgreSQL with the settings that it is shipped with, against those of the
// embedded one.

import { rateRatio, type Workload } from "../workload.ts";
import { batchesOn } from "./batch.ts";
import { deductsOn } from "./unary.ts";

const BATCHES_IN_FLIGHT = 4;

export const stock: Workload = {
  id: "stock",
  what: "unary and batch on a PostgreSQL with the settings that it is shipped with, beside those on the embedded one",
  unit: "deductions",
  family: "stock",
  prepare: async (stage) => {
    const { users } = stage.options;
    const ledgers = { embedded: await stage.ledger(), stock: await stage.stockLedger() };
    const batches = (name: keyof typeof ledgers) =>
      batchesOn(stage, ledgers[name], `ledgerd, ${name}`, BATCHES_IN_FLIGHT, users);
    return {
      contenders: {
        stock: deductsOn(stage, ledgers.stock, "ledgerd, stock", users),
        embedded: deductsOn(stage, ledgers.embedded, "ledgerd, embedded", users),
        stock_batch: batches("stock"),
        embedded_batch: batches("embedded"),
      },
      ratios: {
        ratio: rateRatio("stock", "embedded"),
        ratio_batch: rateRatio("stock_batch", "embedded_batch"),
      },
      notes: ["both are the same PostgreSQL 18; the embedded one has more shared_buffers and max_wal_size"],
    };
  },
};
