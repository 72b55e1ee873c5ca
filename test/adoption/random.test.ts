// Random small databases of the old application, adopted in batches of a few rows, cut off anywhere and begun again: always as in one go.

import fc from "fast-check";
import { expect, test } from "vitest";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { adoptDatabase, adoptedLog, adoptRehearsed, checkAdopted } from "./adopting.ts";
import { makeOldTables } from "./old-database.ts";

const userId = fc.oneof(fc.integer({ min: 1, max: 4 }), fc.constantFrom(-5, 0, 9_000_000_000));
const currency = fc.constantFrom("RUB", "RUB", "RUB", null, "", "usd", "USD", "JPY");
const time = fc.constantFrom("2024-01-01", "2024-01-02 03:04:05.678901", "2020-05-05", null, "infinity", "-infinity", "1950-01-01", "2999-12-31");

const transaction = fc.record({
  userId,
  amount: fc.oneof({ weight: 9, arbitrary: fc.integer({ min: -10_000, max: 10_000 }).map((minor) => (minor / 100).toFixed(2)) }, { weight: 1, arbitrary: fc.constantFrom("NaN", "0", "99999999.99", "-99999999.99") }),
  currency,
  type: fc.constantFrom("topup", "deduction", "refund", "Topup", " deduction", "bonus", ""),
  description: fc.constantFrom(null, "", "a picture", "naïve — ünïcode"),
  time,
});
const balance = fc.record({
  amount: fc.oneof(fc.constantFrom(null, "0", "-3", "99999999"), fc.integer({ min: -500, max: 20_000 }).map(String)),
  currency,
  time,
});
const job = fc.record({
  userId,
  status: fc.constantFrom("pending", "processing", "completed", "failed", "Failed", "cancelled", "queued", null),
  parameters: fc.constantFrom(null, "{}", '{"a": [1]}', "[]", "null", '"x"'),
  cost: fc.constantFrom(null, "0", "5", "-1", "NaN"),
  time,
});
const contents = fc.record({ transactions: fc.array(transaction, { maxLength: 25 }), balances: fc.dictionary(userId.map(String), balance, { maxKeys: 6 }), jobs: fc.array(job, { maxLength: 5 }) });

type Contents = typeof contents extends fc.Arbitrary<infer T> ? T : never;

async function fill({ query }: TestDatabase, { transactions, balances, jobs }: Contents): Promise<void> {
  await makeOldTables(query);
  for (const one of transactions) {
    await query("INSERT INTO transactions (user_id, amount, currency, type, description, created_at) VALUES ($1, $2, $3, $4, $5, $6)", [one.userId, one.amount, one.currency, one.type, one.description, one.time]);
  }
  for (const [id, one] of Object.entries(balances)) await query("INSERT INTO user_balances (user_id, balance, currency, created_at) VALUES ($1, $2, $3, $4)", [id, one.amount, one.currency, one.time]);
  for (const one of jobs) {
    await query("INSERT INTO jobs (user_id, model_id, parameters, status, cost, created_at, completed_at) VALUES ($1, 'm', $2, $3, $4, $5, $5)", [one.userId, one.parameters, one.status, one.cost, one.time]);
  }
}

/** Adopts, cut off each time it tells how far it is for the `cuts`th time, as often as that happens. */
async function adoptCut(old: TestDatabase, ledger: TestDatabase, batch: number, cuts: readonly number[]): Promise<void> {
  for (const cut of cuts) {
    let left = cut;
    const tell = (): void => {
      if (left-- === 0) throw new Error("cut off");
    };
    try {
      await adoptDatabase(old, ledger, { batch, tell });
      return;
    } catch (error) {
      if (!(error instanceof Error && error.message === "cut off")) throw error;
    }
  }
  await adoptDatabase(old, ledger, { batch });
}

test("whatever the old database holds, everybody keeps the old balance, however often it is cut off", async () => {
  await fc.assert(
    fc.asyncProperty(contents, fc.integer({ min: 1, max: 6 }), fc.array(fc.nat(6), { maxLength: 4 }), async (generated, batch, cuts) => {
      // The ledger lies in the old database, as it may.
      await using ledger = await createDatabase();
      const old = ledger;
      await using inOneGo = await createDatabase();
      await fill(old, generated);
      await adoptCut(old, ledger, batch, cuts);
      await checkAdopted(old, ledger);
      await adoptDatabase(old, inOneGo);
      expect(await adoptedLog(ledger)).toEqual(await adoptedLog(inOneGo));
      expect((await adoptDatabase(old, ledger, { batch })).outcome).toBe("already_adopted");
    }),
    // To make a failing case smaller would take longer than a test may: its seed is told.
    { numRuns: 12, endOnFailure: true },
  );
});

/** What an application's columns may be, each with values that it takes. */
type Types = Readonly<Record<string, readonly (string | null)[]>>;

