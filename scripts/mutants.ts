// Takes out of a copy of the tree, one at a time, what keeps the money right, and checks that the test which is there for it fails.
//   node scripts/mutants.ts              all of them
//   node scripts/mutants.ts lock queue   those whose names contain one of these words

import { execFile } from "node:child_process";
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { promisify } from "node:util";
import { z } from "zod";

/** A change that must not go unnoticed. */
export interface Mutant {
  readonly name: string;
  /** The file, the text that occurs in it exactly once, and what takes its place. */
  readonly change: readonly [file: string, text: string, instead: string];
  /** The test that must fail then: its file and its title. */
  readonly killer: readonly [file: string, title: string];
}

const commit = "src/postgres/journal/commit.ts";
const connection = "src/postgres/protocol/connection.ts";
const facts = "src/postgres/journal/read.ts";
const gather = "src/postgres/sharing/gather.ts";
const lanes = "src/postgres/journal/lanes.ts";
const lock = "src/postgres/journal/lock.ts";
const order = "src/postgres/journal/order.ts";
const queue = "src/postgres/journal/queue.ts";
const stream = "src/rpc/ledger/stream-writes.ts";
const grpcCall = "src/servers/grpc/grpc-call.ts";
const grpcDoor = "src/servers/grpc/grpc-server.ts";
const decoder = "src/servers/wire/decoder.ts";
const tail = "src/postgres/feed/tail.ts";
const write = "src/postgres/journal/write.ts";

const commitTests = "test/journal/commit.test.ts";
const defenceTests = "test/journal/defences.test.ts";
const failoverTests = "test/faults/failover.test.ts";
const lostOutcome = "what is told by key, by id and by the feed waits, and is never told of what is lost then";
const groupTests = "test/journal/groups.test.ts";
const instanceTests = "test/journal/instances.test.ts";
const lockTests = "test/journal/locks.test.ts";
const orderTests = "test/journal/order.test.ts";
const queueTests = "test/journal/queue.test.ts";
const queueLaw = "whatever is queued, and whenever groups are taken, each write is taken once, and after those before it that share a user with it";
const readTests = "test/concurrency/reads.test.ts";
const streamTests = "test/contract/stream-writes.test.ts";
const stopped = "is its reader's: while nothing is read, writing stops, 100 to a message, and goes on when it is";

