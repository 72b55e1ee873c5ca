// The database of the old application, read only: its tables `user_balances`, `transactions` and `jobs`, page by page.
//
// Statements by Slonik's tag, run by pg, rows as arrays of texts: a million of them would spend most of their time in
// Slonik's and zod's hands. The tables are named without a schema: the session's search path says where they are.
// Nothing here is one long transaction. Whatever PostgreSQL won't answer is told in one sentence.

import type pg from "pg";
import { sql, type QuerySqlToken } from "slonik";
import {
  AdoptionProblem,
  BEFORE_ALL,
  DESCRIPTION_LIMIT,
  type OldBalance,
  type OldTransaction,
} from "../rules/adoption.ts";
import { JOB_BYTES, type OldJob } from "../rules/adopted-job.ts";
import { connect } from "../../postgres/connection/connect.ts";
import { noColumns } from "../../postgres/rows/rows.ts";
import { columnOf, columnsQuery, keyQuery, shapeProblems, tables, tablesIn, type TableName } from "./shape.ts";
import { unreadable } from "./unreadable.ts";
import { type Fields, micros, oldJob, oldTransaction, optional, transactionColumns } from "./old-rows.ts";
import type { Contents, Stranger } from "./contents.ts";

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

/** What a look at a table found. */
interface Survey {
  readonly count: bigint;
  readonly hash: bigint;
  /** Rows that have no id, or the smallest one that there is. */
  readonly nameless: bigint;
  readonly lastId: bigint;
}

const APPLICATION = "ledgerd adopt";
const OLDEST_VERSION = 120_000;
const SURVEY_BLOCKS = 100_000;
/** What a job of the longest texts keeps of its prompt, in characters. */
const CUT_PROMPT = 100_000;
const CUT_TEXT = 2000;
/** Ids of jobs beyond it would leave the ledger too few for new ones. */
const LAST_JOB_ID = 2n ** 62n;
/** Examples of rows in a sentence. */
const EXAMPLES = 5;
const LONGEST_TEXT = 2 ** 30;

/** One session in the old database. */
export class Source {
  readonly #client: pg.Client;
  readonly #options: SourceOptions;
  #tables: readonly TableName[] = [];
  /** In SQL_ASCII a text is bytes to PostgreSQL: where it would cut one, half a character might be left. */
  #cutsBytes = false;
  /** The end of the statement before. */
  #last = Promise.resolve();

  private constructor(client: pg.Client, options: SourceOptions) {
    this.#client = client;
    this.#options = options;
  }

  /** Connects, and sees that the tables are the old application's. Throws `AdoptionProblem` if something is missing. */
  static async open(options: SourceOptions): Promise<Source> {
    const { url, connectTimeoutMs } = options;
    const types = { getTypeParser: () => (text: string) => text };
    const client = await connect({ url, name: APPLICATION, timeoutMs: connectTimeoutMs, types }).catch(
      (error: unknown) => {
        throw unreadable(error);
      },
    );
    const source = new Source(client, options);
    try {
      await source.#prepare();
    } catch (error) {
      await source.close();
      throw error instanceof AdoptionProblem ? error : unreadable(error);
    }
    return source;
  }

  async close(): Promise<void> {
    await this.#client.end();
  }

