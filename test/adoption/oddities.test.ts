// Old databases of another shape than the specified one: each type and value has a rule, and a line of the report, or
// is refused in one sentence before anything is written; by the rehearsal and by the run alike.

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { connectTo, createDatabase, type TestDatabase } from "../harness/database.ts";
import { adoptRehearsed, type Variation } from "./adopting.ts";

let old: TestDatabase;
let ledger: TestDatabase;
/** Each case has a schema, a hundred users and a thousand jobs of its own, in one database. */
let place = 0;

beforeAll(async () => {
  [old, ledger] = await Promise.all([createDatabase("empty"), createDatabase()]);
});

afterAll(async () => {
  await Promise.all([old[Symbol.asyncDispose](), ledger[Symbol.asyncDispose]()]);
});

const TABLES: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  user_balances: {
    user_id: "BIGINT PRIMARY KEY",
    balance: "NUMERIC(10, 2) DEFAULT 0",
    currency: "VARCHAR(3) DEFAULT 'RUB'",
    created_at: "TIMESTAMP DEFAULT '2024-01-01'",
  },
  transactions: {
    id: "SERIAL PRIMARY KEY",
    user_id: "BIGINT NOT NULL",
    amount: "NUMERIC(10, 2) NOT NULL",
    currency: "VARCHAR(3) DEFAULT 'RUB'",
    type: "VARCHAR(20) DEFAULT 'topup'",
    description: "TEXT",
    created_at: "TIMESTAMP DEFAULT '2024-01-01'",
  },
  jobs: {
    id: "BIGINT PRIMARY KEY",
    user_id: "BIGINT NOT NULL",
    model_id: "VARCHAR(100) DEFAULT 'm'",
    prompt: "TEXT",
    parameters: "JSONB",
    status: "VARCHAR(20) DEFAULT 'pending'",
    result_url: "TEXT",
    error_message: "TEXT",
    cost: "NUMERIC(10, 2)",
    created_at: "TIMESTAMP DEFAULT '2024-01-01'",
    completed_at: "TIMESTAMP",
  },
};

/** Makes the old tables, some of their columns of other types. */
async function makeTables(query: TestDatabase["query"], columns: Readonly<Record<string, string>> = {}): Promise<void> {
  for (const [table, specified] of Object.entries(TABLES)) {
    const definitions = Object.entries(specified).map(
      ([name, type]) => `${name} ${columns[`${table}.${name}`] ?? type}`,
    );
    await query(`CREATE TABLE ${table} (${definitions.join(", ")})`);
  }
}

/** A case: columns of other types, statements that follow, in which `:user` and `:job` stand for ids of its own. */
interface Oddity {
  readonly columns?: Readonly<Record<string, string>>;
  readonly statements?: readonly string[];
  readonly variation?: Variation;
}

/** Makes the old tables in a schema of their own, and adopts from it. */
async function adoptOddity({ columns = {}, statements = [], variation = {} }: Oddity) {
  place += 1;
  // Ids of jobs go down: those of a ledger must be behind all old ones.
  const [schema, user, job] = [`oddity_${place}`, 100 * place, 1000 * (1000 - place)];
  await old.query(`CREATE SCHEMA ${schema}`);
  await old.query(`SET search_path TO ${schema}, public`);
  await makeTables(old.query, columns);
  for (const statement of statements)
    await old.query(
      statement.replaceAll(":user", `${user}`).replaceAll(":job", `${job}`).replaceAll(":schema", schema),
    );
  const became = await adoptRehearsed(old, ledger, { schema, ...variation });
  return { became, user, job };
}

async function historyOf(user: number): Promise<readonly string[]> {
  const rows = await ledger.query<{ line: string }>(
    "SELECT concat_ws(' ', currency, type, amount, balance_after) AS line FROM ledgerd.transactions WHERE user_id = $1 ORDER BY id",
    [user],
  );
  return rows.map(({ line }) => line);
}

const balance = (value: string, currency = "RUB"): string =>
  `INSERT INTO user_balances (user_id, balance, currency) VALUES (:user, ${value}, '${currency}')`;