export const mutants: readonly Mutant[] = [
  {
    name: "later writes of a group not held back by one whose account is locked",
    change: [lock, "const isBehind = users.some((user) => waiting.has(user));", "const isBehind = false;"],
    killer: [orderTests, "in a batch is decided after it, when the lock is gone"],
  },
  {
    name: "what is behind a culprit in its batch is tried without it",
    change: [order, "return users !== undefined && usersOf(submission).some((user) => users.has(user));", "return false;"],
    killer: [orderTests, "in a batch isn't tried, if it shares a user with it; the rest is"],
  },
  {
    name: "the queue not held back by a group without an outcome",
    change: [lanes, "if (!undecided.any) return;", "return;"],
    killer: [orderTests, "what waits in the queue behind a group without an outcome isn't tried, if it shares a source and a user with it"],
  },
  {
    name: "a write not held back by one before it that came too late",
    change: [lanes, 'waiting.deadline <= now ? "DEADLINE_PASSED" : isBehind ? "NOT_TRIED" : undefined', 'waiting.deadline <= now ? "DEADLINE_PASSED" : undefined'],
    killer: ["test/journal/lanes.test.ts", "of a stream in line, no write is tried in a later group than one without an outcome that shares a user with it"],
  },
  {
    name: "a stream's next writes not held back before their caller can know",
    change: [stream, 'if (isBehind) throw new Failure("NOT_TRIED");', ""],
    killer: [orderTests, "what a stream sends before it can know of a write without an outcome isn't tried, if it shares a user with it"],
  },
  {
    name: "a group of one half overtakes a transfer between both",
    change: [queue, "return ofBoth < 0 ? first : first.slice(0, ofBoth);", "return ofBoth < 0 ? first : first.filter(({ half }) => half !== undefined);"],
    killer: [queueTests, queueLaw],
  },
  {
    name: "what a group leaves in the queue goes to its end",
    change: [queue, "seen.filter((write) => !taken.has(write)).concat(this.#waiting.slice(seen.length))", "this.#waiting.slice(seen.length).concat(seen.filter((write) => !taken.has(write)))"],
    killer: [queueTests, queueLaw],
  },
  {
    name: "a verification doesn't wait for open transactions",
    change: ["src/verification/verify.ts", "const { last } = await settledEnd(pool, signal);", "const { last } = await logEnd(pool);"],
    killer: ["test/ops/online.test.ts", "is gone through once all have ended who may yet commit below its last id"],
  },
  {
    name: "hashes not verified",
    change: ["src/verification/account-fold.ts", "if (chainHash(this.#last?.hash, row, row.figures) !== row.hash) {", "if (row.hash.length === 0) {"],
    killer: ["test/ops/verify.test.ts", "an amount that was edited: its hash, and the figures that no longer follow"],
  },
  {
    name: "a rebuild touches accounts whose rows are wrong",
    change: ["src/verification/rebuild.ts", "if (kind !== \"hold_unfounded\") this.#broken = id;", ""],
    killer: ["test/ops/rebuild.test.ts", "leaves an account whose own rows are wrong, and names it, until it is told to trust the log"],
  },
  {
    name: "tokens given twice after a restore",
    change: ["src/backup/sql/restore-target.ts", "behindAll(state, now?.micros ?? 0n) : state", "state : state"],
    killer: ["test/ops/backup.test.ts", "a ledger that is restored into the very database that it was taken of gives no token twice"],
  },
  {
    name: "tokens don't jump on another timeline",
    change: ["migrations/0012_timeline.sql", "left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)", "'00000001'"],
    killer: [failoverTests, "no fencing token is given twice, of locks and of jobs, whichever instance gives the first one"],
  },
  {
    name: "a job watch goes on over a failover",
    change: ["src/postgres/jobs/job-watch.ts", "if (present !== timeline) {", "if (false) {"],
    killer: [failoverTests, "a watch of a user's jobs ends, so that a new one tells what became of them"],
  },
  {
    name: "a verification goes on over a failover",
    change: ["src/verification/sql/session.ts", "if (timeline === this.#timeline) return;", "return;"],
    killer: [failoverTests, "a verification that is under way ends, and takes nothing for a difference"],
  },
  {
    name: "smaller end accepted",
    change: [tail, "if (settled < this.#settled) throw new LogWentBack();", ""],
    killer: ["test/contract/feed.test.ts", "where its end is before what was read, though no row is lost"],
  },
  {
    name: "another row at the feed's end accepted",
    change: [tail, "if (known !== undefined && found[0]?.hash !== known.hash) throw new LogWentBack();", ""],
    killer: ["test/contract/feed.test.ts", "where another row is in the place of the last one, though its end is further"],
  },
  {
    name: "outcome not waited for",
    change: ["src/postgres/protocol/durability.ts", "if (!isFinal(found) || (await this.reached()) === before) return found;", "return found;"],
    killer: [failoverTests, lostOutcome],
  },
  {
    name: "the feed tells what isn't durable",
    change: [tail, "this.#timeline = await this.#durability.reached();", 'this.#timeline = timeline ?? "";'],
    killer: [failoverTests, lostOutcome],
  },
  {
    name: "an opening left out",
    change: ["src/adoption/rules/adoption.ts", "if (amount !== 0n) {\n      this.#users.add(\"with_opening\"", "if (amount > 2n ** 62n) {\n      this.#users.add(\"with_opening\""],
    killer: ["test/adoption/adopt.test.ts", "begins with an opening of what its transactions don't explain, so that what was spent of it stays a deduction"],
  },
  {
    name: "answers of gathered reads mixed up",
    change: [gather, "resolve(answers[index] as Answer)", "resolve(answers[0] as Answer)"],
    killer: [readTests, "show each what was written before, through either instance, while others read and write"],
  },
  {
    name: "gathered reads wait for a statement that hangs",
    change: [gather, "const slow = setTimeout(leave, SLOW_MS);", "const slow = setTimeout(leave, 2 ** 30);"],
    killer: [readTests, "don't wait for statements that hang"],
  },
  {
    name: "no lock on accounts",
    change: [lock, "wait: sql.fragment`FOR UPDATE`", "wait: sql.fragment`OFFSET 0`"],
    killer: [instanceTests, "spend from one account at the same time: every call is applied or refused for lack of money, none fails"],
  },
  {
    name: "accounts locked in any order",
    change: [lock, "distinct.toSorted(inLockOrder)", "distinct"],
    killer: [instanceTests, "lock accounts in one order, so that neither waits for the other"],
  },
  {
    name: "a group waits for one locked account",
    change: [commit, 'state === LOCK_NOT_AVAILABLE && mode === "wait"', "false"],
    killer: [lockTests, "keeps an account locked, the other calls of its group are answered, and before it"],
  },
  {
    name: "a lock that isn't given up taken for a bug",
    change: [commit, "return state === LOCK_NOT_AVAILABLE || state === QUERY_CANCELED;", "return state === QUERY_CANCELED;"],
    killer: [lockTests, "uses the same key and doesn't commit, a call gets a conflict, and works when that session has given up"],
  },
  {
    name: "stored outcomes not looked up",
    change: [facts, "seen?.keys_used === true ? send(selectOutcomes(keysOf(submissions))) : []", "[]"],
    killer: ["test/contract/idempotency.test.ts", "answers the first outcome, with the figures of then"],
  },
  {
    name: "equal keys of a group not noticed",
    change: ["src/domain/journal/group.ts", "const first = firstWithKey.get(id);", "const first = undefined;"],
    killer: [groupTests, "decides a key that it has several times once"],
  },
  {
    name: "no second look after a key was taken meanwhile",
    change: [commit, "return state === UNIQUE_VIOLATION && ofOutcomes;", "return false;"],
    killer: [instanceTests, "use one key under two currencies at the same moment: one effect"],
  },
  {
    name: "balances not compared before they are set",
    change: [write, "b.ctid = a.row AND b.sequence = a.sequence_before", "TRUE"],
    killer: [defenceTests, "a stale write is stopped by the comparison of its balance's place and sequence"],
  },
  {
    name: "balances that were set not counted",
    change: [write, "ledgerd.assert_count('user_balances', (SELECT count(*) FROM balances), ${plan.accounts.length}::int8)", "TRUE"],
    killer: [defenceTests, "a stale write is stopped by the comparison of its balance's place and sequence"],
  },
  {
    name: "sequences of the log not unique",
    change: ["migrations/0002_log.sql", "CREATE UNIQUE INDEX IF NOT EXISTS %I", "CREATE INDEX IF NOT EXISTS %I"],
    killer: [defenceTests, "a stale write is stopped by the unique sequence of the log's rows"],
  },
  {
    name: "COMMIT's tag not read",
    change: [connection, 'if (tag !== "COMMIT") throw', 'if (tag === "") throw'],
    killer: [commitTests, "never tells of success when the server answers ROLLBACK to COMMIT"],
  },
  {
    name: "a session that rolled back is kept",
    change: [connection, "if (!untrusted && !broken && state === undefined)", "if (!broken && state === undefined)"],
    killer: [commitTests, "tries again by itself, on a new session, after one that rolled back"],
  },
  {
    name: "COMMIT's warning not heeded",
    change: [connection, "if (this.#warned) throw", "if (false) throw"],
    killer: [commitTests, "makes the outcome unknown when its wait is cancelled, and replays wait as the write did"],
  },
  {
    name: "a lost answer to COMMIT taken for a lost connection",
    change: [commit, 'throw error instanceof ConnectionLost ? new Failure("COMMIT_OUTCOME_UNKNOWN", { cause: error }) : error;', "throw error;"],
    killer: [commitTests, "says that the outcome is unknown when the answer to COMMIT is lost; a retry finds it"],
  },
  {
    name: "no new attempt on a new connection",
    change: [commit, "const lost = error instanceof ConnectionLost ||", "const lost = false &&"],
    killer: [commitTests, "tries again by itself when the connection breaks while the server answers the lock"],
  },
  {
    name: "failed groups not halved",
    change: [commit, "cause instanceof Failure || group.length === 1", "true"],
    killer: [groupTests, "with one poison command fails only that one of its 100"],
  },
  {
    name: "no start over for more expired holds than one step frees",
    change: [commit, "const expiryFirst = rest.expired.length === EXPIRY_LIMIT;", "const expiryFirst = false;"],
    killer: [groupTests, "frees a thousand expired holds, starts over for the rest, and then sees all of the money"],
  },
  {
    name: "the queue has no bound",
    change: [lanes, "this.#queued + weight > this.#queueLimit", "false"],
    killer: [groupTests, "refuses at once what it has no room for, loses nothing, and works on afterwards"],
  },
  {
    name: "deadlines don't end in the queue",
    change: [lanes, "waiting.deadline <= now", "false"],
    killer: [groupTests, "drops a call whose deadline passes in it, untried"],
  },
  {
    name: "any lane for any user",
    change: [lanes, "underWay?.lane ?? this.#underWay.get(userId)?.lane ?? this.#lanes.find(({ working }) => working === undefined) ?? this.#byNumber(userId)", "this.#byNumber(BigInt(this.#queued))"],
    killer: [groupTests, "keeps the order of each user's writes"],
  },
  {
    name: "a lane starts with the first write of a stream's message",
    change: [lanes, "source === undefined ? this.#work(lane) : Promise.resolve().then(() => this.#work(lane))", "this.#work(lane)"],
    killer: [streamTests, "has all that arrived at once in one group, and tells in one message what became durable in one"],
  },
  {
    name: "a stream's unanswered writes have no bound",
    change: [stream, "this.#weight >= WINDOW", "false"],
    killer: [streamTests, stopped],
  },
  {
    name: "a stream's answers don't wait for its reader",
    change: [grpcCall, "|| !stream.writableNeedDrain)", "|| stream.writable)"],
    killer: [streamTests, stopped],
  },
  {
    name: "a stream doesn't wait for room in the queue",
    change: [stream, "this.#changed.promise : this.#parts.journal.full", "this.#changed.promise : undefined"],
    killer: [streamTests, "is that of the queue: writes wait for room in it rather than be refused, and leave half of it to calls"],
  },
  {
    name: "streams leave no room in the queue",
    change: [lanes, "this.#queued < this.#queueLimit / 2", "this.#queued < this.#queueLimit"],
    killer: [streamTests, "is that of the queue: writes wait for room in it rather than be refused, and leave half of it to calls"],
  },
  {
    name: "a stream's transfers in any order",
    change: [stream, 'this.inLine ||= write.write.case === "transfer";', ""],
    killer: [streamTests, "has a write wait for the transfer before it, whose money it spends"],
  },
  {
    name: "a stream's transfers before what is under way",
    change: [stream, "return mustLineUp || ", "return "],
    killer: [streamTests, "has a transfer wait for the writes before it, which could use its money"],
  },
  {
    name: "a stream's answers of any size",
    change: [stream, "const MESSAGE_WINDOW = 250;", "const MESSAGE_WINDOW = Infinity;"],
    killer: [streamTests, "with the longest texts keeps its answers below what clients take"],
  },
  {
    name: "a stream's writes wait in the queue for ever",
    change: [stream, "journal.submit([submission], this.#exchange.deadline(),", "journal.submit([submission], Infinity,"],
    killer: [streamTests, "waits for nothing longer than the server's deadline: what is then still in the queue is dropped, untried, and the stream goes on"],
  },
  {
    name: "what came before bytes that are no message is lost",
    change: [grpcCall, "if (requests.length > 0) yield requests;\n          throw error;", "throw error;"],
    killer: [streamTests, "with an error at bytes that are no message, when all before them is answered"],
  },
  {
    name: "a stream whose request is malformed is ended at once",
    change: [stream, "yield* stream.answers();\n      const [read] = await reading;", "const [read] = await Promise.race([reading, stream.answers().next().then(() => reading)]);"],
    killer: [streamTests, "with an error at a message of no writes, when all before it is answered"],
  },
  {
    name: "what a request holds isn't counted before it is built",
    change: [decoder, "    admit(bytes);\n", ""],
    killer: ["test/rpc/decoder.test.ts", "not a fifth time"],
  },
  {
    name: "a stream isn't ended when it is too old",
    change: [grpcDoor, "call.requests(decode, ending)", "call.requests(decode, gone)"],
    killer: [streamTests, "cleanly when it is too old, with all answered that was taken"],
  },
  {
    name: "streams that have ended count",
    change: ["src/rpc/guard.ts", "this.#streams -= 1;", ""],
    killer: [streamTests, "streams of all kinds are limited together"],
  },
  {
    name: "the feed doesn't wait for open transactions",
    change: ["src/postgres/feed/settled.ts", "let writers = await currentWriters(pool);", "let writers: readonly string[] = [];"],
    killer: ["test/contract/feed.test.ts", "waits for a transaction that is still open while later ids commit, then sees all in order"],
  },
];