  /** Whatever the database or the login sets for its sessions, this one reads as it needs to. */
  async #prepare(): Promise<void> {
    const { schema, timeZone, queryTimeoutMs } = this.#options;
    const settings = {
      default_transaction_read_only: "on",
      row_security: "off",
      DateStyle: "ISO, YMD",
      extra_float_digits: "3",
      max_parallel_workers_per_gather: "0",
      enable_seqscan: "off",
      enable_bitmapscan: "off",
    };
    // Before the search path is set, names are found in pg_catalog first as well, unless it says otherwise. Older
    // versions lack some of the settings.
    await this.#ask(sql.type(noColumns)`
      SELECT set_config('search_path', 'pg_catalog, ' || quote_ident(${schema}), FALSE),
             set_config('statement_timeout', ${queryTimeoutMs.toString()}, FALSE)`);
    const [found] = await this.#ask(sql.type(noColumns)`
      SELECT current_setting('server_version_num'), current_setting('server_encoding'),
             current_setting('server_version')`);
    const [version, encoding, versionName] = found ?? [];
    if (Number(version) < OLDEST_VERSION)
      throw new AdoptionProblem(
        `the old database is in PostgreSQL ${versionName}: restore a dump of it into one of version 12 or later, and adopt that`,
      );
    this.#cutsBytes = encoding === "SQL_ASCII";
    await this.#ask(sql.type(noColumns)`
      SELECT set_config(s.name, s.value, FALSE)
      FROM unnest(
        ${sql.array(Object.keys(settings), "text")}, ${sql.array(Object.values(settings), "text")}
      ) AS s (name, value)
      WHERE current_setting(s.name, TRUE) IS NOT NULL
      LIMIT 100`);
    const zone = await this.#zone(timeZone);
    await this.#ask(sql.type(noColumns)`SELECT set_config('TimeZone', ${zone}, FALSE)`);
    await this.#checkTables();
  }

  /**
   * The zone's name as PostgreSQL writes it. Setting it wouldn't tell: any letters with a number are a zone as well, in
   * the POSIX way.
   */
  async #zone(name: string): Promise<string> {
    // The view reads a thousand files.
    if (name === "UTC") return name;
    const [found] = await this.#ask(
      sql.type(noColumns)`SELECT z.name FROM pg_timezone_names z WHERE lower(z.name) = lower(${name}) LIMIT 1`,
    );
    if (typeof found?.[0] === "string") return found[0];
    throw new AdoptionProblem(
      `--time-zone must be a name that PostgreSQL knows, such as Europe/Moscow; it is ${JSON.stringify(name)}`,
    );
  }

  async #checkTables(): Promise<void> {
    const { schema } = this.#options;
    const columns = (await this.#ask(columnsQuery(schema))).map(columnOf);
    const isLedger = ["hash", "sequence"].every((name) =>
      columns.some((column) => column.table === "transactions" && column.name === name),
    );
    if (isLedger) {
      throw new AdoptionProblem(
        `the tables of schema ${schema} are ledgerd's own: --from must name the old application's database, and --schema its schema there`,
      );
    }
    const problems = shapeProblems(schema, columns);
    if (problems.length > 0) throw new AdoptionProblem(problems.join("; "));
    this.#tables = tablesIn(columns);
  }

  /** Which database this is, whatever way leads to it. */
  async identity(): Promise<string> {
    const [found] = await this.#ask(sql.type(noColumns)`
      SELECT (SELECT s.system_identifier FROM pg_control_system() s LIMIT 1) || '/' || current_database() || '/' || ${this.#options.schema}::text AS identity`);
    return found?.[0] ?? "";
  }