const numbers: Types = {
  SMALLINT: ["1", "-7"],
  INTEGER: ["0", "1500000"],
  BIGINT: ["12", "1007199254740993"],
  "NUMERIC(10, 2)": ["0.01", "-3.50", null],
  NUMERIC: ["1.10", "1007199254740993.07", "1e15"],
  REAL: ["0.1", "1.5e6", "16777217", "3e9"],
  "DOUBLE PRECISION": ["0.1", "1.5e6", "1e15", "123456789.12", null],
};
/** What balances can't be, and what transactions may be nevertheless. */
const strange: Types = { "NUMERIC(10, 2)": ["NaN"], NUMERIC: ["0.001", "Infinity", "1e-400"], REAL: ["NaN", "0.001"], "DOUBLE PRECISION": ["0.30000000000000004", "-Infinity"] };
/** What is beyond the ledger. */
const large: Types = { BIGINT: ["9223372036854775807"], NUMERIC: ["1e200"], "DOUBLE PRECISION": ["-1e300"] };
const times: Types = {
  TIMESTAMP: ["2024-01-01", "294276-12-31 23:59:59.999999", "infinity", "0044-03-15 BC", null],
  TIMESTAMPTZ: ["2024-01-01 02:03:04+05", "294276-12-31 23:59:59+00", "-infinity", null],
  DATE: ["2024-01-01", "5874897-12-31", "infinity", "1969-12-31"],
};
const parameters: Types = {
  JSONB: ["{}", '{"a": 1e400}', "[]", '{"a": 9007199254740993}', null],
  JSON: ['{"a": "\\u0000"}', '{"a": 1, "a": 2}', `${"[".repeat(40)}${"]".repeat(40)}`, null],
  TEXT: ["", "{", '{"a": "b"}'],
};

/** One of each for each of four users. */
const each = <T>(value: fc.Arbitrary<T>) => fc.array(value, { minLength: 4, maxLength: 4 });
/** A type, and a value for each row. */
const column = (...several: readonly Types[]) =>
  fc
    .constantFrom(...several.flatMap((types) => Object.keys(types)))
    .chain((type) => fc.record({ type: fc.constant(type), values: each(fc.constantFrom(...several.flatMap((types) => types[type] ?? []))) }));
const troubles = ["none", "none", "none", "none", "MONEY", "text ids", "nobody", "one user twice", "RUR", "strange balances", "large amounts"] as const;
/** Those that are refused, whatever the values are. */
const refused: ReadonlySet<string> = new Set(["MONEY", "text ids", "nobody", "one user twice", "RUR"]);

const odd = fc.constantFrom(...troubles).chain((trouble) =>
  fc.record({
    trouble: fc.constant(trouble),
    balance: trouble === "MONEY" ? column({ MONEY: ["1"] }) : column(numbers, ...(trouble === "strange balances" ? [strange] : [])),
    amount: column(numbers, strange, ...(trouble === "large amounts" ? [large] : [])),
    time: column(times),
    parameters: column(parameters),
    currencies: each(fc.constantFrom("RUB", "usd", "JPY", null)),
    models: each(fc.constantFrom("m", "x".repeat(101), "", "🙂")),
  }),
);

type Odd = typeof odd extends fc.Arbitrary<infer T> ? T : never;

/** Four users without a key on any table: a balance, two transactions and a job each. */
async function fillOdd({ query }: TestDatabase, { trouble, balance: balances, amount: amounts, time: moments, ...one }: Odd): Promise<void> {
  const ids = trouble === "text ids" ? "TEXT" : "BIGINT";
  await query(`CREATE TABLE user_balances (user_id ${ids}, balance ${balances.type}, currency TEXT, created_at ${moments.type})`);
  await query(`CREATE TABLE transactions (id BIGINT, user_id ${ids}, amount ${amounts.type}, currency TEXT, type TEXT, description TEXT, created_at ${moments.type})`);
  await query(`CREATE TABLE jobs (id BIGINT, user_id ${ids}, model_id TEXT, prompt TEXT, parameters ${one.parameters.type}, status TEXT, result_url TEXT,
    error_message TEXT, cost ${amounts.type}, created_at ${moments.type}, completed_at ${moments.type})`);
  for (const [index, money] of one.currencies.entries()) {
    const user = index === 3 && trouble === "nobody" ? null : index === 3 && trouble === "one user twice" ? 1 : index + 1;
    const at = moments.values[index];
    const code = index === 3 && trouble === "RUR" ? "RUR" : money === "JPY" ? "RUB" : money;
    await query("INSERT INTO user_balances VALUES ($1, $2, $3, $4)", [user, balances.values[index], code, at]);
    for (const id of [2 * index, 2 * index + 1]) await query("INSERT INTO transactions VALUES ($1, $2, $3, $4, 'topup', 'd', $5)", [id, index + 1, amounts.values[id % 4], money, at]);
    await query("INSERT INTO jobs VALUES ($1, $2, $3, 'p', $4, 'pending', NULL, NULL, $5, $6, $6)", [index + 1, index + 1, one.models[index], one.parameters.values[index], amounts.values[index], at]);
  }
}

test("whatever types the old columns have, rehearsal and run agree, and where they adopt, everybody keeps the old balance exactly", async () => {
  await fc.assert(
    fc.asyncProperty(odd, async (generated) => {
      await using ledger = await createDatabase();
      await fillOdd(ledger, generated);
      const became = await adoptRehearsed(ledger, ledger, { batch: 3 });
      if (refused.has(generated.trouble)) expect(became).toHaveProperty("refused");
      if (generated.trouble === "none") expect(became).toHaveProperty("report");
      if ("report" in became) await checkAdopted(ledger, ledger);
    }),
    { numRuns: 12, endOnFailure: true },
  );
});