const root = path.resolve(import.meta.dirname, "..");
const copied = ["src", "test", "migrations", "proto", "package.json", "tsconfig.json", "vitest.config.ts"];
const RUN_LIMIT_MS = 300_000;
/** What hangs because of a mutant need not be waited for as long as on a busy machine. */
const TEST_LIMIT_MS = 60_000;

const copy = path.join(tmpdir(), `ledgerd-mutants-${process.pid}`);

const reportSchema = z.object({
  testResults: z.array(z.object({ assertionResults: z.array(z.object({ title: z.string(), status: z.string() })) })),
});

type TestResult = z.infer<typeof reportSchema>["testResults"][number]["assertionResults"][number];

/** Whether all mutants were killed whose names contain one of these words, or all if there are none. */
async function main(words: readonly string[]): Promise<boolean> {
  const chosen = mutants.filter(({ name }) => words.length === 0 || words.some((word) => name.includes(word)));
  const misfits = chosen.flatMap(misfitOf);
  if (misfits.length > 0) throw new Error(misfits.join("; "));
  for (const name of copied) cpSync(path.join(root, name), path.join(copy, name), { recursive: true });
  symlinkSync(path.join(root, "node_modules"), path.join(copy, "node_modules"));
  const files = [...new Set(chosen.map(({ killer: [file] }) => file))];
  const broken = (await run(files)).filter(({ status }) => status !== "passed");
  const missing = chosen.length === 0 ? ["there is no such mutant"] : broken.map(({ title, status }) => `${status} without any mutant: ${title}`);
  if (missing.length > 0) {
    print(...missing);
    return false;
  }
  const width = Math.max(...chosen.map(({ name }) => name.length));
  let survivors = 0;
  for (const mutant of chosen) {
    const status = await statusWith(mutant);
    const [file, title] = mutant.killer;
    if (status !== "failed") survivors += 1;
    print(`${mutant.name.padEnd(width)}  ${status === "failed" ? "killed by" : `SURVIVED (${status})`}  ${path.basename(file)}: ${title}`);
  }
  print(`${chosen.length - survivors} killed, ${survivors} survived`);
  return survivors === 0;
}

