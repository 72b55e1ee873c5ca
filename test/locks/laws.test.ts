// Locks of many clients on two instances: whatever clients and instances do, a lock has one holder at a time, and what is guarded by its tokens is safe.

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { ConnectError } from "@connectrpc/connect";
import fc from "fast-check";
import type pg from "pg";
import { ownLocks } from "../../src/domain/lock.ts";
import { LockService } from "../../src/gen/ledger/v1/lock_service_pb.ts";
import { connectToTwo } from "../concurrency/instances.ts";
import { createDatabase, type TestDatabase } from "../harness/database.ts";
import { startInstance, type Instance } from "../harness/instance.ts";
import { patient } from "../harness/patience.ts";
import { clientsOf, describeFailure, failureOf, newKey, type Clients } from "../harness/service.ts";
import { until } from "../harness/until.ts";

const CLIENTS = 6;
const RUNS = 30;
const settings = { LEDGERD_WAIT_POLL: "10ms", LEDGERD_SWEEP_INTERVAL: "50ms", LEDGERD_JOB_SWEEP_INTERVAL: "50ms" };

const opened = new AsyncDisposableStack();
let database: TestDatabase;
let lastKey = 0n;

beforeAll(async () => {
  database = opened.use(await createDatabase());
  await noteMoves(database);
});

afterAll(() => opened.disposeAsync());

const seconds = (count: number) => ({ seconds: BigInt(count), nanos: 0 });
const newLock = (): bigint => (lastKey += 1n);

/** A client's connection to an instance, and its session with what locks guard. */
interface Caller extends Clients {
  readonly session: pg.Client;
}

async function connect(stack: AsyncDisposableStack, connections: readonly Clients[]): Promise<readonly Caller[]> {
  return Promise.all(connections.map(async (clients) => {
    const session = await database.connect();
    stack.defer(() => session.end());
    return { ...clients, session };
  }));
}

/** Has the database note, past the service and by its own clock, when a lock got another lease, and when one that was over came back. */
async function noteMoves({ query }: Pick<TestDatabase, "query">): Promise<void> {
  await query("CREATE TABLE public.guarded (lock_key BIGINT PRIMARY KEY, token BIGINT NOT NULL DEFAULT 0, count INTEGER NOT NULL DEFAULT 0)");
  await query(`
    CREATE TABLE public.lock_moves (
      number BIGSERIAL, lock_key BIGINT, token_before BIGINT, token_after BIGINT, was_valid BOOLEAN, is_valid BOOLEAN
    )`);
  await query(`
    CREATE FUNCTION public.note_lock_move() RETURNS TRIGGER LANGUAGE plpgsql SECURITY DEFINER AS $$
    BEGIN
      INSERT INTO public.lock_moves (lock_key, token_before, token_after, was_valid, is_valid)
      VALUES (NEW.lock_key, OLD.fencing_token, NEW.fencing_token, OLD.expires_at > NEW.last_heartbeat, NEW.expires_at > clock_timestamp());
      RETURN NULL;
    END $$`);
  await query("CREATE TRIGGER note_lock_move AFTER UPDATE ON ledgerd.lock_heartbeat FOR EACH ROW EXECUTE FUNCTION public.note_lock_move()");
}

interface Move {
  readonly lock_key: bigint;
  readonly token_before: bigint;
  readonly token_after: bigint;
  readonly was_valid: boolean;
  readonly is_valid: boolean;
}

/** No lease began before the one before it was over, none came back, and tokens grew. Answers how many leases followed another one. */
async function checkMoves(): Promise<number> {
  const moves = await database.query<Move>("SELECT * FROM public.lock_moves ORDER BY number");
  const taken = moves.filter(({ token_before: before, token_after: after }) => before !== after);
  expect(taken.filter((move) => move.was_valid), "leases that began while another one was valid").toEqual([]);
  expect(taken.filter((move) => move.token_after < move.token_before), "tokens that did not grow").toEqual([]);
  const kept = moves.filter(({ token_before: before, token_after: after }) => before === after);
  expect(kept.filter((move) => move.is_valid && !move.was_valid), "leases that came back").toEqual([]);
  return taken.length;
}

