// The database of the old application, read only: its tables `user_balances`, `transactions` and `jobs`, page by page.
//
// Statements by Slonik's tag, run by pg, rows as arrays of texts: a million of them would spend most of their time in Slonik's and zod's hands.
// The tables are named without a schema: the session's search path says where they are. Nothing here is one long transaction.

import pg from "pg";
import { sql, type QuerySqlToken } from "slonik";
import { AdoptionProblem, DESCRIPTION_LIMIT, type OldBalance, type OldTransaction } from "../../domain/adoption.ts";
import { JOB_BYTES, type OldJob } from "../../domain/adopted-job.ts";
import { noColumns } from "../rows.ts";

/** How to read the old database. */
export interface SourceOptions {
  readonly url: string;
  readonly schema: string;
  /** Of its times, which have none of their own. */
  readonly timeZone: string;
  readonly connectTimeoutMs: number;
  readonly queryTimeoutMs: number;
  /** Blocks that one statement of a survey reads: by default 800 MB. */
  readonly surveyBlocks?: number;
}

/** Somebody else who is connected. */
export interface Stranger {
  readonly pid: string;
  readonly user: string;
  readonly application: string;
  readonly address: string;
}

/** All rows of a table in one of its currencies. */
export interface Survey {
  readonly currency: string | null;
  readonly count: bigint;
  /** The smallest id, or user. */
  readonly example: string;
  /** Of its amounts. */
  readonly digits: number;
  /** How many amounts are no numbers. */
  readonly notNumbers: bigint;
}

/** What the tables hold, and a text that is another one if any row of theirs is. */
export interface Contents {
  readonly balances: readonly Survey[];
  readonly transactions: readonly Survey[];
  readonly jobs: bigint;
  readonly lastJobId: bigint;
  readonly fingerprint: string;
}

type Fields = readonly (string | null)[];

const transactionColumns = sql.fragment`
  t.user_id, t.id, t.amount, t.currency, t.type, left(t.description, ${DESCRIPTION_LIMIT + 1}),
  CASE WHEN isfinite(t.created_at) THEN (extract(epoch FROM t.created_at::timestamptz) * 1000000)::int8 END, t.created_at`;

const APPLICATION = "ledgerd adopt";
const SURVEY_BLOCKS = 100_000;
/** What a job of the longest texts keeps of its prompt, in characters. */
const CUT_PROMPT = 100_000;
const CUT_TEXT = 2000;

const columnsNeeded = {
  user_balances: ["user_id", "balance", "currency", "created_at"],
  transactions: ["id", "user_id", "amount", "currency", "type", "description", "created_at"],
  jobs: ["id", "user_id", "model_id", "prompt", "parameters", "status", "result_url", "error_message", "cost", "created_at", "completed_at"],
} as const;

/** One session in the old database. */
export class Source {
  readonly #client: pg.Client;
  readonly #options: SourceOptions;
  /** Whether there is a table `jobs` at all. */
  #hasJobs = false;
  /** The end of the statement before. */
  #last = Promise.resolve();

  private constructor(client: pg.Client, options: SourceOptions) {
    this.#client = client;
    this.#options = options;
  }

  /** Connects, and sees that the tables are the old application's. Throws `AdoptionProblem` if something is missing. */
  static async open(options: SourceOptions): Promise<Source> {
    const client = new pg.Client({
      connectionString: options.url,
      application_name: APPLICATION,
      connectionTimeoutMillis: options.connectTimeoutMs,
      types: { getTypeParser: () => (text: string) => text },
    });
    // A connection that breaks makes the statement at hand fail, which says it.
    client.on("error", () => undefined);
    await client.connect();
    const source = new Source(client, options);
    try {
      await source.#prepare();
    } catch (error) {
      await source.close();
      throw error;
    }
    return source;
  }

  async close(): Promise<void> {
    await this.#client.end();
  }