const amount = (value: string): string => `INSERT INTO transactions (user_id, amount) VALUES (:user, ${value})`;
const created = (value: string): string =>
  `INSERT INTO transactions (user_id, amount, created_at) VALUES (:user, 1, ${value})`;

describe("amounts of any numeric type are read as PostgreSQL prints them in full", () => {
  test.each([
    ["SMALLINT", { "7": "7.00", "-3": "-3.00" }],
    ["INTEGER", { "1500000": "1500000.00" }],
    ["BIGINT", { "9007199254740993": "9007199254740993.00" }],
    ["NUMERIC", { "9007199254740993.07": "9007199254740993.07", "1e3": "1000.00" }],
    ["NUMERIC(20, 5)", { "1.5": "1.50" }],
    ["REAL", { "1500000": "1500000.00", "16777216": "16777216.00", "0.1": "0.10", "'1e10'": "10000000000.00" }],
    [
      "DOUBLE PRECISION",
      {
        "'1.5e+06'": "1500000.00",
        "1234567890123.45": "1234567890123.45",
        "'1e15'": "1000000000000000.00",
        "'-0.0'": "0.00",
        "0.07": "0.07",
      },
    ],
  ])("%s", async (type, printed) => {
    const columns = { "user_balances.balance": type, "transactions.amount": `${type} NOT NULL`, "jobs.cost": type };
    const values = Object.keys(printed);
    const statements = values.flatMap((value, index) =>
      [balance(value), amount(value)].map((statement) => statement.replace(":user", `:user + ${index}`)),
    );
    const { became, user } = await adoptOddity({
      columns,
      statements: [...statements, "INSERT INTO jobs (id, user_id, cost) VALUES (:job, :user, 1)"],
    });
    expect(became).toMatchObject({ report: { jobs: { cost_dropped: { count: 1 } } } });
    const histories: (readonly string[])[] = [];
    for (const index of values.keys()) histories.push(await historyOf(user + index));
    const typeOf = (text: string): string => (/^[-0]+\.00$|^-/.test(text) ? "adjustment" : "topup");
    expect(histories).toEqual(Object.values(printed).map((text) => [`RUB ${typeOf(text)} ${text} ${text}`]));
  });

  test("whatever the database sets for its sessions", async () => {
    const name = new URL(old.url).pathname.slice(1);
    const settings = [
      "extra_float_digits = -10",
      "DateStyle = 'German, DMY'",
      "IntervalStyle = iso_8601",
      "TimeZone = 'Asia/Tokyo'",
      "row_security = on",
      "lock_timeout = 1",
      "search_path = ''",
      "client_encoding = 'LATIN1'",
    ];
    for (const setting of settings) await old.query(`ALTER DATABASE ${name} SET ${setting}`);
    const columns = { "user_balances.balance": "DOUBLE PRECISION", "transactions.amount": "DOUBLE PRECISION" };
    const statements = [
      balance("1234567.89"),
      amount("1234567.89"),
      "UPDATE transactions SET created_at = '2024-03-04 05:06:07', description = 'Привет'",
      created("'2999-05-06'"),
    ];
    let user = 0;
    try {
      ({ user } = await adoptOddity({ columns, statements }));
    } finally {
      await old.query(`ALTER DATABASE ${name} RESET ALL`);
    }
    expect(await historyOf(user)).toEqual([
      "RUB opening -1.00 -1.00",
      "RUB topup 1234567.89 1234566.89",
      "RUB topup 1.00 1234567.89",
    ]);
    const rows = await ledger.query<{ created_at: Date }>(
      "SELECT created_at, description, metadata FROM ledgerd.transactions WHERE user_id = $1 AND reference IS NOT NULL ORDER BY id",
      [user],
    );
    expect(rows).toMatchObject([
      { created_at: new Date("2024-03-04T05:06:07Z"), description: "Привет", metadata: null },
      { metadata: { "adopted.time": "2999-05-06 00:00:00" } },
    ]);
  });

  test.each([
    ["NUMERIC", ["'NaN'", "'Infinity'", "NULL"]],
    ["REAL", ["'-Infinity'"]],
    ["DOUBLE PRECISION", ["'NaN'", "NULL"]],
  ])("those of %s that are none, %j, are adjustments of nothing", async (type, values) => {
    const { became, user } = await adoptOddity({
      columns: { "transactions.amount": type },
      statements: values.map(amount),
    });
    expect(became).toMatchObject({ report: { transactions: { amount_not_a_number: { count: values.length } } } });
    expect(await historyOf(user)).toEqual(values.map(() => "RUB adjustment 0.00 0.00"));
    const rows = await ledger.query<{ kept: string }>(
      "SELECT metadata ->> 'adopted.amount' AS kept FROM ledgerd.transactions WHERE user_id = $1 ORDER BY id",
      [user],
    );
    expect(rows.map(({ kept }) => kept)).toEqual(
      values.map((value) => value.replaceAll("'", "").replace("NULL", "null")),
    );
  });
});