/** As its holder would, by dying, and time. */
async function expire({ session }: Caller, lockKey: bigint): Promise<void> {
  await session.query("UPDATE ledgerd.lock_heartbeat SET expires_at = clock_timestamp() - interval '1 second' WHERE lock_key = $1", [lockKey]);
}

interface Lease {
  readonly lockKey: bigint;
  readonly fencingToken: bigint;
}

/** Writes to what the lock guards; it takes no write with a token below the last one's. */
async function write({ session }: Caller, { lockKey, fencingToken }: Lease): Promise<boolean> {
  const written = await session.query(
    `INSERT INTO public.guarded AS g (lock_key, token) VALUES ($1, $2)
     ON CONFLICT (lock_key) DO UPDATE SET token = EXCLUDED.token WHERE g.token <= EXCLUDED.token`,
    [lockKey, fencingToken],
  );
  return written.rowCount === 1;
}

const lock = fc.nat(1);
/** Mostly the client's latest lease, sometimes an older one. */
const back = fc.oneof({ weight: 3, arbitrary: fc.constant(0) }, { weight: 1, arbitrary: fc.nat(3) });
const step = fc.oneof(
  { weight: 6, arbitrary: fc.record({ kind: fc.constant("acquire" as const), lock, waitMs: fc.constantFrom(0, 0, 40) }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant("heartbeat" as const), back }) },
  { weight: 4, arbitrary: fc.record({ kind: fc.constant("release" as const), back }) },
  { weight: 6, arbitrary: fc.record({ kind: fc.constant("write" as const), back }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant("expire" as const), lock }) },
);
type Step = typeof step extends fc.Arbitrary<infer T> ? T : never;

/** Two locks, and what clients were told of them. */
class Run {
  readonly #keys = [newLock(), newLock()] as const;
  readonly #leases = new Map<Caller, Lease[]>();
  readonly #newest = new Map<bigint, bigint>();
  readonly #written = new Map<bigint, bigint>();
  /** What happened, for the test to know that it saw everything. */
  readonly seen = new Set<string>();