  async #prepare(): Promise<void> {
    const { schema, timeZone, queryTimeoutMs } = this.#options;
    const zone = await this.#zone(timeZone);
    await this.#ask(sql.type(noColumns)`
      SELECT set_config('search_path', quote_ident(${schema}) || ', pg_catalog', FALSE), set_config('TimeZone', ${zone}, FALSE),
             set_config('DateStyle', 'ISO, YMD', FALSE), set_config('statement_timeout', ${queryTimeoutMs.toString()}, FALSE),
             set_config('default_transaction_read_only', 'on', FALSE), set_config('enable_seqscan', 'off', FALSE),
             set_config('enable_bitmapscan', 'off', FALSE), set_config('jit', 'off', FALSE), set_config('max_parallel_workers_per_gather', '0', FALSE)`);
    await this.#checkTables();
  }

  /** The zone's name as PostgreSQL writes it. Setting it wouldn't tell: any letters with a number are a zone as well, in the POSIX way. */
  async #zone(name: string): Promise<string> {
    // The view reads a thousand files.
    if (name === "UTC") return name;
    const [found] = await this.#ask(sql.type(noColumns)`SELECT z.name FROM pg_timezone_names z WHERE lower(z.name) = lower(${name}) LIMIT 1`);
    if (typeof found?.[0] === "string") return found[0];
    throw new AdoptionProblem(`--time-zone must be a name that PostgreSQL knows, such as Europe/Moscow; it is ${JSON.stringify(name)}`);
  }

  async #checkTables(): Promise<void> {
    const { schema } = this.#options;
    const found = await this.#ask(sql.type(noColumns)`
      SELECT c.table_name, c.column_name
      FROM information_schema.columns c
      WHERE c.table_schema = ${schema} AND c.table_name = ANY(${sql.array(Object.keys(columnsNeeded), "text")})
      LIMIT 10000`);
    const there = new Set(found.map(([table, column]) => `${table}.${column}`));
    if (there.has("transactions.hash") && there.has("transactions.sequence")) {
      throw new AdoptionProblem(`the tables of schema ${schema} are ledgerd's own: --from must name the old application's database, and --schema its schema there`);
    }
    this.#hasJobs = found.some(([table]) => table === "jobs");
    const missing = Object.entries(columnsNeeded)
      .filter(([table]) => table !== "jobs" || this.#hasJobs)
      .flatMap(([table, columns]) => columns.map((column) => `${table}.${column}`).filter((column) => !there.has(column)));
    if (missing.length > 0) throw new AdoptionProblem(`schema ${schema} of the old database lacks ${missing.join(", ")}: is it the right one (--from, --schema), and may this login read it?`);
  }

  /** Which database this is, whatever way leads to it. */
  async identity(): Promise<string> {
    const [found] = await this.#ask(sql.type(noColumns)`
      SELECT (SELECT s.system_identifier FROM pg_control_system() s LIMIT 1) || '/' || current_database() || '/' || ${this.#options.schema}::text AS identity`);
    return found?.[0] ?? "";
  }