describe("what the ledger can't hold is refused in one sentence", () => {
  const twice = ["INSERT INTO user_balances (user_id, balance) VALUES (:user, 1), (:user, 2)"];
  const refusals: readonly (readonly [string, Oddity, RegExp])[] = [
    [
      "two balances of a user",
      { columns: { "user_balances.user_id": "BIGINT" }, statements: twice },
      /^user_balances has several rows of the same user_id \(such as \d+\): leave the right one of each$/,
    ],
    [
      "a balance of nobody",
      {
        columns: { "user_balances.user_id": "BIGINT" },
        statements: ["INSERT INTO user_balances (balance) VALUES (1)"],
      },
      /^1 rows of user_balances have a NULL \(or -9223372036854775808\) as user_id or id/,
    ],
    [
      "transactions of nobody",
      {
        columns: { "transactions.user_id": "BIGINT" },
        statements: ["INSERT INTO transactions (amount) VALUES (1), (2)"],
      },
      /^2 rows of transactions have a NULL/,
    ],
    [
      "the smallest of ids",
      { statements: ["INSERT INTO user_balances (user_id) VALUES (-9223372036854775808)"] },
      /^1 rows of user_balances have a NULL \(or -9223372036854775808\)/,
    ],
    [
      "transactions without ids",
      { columns: { "transactions.id": "BIGINT" }, statements: [amount("1")] },
      /^1 rows of transactions have a NULL/,
    ],
    [
      "transactions of one id",
      {
        columns: { "transactions.id": "BIGINT" },
        statements: ["INSERT INTO transactions (id, user_id, amount) VALUES (5, :user, 1), (5, :user, 2)"],
      },
      /^transactions has several rows of the same user_id and id \(such as \d+ 5\): give them ids/,
    ],
    [
      "transactions of one id, in a table that inherits",
      {
        statements: [
          "CREATE TABLE more () INHERITS (transactions)",
          "INSERT INTO transactions (id, user_id, amount) VALUES (5, :user, 1)",
          "INSERT INTO more (id, user_id, amount) VALUES (5, :user, 1)",
        ],
      },
      /^transactions has several rows of the same user_id and id/,
    ],
    [
      "jobs of one id",
      { columns: { "jobs.id": "BIGINT" }, statements: ["INSERT INTO jobs (id, user_id) VALUES (:job, 1), (:job, 2)"] },
      /^jobs has several rows of the same id/,
    ],
    [
      "jobs of nobody",
      { columns: { "jobs.user_id": "BIGINT" }, statements: ["INSERT INTO jobs (id) VALUES (:job)"] },
      /^1 rows of jobs have a NULL/,
    ],
    [
      "jobs with ids behind which there is no room",
      { statements: ["INSERT INTO jobs (id, user_id) VALUES (9223372036854775807, 1)"] },
      /^jobs.id goes up to 9223372036854775807/,
    ],
    [
      "users by UUID",
      { columns: { "user_balances.user_id": "UUID" } },
      /^user_balances.user_id is of type uuid, and must be SMALLINT, INTEGER or BIGINT: ALTER TABLE/,
    ],
    ["users by text", { columns: { "transactions.user_id": "TEXT" } }, /^transactions.user_id is of type text/],
    ["users by NUMERIC", { columns: { "jobs.user_id": "NUMERIC" } }, /^jobs.user_id is of type numeric/],
    [
      "amounts of MONEY, which sessions read differently",
      { columns: { "user_balances.balance": "MONEY", "transactions.amount": "MONEY" } },
      /^user_balances.balance is of type money, .*; transactions.amount is of type money/,
    ],
    ["amounts in words", { columns: { "jobs.cost": "TEXT" } }, /^jobs.cost is of type text, and must be a number/],
    [
      "times in words",
      { columns: { "transactions.created_at": "TEXT" } },
      /^transactions.created_at is of type text, and must be TIMESTAMP, TIMESTAMPTZ or DATE/,
    ],
    [
      "a domain over another type",
      { columns: { "jobs.completed_at": "clock" }, statements: [] },
      /^jobs.completed_at is of type time/,
    ],
    [
      "a column that is gone, and one in capitals",
      { statements: ["ALTER TABLE jobs DROP COLUMN cost", 'ALTER TABLE transactions RENAME amount TO "Amount"'] },
      /lacks transactions.amount \(it has "transactions"."Amount": rename it\), jobs.cost: is it/,
    ],
    [
      "a view",
      {
        statements: [
          "ALTER TABLE user_balances RENAME TO b",
          "CREATE VIEW user_balances AS SELECT user_id, balance, currency, created_at FROM b",
        ],
      },
      /^user_balances is no table, but a view/,
    ],
    [
      "balances that are no numbers",
      { columns: { "user_balances.balance": "REAL" }, statements: [balance("'NaN'")] },
      /^balances in RUB that are NaN or Infinity \(user \d+\): correct them$/,
    ],
    [
      "balances of infinite size",
      { columns: { "user_balances.balance": "NUMERIC" }, statements: [balance("'-Infinity'")] },
      /^balances in RUB that are NaN or Infinity/,
    ],
    [
      "balances with too many digits",
      { columns: { "user_balances.balance": "DOUBLE PRECISION" }, statements: [balance("0.1::float8 + 0.2")] },
      /^balances in RUB with more fraction digits than the 2 that it has \(user \d+\): round them/,
    ],
    [
      "balances beyond the bounds",
      { columns: { "user_balances.balance": "NUMERIC" }, statements: [balance("1e16")] },
      /^accounts in RUB that would at some point be beyond what the ledger holds, 9999999999999999.99 \(user \d+\): correct/,
    ],
    [
      "running balances beyond the bounds",
      { columns: { "transactions.amount": "NUMERIC" }, statements: [amount("9e15"), amount("9e15"), amount("-1e200")] },
      /^accounts in RUB that would .* \(user \d+\): correct/,
    ],
    [
      "a sign as a currency",
      { statements: [balance("1", "₽")] },
      /^money in "₽", which is no currency of the ledger \(user \d+\): say which one it is with --rename-currency '₽=RUB'$/,
    ],
    [
      "a code that could be a unit",
      { statements: [balance("1", "TOK")] },
      /^money in "TOK", .* --rename-currency TOK=RUB, or make it a unit with LEDGERD_UNITS=TOK:2$/,
    ],
    [
      "a currency of many words",
      { columns: { "user_balances.currency": "TEXT" }, statements: [balance("1", "it''s roubles")] },
      /'IT'\\''S ROUBLES=RUB'$/,
    ],
    [
      "a currency that no command line has",
      {
        columns: { "user_balances.currency": "TEXT" },
        statements: ["INSERT INTO user_balances (user_id, currency) VALUES (:user, repeat('x', 1000000))"],
      },
      /^money in "x{40}…", which .*: correct it$/,
    ],
    [
      "many kinds of money, and all else with them",
      {
        columns: { "transactions.currency": "TEXT" },
        statements: [
          "INSERT INTO transactions (user_id, amount, currency) SELECT :user, 1, 'c' || i FROM generate_series(1, 100) i",
          "INSERT INTO transactions (user_id, amount, currency) SELECT :user, 1, 'c7' FROM generate_series(1, 100) i",
        ],
      },
      /"c1".*\(101, such as transaction 7, transaction 101, .*and 80 further rows of other kinds$/,
    ],
  ];

  beforeAll(async () => {
    await old.query("CREATE DOMAIN public.clock AS TIME");
    await old.query("CREATE DOMAIN public.cents AS NUMERIC CHECK (VALUE > -1e30)");
    await old.query("CREATE DOMAIN public.small_cents AS public.cents");
    await old.query("CREATE TYPE public.kind AS ENUM ('topup', 'deduction')");
  });

  test.each(refusals)("%s", async (_, oddity, sentence) => {
    const { became } = await adoptOddity(oddity);
    expect("refused" in became ? became.refused : became).toMatch(sentence);
  });

  test("rows that row security hides, and columns that the login may not read", async () => {
    const login = `reader_${ledger.url.slice(-12)}`;
    await old.query(`CREATE ROLE ${login} LOGIN`);
    const by = { url: old.url.replace("postgres@", `${login}@`) };
    const schema = "hidden";
    await old.query(`CREATE SCHEMA ${schema}`);
    await old.query(`SET search_path TO ${schema}`);
    await makeTables(old.query);
    await old.query(`GRANT SELECT ON user_balances, transactions TO ${login}`);
    await old.query("ALTER TABLE transactions ENABLE ROW LEVEL SECURITY");
    const refusal = async (): Promise<unknown> => adoptRehearsed(by, ledger, { schema });
    expect(await refusal()).toEqual({
      refused: expect.stringMatching(
        /^this login may not read user_balances.user_id, .*: grant it SELECT of them, and USAGE of schema hidden; row security hides rows of transactions from this login: /,
      ) as string,
    });
    await old.query("ALTER TABLE transactions DISABLE ROW LEVEL SECURITY");
    await old.query(`GRANT SELECT ON jobs TO ${login}`);
    await old.query(`GRANT USAGE ON SCHEMA hidden TO ${login}`);
    expect(await refusal()).toMatchObject({ report: { transactions: {} } });
    await old.query(`DROP OWNED BY ${login}`);
    await old.query(`DROP ROLE ${login}`);
  });
});

describe("all else has a rule", () => {
  test("times: of any type, however far away", async () => {
    const far = [
      "'294276-12-31 23:59:59.999999'",
      "'-infinity'",
      "'0044-03-15 BC'",
      "'1969-12-31 12:00'",
      "NULL",
      "'2024-02-03'",
    ];
    for (const type of ["TIMESTAMP", "TIMESTAMPTZ", "DATE"]) {
      const values =
        type === "TIMESTAMP"
          ? far
          : type === "DATE"
            ? ["'5874897-12-31'", ...far.slice(1)]
            : [...far.slice(0, 2), "'4713-01-01 BC'", ...far.slice(3)];
      const columns = {
        "transactions.created_at": type,
        "user_balances.created_at": type,
        "jobs.created_at": type,
        "jobs.completed_at": type,
      };
      const jobs = values.map(
        (value, index) =>
          `INSERT INTO jobs (id, user_id, status, created_at, completed_at) VALUES (:job + ${index}, :user, 'completed', ${value}, ${value})`,
      );
      const balances = [`INSERT INTO user_balances (user_id, balance, created_at) VALUES (:user, 6, ${values[0]})`];
      const { became, user } = await adoptOddity({
        columns,
        statements: [...values.map(created), ...balances, ...jobs],
      });
      expect(became).toMatchObject({
        report: {
          transactions: {
            time_in_future: { count: 1 },
            time_missing: { count: 2 },
            time_before_1970: { count: 2 },
            time_out_of_order: { count: 1 },
          },
          jobs: { time_missing: { count: 4 } },
        },
      });
      const rows = await ledger.query<{ kept: string }>(
        "SELECT metadata ->> 'adopted.time' AS kept FROM ledgerd.transactions WHERE user_id = $1 AND metadata IS NOT NULL ORDER BY id",
        [user],
      );
      expect(rows.map(({ kept }) => kept).slice(0, 2)).toEqual([
        expect.stringMatching(/^(294276|5874897)-12-31/),
        "-infinity",
      ]);
    }
  });

  test("texts: enums, blanks, control characters, capitals, anything that PostgreSQL writes", async () => {
    const columns = {
      "transactions.type": "public.kind",
      "transactions.currency": "CHAR(5)",
      "transactions.description": "JSONB",
      "transactions.amount": "public.small_cents",
      "user_balances.currency": "NAME",
      "jobs.status": "TEXT",
      "jobs.model_id": "TEXT",
      "jobs.prompt": "BYTEA",
    };
    const statements = [
      "INSERT INTO transactions (user_id, amount, currency, type, description) VALUES (:user, 5, 'rub', 'topup', '{\"a\": 1}')",
      "INSERT INTO user_balances (user_id, balance, currency) VALUES (:user, 5, E'\\trub\\n')",
      "INSERT INTO jobs (id, user_id, model_id, prompt, status) VALUES (:job, :user, E'a\\tb', '\\x00ff', 'PENDING '), (:job + 1, :user, repeat('🙂', 101), NULL, 'pending'), (:job + 2, :user, NULL, NULL, repeat('s', 1000000))",
    ];
    const { became, user, job } = await adoptOddity({ columns, statements });
    expect(became).toMatchObject({
      report: {
        users: { balance_currency_spelled: { count: 1 } },
        transactions: { adopted: { count: 1 }, currency_spelled: { count: 1 } },
        jobs: {
          status_spelled: { count: 1 },
          status_unknown: { count: 1 },
          model_cut: { count: 1 },
          model_missing: { count: 1 },
        },
      },
    });
    expect(await historyOf(user)).toEqual(["RUB topup 5.00 5.00"]);
    const jobs = await ledger.query(
      "SELECT model_id, prompt, status, error_message FROM ledgerd.jobs WHERE id >= $1 AND id < $1 + 3 ORDER BY id",
      [job],
    );
    expect(jobs).toEqual([
      { model_id: "a\tb", prompt: "\\x00ff", status: "pending", error_message: null },
      {
        model_id: "🙂".repeat(100),
        prompt: null,
        status: "failed",
        error_message: "the name of its model has more than 100 characters",
      },
      {
        model_id: "unknown",
        prompt: null,
        status: "failed",
        error_message: `adopted with the status "${"s".repeat(100)}"`,
      },
    ]);
  });

  test("old values that are longer than metadata may be", async () => {
    const columns = { "transactions.type": "TEXT", "transactions.amount": "NUMERIC" };
    const statements = [
      "INSERT INTO transactions (user_id, amount, type) VALUES (:user, 1 + 1e-1000, repeat('🙂', 1000))",
      "INSERT INTO transactions (user_id, amount, type) VALUES (:user, 1, NULL)",
    ];
    const { became, user } = await adoptOddity({ columns, statements });
    expect(became).toMatchObject({
      report: { transactions: { old_value_cut: { count: 1 }, amount_cut: { count: 1 }, type_unknown: { count: 2 } } },
    });
    const rows = await ledger.query(
      "SELECT char_length(metadata ->> 'adopted.amount') AS amount, metadata ->> 'adopted.type' AS type FROM ledgerd.transactions WHERE user_id = $1 AND reference IS NOT NULL ORDER BY id",
      [user],
    );
    expect(rows).toEqual([
      { amount: 512, type: "🙂".repeat(512) },
      { amount: null, type: "null" },
    ]);
  });

  test("tables that inherit, and generated columns, and other columns beside", async () => {
    const statements = [
      "ALTER TABLE transactions ADD COLUMN more POINT, ADD COLUMN twice NUMERIC GENERATED ALWAYS AS (amount * 2) STORED",
      "CREATE TABLE transactions_2023 () INHERITS (transactions)",
      "INSERT INTO transactions_2023 (user_id, amount, description) SELECT :user, 1, repeat('d', 1000) FROM generate_series(1, 50)",
      amount("2"),
    ];
    const { became, user } = await adoptOddity({ statements, variation: { surveyBlocks: 2 } });
    expect(became).toMatchObject({ report: { transactions: { adopted: { count: 51 } } } });
    expect((await historyOf(user)).at(-1)).toBe("RUB topup 2.00 0.00");
  });

  test("currencies under any name, with --rename-currency", async () => {
    const columns = { "user_balances.currency": "TEXT" };
    const { user } = await adoptOddity({
      columns,
      statements: [balance("3", "it''s = roubles")],
      variation: { renamed: new Map([["IT'S = ROUBLES", "RUB"]]) },
    });
    expect(await historyOf(user)).toEqual(["RUB opening 3.00 3.00"]);
  });

  test("empty tables", async () => {
    expect((await adoptOddity({})).became).toMatchObject({ report: { users: {}, transactions: {}, jobs: {} } });
  });
});

describe("parameters", () => {
  const nested = (levels: number): string => '{"a":'.repeat(levels) + "1" + "}".repeat(levels);
  const cannot = "its parameters can't be handed over: they must";
  const deep = `${cannot} be nested at most 32 deep`;
  const halves = `${cannot} not contain U+0000 or half a surrogate pair`;
  const infinite = `${cannot} not contain NaN or infinity`;
  const large = `{"a":[${"0,".repeat(300_000)}0]}`;
  const spelled = `{"a":[${"1e308,".repeat(30_000)}0]}`;

  /**
   * What is given, what it becomes, why it can't be handed over, and what is kept beside it: what was given, or
   * nothing.
   */
  const cases: Readonly<Record<string, readonly (readonly [string, string | null, string?])[]>> = {
    JSONB: [
      [nested(32), nested(32)],
      [nested(33), null, deep],
      [nested(200), null, deep],
      ['{"a":1e400}', null, infinite],
      [large, null, `${cannot} have at most 2097152 bytes as a google.protobuf.Struct`],
      ['{"a":[9007199254740993,0.1,-1.50,1e2]}', '{"a":[9007199254740992,0.1,-1.5,100]}', "kept"],
      ['{"__proto__":{"a":1}}', '{"__proto__":{"a":1}}'],
      ["null", null],
    ],
    JSON: [
      ['{"a":"\\u0000"}', null, halves],
      ['{"a":"\\ud800"}', null, halves],
      ['{"\\udc00":[]}', null, halves],
      ['{"a":1e-400}', '{"a":0}', "kept"],
      [spelled, null, `${cannot} have at most 8388608 bytes with all digits of their numbers`],
      ['{"a":1,"a":{"b":2,"b":3}}', '{"a":{"b":3}}', "kept"],
      ['{"a":1.0,"b":[-0.0,1E2,"1e400"]}', '{"a":1,"b":[0,100,"1e400"]}'],
      [" null ", null],
    ],
    TEXT: [
      ["steps=3", '{"value":"steps=3"}'],
      ['[{"a":1}]', '{"value":[{"a":1}]}'],
      [`${"[".repeat(100_000)}${"]".repeat(100_000)}`, null, deep],
      ["", null],
    ],
  };

  test.each(Object.entries(cases))(
    "of type %s: as a worker gets them, or failed with the reason",
    async (type, given) => {
      const statements = given.map(
        ([text], index) => `
      INSERT INTO jobs (id, user_id, parameters, error_message, status)
      SELECT :job + ${2 * index} + i, :user, $x$${text}$x$, 'before', s FROM unnest(ARRAY['pending', 'completed']) WITH ORDINALITY u (s, i)`,
      );
      const { became, job } = await adoptOddity({ columns: { "jobs.parameters": type }, statements });
      const rows = await ledger.query<{ adopted: Readonly<Record<string, string>> }>(
        "SELECT parameters, status, error_message, adopted FROM ledgerd.jobs WHERE id > $1 AND id < $1 + 100 ORDER BY id",
        [job],
      );
      const stored = await old.query<{ text: string }>("SELECT parameters::text AS text FROM jobs ORDER BY id");
      const expected = given.flatMap(([, text, problem], index) => {
        const isFailed = problem !== undefined && problem !== "kept";
        const common = {
          parameters: text === null ? null : (JSON.parse(text) as object),
          kept: problem === undefined ? undefined : stored[2 * index]?.text,
        };
        return [
          { ...common, status: isFailed ? "failed" : "pending", error_message: isFailed ? problem : "before" },
          { ...common, status: "completed", error_message: "before" },
        ];
      });
      expect(rows.map(({ adopted, ...row }) => ({ ...row, kept: adopted["parameters"] }))).toEqual(expected);
      const { report } = became as { report: { jobs: Readonly<Record<string, { count: number }>> } };
      expect(report.jobs["parameters_unreadable"]?.count).toBe(
        2 * given.filter(([, , problem]) => problem !== undefined && problem !== "kept").length,
      );
    },
  );
});

describe("encodings", () => {
  const inEncoding = async (encoding: string, fill: (database: TestDatabase) => Promise<void>) => {
    place += 1;
    const name = `old_${place}_${old.url.slice(-12)}`;
    await old.query(`CREATE DATABASE ${name} TEMPLATE template0 ENCODING '${encoding}' LOCALE 'C'`);
    const url = old.url.replace(/[^/]+$/, name);
    const client = await connectTo(url);
    const query: TestDatabase["query"] = async <R extends object>(text: string, values: readonly unknown[] = []) =>
      (await client.query<R>(text, [...values])).rows;
    await makeTables(query);
    await fill({ ...old, url, query });
    await client.end();
    try {
      return await adoptRehearsed({ url }, ledger);
    } finally {
      await old.query(`DROP DATABASE ${name} WITH (FORCE)`);
    }
  };
  const insert = async ({ query }: TestDatabase, user: number, description: string): Promise<void> => {
    await query("INSERT INTO transactions (user_id, amount, description) VALUES ($1, 1, $2)", [user, description]);
  };

  test("of one alphabet are converted", async () => {
    for (const [encoding, user] of [
      ["WIN1251", 9001],
      ["LATIN1", 9002],
    ] as const) {
      const text = encoding === "WIN1251" ? "Привет" : "é";
      expect(await inEncoding(encoding, (database) => insert(database, user, text))).toMatchObject({
        report: { transactions: { adopted: { count: 1 } } },
      });
      expect(
        await ledger.query(
          "SELECT description FROM ledgerd.transactions WHERE user_id = $1 AND reference IS NOT NULL",
          [user],
        ),
      ).toEqual([{ description: text }]);
    }
  });

  test("of which nobody knows which it is are taken where they are UTF-8, and refused where not", async () => {
    const long = "ы".repeat(3000);
    expect(await inEncoding("SQL_ASCII", (database) => insert(database, 9003, long))).toMatchObject({
      report: { transactions: { description_cut: { count: 1 } } },
    });
    expect(
      await ledger.query("SELECT description FROM ledgerd.transactions WHERE user_id = 9003 AND reference IS NOT NULL"),
    ).toEqual([{ description: "ы".repeat(2000) }]);
    const bytes = async ({ query }: TestDatabase): Promise<void> => {
      await query(
        "INSERT INTO transactions (user_id, amount, description) VALUES (9004, 1, convert_from('\\xcfe8'::bytea, 'SQL_ASCII'))",
      );
    };
    expect(await inEncoding("SQL_ASCII", bytes)).toEqual({
      refused: expect.stringMatching(
        /^the old database can't be read \(22021: .*\): a text isn't in the encoding that the database names: restore a dump of it/,
      ) as string,
    });
  });
});