  async take(next: Step, caller: Caller): Promise<void> {
    if (next.kind === "expire") return expire(caller, this.#keyOf(next));
    if (next.kind === "acquire") return this.#acquire(next, caller);
    const lease = this.#leases.get(caller)?.at(-1 - next.back);
    if (lease === undefined) return;
    if (next.kind === "write") return this.#write(caller, lease);
    // A newer lease that anybody knows of makes an older one stale.
    const isStale = (this.#newest.get(lease.lockKey) ?? 0n) > lease.fencingToken;
    const { locks } = caller;
    const accepted = await isAccepted(next.kind === "heartbeat" ? locks.heartbeatLock(lease) : locks.releaseLock(lease), "LOCK_LOST");
    if (isStale) expect(accepted, `${next.kind} of lock ${lease.lockKey} with its old token ${lease.fencingToken}`).toBe(false);
    this.seen.add(`${next.kind} ${accepted ? "accepted" : "refused"}`);
  }

  #keyOf(next: { readonly lock: number }): bigint {
    return this.#keys[next.lock] ?? expect.unreachable();
  }

  async #acquire(next: Extract<Step, { kind: "acquire" }>, caller: Caller): Promise<void> {
    const lockKey = this.#keyOf(next);
    const wait = { seconds: 0n, nanos: next.waitMs * 1_000_000 };
    const newest = this.#newest.get(lockKey) ?? 0n;
    const call = caller.locks.acquireLock({ lockKey, instanceId: "a client", ttl: seconds(60), wait });
    const accepted = await isAccepted(call, "LOCK_HELD");
    this.seen.add(`acquire ${accepted ? "accepted" : "refused"}`);
    if (!accepted) return;
    const { fencingToken } = await call;
    expect(fencingToken > newest, `lock ${lockKey} got token ${fencingToken} after ${newest}`).toBe(true);
    this.#leases.set(caller, [...(this.#leases.get(caller) ?? []), { lockKey, fencingToken }]);
    raise(this.#newest, { lockKey, fencingToken });
  }

  /** Whoever has the latest lease can write; whoever had an older one can't any more, once the latest holder has written. */
  async #write(caller: Caller, lease: Lease): Promise<void> {
    const { lockKey, fencingToken } = lease;
    const isOld = (this.#written.get(lockKey) ?? 0n) > fencingToken;
    const accepted = await write(caller, lease);
    this.seen.add(`write ${accepted ? "accepted" : "refused"}`);
    if (isOld) expect(accepted, `a write with the old token ${fencingToken} of lock ${lockKey}`).toBe(false);
    if (accepted) return raise(this.#written, lease);
    const { rows } = await caller.session.query<{ token: bigint }>("SELECT token FROM public.guarded WHERE lock_key = $1", [lockKey]);
    expect((rows[0]?.token ?? 0n) > fencingToken, `the write with token ${fencingToken} of lock ${lockKey} was refused for a later holder's`).toBe(true);
  }
}

function raise(most: Map<bigint, bigint>, { lockKey, fencingToken }: Lease): void {
  if ((most.get(lockKey) ?? 0n) < fencingToken) most.set(lockKey, fencingToken);
}

/** Whether a call was accepted; it must not be refused for another reason. */
async function isAccepted(call: Promise<unknown>, refusal: string): Promise<boolean> {
  try {
    await call;
    return true;
  } catch (error) {
    if (!(error instanceof ConnectError)) throw error;
    expect(describeFailure(error).reason).toBe(refusal);
    return false;
  }
}

describe("clients on two instances", () => {
  const stack = opened.use(new AsyncDisposableStack());
  let callers: readonly Caller[];

  beforeAll(async () => {
    callers = await connect(stack, await connectToTwo(database.url, stack, CLIENTS, settings));
  });

  afterAll(() => stack.disposeAsync());

  test("that acquire, show life, release and die at random never have a lock together, and no old holder writes after a new one", async () => {
    const seen = new Set<string>();
    const scripts = fc.array(fc.array(step, { minLength: 12, maxLength: 12, size: "max" }), { minLength: CLIENTS, maxLength: CLIENTS });
    await fc.assert(
      fc.asyncProperty(scripts, async (script) => {
        const run = new Run();
        await Promise.all(script.map(async (own, index) => {
          for (const next of own) await run.take(next, callers[index] ?? expect.unreachable());
        }));
        for (const what of run.seen) seen.add(what);
      }),
      // What is asked is the same in each try, what becomes of it isn't: there is nothing to shrink.
      { numRuns: RUNS, endOnFailure: true },
    );
    expect(await checkMoves(), "leases that followed another one").toBeGreaterThan(RUNS);
    // A property that never met a case says nothing about it.
    const every = ["acquire", "heartbeat", "release", "write"].flatMap((kind) => [`${kind} accepted`, `${kind} refused`]);
    expect([...seen].toSorted()).toEqual(every.toSorted());
  });

  test("count together, each reading and then writing under the lock, though some die after that", async () => {
    const lockKey = newLock();
    await database.query("INSERT INTO public.guarded (lock_key) VALUES ($1)", [lockKey]);
    await Promise.all(callers.map(async ({ locks, session }, index) => {
      for (let round = 0; round < 5; round++) {
        const wanted = { lockKey, instanceId: `client ${index}`, ttl: seconds(1), wait: seconds(30) };
        const { fencingToken } = await locks.acquireLock(wanted, patient);
        // What it reads is fenced as well: from then on no older holder can write.
        const { rows } = await session.query<{ count: number }>(
          "UPDATE public.guarded SET token = $2 WHERE lock_key = $1 AND token <= $2 RETURNING count",
          [lockKey, fencingToken],
        );
        const written = await session.query(
          "UPDATE public.guarded SET count = $2 WHERE lock_key = $1 AND token = $3",
          [lockKey, (rows[0]?.count ?? 0) + 1, fencingToken],
        );
        // Slower than its lease: the count is the next holder's to make, and this one's again.
        if (written.rowCount !== 1) round -= 1;
        const dies = round === 2 && index < 2;
        if (!dies) await isAccepted(locks.releaseLock({ lockKey, fencingToken }), "LOCK_LOST");
      }
    }));
    const [guarded] = await database.query<{ count: number }>("SELECT count FROM public.guarded WHERE lock_key = $1", [lockKey]);
    expect(guarded?.count).toBe(5 * CLIENTS);
    await checkMoves();
  });
});

test("no request carries a client's time, so that its clock may be wrong", () => {
  const times = LockService.methods.flatMap(({ input }) => input.fields.filter(({ message }) => message?.typeName === "google.protobuf.Timestamp"));
  expect(times).toEqual([]);
});

describe("an instance that is killed", () => {
  const two = async (stack: AsyncDisposableStack): Promise<readonly [Instance, Instance]> => {
    const [one, other] = await Promise.all([startInstance(database.url, settings), startInstance(database.url, settings)]);
    return [stack.use(one), stack.use(other)];
  };

  test("with callers who wait for a lock loses neither the lock nor its holder's lease", async () => {
    await using stack = new AsyncDisposableStack();
    const [one, other] = await two(stack);
    const [killed, left] = [clientsOf(one.grpcAddress), clientsOf(other.grpcAddress)];
    const lockKey = newLock();
    const wanted = { lockKey, ttl: seconds(1), wait: seconds(30) };
    const wait = ({ locks }: Clients, instanceId: string) =>
      locks.acquireLock({ ...wanted, instanceId, requestId: instanceId }, patient);
    const holder = await killed.locks.acquireLock({ lockKey, instanceId: "holder", ttl: seconds(3600) });
    const lost = Array.from({ length: 4 }, (_, index) => failureOfBroken(wait(killed, `lost ${index}`)));
    const waiting = Array.from({ length: 4 }, (_, index) => wait(left, `waiting ${index}`));
    // Sent behind the others on each connection: they have arrived.
    for (const { locks } of [killed, left]) expect(await failureOf(locks.acquireLock({ lockKey, instanceId: "late" }))).toMatchObject({ reason: "LOCK_HELD" });
    // At the same moment, so that a caller of the killed one may have got the lock without ever being told.
    const lease = { lockKey, fencingToken: holder.fencingToken };
    await Promise.all([left.locks.heartbeatLock(lease).then(() => left.locks.releaseLock(lease)), one.end("SIGKILL")]);
    await Promise.all(lost);
    const again = Array.from({ length: 4 }, (_, index) => wait(left, `lost ${index}`));
    const tokens = await Promise.all([...waiting, ...again].map(async (call, index) => {
      const { fencingToken } = await call;
      // One of them dies as well.
      if (index > 0) await isAccepted(left.locks.releaseLock({ lockKey, fencingToken }), "LOCK_LOST");
      return fencingToken;
    }));
    expect(new Set([holder.fencingToken, ...tokens]).size, "each got it, with a token of its own").toBe(9);
    await checkMoves();
  });

  test("hands the background work over to the other one, which then does it", async () => {
    await using stack = new AsyncDisposableStack();
    const both = await two(stack);
    const holderOf = async (key: bigint): Promise<string | undefined> => {
      const [found] = await database.query<{ instance_id: string }>(
        "SELECT instance_id FROM ledgerd.lock_heartbeat WHERE lock_key = $1 AND expires_at > clock_timestamp()",
        [key],
      );
      return found?.instance_id;
    };
    const isOf = (instanceId: string | undefined, { process }: Instance): boolean => instanceId?.split(":").at(-2) === `${process.pid}`;
    await until(async () => {
      const rescuer = await holderOf(ownLocks.rescueJobs);
      return both.some((instance) => isOf(rescuer, instance));
    });
    const rescuer = await holderOf(ownLocks.rescueJobs);
    const [leader, follower] = isOf(rescuer, both[0]) ? both : both.toReversed();
    if (leader === undefined || follower === undefined) throw new Error("there are two");
    await leader.end("SIGKILL");
    for (const key of [ownLocks.rescueJobs, ownLocks.expireHolds]) await until(async () => isOf(await holderOf(key), follower));
    const { job } = await follower.jobs.createJob({ userId: 1n, modelId: "any", cost: { amount: "0" }, maxAttempts: 1, idempotencyKey: newKey() });
    await follower.jobs.claimJobs({ workerId: "dies" });
    await database.query("UPDATE ledgerd.jobs SET lease_expires_at = now() - interval '1 second'");
    await until(async () => (await follower.jobs.getJob({ jobId: job?.id ?? 0n })).job?.errorMessage === "the lease of worker dies ran out");
    await checkMoves();
  });
});

/** A call whose instance is killed fails, whatever its connection makes of that. */
async function failureOfBroken(call: Promise<unknown>): Promise<void> {
  await expect(call).rejects.toBeInstanceOf(ConnectError);
}