  /** Who else is connected to the old database; the first of them. What kind of session another login's is may be hidden. */
  async strangers(): Promise<readonly Stranger[]> {
    const found = await this.#ask(sql.type(noColumns)`
      SELECT a.pid, coalesce(a.usename, ''), coalesce(a.application_name, ''), coalesce(a.client_addr::text, 'local')
      FROM pg_stat_activity a
      WHERE a.datname = current_database() AND a.pid <> pg_backend_pid() AND a.usename IS NOT NULL
        AND coalesce(a.backend_type, 'client backend') = 'client backend' AND a.application_name IS DISTINCT FROM ${APPLICATION}
      ORDER BY a.pid
      LIMIT 10`);
    return found.map(([pid, user, application, address]) => ({ pid: pid ?? "", user: user ?? "", application: application ?? "", address: address ?? "" }));
  }

  /** Looks at every row, some blocks at a time. */
  async contents(): Promise<Contents> {
    const balances = await this.#survey("user_balances", (from, to) => sql.type(noColumns)`
      SELECT t.currency, count(*), min(t.user_id), sum(hashtextextended(t.user_id::text || ':' || t.xmin::text, 0)),
             max(length(rtrim(split_part(t.balance::text, '.', 2), '0'))), count(*) FILTER (WHERE t.balance::text IN ('NaN', 'Infinity', '-Infinity'))
      FROM user_balances t
      WHERE t.ctid >= ${from}::tid AND t.ctid < ${to}::tid
      GROUP BY t.currency
      LIMIT 10000`);
    const transactions = await this.#survey("transactions", (from, to) => sql.type(noColumns)`
      SELECT t.currency, count(*), min(t.id), sum(hashtextextended(t.id::text || ':' || t.xmin::text, 0)), 0, count(*) FILTER (WHERE t.amount = 'NaN')
      FROM transactions t
      WHERE t.ctid >= ${from}::tid AND t.ctid < ${to}::tid
      GROUP BY t.currency
      LIMIT 10000`);
    const jobs = !this.#hasJobs ? { surveys: [], hash: 0n, last: 0n } : await this.#survey("jobs", (from, to) => sql.type(noColumns)`
      SELECT '', count(*), max(t.id), sum(hashtextextended(t.id::text || ':' || t.xmin::text, 0)), 0, 0
      FROM jobs t
      WHERE t.ctid >= ${from}::tid AND t.ctid < ${to}::tid
      HAVING count(*) > 0`);
    const count = (surveys: readonly Survey[]): bigint => surveys.reduce((sum, one) => sum + one.count, 0n);
    const parts = [balances, transactions, jobs].map(({ surveys, hash }) => `${count(surveys)}:${hash}`);
    return { balances: balances.surveys, transactions: transactions.surveys, jobs: count(jobs.surveys), lastJobId: jobs.last, fingerprint: parts.join(" ") };
  }

  async #survey(table: string, statement: (from: string, to: string) => QuerySqlToken): Promise<{ surveys: readonly Survey[]; hash: bigint; last: bigint }> {
    const [size] = await this.#ask(sql.type(noColumns)`
      SELECT greatest(pg_relation_size(t.oid), (SELECT max(pg_relation_size(p.relid)) FROM pg_partition_tree(t.oid) p)) / current_setting('block_size')::int
      FROM (SELECT ${table}::regclass AS oid) t`);
    const { surveyBlocks = SURVEY_BLOCKS } = this.#options;
    const blocks = Number(size?.[0] ?? 0);
    const surveys = new Map<string | null, Survey>();
    let hash = 0n;
    let last = 0n;
    // An ordinary table has no tree of partitions, and a partitioned one no blocks of its own. One range more than there are blocks: rows may be added meanwhile.
    for (let from = 0; from <= blocks; from += surveyBlocks) {
      for (const [currency = null, count, example, sum, digits, notNumbers] of await this.#ask(statement(`(${from},0)`, `(${from + surveyBlocks},0)`))) {
        const before = surveys.get(currency);
        hash += BigInt(sum ?? 0);
        last = BigInt(example ?? 0) > last ? BigInt(example ?? 0) : last;
        surveys.set(currency, {
          currency,
          count: BigInt(count ?? 0) + (before?.count ?? 0n),
          example: before?.example ?? example ?? "",
          digits: Math.max(Number(digits ?? 0), before?.digits ?? 0),
          notNumbers: BigInt(notNumbers ?? 0) + (before?.notNumbers ?? 0n),
        });
      }
    }
    return { surveys: [...surveys.values()], hash, last };
  }

  /** Those of these users of whom there is no row. */
  async lackingUsers(userIds: readonly bigint[]): Promise<ReadonlySet<bigint>> {
    const found = await this.#ask(sql.type(noColumns)`
      SELECT u.user_id
      FROM unnest(${sql.array([...userIds], "int8")}) AS u (user_id)
      WHERE NOT EXISTS (SELECT FROM user_balances b WHERE b.user_id = u.user_id) AND NOT EXISTS (SELECT FROM transactions t WHERE t.user_id = u.user_id)
      LIMIT ${userIds.length}`);
    return new Set(found.map(([userId]) => BigInt(userId ?? 0)));
  }

  /** Those of these jobs that aren't there. */
  async lackingJobs(ids: readonly bigint[]): Promise<readonly bigint[]> {
    if (!this.#hasJobs) return ids;
    const found = await this.#ask(sql.type(noColumns)`
      SELECT g.id FROM unnest(${sql.array([...ids], "int8")}) AS g (id) WHERE NOT EXISTS (SELECT FROM jobs j WHERE j.id = g.id) LIMIT ${ids.length}`);
    return found.map(([id]) => BigInt(id ?? 0));
  }

  /** Balances of users behind one, in their order. */
  async balances(after: bigint, limit: number): Promise<readonly OldBalance[]> {
    const found = await this.#ask(sql.type(noColumns)`
      SELECT b.user_id, b.balance, b.currency,
             CASE WHEN isfinite(b.created_at) THEN (extract(epoch FROM b.created_at::timestamptz) * 1000000)::int8 END
      FROM user_balances b
      WHERE b.user_id > ${after}::int8
      ORDER BY b.user_id
      LIMIT ${limit}`);
    return found.map(([userId, balance = null, currency = null, time]) => ({ userId: BigInt(userId ?? 0), balance, currency, time: optional(time) }));
  }

  /** Transactions behind one of a user, in the order of users and of ids: what is left of that user first. */
  async transactions(userId: bigint, id: bigint, limit: number): Promise<readonly OldTransaction[]> {
    const ofUser = await this.#ask(sql.type(noColumns)`
      SELECT ${transactionColumns}
      FROM transactions t
      WHERE t.user_id = ${userId} AND t.id > ${id}::int8::int8
      ORDER BY t.id
      LIMIT ${limit}`);
    // A statement of its own, or else each page of a user with a million rows would sort all of them.
    const ofNext = ofUser.length === limit ? [] : await this.#ask(sql.type(noColumns)`
      SELECT ${transactionColumns}
      FROM transactions t
      WHERE t.user_id > ${userId}
      ORDER BY t.user_id, t.id
      LIMIT ${limit - ofUser.length}`);
    return [...ofUser, ...ofNext].map(oldTransaction);
  }

  /** Jobs behind one, in the order of ids; of those with very long texts, the beginnings. */
  async jobs(after: bigint, limit: number): Promise<readonly OldJob[]> {
    if (!this.#hasJobs) return [];
    const found = await this.#ask(sql.type(noColumns)`
      SELECT j.id, j.user_id, b.currency, j.model_id, CASE WHEN s.bytes > ${JOB_BYTES} THEN left(j.prompt, ${CUT_PROMPT}) ELSE j.prompt END,
             CASE WHEN s.bytes <= ${JOB_BYTES} THEN j.parameters::text END, jsonb_typeof(j.parameters::jsonb), j.status,
             CASE WHEN s.bytes > ${JOB_BYTES} THEN left(j.result_url, ${CUT_TEXT}) ELSE j.result_url END,
             CASE WHEN s.bytes > ${JOB_BYTES} THEN left(j.error_message, ${CUT_TEXT}) ELSE j.error_message END, j.cost,
             CASE WHEN isfinite(j.created_at) THEN (extract(epoch FROM j.created_at::timestamptz) * 1000000)::int8 END,
             CASE WHEN isfinite(j.completed_at) THEN (extract(epoch FROM j.completed_at::timestamptz) * 1000000)::int8 END, s.bytes
      FROM jobs j
      LEFT JOIN user_balances b ON b.user_id = j.user_id
      CROSS JOIN LATERAL (
        SELECT coalesce(octet_length(j.prompt), 0) + coalesce(octet_length(j.parameters::text), 0) + coalesce(octet_length(j.result_url), 0)
               + coalesce(octet_length(j.error_message), 0) AS bytes
      ) AS s
      WHERE j.id > ${after}::int8
      ORDER BY j.id
      LIMIT ${limit}`);
    return found.map(([id, userId, currency = null, modelId, prompt, parameters, kind, status = null, resultUrl, errorMessage, cost = null, createdAt, completedAt, bytes]) => ({
      id: BigInt(id ?? 0), userId: BigInt(userId ?? 0), currency, modelId: modelId ?? "", prompt: prompt ?? "",
      parameters: kind === "null" ? "" : (parameters ?? ""), parametersAreObject: kind === "object", status,
      resultUrl: resultUrl ?? "", errorMessage: errorMessage ?? "", cost, createdAt: optional(createdAt), completedAt: optional(completedAt),
      bytes: Number(bytes ?? 0), isCut: Number(bytes ?? 0) > JOB_BYTES,
    }));
  }

  /** One statement at a time, in the order in which they are asked for. */
  async #ask(statement: QuerySqlToken): Promise<readonly Fields[]> {
    const before = this.#last;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#last = promise;
    await before;
    try {
      const text = statement.sql.replaceAll("$slonik_", "$");
      const { rows } = await this.#client.query<(string | null)[]>({ text, values: [...statement.values], rowMode: "array" });
      return rows;
    } finally {
      resolve();
    }
  }
}

function oldTransaction([userId, id, amount, currency = null, type, description = null, time, timeText = null]: Fields): OldTransaction {
  return { userId: BigInt(userId ?? 0), id: BigInt(id ?? 0), amount: amount ?? "", currency, type: type ?? "", description, time: optional(time), timeText };
}

function optional(text: string | null | undefined): bigint | null {
  return text === null || text === undefined ? null : BigInt(text);
}