/** Why a mutant can't be put into the tree, if it can't. */
export function misfitOf({ name, change: [file, text] }: Mutant): readonly string[] {
  const found = readFileSync(path.join(root, file), "utf8").split(text).length - 1;
  return found === 1 ? [] : [`the mutant "${name}" doesn't fit: ${file} has its text ${found} times`];
}

/** What became of a mutant's killer while the mutant was in the tree. */
async function statusWith({ change: [file, text, instead], killer: [testFile, title] }: Mutant): Promise<string> {
  const source = path.join(copy, file);
  const original = readFileSync(source, "utf8");
  writeFileSync(source, original.replace(text, () => instead));
  try {
    const tests = await run([testFile], title);
    return tests.find((test) => test.title === title)?.status ?? "not run";
  } finally {
    writeFileSync(source, original);
  }
}

/** Runs test files in the copy, or one test of them by its title. */
async function run(files: readonly string[], title?: string): Promise<readonly TestResult[]> {
  const report = path.join(copy, "report.json");
  rmSync(report, { force: true });
  const only = title === undefined ? [] : ["--testNamePattern", `${title.replaceAll(/[$()*+.?[\\\]^{|}]/g, "\\$&")}$`];
  const limits = [`--testTimeout=${TEST_LIMIT_MS}`, `--hookTimeout=${TEST_LIMIT_MS}`];
  const vitest = path.join(root, "node_modules/vitest/vitest.mjs");
  const args = [vitest, "run", ...files, ...only, ...limits, "--reporter=json", `--outputFile=${report}`];
  // An error is what is wanted here, if it is one of tests: those are in the report.
  const options = { cwd: copy, timeout: RUN_LIMIT_MS, maxBuffer: Infinity };
  const error: unknown = await promisify(execFile)(process.execPath, args, options).catch((cause: unknown) => cause);
  if (!existsSync(report)) throw new Error(`vitest made no report on ${files.join(", ")}`, { cause: error });
  const { testResults } = reportSchema.parse(JSON.parse(readFileSync(report, "utf8")));
  return testResults.flatMap(({ assertionResults }) => assertionResults);
}

function print(...lines: readonly string[]): void {
  for (const line of lines) process.stdout.write(`${line}\n`);
}

if (import.meta.main) {
  mkdirSync(copy);
  try {
    process.exitCode = (await main(process.argv.slice(2))) ? 0 : 1;
  } finally {
    rmSync(copy, { recursive: true });
  }
}