  /**
   * Who else is connected to the old database; the first of them. What kind of session another login's is may be
   * hidden.
   */
  async strangers(): Promise<readonly Stranger[]> {
    const found = await this.#ask(sql.type(noColumns)`
      SELECT a.pid, coalesce(a.usename, ''), coalesce(a.application_name, ''), coalesce(a.client_addr::text, 'local')
      FROM pg_stat_activity a
      WHERE a.datname = current_database() AND a.pid <> pg_backend_pid() AND a.usename IS NOT NULL
        AND coalesce(a.backend_type, 'client backend') = 'client backend' AND a.application_name IS DISTINCT FROM ${APPLICATION}
      ORDER BY a.pid
      LIMIT 10`);
    return found.map(([pid, user, application, address]) => ({
      pid: pid ?? "",
      user: user ?? "",
      application: application ?? "",
      address: address ?? "",
    }));
  }

  /** Looks at every row, some blocks at a time. */
  async contents(): Promise<Contents> {
    const balances = await this.#survey(
      "user_balances",
      (from, to) => sql.type(noColumns)`
      SELECT count(*), sum(hashtextextended(t.user_id::text || ':' || t.xmin::text, 0)),
             count(*) FILTER (WHERE t.user_id > ${BEFORE_ALL}::int8), 0
      FROM user_balances t
      WHERE t.ctid >= ${from}::tid AND t.ctid < ${to}::tid`,
    );
    const transactions = await this.#survey(
      "transactions",
      (from, to) => sql.type(noColumns)`
      SELECT count(*), sum(hashtextextended(t.id::text || ':' || t.xmin::text, 0)),
             count(*) FILTER (WHERE t.user_id > ${BEFORE_ALL}::int8 AND t.id > ${BEFORE_ALL}::int8), 0
      FROM transactions t
      WHERE t.ctid >= ${from}::tid AND t.ctid < ${to}::tid`,
    );
    const jobs = await this.#survey(
      "jobs",
      (from, to) => sql.type(noColumns)`
      SELECT count(*), sum(hashtextextended(t.id::text || ':' || t.xmin::text, 0)),
             count(*) FILTER (WHERE t.user_id > ${BEFORE_ALL}::int8 AND t.id > ${BEFORE_ALL}::int8), max(t.id)
      FROM jobs t
      WHERE t.ctid >= ${from}::tid AND t.ctid < ${to}::tid`,
    );
    const surveys = { user_balances: balances, transactions, jobs };
    const problems: string[] = [];
    for (const table of this.#tables) {
      const { nameless } = surveys[table];
      if (nameless > 0n)
        problems.push(
          `${nameless} rows of ${table} have a NULL (or ${BEFORE_ALL}) as user_id or id: correct or delete them`,
        );
      problems.push(...(await this.#duplicates(table)));
    }
    if (jobs.lastId > LAST_JOB_ID)
      problems.push(
        `jobs.id goes up to ${jobs.lastId}, and jobs keep their ids, behind which new ones need room: give those above ${LAST_JOB_ID} others`,
      );
    return {
      balances: balances.count,
      transactions: transactions.count,
      jobs: jobs.count,
      lastJobId: jobs.lastId,
      problems,
      fingerprint: [balances, transactions, jobs].map(({ count, hash }) => `${count}:${hash}`).join(" "),
    };
  }

  async #survey(table: TableName, statement: (from: string, to: string) => QuerySqlToken): Promise<Survey> {
    let survey: Survey = { count: 0n, hash: 0n, nameless: 0n, lastId: 0n };
    if (!this.#tables.includes(table)) return survey;
    // A partitioned table has no blocks of its own, and rows of a table that inherits from another one are that one's
    // as well.
    const [size] = await this.#ask(sql.type(noColumns)`
      WITH RECURSIVE tree (oid) AS (
        SELECT ${table}::regclass::oid
        UNION
        SELECT h.inhrelid FROM tree t JOIN pg_inherits h ON h.inhparent = t.oid
      )
      SELECT max(pg_relation_size(t.oid)) / current_setting('block_size')::int FROM tree t`);
    const { surveyBlocks = SURVEY_BLOCKS } = this.#options;
    const blocks = Number(size?.[0] ?? 0);
    // One range more than there are blocks: rows may be added meanwhile.
    for (let from = 0; from <= blocks; from += surveyBlocks) {
      const [found] = await this.#ask(statement(`(${from},0)`, `(${from + surveyBlocks},0)`));
      const [count = 0n, hash = 0n, named = 0n, lastId = 0n] = (found ?? []).map((figure) => BigInt(figure ?? 0));
      const { count: before, nameless } = survey;
      survey = {
        count: before + count,
        hash: survey.hash + hash,
        nameless: nameless + count - named,
        lastId: lastId > survey.lastId ? lastId : survey.lastId,
      };
    }
    return survey;
  }

  /** Rows that can't be told from each other: what no unique key forbids is looked for. */
  async #duplicates(table: TableName): Promise<readonly string[]> {
    const [key] = await this.#ask(keyQuery(this.#options.schema, table));
    if (key?.[0] === "t") return [];
    const names = sql.join(
      tables[table].key.map((name) => sql.identifier(["t", name])),
      sql.fragment`, `,
    );
    const found = await this.#ask(sql.type(noColumns)`
      SELECT concat_ws(' ', ${names})
      FROM ${sql.identifier([table])} t
      GROUP BY ${names}
      HAVING count(*) > 1
      ORDER BY ${names}
      LIMIT ${EXAMPLES}`);
    if (found.length === 0) return [];
    const examples = found.map(([example]) => example).join(", ");
    const remedy = {
      user_balances: "leave the right one of each",
      transactions: "give them ids of their own",
      jobs: "give them ids of their own",
    }[table];
    return [
      `${table} has several rows of the same ${tables[table].key.join(" and ")} (such as ${examples}): ${remedy}`,
    ];
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
    if (!this.#tables.includes("jobs")) return ids;
    const found = await this.#ask(sql.type(noColumns)`
      SELECT g.id FROM unnest(${sql.array([...ids], "int8")}) AS g (id) WHERE NOT EXISTS (SELECT FROM jobs j WHERE j.id = g.id) LIMIT ${ids.length}`);
    return found.map(([id]) => BigInt(id ?? 0));
  }

  /** Balances of users behind one, in their order. */
  async balances(after: bigint, limit: number): Promise<readonly OldBalance[]> {
    const found = await this.#ask(sql.type(noColumns)`
      SELECT b.user_id, b.balance, b.currency::text, ${micros("b", "created_at")}
      FROM user_balances b
      WHERE b.user_id > ${after}::int8
      ORDER BY b.user_id
      LIMIT ${limit}`);
    return found.map(([userId, balance = null, currency = null, time]) => ({
      userId: BigInt(userId ?? 0),
      balance,
      currency,
      time: optional(time),
    }));
  }

  /** Transactions behind one of a user, in the order of users and of ids: what is left of that user first. */
  async transactions(userId: bigint, id: bigint, limit: number): Promise<readonly OldTransaction[]> {
    const characters = this.#cutsBytes ? LONGEST_TEXT : DESCRIPTION_LIMIT + 1;
    const ofUser = await this.#ask(sql.type(noColumns)`
      SELECT ${transactionColumns(characters)}
      FROM transactions t
      WHERE t.user_id = ${userId} AND t.id > ${id}::int8
      ORDER BY t.id
      LIMIT ${limit}`);
    // A statement of its own, or else each page of a user with a million rows would sort all of them.
    const ofNext =
      ofUser.length === limit
        ? []
        : await this.#ask(sql.type(noColumns)`
      SELECT ${transactionColumns(characters)}
      FROM transactions t
      WHERE t.user_id > ${userId}
      ORDER BY t.user_id, t.id
      LIMIT ${limit - ofUser.length}`);
    return [...ofUser, ...ofNext].map(oldTransaction);
  }

  /** Jobs behind one, in the order of ids; of those with very long texts, the beginnings. */
  async jobs(after: bigint, limit: number): Promise<readonly OldJob[]> {
    if (!this.#tables.includes("jobs")) return [];
    const [prompt, text] = this.#cutsBytes ? [0, 0] : [CUT_PROMPT, CUT_TEXT];
    const found = await this.#ask(sql.type(noColumns)`
      SELECT j.id, j.user_id, b.currency::text, left(j.model_id::text, ${CUT_TEXT}),
             CASE WHEN s.bytes > ${JOB_BYTES} THEN left(j.prompt::text, ${prompt}) ELSE j.prompt::text END,
             CASE WHEN s.bytes <= ${JOB_BYTES} THEN j.parameters::text END,
             left(j.status::text, ${CUT_TEXT}),
             CASE WHEN s.bytes > ${JOB_BYTES} THEN left(j.result_url::text, ${text}) ELSE j.result_url::text END,
             CASE WHEN s.bytes > ${JOB_BYTES} THEN left(j.error_message::text, ${text}) ELSE j.error_message::text END,
             j.cost, ${micros("j", "created_at")}, ${micros("j", "completed_at")}, s.bytes
      FROM jobs j
      LEFT JOIN user_balances b ON b.user_id = j.user_id
      CROSS JOIN LATERAL (
        SELECT coalesce(octet_length(j.prompt::text), 0) + coalesce(octet_length(j.parameters::text), 0)
               + coalesce(octet_length(j.result_url::text), 0) + coalesce(octet_length(j.error_message::text), 0) AS bytes
      ) AS s
      WHERE j.id > ${after}::int8
      ORDER BY j.id
      LIMIT ${limit}`);
    return found.map(oldJob);
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
    } catch (error) {
      throw unreadable(error);
    } finally {
      resolve();
    }
  }
}
